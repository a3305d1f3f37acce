"""The index of three-letter pieces behind substring search: FTS5 on SQLite, pg_trgm on PostgreSQL.

If the database offers neither, substring search works without an index and reads only the newest
memories (substring.REACH). On SQLite triggers maintain the index, so that no write can miss it.
Only a copy of the table, as some migrations make, loses the triggers; `repair` notices that.
"""

import logging
import sqlite3
from typing import Any, Final

from django.db import DatabaseError, connection, transaction
from django.db.models.signals import post_migrate
from django.dispatch import receiver

logger = logging.getLogger(__name__)

TABLE: Final = "memories_words"
# The shadow tables that SQLite creates.
TABLES: Final = frozenset({TABLE, *(f"{TABLE}_{n}" for n in ("data", "idx", "docsize", "config"))})
# Shorter texts have no three-letter piece.
SHORTEST: Final = 3
_SECURE_DELETE_SINCE: Final = (3, 42)
_SAMPLE: Final = 20

_GONE = (
    f"INSERT INTO {TABLE}({TABLE}, rowid, text_fold) VALUES ('delete', old.rowid, old.text_fold)"
)
_COME = f"INSERT INTO {TABLE}(rowid, text_fold) VALUES (new.rowid, new.text_fold)"
_TRIGGERS: Final = {
    f"{TABLE}_insert": f"AFTER INSERT ON memories_memory BEGIN {_COME}; END",
    f"{TABLE}_delete": f"AFTER DELETE ON memories_memory BEGIN {_GONE}; END",
    f"{TABLE}_update": "AFTER UPDATE OF text_fold ON memories_memory"
    f" WHEN old.text_fold IS NOT new.text_fold BEGIN {_GONE}; {_COME}; END",
}
_TRIGRAM: Final = (
    "CREATE INDEX IF NOT EXISTS memory_words ON memories_memory USING gin (text_fold gin_trgm_ops)"
)


def install(database: Any = connection) -> bool:
    """Creates and fills the index; False if the database does not support it. Does nothing if the
    index exists; can be repeated after an interruption."""
    try:
        with transaction.atomic(using=database.alias), database.cursor() as cursor:
            if database.vendor == "postgresql":
                cursor.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
                cursor.execute(_TRIGRAM)
            else:
                _install_fts5(cursor)
    except DatabaseError as error:
        logger.warning(
            "substring search goes on without an index", extra={"reason": str(error).strip()}
        )
        return False
    return True


def _install_fts5(cursor: Any) -> None:
    cursor.execute(
        f"CREATE VIRTUAL TABLE IF NOT EXISTS {TABLE} USING fts5("
        "text_fold, content='memories_memory', tokenize='trigram case_sensitive 1')"
    )
    if sqlite3.sqlite_version_info >= _SECURE_DELETE_SINCE:
        # Erased text leaves no trace in the index; older versions drop it when pages merge.
        cursor.execute(f"INSERT INTO {TABLE}({TABLE}, rank) VALUES ('secure-delete', 1)")
    for name, rest in _TRIGGERS.items():
        cursor.execute(f"CREATE TRIGGER IF NOT EXISTS {name} {rest}")
    cursor.execute(f"INSERT INTO {TABLE}({TABLE}) VALUES ('rebuild')")


def remove(database: Any = connection) -> None:
    """Removes the index; the memories stay."""
    with database.cursor() as cursor:
        if database.vendor == "postgresql":
            cursor.execute("DROP INDEX IF EXISTS memory_words")
            return
        for name in _TRIGGERS:
            cursor.execute(f"DROP TRIGGER IF EXISTS {name}")
        cursor.execute(f"DROP TABLE IF EXISTS {TABLE}")


def available(database: Any = connection) -> bool:
    """Whether the index exists and is maintained."""
    with database.cursor() as cursor:
        if database.vendor == "postgresql":
            cursor.execute(
                "SELECT count(*) FROM pg_index WHERE indexrelid = to_regclass('memory_words') "
                "AND indisvalid"
            )
            return bool(cursor.fetchone()[0])
        marks = ", ".join(["%s"] * len(_TRIGGERS))
        cursor.execute(
            f"SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND name IN ({marks})",
            [*_TRIGGERS],
        )
        return bool(cursor.fetchone()[0] == len(_TRIGGERS))


def phrase(needle: str) -> str:
    """`needle` (at least SHORTEST letters) as a literal phrase for FTS5's MATCH."""
    return '"' + needle.replace('"', '""') + '"'


def repair(database: Any = connection) -> None:
    """Rebuilds the index if it has lost its triggers or points to wrong rows. It is based on
    rowids, which not every way to copy a table preserves."""
    if database.vendor != "sqlite":
        return
    try:
        if available(database) and _leads_right(database):
            return
    except DatabaseError as error:
        logger.warning("the index of words cannot be read", extra={"reason": str(error)})
    with transaction.atomic(using=database.alias):
        remove(database)
        install(database)


def _leads_right(database: Any) -> bool:
    """Whether the index finds the oldest and the newest rows by the beginnings of their texts."""
    with database.cursor() as cursor:
        for order in ("ASC", "DESC"):
            cursor.execute(
                "SELECT rowid, text_fold FROM memories_memory WHERE length(text_fold) >= 3 "
                f"ORDER BY rowid {order} LIMIT {_SAMPLE}"
            )
            for row, text in cursor.fetchall():
                cursor.execute(
                    f"SELECT 1 FROM {TABLE} WHERE {TABLE} MATCH %s AND rowid = %s",
                    [phrase(text[:40]), row],
                )
                if cursor.fetchone() is None:
                    return False
    return True


@receiver(post_migrate, dispatch_uid="memories.fulltext.repair")
def _after_migrating(sender: Any, using: str, **kwargs: Any) -> None:
    from django.db import connections

    database = connections[using]
    if sender.name != "memories" or database.vendor != "sqlite":
        return
    with database.cursor() as cursor:
        cursor.execute("SELECT 1 FROM sqlite_master WHERE name = %s", [TABLE])
        if cursor.fetchone() is None:
            return  # not created yet, or not supported
    repair(database)
