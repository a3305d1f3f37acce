"""Write turns: one thread of this process writes at a time, first come, first served.

SQLite's writers wait by polling, and the one that polls at the right moment wins: of fifty writers
some wait for seconds while others overtake them repeatedly. Here writers queue, and only the first
asks SQLite. Readers do not queue.
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

# How long a write waits behind another program's lock. An immediate refusal would let retrying
# clients take the CPU from readers.
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
    """A place in the queue. `bell` is released at the end of the wait; `is_on` says whether it is
    their turn."""

    def __init__(self, who: Any, thread: int) -> None:
        self.who, self.thread, self.is_on = who, thread, False
        self.bell = threading.Lock()
        self.bell.acquire()


class WriteQueue:
    """The queue of writers for one database file.

    `blocked_since` is when this process noticed that another program holds SQLite's lock (monotonic
    seconds, None if none does); `wrote_at` is the time of the last successful write. `file` is the
    identity of the file that this process opened first, `open` the connections to it.
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
        """The length of the queue."""
        return len(self._line)

    def take(self, who: Any, seconds: float) -> bool:
        """Waits until it is the turn of `who`, which ends it with `give`. Returns False at once if
        another connection of the same thread has the turn; SQLite decides then.

        OperationalError, like SQLite's for a locked database, after so many seconds, or after
        BLOCKED_SECONDS while another program holds SQLite's lock, because waiting longer would not
        help. The holder of the turn may take it again.
        """
        thread = threading.get_ident()
        with self._guard:
            if self._holder is None:
                self._holder, self._thread = who, thread
            if self._holder is who or self._thread == thread:
                return self._holder is who
            is_blocked = self.blocked_since is not None
            ticket = _Waiting(who, thread)
            self._line.append(ticket)
        if not ticket.bell.acquire(
            timeout=min(seconds, BLOCKED_SECONDS) if is_blocked else seconds
        ):
            with self._guard:
                if ticket in self._line:
                    self._line.remove(ticket)
                    raise busy("by another program" if is_blocked else "others are writing")
        if not ticket.is_on:
            raise busy("by another program")
        return True

    def give(self, who: Any) -> None:
        """Ends the turn of `who`, if it has it, and starts the next one."""
        with self._guard:
            if self._holder is not who:
                return
            self._holder = None
            if self._line:
                first = self._line.popleft()
                self._holder, self._thread, first.is_on = first.who, first.thread, True
                first.bell.release()

    def note_blocked(self) -> None:
        """Notes that another program holds SQLite's lock, and sends the whole queue away."""
        with self._guard:
            if self.blocked_since is None:
                self.blocked_since = time.monotonic()
            while self._line:
                self._line.popleft().bell.release()

    def note_passed(self) -> None:
        """Notes that SQLite has granted the lock."""
        self.blocked_since = None

    def note_written(self) -> None:
        """Notes that a write has reached the disk."""
        self.wrote_at = time.monotonic()


_all: dict[str, WriteQueue] = {}
_all_guard = threading.Lock()


def turns_of(database: Any) -> WriteQueue:
    """The queue of the file, the same for all spellings of its path."""
    name = str(Path(str(database)).resolve())
    with _all_guard:
        return _all.setdefault(name, WriteQueue())
