"""Whether this database was set up before; then a lost encryption key must not be replaced."""

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

# The column is set by accounts.services.check_encryption_key, and "" until the first start.
_UNKNOWN: Final = "the database cannot be asked whether it holds secrets that only this key opens"
_QUESTION: Final = "SELECT encryption_check FROM accounts_instancestate"


def lost_key(database: Mapping[str, Any], file: Path | None, key: Path) -> str:
    """Why the encryption key must not be generated: the file `key` is missing although the database
    has encrypted data, or may have. "" if it may be generated.

    Uses the drivers directly, because Django's settings are not loaded yet.
    """
    if key.exists():
        return ""
    why = _ask_sqlite(file) if file is not None else _ask_postgresql(database)
    if not why:
        return ""
    return (
        f"ENCRYPTION_KEY is not set and {key} is gone, but {why}. Restore the file from a backup, "
        "or set ENCRYPTION_KEY; nothing has been changed."
    )


def _ask_sqlite(file: Path) -> str:
    if not file.exists() or not file.stat().st_size:
        return ""
    try:
        connection = sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=5)
        try:
            return _told(connection.execute(_QUESTION).fetchall())
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        # Another application's database, or one whose first start ended early.
        return "" if "no such table" in str(error) else _UNKNOWN
    except sqlite3.DatabaseError:
        return _UNKNOWN


def _ask_postgresql(database: Mapping[str, Any]) -> str:
    import psycopg

    try:
        with psycopg.connect(
            host=database["HOST"],
            port=database["PORT"] or 5432,
            user=database["USER"],
            password=database["PASSWORD"],
            dbname=database["NAME"],
            connect_timeout=10,
        ) as connection:
            return _told(connection.execute(_QUESTION).fetchall())
    except psycopg.errors.UndefinedTable:
        return ""
    except psycopg.Error:
        return _UNKNOWN


def _told(rows: list[Any]) -> str:
    has_secrets = any(row[0] for row in rows)
    return "the database holds secrets that only this key opens" if has_secrets else ""
