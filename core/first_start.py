"""Whether this database was set up before: then a lost encryption key may not be made again."""

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

# What accounts.services.check_encryption_key keeps: "" until the first start has come so far.
_UNKNOWN: Final = "the database cannot be asked whether it holds secrets that only this key opens"
_QUESTION: Final = "SELECT encryption_check FROM accounts_instancestate"


def lost_key(database: Mapping[str, Any], file: Path | None, key: Path) -> str:
    """Why the encryption key may not be made: the database holds something encrypted although the
    file `key` is not there, or nobody knows whether it does. "" where it may.

    Asked with the drivers themselves: Django's settings are not read yet.
    """
    if key.exists():
        return ""
    held = _ask_sqlite(file) if file is not None else _ask_postgresql(database)
    if not held:
        return ""
    return (
        f"ENCRYPTION_KEY is not set and {key} is gone, but {held}. Restore the file from a backup, "
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
    held = any(row[0] for row in rows)
    return "the database holds secrets that only this key opens" if held else ""
