"""Threads that wait for a language model share a few connections to PostgreSQL.

There are many of them, and each uses the database for some milliseconds before and after minutes of
waiting. A connection for each would use up most of a server's connections.
"""

import threading
from typing import Final

from django.db import OperationalError, connection

# No more threads use the database at the same time, because they share the interpreter.
CONNECTIONS: Final = 8
# How long a thread waits for one.
WAIT_SECONDS: Final = 10.0

_mine = threading.local()


class NoneFreeError(OperationalError):
    """No connection was free in time. The database counts as busy, not as gone."""

    sqlstate = "55P03"  # lock_not_available


class Few:
    """A limited number of connections for threads that need one."""

    def __init__(self, count: int) -> None:
        self._free = threading.Semaphore(count)
        self._guard = threading.Lock()
        self._count, self._taken = count, 0

    @property
    def is_scarce(self) -> bool:
        """Whether threads that wait for something else should give their connection back."""
        return 2 * self._taken > self._count

    def take(self) -> None:
        """Reserves a connection; NoneFreeError if none becomes free in time."""
        if not self._free.acquire(timeout=WAIT_SECONDS):
            raise NoneFreeError("all connections for requests of this kind are in use")
        with self._guard:
            self._taken += 1

    def give(self) -> None:
        with self._guard:
            self._taken -= 1
        self._free.release()


def share(few: Few) -> None:
    """Makes this thread share those connections."""
    _mine.few = few


def shared() -> Few | None:
    """The connections that this thread shares, if any."""
    few: Few | None = getattr(_mine, "few", None)
    return few


def let_go_if_scarce() -> None:
    """Closes this thread's connection if they are scarce; does nothing inside a transaction."""
    few = shared()
    if few is not None and few.is_scarce and not connection.in_atomic_block:
        connection.close()
