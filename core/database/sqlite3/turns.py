"""Write turns: one thread of this process writes at a time, first come, first served.

SQLite itself lets writers wait by polling, and whoever polls at the right moment wins: of fifty
writers some wait for seconds while others pass them again and again. Here they stand in a line, and
only the one at its head asks SQLite. Readers never come here.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from sqlite3 import SQLITE_BUSY, OperationalError
from typing import Any, Final
from weakref import WeakSet

from core.database.sqlite3.files import Identity

# How long a write waits behind a stranger's lock. To refuse it at once would let clients that try
# again take the CPU from those who read.
BLOCKED_SECONDS: Final = 0.5

_brief = threading.local()


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Limits how long this thread's writes wait for their turn and for SQLite's lock. For writes
    that may be skipped, such as a reader's last use."""
    former = getattr(_brief, "seconds", None)
    _brief.seconds = seconds
    try:
        yield
    finally:
        _brief.seconds = former


def patience(usual: float) -> float:
    """The seconds that a write of this thread may wait now."""
    brief: float | None = getattr(_brief, "seconds", None)
    return usual if brief is None else min(brief, usual)


def busy(why: str) -> OperationalError:
    """The error that SQLite raises for a lock that others hold."""
    error = OperationalError(f"database is locked ({why})")
    error.sqlite_errorcode = SQLITE_BUSY
    error.sqlite_errorname = "SQLITE_BUSY"
    return error


class _Waiting:
    """One who stands in the line. `bell` rings when it is over: `is_on` says how."""

    def __init__(self, who: Any, thread: int) -> None:
        self.who, self.thread, self.is_on = who, thread, False
        self.bell = threading.Lock()
        self.bell.acquire()


class WriteQueue:
    """The line before one database file.

    `blocked_since` is when this process found that a stranger holds SQLite's lock (monotonic
    seconds, None while nobody does), `wrote_at` when the last write went through. `file` is the
    file that this process began with, `open` who has a connection to it.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._line: deque[_Waiting] = deque()
        self._holder: Any = None
        self._thread = 0
        self.blocked_since: float | None = None
        self.wrote_at = float("-inf")
        self.file: Identity | None = None
        self.open: WeakSet[Any] = WeakSet()

    @property
    def waiting(self) -> int:
        """How many stand in the line."""
        return len(self._line)

    def take(self, who: Any, seconds: float) -> bool:
        """Waits until it is the turn of `who`, which gives it back with `give`. False, at once,
        where the thread's own other connection has it: SQLite says what it thinks of that.

        OperationalError, as SQLite's for a locked database, after so many seconds; after
        BLOCKED_SECONDS while a stranger holds SQLite's lock and somebody of this process asks for
        it already: of a thousand that wait none would be nearer to it. Whoever has the turn may
        take it again.
        """
        thread = threading.get_ident()
        with self._guard:
            if self._holder is None:
                self._holder, self._thread = who, thread
            if self._holder is who or self._thread == thread:
                return self._holder is who
            is_blocked = self.blocked_since is not None
            waiting = _Waiting(who, thread)
            self._line.append(waiting)
        if not waiting.bell.acquire(
            timeout=min(seconds, BLOCKED_SECONDS) if is_blocked else seconds
        ):
            with self._guard:
                if waiting in self._line:
                    self._line.remove(waiting)
                    raise busy("by another program" if is_blocked else "others are writing")
        if not waiting.is_on:
            raise busy("by another program")
        return True

    def give(self, who: Any) -> None:
        """Ends the turn of `who`, if it has it; the next in the line is on."""
        with self._guard:
            if self._holder is not who:
                return
            self._holder = None
            if self._line:
                first = self._line.popleft()
                self._holder, self._thread, first.is_on = first.who, first.thread, True
                first.bell.release()

    def blocked(self) -> None:
        """A stranger holds SQLite's lock: whoever stands in the line is sent away."""
        with self._guard:
            if self.blocked_since is None:
                self.blocked_since = time.monotonic()
            while self._line:
                self._line.popleft().bell.release()

    def passed(self) -> None:
        """SQLite has given the lock."""
        self.blocked_since = None

    def wrote(self) -> None:
        """A write has gone through, to the disk."""
        self.wrote_at = time.monotonic()


_all: dict[str, WriteQueue] = {}
_all_guard = threading.Lock()


def turns_of(database: Any) -> WriteQueue:
    """The line of the file; connections that name it in different ways stand in the same one."""
    name = str(Path(str(database)).resolve())
    with _all_guard:
        return _all.setdefault(name, WriteQueue())
