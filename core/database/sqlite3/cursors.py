"""Cursors that are closed only by the thread of their connection.

A statement that failed or was not read to its end keeps its connection busy, and closing it takes
that connection's mutex. Python's collector frees cycles, such as the frames of a traceback, in
whatever thread it runs. If that thread is inside a write transaction, and the other connection's
thread waits for this transaction while holding its mutex, the two block each other until a
time-out.
"""

import re
import threading
from collections.abc import Callable
from contextlib import suppress
from sqlite3 import ProgrammingError
from typing import TYPE_CHECKING, Any, Final

from django.db.backends.sqlite3.base import SQLiteCursorWrapper

if TYPE_CHECKING:
    from core.database.sqlite3.base import DatabaseWrapper

_WRITES: Final = re.compile(
    r"\s*(INSERT|UPDATE|DELETE|REPLACE|CREATE|DROP|ALTER|REINDEX|ANALYZE|VACUUM)\b", re.IGNORECASE
)


class Cursor(SQLiteCursorWrapper):
    """A cursor that closes itself when a statement fails. If another thread drops it, its own
    thread closes it."""

    owner: "DatabaseWrapper"
    # Whether something may be left to close.
    is_open = False

    def execute(self, query: str, params: Any = None) -> Any:
        return self._ended_if_failed(super().execute, query, params)

    def executemany(self, query: str, param_list: Any) -> Any:
        # Not retried, because some of the statements may have succeeded before one met a lock.
        return self._ended_if_failed(super().executemany, query, param_list, again=False)

    def _ended_if_failed(
        self, run: Callable[..., Any], query: str, params: Any, *, again: bool = True
    ) -> Any:
        self.is_open = True
        try:
            # A single write; a transaction gets its turn at its start.
            if not self.connection.in_transaction and _WRITES.match(query):
                return self.owner.in_turn(lambda: run(query, params), writer=self, again=again)
            return run(query, params)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if not self.is_open:
            super().close()
            return
        if threading.get_ident() != self.owner.thread:
            self.owner.abandoned.append(self)
            return
        self.is_open = False
        # A closed connection has ended its statements.
        with suppress(ProgrammingError):
            super().close()
        self.owner.ended(self)

    def __del__(self) -> None:
        if self.is_open:
            self.close()
