"""Keeps SQLite's write-ahead log short.

SQLite restarts the log only when no reader uses it. If there is always one, the log grows and every
read gets slower.
"""

from pathlib import Path
from typing import Any, Final

# A log that restarts by itself has about 4 MiB: 1,000 pages.
LONG_BYTES: Final = 16 * 2**20
# How long writers may be blocked at most, until readers have left the log.
WAIT_MS: Final = 500


def shorten(connection: Any) -> bool:
    """Moves a long log into the database and truncates it; whether it did.

    It takes a turn among the writers, who could not start meanwhile. If readers do not leave in
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
