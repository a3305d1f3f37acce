"""Checks a database file before SQLite opens it for writing, and refuses unsuitable files
untouched.

SQLite would fail with "file is not a database" later, take an empty file for a new database, and
leave its own files beside a damaged one.
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

# Device and inode of a file, which identify it whatever its path, and whether it has content.
Identity = tuple[int, int, bool]


def identity_of(path: str) -> Identity | None:
    """The identity of the file at the path; None if there is none. Takes 2 µs."""
    try:
        stat = os.stat(path)  # noqa: PTH116  (half the time of Path.stat, once per write)
    except OSError:
        return None
    # A log may be empty.
    return stat.st_dev, stat.st_ino, stat.st_size > 0 or path.endswith("-wal")


def is_same(current: Identity | None, opened: Identity) -> bool:
    """Whether it is still the opened file. An empty file may have got content, but not the
    reverse."""
    if current is None:
        return False
    return current == opened or (current[:2] == opened[:2] and not opened[2])


def lost(path: str) -> sqlite3.OperationalError:
    """SQLite's error for a database whose file is no longer at its path."""
    error = sqlite3.OperationalError(
        f"{path} was deleted, moved, replaced or emptied while it was open"
    )
    error.sqlite_errorcode = sqlite3.SQLITE_READONLY_DBMOVED
    error.sqlite_errorname = "SQLITE_READONLY_DBMOVED"
    return error


def path_of(name: str) -> Path:
    """The file of a connection's name, which is a path or a URI (https://sqlite.org/uri.html)."""
    return Path(unquote(urlsplit(name).path) if name.startswith("file:") else name)


def check(path: Path) -> None:
    """Checks the file once per process; ConfigurationError if it is not a SQLite database, is
    truncated or damaged, or belongs to a newer version of this server."""
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
        # The number of pages is valid only if the last change wrote it.
        is_told = header[24:28] == header[92:96]
        missing = int.from_bytes(header[28:32]) * page_bytes - size if is_told else 0
    # After a crash, part of the content may still be in the log.
    if missing > in_log:
        raise ConfigurationError(
            f"DATABASE_URL: {path} was cut off: {size:,} bytes are left, {missing:,} are missing. "
            f"{RESTORE}"
        )


def _migrations(path: Path, *, with_log: bool) -> set[tuple[str, str]]:
    """The applied migrations, read without touching the database or creating files beside it."""
    how = "mode=ro" if with_log else "mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?{how}", uri=True)) as database:
            tables = "SELECT name FROM sqlite_master WHERE name = 'django_migrations'"
            if not database.execute(tables).fetchall():
                return set()
            return set(database.execute("SELECT app, name FROM django_migrations").fetchall())
    except sqlite3.OperationalError:
        return set()  # in use, or not readable for this user: opening it will report that
    except sqlite3.DatabaseError as error:
        raise ConfigurationError(
            f"DATABASE_URL: {path} is damaged or no SQLite database ({error}). {RESTORE}"
        ) from error
