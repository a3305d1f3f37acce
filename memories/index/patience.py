"""How long the index server is waited for: so long for what is asked, and not at all for a while
after it has not answered several times in a row."""

import math
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpcore
import httpx
from qdrant_client.http.exceptions import ResponseHandlingException

from core.errors import IndexUnavailableError

# What a request waits for its change to be in the index; a worker brings it there otherwise.
WRITE_SECONDS: Final = 1.3
# What health, metrics and the neighbours of an add wait for.
LOOK_SECONDS: Final = 1.0
# So many calls without an answer, one after the other, and nobody asks for so many seconds; then
# one call tries.
FAILURES: Final = 3
PAUSE_SECONDS: Final = 5.0
# A connection that breaks at once tells of a server that restarts, and costs nobody any time.
_SLOW_SECONDS: Final = 0.5

Send = Callable[[httpx.Request], httpx.Response]
_SILENT: Final = "The memory index does not answer; try again shortly."


class CallLine:
    """Calls with one purpose: `seconds` for all that one caller asks, and a breaker.

    `clock` gives seconds that never go back.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self.clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        # When somebody may try again, and whether somebody is at it.
        self._again_at = 0.0
        self._trying = False

    def admit(self) -> bool:
        """Whether the caller is the one who tries; IndexUnavailableError where nobody may ask."""
        with self._lock:
            if self._failures < FAILURES:
                return False
            left = self._again_at - self.clock()
            if left > 0 or self._trying:
                raise IndexUnavailableError(_SILENT, retry_after=max(1, math.ceil(left)))
            self._trying = True
            return True

    def tried(self) -> None:
        """Who tried is done, whatever came of it."""
        with self._lock:
            self._trying = False

    def answered(self) -> None:
        """The server has answered."""
        if self._failures:
            with self._lock:
                self._failures = 0

    def silent(self) -> None:
        """The server has not answered in time."""
        with self._lock:
            self._failures += 1
            self._again_at = self.clock() + PAUSE_SECONDS


@dataclass(frozen=True, slots=True)
class _Budget:
    line: CallLine
    until: float


class _InTime(httpx.SyncByteStream):
    """An answer's body, as long as there is time: a time-out counts from one byte to the next."""

    def __init__(self, response: httpx.Response, until: float, clock: Callable[[], float]) -> None:
        self._response, self._stream = response, response.stream
        self._until, self._clock = until, clock

    def __iter__(self) -> Iterator[bytes]:
        assert isinstance(self._stream, httpx.SyncByteStream)  # noqa: S101  (a client's without async)
        for part in self._stream:
            if self._clock() > self._until:
                raise httpx.ReadTimeout(
                    "The answer takes too long.", request=self._response.request
                )
            yield part

    def close(self) -> None:
        assert isinstance(self._stream, httpx.SyncByteStream)  # noqa: S101  (as above)
        self._stream.close()


class _Stream(httpcore.NetworkStream):
    """A connection each of whose reads has the time that is left: a time-out counts from one byte
    to the next, and a head may come in a thousand of them."""

    def __init__(self, stream: httpcore.NetworkStream, left: "Left") -> None:
        self._stream, self._left = stream, left

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._at_most(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._at_most(timeout))

    def _at_most(self, timeout: float | None) -> float | None:
        left = self._left()
        if left is None:
            return timeout
        if left <= 0:
            raise httpcore.ReadTimeout("The answer takes too long.")
        return left if timeout is None else min(left, timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, timeout), self._left)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


# How many seconds this thread has left; None where it has no hurry.
Left = Callable[[], float | None]


class _Backend(httpcore.NetworkBackend):
    """Opens such connections, in the way of `other`."""

    def __init__(self, other: httpcore.NetworkBackend, left: Left) -> None:
        self._other, self._left = other, left

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        opened = self._other.connect_tcp(host, port, timeout, local_address, socket_options)
        return _Stream(opened, self._left)


class CallLines:
    """The lines to one server. What no line is for, background work, waits as long as the client
    does: for it there is no hurry."""

    def __init__(self, timeout: float) -> None:
        """`timeout`: seconds that one call may take at all."""
        self._timeout = timeout
        self.searching = CallLine(timeout)
        self.writing = CallLine(min(WRITE_SECONDS, timeout))
        self.looking = CallLine(min(LOOK_SECONDS, timeout))
        self._local = threading.local()

    @contextmanager
    def on(self, line: CallLine) -> Iterator[None]:
        """What this thread asks meanwhile is on this line; inside another one, on that one."""
        if getattr(self._local, "budget", None) is not None:
            yield
            return
        tries = line.admit()
        self._local.budget = _Budget(line, line.clock() + line.seconds)
        try:
            yield
        finally:
            self._local.budget = None
            if tries:
                line.tried()

    def watch(self, client: httpx.Client) -> None:
        """Holds the client's connections to the time of who uses them."""
        # httpx has no other way to say it.
        pool: Any = client._transport._pool  # type: ignore[attr-defined]
        pool._network_backend = _Backend(pool._network_backend, self._left)
        client.event_hooks = {"response": [self.hold_to_time]}

    def _left(self) -> float | None:
        budget: _Budget | None = getattr(self._local, "budget", None)
        until = budget.until if budget else getattr(self._local, "head_until", None)
        return None if until is None else until - self.searching.clock()

    def hold_to_time(self, response: httpx.Response) -> None:
        """The client's hook for an answer whose body is still to come."""
        self._local.head_until = None
        until: float | None = response.request.extensions.get("until")
        if until is not None:
            response.stream = _InTime(response, until, self.searching.clock)

    def send(self, request: httpx.Request, send: Send) -> httpx.Response:
        """The client's middleware: gives a call the time that is left."""
        budget: _Budget | None = getattr(self._local, "budget", None)
        if budget is None:
            # The body may be long, the head never is.
            self._local.head_until = self.searching.clock() + self._timeout
            try:
                return send(request)
            finally:
                self._local.head_until = None
        line, started = budget.line, budget.line.clock()
        left = budget.until - started
        if left <= 0:
            raise IndexUnavailableError(_SILENT, retry_after=1)
        request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), left)
        request.extensions["until"] = budget.until
        try:
            response = send(request)
        except ResponseHandlingException as error:
            waited = line.clock() - started >= min(_SLOW_SECONDS, left)
            if isinstance(error.source, httpx.TransportError) and waited:
                line.silent()
            raise
        line.answered()
        return response
