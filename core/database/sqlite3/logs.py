"""Keeps SQLite's write-ahead log short.

SQLite begins the log again from its start only when no reader is in it. While there is always one,
the log grows, and every read has more to look through.
"""

from pathlib import Path
from typing import Any, Final

# A log that begins again by itself is about 4 MiB: 1,000 pages.
LONG_BYTES: Final = 16 * 2**20
# How long writers are held up at the most, for the readers in the log to leave.
WAIT_MS: Final = 500


def shorten(connection: Any) -> bool:
    """Brings a long log into the database and cuts it off; whether it did.

    It has its turn among the writers, who could not begin meanwhile. Where readers do not leave in
    time, the next call tries again.
    """
    log = Path(f"{connection.settings_dict['NAME']}-wal")
    if not log.is_file() or log.stat().st_size < LONG_BYTES:
        return False
    connection.ensure_connection()
    return bool(connection.in_turn(lambda: _checkpoint(connection.connection)))


def _checkpoint(raw: Any) -> bool:
    [[former]] = raw.execute("PRAGMA busy_timeout").fetchall()
    raw.execute(f"PRAGMA busy_timeout = {WAIT_MS}")
    try:
        [[was_busy, *_]] = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return not was_busy
    finally:
        raw.execute(f"PRAGMA busy_timeout = {former}")
