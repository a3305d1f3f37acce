"""What the database's errors mean: busy, full, read-only, or away."""

import shutil
import sqlite3
from pathlib import Path
from typing import Final

from django.db import DatabaseError, InterfaceError, OperationalError, connection

from mem0dash.errors import (
    DatastoreBusyError,
    DatastoreFullError,
    DatastoreReadOnlyError,
    DatastoreUnavailableError,
)

BUSY: Final = (
    "The database is busy: another program is writing to it, or holds its lock. Reading goes on. "
    "Try again in a few seconds."
)
READ_ONLY: Final = (
    "The database cannot be written: its file, its disk or its server is read-only. Reading goes "
    "on."
)
BUSY_SECONDS: Final = 2

# https://www.sqlite.org/rescode.html and PostgreSQL's appendix A: lock_not_available,
# deadlock_detected; read_only_sql_transaction; disk_full.
_KINDS: Final = {
    sqlite3.SQLITE_BUSY: DatastoreBusyError,
    sqlite3.SQLITE_LOCKED: DatastoreBusyError,
    sqlite3.SQLITE_READONLY: DatastoreReadOnlyError,
    sqlite3.SQLITE_FULL: DatastoreFullError,
    "55P03": DatastoreBusyError,
    "40P01": DatastoreBusyError,
    "25006": DatastoreReadOnlyError,
    "53100": DatastoreFullError,
}


def explained(error: BaseException, away: str) -> DatastoreUnavailableError:
    """The error that callers get for one of the database; `away` is the sentence where all that is
    known is that it does not answer."""
    kind = _kind(error)
    if kind is DatastoreBusyError:
        return DatastoreBusyError(BUSY, retry_after=BUSY_SECONDS)
    if kind is DatastoreReadOnlyError:
        return DatastoreReadOnlyError(READ_ONLY, retry_after=60)
    if kind is DatastoreFullError:
        return DatastoreFullError(_full(), retry_after=60)
    return DatastoreUnavailableError(away, retry_after=5 if is_trouble(error) else None)


def is_trouble(error: BaseException) -> bool:
    """Whether it is the database that is in trouble, and not a statement that is wrong."""
    if isinstance(error, OperationalError | InterfaceError):
        return True
    # SQLite's error for a damaged file is of no more exact kind.
    return type(error) is DatabaseError or _kind(error) is not None


def is_busy(error: BaseException) -> bool:
    """Whether the database gave up waiting for a lock."""
    return _kind(error) is DatastoreBusyError


def _kind(error: BaseException) -> type[DatastoreUnavailableError] | None:
    for one in (error, error.__cause__):
        code = getattr(one, "sqlite_errorcode", None)
        if code is not None:
            return _KINDS.get(code & 0xFF)
        if state := getattr(one, "sqlstate", None):
            return _KINDS.get(state)
    return None


def _full() -> str:
    left = ""
    if connection.vendor == "sqlite":
        try:
            free = shutil.disk_usage(Path(str(connection.settings_dict["NAME"])).parent).free
            left = f" ({free // 1024:,} KiB are free)"
        except OSError:
            pass
    return f"The disk of the database is full{left}. Reading goes on. Free some space to write."
