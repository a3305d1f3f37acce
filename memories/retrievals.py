"""How often, and when last, a search returned each memory to an agent.

A search leaves notes, and the thread of core.notes counts them in a separate table, so that neither
searches nor changes wait. Counts are best effort: a kill loses the last half minute, and a database
outage loses the notes beyond MOST_NOTED.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from django.db import connection
from django.utils import timezone

from core import notes
from memories.models import Memory, MemoryRetrieval

# A row costs 12 to 80 microseconds, a note one. Most searches return the same memories as others
# shortly before, so longer gathering means fewer changed rows.
GATHER_SECONDS: Final = 30.0
# The most memories that are noted, however long the database is unavailable.
MOST_NOTED: Final = 50_000
BATCH: Final = 5000
# Rows per statement: other SQLite writers wait at most 20 milliseconds, even with a million rows.
ROWS: Final = 200

# Each process adds its own counts. PostgreSQL skips locked rows: an erase locks the memory first
# and then its count, so waiting here could deadlock.
_ADD: Final = """
INSERT INTO memories_memoryretrieval (memory_id, project_id, count, last_at)
SELECT memories_memory.id, project_id, noted.column2, noted.column3
FROM (VALUES {values}) AS noted CROSS JOIN memories_memory
WHERE memories_memory.id = noted.column1 AND deleted_at IS NULL {lock}
ON CONFLICT (memory_id) DO UPDATE SET
count = memories_memoryretrieval.count + excluded.count,
last_at = CASE WHEN excluded.last_at > memories_memoryretrieval.last_at
THEN excluded.last_at ELSE memories_memoryretrieval.last_at END
"""
_LOCK: Final = {
    "sqlite": "",
    "postgresql": "ORDER BY memories_memory.id FOR KEY SHARE OF memories_memory SKIP LOCKED",
}
_COLUMNS: Final = tuple(
    field for field in MemoryRetrieval._meta.concrete_fields if field.name != "project"
)


class Retrieval(NamedTuple):
    """How often a memory was returned, and when last."""

    times: int
    last_at: datetime


def note(memories: Iterable[Memory]) -> None:
    """Notes that these memories are returned to an agent now; never waits."""
    if not notes.are_kept():
        return
    once = Retrieval(1, timezone.now())
    for memory in memories:
        noted.put(memory.id, once)


def of(ids: Collection[UUID]) -> dict[UUID, Retrieval]:
    """The retrievals of those memories that were ever returned."""
    rows = MemoryRetrieval.objects.filter(memory_id__in=ids)
    return {
        id_: Retrieval(count, last_at)
        for id_, count, last_at in rows.values_list("memory_id", "count", "last_at")
    }


def _both(former: Retrieval, later: Retrieval) -> Retrieval:
    return Retrieval(former.times + later.times, max(former.last_at, later.last_at))


def _add(batch: dict[UUID, Retrieval]) -> int:
    """Counts the notes, one portion per transaction; skips memories that no longer exist."""
    # In id order, as in the other processes, so that they cannot deadlock.
    everything = sorted(batch.items())
    for at in range(0, len(everything), ROWS):
        rows = everything[at : at + ROWS]
        _add_rows(rows)
        for id_, _ in rows:
            # Counted notes must not be counted again if a later portion fails.
            del batch[id_]
    return 0


def _add_rows(rows: Sequence[tuple[UUID, Retrieval]]) -> None:
    values = [
        field.get_db_prep_save(value, connection)
        for id_, retrieval in rows
        for field, value in zip(_COLUMNS, (id_, *retrieval), strict=True)
    ]
    marks = ", ".join(["(%s, %s, %s)"] * len(rows))
    with connection.cursor() as cursor:
        cursor.execute(_ADD.format(values=marks, lock=_LOCK[connection.vendor]), values)


noted: Final[notes.Notes[UUID, Retrieval]] = notes.Notes(
    "retrievals of memories",
    _add,
    join=_both,
    size=MOST_NOTED,
    batch=BATCH,
    seconds=GATHER_SECONDS,
)
