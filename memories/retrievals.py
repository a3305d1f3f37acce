"""How often, and when last, a search gave each memory to an agent.

A search leaves notes, and the thread of core.notes counts them in a table of their own: neither
a search nor a change of a memory waits for it. Counts are best effort: a kill loses those of the
last half minute, an outage of the database those that do not fit into the memory any more.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from django.db import connection
from django.utils import timezone

from core import notes
from memories.models import Memory, MemoryRetrieval

# A row costs 12 to 80 microseconds, a note one. Most searches give what others have just given: the
# longer notes gather, the fewer rows change.
GATHER_SECONDS: Final = 30.0
# So many memories at most are noted, however long the database is away.
MOST_NOTED: Final = 50_000
BATCH: Final = 5000
# In one statement: other writers of SQLite wait 20 milliseconds at most, also with a million rows.
ROWS: Final = 200

# Of several processes each adds its own. PostgreSQL leaves rows out that others have locked, for
# who erases a memory holds it and then wants its count: so nobody waits in a circle.
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
    """How often a memory was given, and when last."""

    times: int
    last_at: datetime


def note(given: Iterable[Memory]) -> None:
    """Takes note that these memories are given to an agent now; never waits."""
    if not notes.are_kept():
        return
    once = Retrieval(1, timezone.now())
    for memory in given:
        noted.put(memory.id, once)


def of(ids: Collection[UUID]) -> dict[UUID, Retrieval]:
    """Those of these memories that were ever given."""
    rows = MemoryRetrieval.objects.filter(memory_id__in=ids)
    return {
        id_: Retrieval(count, last_at)
        for id_, count, last_at in rows.values_list("memory_id", "count", "last_at")
    }


def _both(former: Retrieval, later: Retrieval) -> Retrieval:
    return Retrieval(former.times + later.times, max(former.last_at, later.last_at))


def _add(batch: dict[UUID, Retrieval]) -> int:
    """Counts what was noted, a portion in a transaction; memories that are gone count nothing."""
    # By id, as other processes do: none waits for one that waits for it.
    everything = sorted(batch.items())
    for at in range(0, len(everything), ROWS):
        rows = everything[at : at + ROWS]
        _add_rows(rows)
        for id_, _ in rows:
            # What is counted is not counted again when a later portion fails.
            del batch[id_]
    return 0


def _add_rows(rows: Sequence[tuple[UUID, Retrieval]]) -> None:
    values = [
        field.get_db_prep_save(value, connection)
        for id_, given in rows
        for field, value in zip(_COLUMNS, (id_, *given), strict=True)
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
