"""Time limits for calls to the index server, and a breaker that stops calls for a while after
several in a row had no answer."""

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

# How long a request waits for its change to reach the index; after that a worker applies it.
WRITE_SECONDS: Final = 1.3
# The limit for health, metrics and the neighbours of an add.
LOOK_SECONDS: Final = 1.0
# After FAILURES calls in a row without an answer, no call is made for PAUSE_SECONDS; then one call
# tries.
FAILURES: Final = 3
PAUSE_SECONDS: Final = 5.0
# A connection that breaks at once (the server restarts) costs no time and does not count.
_SLOW_SECONDS: Final = 0.5

Send = Callable[[httpx.Request], httpx.Response]
_SILENT: Final = "The memory index does not answer; try again shortly."


class CallLine:
    """Calls with one purpose: a limit of `seconds` for all calls of one caller, and a breaker.

    `clock` returns monotonic seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self.clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        # When the next try is allowed, and whether one is running.
        self._again_at = 0.0
        self._trying = False

    def admit(self) -> bool:
        """Whether this caller makes the single try; IndexUnavailableError while no call is
        allowed."""
        with self._lock:
            if self._failures < FAILURES:
                return False
            seconds_left = self._again_at - self.clock()
            if seconds_left > 0 or self._trying:
                raise IndexUnavailableError(_SILENT, retry_after=max(1, math.ceil(seconds_left)))
            self._trying = True
            return True

    def record_try(self) -> None:
        """Records the end of a try, whatever its outcome."""
        with self._lock:
            self._trying = False

    def record_answer(self) -> None:
        """Records that the server has answered."""
        if self._failures:
            with self._lock:
                self._failures = 0

    def record_silence(self) -> None:
        """Records that the server has not answered in time."""
        with self._lock:
            self._failures += 1
            self._again_at = self.clock() + PAUSE_SECONDS


@dataclass(frozen=True, slots=True)
class _Budget:
    line: CallLine
    until: float


class _InTime(httpx.SyncByteStream):
    """An answer's body with a limit for the whole of it; httpx's time-out restarts with every
    byte."""

    def __init__(self, response: httpx.Response, until: float, clock: Callable[[], float]) -> None:
        self._response, self._stream = response, response.stream
        self._until, self._clock = until, clock

    def __iter__(self) -> Iterator[bytes]:
        assert isinstance(self._stream, httpx.SyncByteStream)  # noqa: S101  (the client is synchronous)
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
    """A connection whose every read is limited to the remaining time. httpx's time-out restarts
    with every byte, and a head may come in a thousand pieces."""

    def __init__(self, stream: httpcore.NetworkStream, left: "Left") -> None:
        self._stream, self._left = stream, left

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._at_most(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._at_most(timeout))

    def _at_most(self, timeout: float | None) -> float | None:
        seconds_left = self._left()
        if seconds_left is None:
            return timeout
        if seconds_left <= 0:
            raise httpcore.ReadTimeout("The answer takes too long.")
        return seconds_left if timeout is None else min(seconds_left, timeout)

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


# How many seconds this thread has left; None for no limit.
Left = Callable[[], float | None]


class _Backend(httpcore.NetworkBackend):
    """Opens such connections with the backend `other`."""

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
    """The lines to one server. Background work has no line and only the client's own time-out."""

    def __init__(self, timeout: float) -> None:
        """`timeout`: seconds that one call may take at all."""
        self._timeout = timeout
        self.searching = CallLine(timeout)
        self.writing = CallLine(min(WRITE_SECONDS, timeout))
        self.looking = CallLine(min(LOOK_SECONDS, timeout))
        self._local = threading.local()

    @contextmanager
    def on(self, line: CallLine) -> Iterator[None]:
        """Puts this thread's calls on this line, unless they are on an outer one already."""
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
                line.record_try()

    def watch(self, client: httpx.Client) -> None:
        """Limits the client's connections to the remaining time of their callers."""
        # httpx offers no public way to do this.
        pool: Any = client._transport._pool  # type: ignore[attr-defined]
        pool._network_backend = _Backend(pool._network_backend, self._left)
        client.event_hooks = {"response": [self.hold_to_time]}

    def _left(self) -> float | None:
        budget: _Budget | None = getattr(self._local, "budget", None)
        until = budget.until if budget else getattr(self._local, "head_until", None)
        return None if until is None else until - self.searching.clock()

    def hold_to_time(self, response: httpx.Response) -> None:
        """The client's hook for an answer whose body has not been read yet."""
        self._local.head_until = None
        until: float | None = response.request.extensions.get("until")
        if until is not None:
            response.stream = _InTime(response, until, self.searching.clock)

    def send(self, request: httpx.Request, send: Send) -> httpx.Response:
        """The client's middleware, which limits a call to the remaining time."""
        budget: _Budget | None = getattr(self._local, "budget", None)
        if budget is None:
            # Only the head is limited here, because a body may be long.
            self._local.head_until = self.searching.clock() + self._timeout
            try:
                return send(request)
            finally:
                self._local.head_until = None
        line, started = budget.line, budget.line.clock()
        seconds_left = budget.until - started
        if seconds_left <= 0:
            raise IndexUnavailableError(_SILENT, retry_after=1)
        request.extensions["timeout"] = dict.fromkeys(
            ("connect", "read", "write", "pool"), seconds_left
        )
        request.extensions["until"] = budget.until
        try:
            response = send(request)
        except ResponseHandlingException as error:
            waited = line.clock() - started >= min(_SLOW_SECONDS, seconds_left)
            if isinstance(error.source, httpx.TransportError) and waited:
                line.record_silence()
            raise
        line.record_answer()
        return response
