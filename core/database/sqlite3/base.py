"""The backend for settings.DATABASES; see `turns` and `cursors` for the differences to Django's."""

import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from sqlite3 import SQLITE_BUSY, SQLITE_LOCKED, ProgrammingError
from sqlite3 import OperationalError as SqliteError
from typing import Any, Final, TypeVar

from django.db import OperationalError
from django.db.backends.sqlite3 import base

from core.database.sqlite3 import files
from core.database.sqlite3.cursors import Cursor
from core.database.sqlite3.turns import WriteQueue, patience, turns_of

T = TypeVar("T")

# How long SQLite polls for the lock at a time, and so how soon a process learns that another
# program holds it.
POLL_SECONDS: Final = 1.0
# A write waits this many times longer behind writes of this process than for another program,
# because the queue moves on.
LINE_FACTOR: Final = 3


class DatabaseWrapper(base.DatabaseWrapper):
    """Writes take turns; OPTIONS["timeout"] is how many seconds one waits for another program's
    lock. Files that are not a database, damaged, or of a newer version are refused before anything
    touches them. Nothing is written to a file that was moved or deleted, because it would be
    lost."""

    turns: WriteQueue

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.thread = threading.get_ident()
        # Cursors that another thread dropped; this one closes them.
        self.abandoned: deque[Cursor] = deque()
        # The cursor of a write outside transactions whose rows are still being read. SQLite commits
        # it when it is closed.
        self._writer: Cursor | None = None
        self._seconds = 0.0
        self._polls = POLL_SECONDS
        # Path and identity of the open database, and of its log once there is one.
        self._files: list[tuple[str, files.Identity]] = []

    # --- Opening and closing ---------------------------------------------------------------------
    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        name = str(conn_params["database"])
        self.turns = turns_of(name)
        if not self.is_in_memory_db():
            files.check(files.path_of(name))
            self._check_before_opening(files.path_of(name))
        self._seconds = float(conn_params.get("timeout", 5.0))
        # With the whole time-out, because steps such as choosing the journal may meet other
        # connections.
        connection = super().get_new_connection(conn_params)
        self._poll_for(connection, min(POLL_SECONDS, self._seconds))
        if not self.is_in_memory_db():
            self._note_file(files.path_of(name))
        return connection

    def _check_before_opening(self, path: Path) -> None:
        """Raises if database or log have gone, because SQLite would create empty ones in their
        place."""
        # If no connection has the file open, a new file is fine.
        if not self.turns.open:
            return
        identity = files.identity_of(str(path))
        logs = {one._files[1][0] for one in list(self.turns.open) if len(one._files) > 1}
        first = self.turns.file
        is_same = first is not None and files.is_same(identity, first)
        if not is_same or any(files.identity_of(log) is None for log in logs):
            raise files.lost(str(path))

    def _note_file(self, path: Path) -> None:
        name = str(path)
        identity = files.identity_of(name)
        if identity is None:
            raise files.lost(name)
        self._files = [(name, identity)]
        if not self.turns.open:
            self.turns.file = identity
        self.turns.open.add(self)

    def _note_log(self) -> None:
        """Called in the first write, because only then SQLite is sure to have the log open."""
        log = f"{self._files[0][0]}-wal"
        if (identity := files.identity_of(log)) is not None:
            self._files.append((log, identity))

    def check_files(self) -> None:
        """OperationalError if database or log are no longer the files that this connection has
        open. Takes some microseconds."""
        with self.wrap_database_errors:
            for name, opened in self._files:
                if not files.is_same(files.identity_of(name), opened):
                    raise files.lost(name)

    def create_cursor(self, name: str | None = None) -> Cursor:
        # Tests share connections between threads; the present user owns it.
        self.thread = threading.get_ident()
        while self.abandoned:
            self.abandoned.popleft().close()
        cursor: Cursor = self.connection.cursor(factory=Cursor)
        cursor.owner = self
        return cursor

    def _close(self) -> None:
        try:
            super()._close()  # type: ignore[misc]  # the stubs leave it out
        finally:
            self._writer = None
            self.abandoned.clear()
            self.turns.open.discard(self)
            self.turns.give(self)

    # --- Turns -----------------------------------------------------------------------------------
    def _start_transaction_under_autocommit(self) -> None:
        # The ignore: the stubs leave it out.
        statement = f"BEGIN {self.transaction_mode or ''}"  # type: ignore[attr-defined]

        def begin() -> None:
            with self.cursor() as cursor:
                cursor.execute(statement)

        with self.wrap_database_errors:
            self.in_turn(begin)

    def in_turn(
        self, run: Callable[[], T], *, writer: Cursor | None = None, again: bool = True
    ) -> T:
        """Runs a statement that takes SQLite's write lock when it is this connection's turn, and
        retries while another program holds the lock, as long as a write may wait. `writer` is the
        cursor of a statement outside transactions."""
        self.check_files()
        has_turn = self.turns.take(self, patience(LINE_FACTOR * self._seconds))
        until = time.monotonic() + patience(self._seconds)
        try:
            result = self._run_until(until, run, has_turn=has_turn, again=again)
        except BaseException:
            self._settle()
            raise
        if len(self._files) == 1:
            self._note_log()
        self.turns.note_passed()
        if writer is not None and writer.description is not None:
            self._writer = writer
        elif writer is not None:
            self.turns.note_written()
        self._settle()
        return result

    def _run_until(self, until: float, run: Callable[[], T], *, has_turn: bool, again: bool) -> T:
        try:
            while True:
                seconds_left = until - time.monotonic()
                if seconds_left < POLL_SECONDS:
                    self._poll_for(self.connection, max(seconds_left, 0.0))
                try:
                    return run()
                except (SqliteError, OperationalError) as error:
                    if not is_busy(error):
                        raise
                    if has_turn:
                        self.turns.note_blocked()
                    if not again or time.monotonic() >= until:
                        raise
        finally:
            if self._polls != POLL_SECONDS and self.connection is not None:
                self._poll_for(self.connection, min(POLL_SECONDS, self._seconds))

    def _poll_for(self, connection: Any, seconds: float) -> None:
        connection.execute(f"PRAGMA busy_timeout = {round(seconds * 1000)}")
        self._polls = seconds

    def ended(self, cursor: Cursor) -> None:
        """A cursor has been closed."""
        if cursor is self._writer:
            self._writer = None
            self._settle()

    def _settle(self) -> None:
        """Gives the turn to the next, unless this connection is still writing."""
        if self.connection is None:
            return  # closing has ended the turn
        try:
            is_over = self._writer is None and not self.connection.in_transaction
        except ProgrammingError:  # SQLite's connection was closed behind Django's back
            is_over = True
        if is_over:
            self.turns.give(self)

    def _commit(self) -> None:
        try:
            # Checked again, so that nothing is acknowledged if the file has gone meanwhile.
            self.check_files()
            super()._commit()  # type: ignore[misc]  # the stubs leave it out
            if self.connection is not None:
                self.turns.note_written()
        finally:
            self._settle()

    def _rollback(self) -> None:
        try:
            super()._rollback()  # type: ignore[misc]  # the stubs leave it out
        finally:
            self._settle()


def is_busy(error: BaseException) -> bool:
    """Whether SQLite, or our queue, gave up waiting for others."""
    cause = error if hasattr(error, "sqlite_errorcode") else error.__cause__
    return (getattr(cause, "sqlite_errorcode", 0) & 0xFF) in {SQLITE_BUSY, SQLITE_LOCKED}
