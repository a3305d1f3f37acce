"""How long the index server is waited for: so long for what is asked, and not at all for a while
after it has not answered several times in a row."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import httpx
from qdrant_client.http.exceptions import ResponseHandlingException

from mem0dash.errors import IndexUnavailableError

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


class Line:
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
    line: Line
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


class Patience:
    """The lines to one server. What no line is for, background work, waits as long as the client
    does: for it there is no hurry."""

    def __init__(self, timeout: float) -> None:
        """`timeout`: seconds that one call may take at all."""
        self.searching = Line(timeout)
        self.writing = Line(min(WRITE_SECONDS, timeout))
        self.looking = Line(min(LOOK_SECONDS, timeout))
        self._local = threading.local()

    @contextmanager
    def on(self, line: Line) -> Iterator[None]:
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

    def hold_to_time(self, response: httpx.Response) -> None:
        """The client's hook for an answer whose body is still to come."""
        until: float | None = response.request.extensions.get("until")
        if until is not None:
            response.stream = _InTime(response, until, self.searching.clock)

    def send(self, request: httpx.Request, send: Send) -> httpx.Response:
        """The client's middleware: gives a call the time that is left."""
        budget: _Budget | None = getattr(self._local, "budget", None)
        if budget is None:
            return send(request)
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
