"""Classifies the database's errors: busy, full, read-only, lost, silent, or gone."""

from sqlite3 import SQLITE_READONLY_DBMOVED
from typing import Any, Final, Literal

from django.conf import settings
from django.db import DatabaseError, InterfaceError, OperationalError

from core import disk
from core.errors import (
    DatastoreBusyError,
    DatastoreLostError,
    DatastoreSilentError,
    DatastoreUnavailableError,
    EngineError,
    ReadOnlyError,
)
from core.folders import is_read_only

Problem = Literal["full", "read-only", "busy", "lost", "silent", "gone"]

BUSY: Final = (
    "The database is busy: another program is writing to it, or holds its lock. Reading goes on. "
    "Try again in a few seconds."
)
READ_ONLY: Final = (
    "The database cannot be written: its file, its disk or its server is read-only. Reading goes "
    "on."
)
LOST: Final = (
    "The database file was deleted, moved, replaced or emptied while the server was running. "
    "The server saves nothing until you put the file back, or restore a backup and restart the "
    "server."
)
SILENT: Final = (
    "The database server does not answer. Nothing of this request is certain to be saved. Try "
    "again in a few seconds."
)
BUSY_SECONDS: Final = 2

# https://www.sqlite.org/rescode.html
_SQLITE: Final[dict[int, Problem]] = {
    5: "busy",  # SQLITE_BUSY
    6: "busy",  # SQLITE_LOCKED
    8: "read-only",  # SQLITE_READONLY
    13: "full",  # SQLITE_FULL
}
# SQLITE_IOERR and SQLITE_CANTOPEN: a full or read-only disk may also cause these, if a journal or
# shared memory has to be created.
_UNCLEAR: Final = frozenset({10, 14})
# PostgreSQL's appendix A: disk_full, read_only_sql_transaction, lock_not_available,
# deadlock_detected.
_POSTGRESQL: Final[dict[str, Problem]] = {
    "53100": "full",
    "25006": "read-only",
    "55P03": "busy",
    "40P01": "busy",
}


def problem_of(error: BaseException) -> Problem:
    """The problem behind a database error: full, read-only, busy, lost (its file is no longer where
    it was), silent (it accepts connections but does not answer), or gone for everything else.

    `error` is Django's, with the driver's as its cause, or the driver's own.
    """
    raw: Any = error.__cause__ or error
    if getattr(raw, "is_silent", False):  # core.database.postgresql.silence
        return "silent"
    if (state := getattr(raw, "sqlstate", None)) is not None:
        return _POSTGRESQL.get(state, "gone")
    code = getattr(raw, "sqlite_errorcode", None)
    if code is None:
        return "gone"
    if code == SQLITE_READONLY_DBMOVED:
        return "lost"
    if code & 0xFF not in _UNCLEAR:
        return _SQLITE.get(code & 0xFF, "gone")
    folder = (settings.DATABASE_FILE or settings.DATA_DIR).parent
    if folder.exists() and is_read_only(folder):
        return "read-only"
    return "full" if folder.exists() and disk.room_of(folder).free < disk.MB else "gone"


def explain(error: BaseException, away: str) -> EngineError:
    """The error for callers, made from a database error; `away` is its text if the database does
    not answer for an unknown reason."""
    match problem_of(error):
        case "busy":
            return DatastoreBusyError(BUSY, retry_after=BUSY_SECONDS)
        case "read-only":
            return ReadOnlyError(READ_ONLY, retry_after=60)
        case "silent":
            return DatastoreSilentError(SILENT, retry_after=BUSY_SECONDS)
        case "lost":
            return DatastoreLostError(LOST, retry_after=30)
        case "full":
            return disk.write_refused_error()
        case _:
            return DatastoreUnavailableError(away, retry_after=5 if is_trouble(error) else None)


def is_trouble(error: BaseException) -> bool:
    """Whether the database has a problem, rather than the statement."""
    if isinstance(error, OperationalError | InterfaceError):
        return True
    # SQLite has no more specific error for a damaged file.
    return type(error) is DatabaseError or problem_of(error) != "gone"


def is_busy(error: BaseException) -> bool:
    """Whether the database gave up waiting for a lock."""
    return problem_of(error) == "busy"
