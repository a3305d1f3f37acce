"""Looks at a database file before SQLite opens it for writing: what cannot be right stays as it is.

SQLite would say "file is not a database" somewhere in the middle, take an empty file for a new
database, and leave files of its own beside one that is damaged.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from core.database import schema_version
from core.env import ConfigurationError

# https://www.sqlite.org/fileformat2.html#the_database_header
_MAGIC: Final = b"SQLite format 3\0"
_HEADER_BYTES: Final = 100
RESTORE: Final = "Nothing was changed: restore the file from a backup, or name another one."

_checked: set[str] = set()

# Device and inode of a file, which stay the same while its path may come to mean another one; and
# whether anything is in it.
Identity = tuple[int, int, bool]


def identity_of(path: str) -> Identity | None:
    """What stands at the path now; None for nothing. Takes 2 µs."""
    try:
        found = os.stat(path)  # noqa: PTH116  (half the time of Path.stat, once for each write)
    except OSError:
        return None
    # A log is empty from time to time.
    return found.st_dev, found.st_ino, found.st_size > 0 or path.endswith("-wal")


def is_same(found: Identity | None, known: Identity) -> bool:
    """Whether it is the file that was known; something may have come into it, and not gone."""
    if found is None:
        return False
    return found == known or (found[:2] == known[:2] and not known[2])


def lost(path: str) -> sqlite3.OperationalError:
    """The error that SQLite has for a database whose file is no longer at its path."""
    error = sqlite3.OperationalError(
        f"{path} was deleted, moved, replaced or emptied while it was open"
    )
    error.sqlite_errorcode = sqlite3.SQLITE_READONLY_DBMOVED
    error.sqlite_errorname = "SQLITE_READONLY_DBMOVED"
    return error


def path_of(name: str) -> Path:
    """The file that a connection's name means: a path, or a URI as https://sqlite.org/uri.html."""
    return Path(unquote(urlsplit(name).path) if name.startswith("file:") else name)


def check(path: Path) -> None:
    """Looks at the file once in a process; ConfigurationError, one sentence or two, when it is no
    SQLite database, was cut off, is damaged, or belongs to a newer version of this server."""
    name = str(path.resolve())
    if name in _checked:
        return
    if path.is_file():
        _check(path)
    _checked.add(name)


def _check(path: Path) -> None:
    log = path.with_name(f"{path.name}-wal")
    in_log = log.stat().st_size if log.is_file() else 0
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except OSError as error:
        raise ConfigurationError(
            f"DATABASE_URL: {path} cannot be read ({error.strerror})."
        ) from error
    if size:
        _check_header(path, header, size, in_log)
    elif not in_log and any(path.parent.glob("index/[0-9]*")):
        raise ConfigurationError(
            f"DATABASE_URL: {path} is empty, and it was not: a search index is beside it. "
            f"{RESTORE} To begin with nothing, remove the file."
        )
    if size:
        schema_version.refuse_newer(_migrations(path, with_log=bool(in_log)), f"{path}")


def _check_header(path: Path, header: bytes, size: int, in_log: int) -> None:
    if not header.startswith(_MAGIC[: len(header)]):
        raise ConfigurationError(f"DATABASE_URL: {path} is not a SQLite database. {RESTORE}")
    missing = _HEADER_BYTES - size
    if size >= _HEADER_BYTES:
        page = int.from_bytes(header[16:18]) or 1
        page_bytes = 65536 if page == 1 else page
        # The number of pages holds only while it was written with the last change.
        is_told = header[24:28] == header[92:96]
        missing = int.from_bytes(header[28:32]) * page_bytes - size if is_told else 0
    # What a crash left in the log is not in the file yet.
    if missing > in_log:
        raise ConfigurationError(
            f"DATABASE_URL: {path} was cut off: {size:,} bytes are left, {missing:,} are missing. "
            f"{RESTORE}"
        )


def _migrations(path: Path, *, with_log: bool) -> set[tuple[str, str]]:
    """The migrations that the database has, read without touching it or making files beside it."""
    how = "mode=ro" if with_log else "mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?{how}", uri=True)) as database:
            tables = "SELECT name FROM sqlite_master WHERE name = 'django_migrations'"
            if not database.execute(tables).fetchall():
                return set()
            return set(database.execute("SELECT app, name FROM django_migrations").fetchall())
    except sqlite3.OperationalError:
        return set()  # in use, or not for this user: what opens it in earnest tells
    except sqlite3.DatabaseError as error:
        raise ConfigurationError(
            f"DATABASE_URL: {path} is damaged or no SQLite database ({error}). {RESTORE}"
        ) from error
