"""Threads that wait for a language model share a few connections to PostgreSQL.

There are many of them, and each is in the database for some milliseconds before and after minutes
of waiting. One connection for each would be most of what a server has to give.
"""

import threading
from typing import Final

from django.db import OperationalError, connection

# More are not at work in the database at a time: they share the interpreter.
CONNECTIONS: Final = 8
# How long a thread waits for one.
WAIT_SECONDS: Final = 10.0

_mine = threading.local()


class NoneFreeError(OperationalError):
    """Busy, and not away."""

    sqlstate = "55P03"  # lock_not_available


class Few:
    """So many connections, for whoever has none and needs one."""

    def __init__(self, count: int) -> None:
        self._free = threading.Semaphore(count)
        self._guard = threading.Lock()
        self._count, self._taken = count, 0

    @property
    def is_scarce(self) -> bool:
        """Whether those who have one and wait for something else should give it back."""
        return 2 * self._taken > self._count

    def take(self) -> None:
        """NoneFreeError where none is given back in time."""
        if not self._free.acquire(timeout=WAIT_SECONDS):
            raise NoneFreeError("all connections for requests of this kind are in use")
        with self._guard:
            self._taken += 1

    def give(self) -> None:
        with self._guard:
            self._taken -= 1
        self._free.release()


def share(few: Few) -> None:
    """The connections of this thread are among those."""
    _mine.few = few


def shared() -> Few | None:
    """What this thread shares, if it does."""
    found: Few | None = getattr(_mine, "few", None)
    return found


def let_go_if_scarce() -> None:
    """Closes this thread's connection where others wait for one; nothing inside a transaction."""
    few = shared()
    if few is not None and few.is_scarce and not connection.in_atomic_block:
        connection.close()
