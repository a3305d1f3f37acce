"""Reads that an index answers without looking up rows: counts, ids in order, groups.

In raw SQL, because the ORM can neither name the index that SQLite must use (without statistics
SQLite chooses badly among a million rows) nor start from the index of words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from django.core.exceptions import EmptyResultSet
from django.db import connection
from django.db.models import QuerySet

from memories.models import Memory, MemoryRetrieval
from memories.storage.substring_index import TABLE, phrase

Order = Sequence[tuple[str, bool]]

_MEMORIES: Final = "memories_memory"
RETRIEVALS: Final = "memories_memoryretrieval"
# When a memory expires: at an instant, or after its last day.
_ENDS: Final = {
    "sqlite": "min(coalesce(expires_at, '9999'),"
    " coalesce(date(expiration_date, '+1 day'), '9999'))",
    "postgresql": "least(expires_at, (expiration_date + 1)::timestamp AT TIME ZONE 'UTC')",
}
# How often and when last a search returned the memory, from another table. "Never" is the smallest
# value.
_RETRIEVED: Final = {
    "retrievals": f"coalesce({RETRIEVALS}.count, 0)",
    "retrieved_at": f"coalesce({RETRIEVALS}.last_at, '0001-01-01')",
}
_PROJECT: Final = MemoryRetrieval._meta.get_field("project")


@dataclass(frozen=True, slots=True)
class IndexOnlySource:
    """What to read: the predicate of `rows` (no joins) and, on SQLite, the access path: the index
    named `index`, or the matches of `words` in the index of words.

    With `retrieved_in`, a project, only its memories that a search ever returned, read from their
    retrievals; `index` then belongs to that table.
    """

    rows: QuerySet[Memory]
    index: str = ""
    words: str = ""
    retrieved_in: UUID | None = None


def count_rows(source: IndexOnlySource, *, up_to: int = 0) -> int:
    """The number of rows; counting stops at `up_to` if it is given."""
    limit = f" LIMIT {up_to}" if up_to else ""
    inner, params = _select("1", source)
    sql = f"SELECT count(*) FROM ({inner}{limit}) AS found"
    if not up_to:
        sql, params = _select("count(*)", source)
    return int(_fetch(sql, params)[0][0])


def read_ids(source: IndexOnlySource, order: Order, *, limit: int, offset: int = 0) -> list[UUID]:
    """The ids in `order`, pairs of a column and whether it is descending. Columns of memories;
    "ends" for when a memory expires; "retrievals" and "retrieved_at" for how often and when last a
    search returned it; or columns of RETRIEVALS if the source reads these."""
    joined = any(column in _RETRIEVED for column, _ in order)
    sql, params = _select("memories_memory.id", source, with_retrievals=joined)
    rows = _fetch(f"{sql} ORDER BY {_keys(order)} LIMIT {int(limit)} OFFSET {int(offset)}", params)
    return [id_ if isinstance(id_, UUID) else UUID(id_) for (id_,) in rows]


def read_rows(
    source: IndexOnlySource, columns: Sequence[str], order: Order, *, limit: int
) -> list[tuple[Any, ...]]:
    """Columns of the first `limit` rows in order, as the database stores them: JSON as text; on
    SQLite ids as 32 digits and instants as text without their zone, which is UTC."""
    names = [f"{_MEMORIES}.{column}" for column in columns]
    if connection.vendor == "sqlite":
        # Django converts columns to datetimes, which is slow, but leaves expressions alone.
        names = [f"+{name}" for name in names]
    sql, params = _select(", ".join(names), source)
    return _fetch(f"{sql} ORDER BY {_keys(order)} LIMIT {int(limit)}", params)


def count_groups(source: IndexOnlySource, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """Every combination of values of the columns, followed by its count."""
    names = ", ".join(columns)
    sql, params = _select(f"{names}, count(*)", source)
    return _fetch(f"{sql} GROUP BY {names}", params)


def most_frequent(source: IndexOnlySource, column: str, limit: int) -> list[tuple[str, int]]:
    """The most frequent values of a column, with their counts."""
    sql, params = _select(f"{column}, count(*) AS n", source)
    order = f"ORDER BY n DESC, {column} LIMIT {int(limit)}"
    return _fetch(f"{sql} GROUP BY {column} {order}", params)


def count_expiring(
    source: IndexOnlySource, now: datetime, later: datetime
) -> tuple[int, int, int, int]:
    """The number of rows, and how many of them expire at all, by `now`, and by `later`."""
    ended = "expires_at <= %s OR expiration_date < %s"
    columns = (
        "count(*)",
        "count(coalesce(expires_at, expiration_date))"
        if connection.vendor == "sqlite"
        else "count(*) FILTER (WHERE expires_at IS NOT NULL OR expiration_date IS NOT NULL)",
        *(f"count(*) FILTER (WHERE {ended})",) * 2,
    )
    values: list[Any] = []
    for at in (now, later):
        values += [
            connection.ops.adapt_datetimefield_value(at),
            connection.ops.adapt_datefield_value(at.astimezone(UTC).date()),
        ]
    sql, params = _select(", ".join(columns), source)
    total, ending, expired, soon = _fetch(sql, [*values, *params])[0]
    return int(total), int(ending), int(expired), int(soon)


def _keys(order: Order) -> str:
    return ", ".join(f"{_key(column)}{' DESC' if down else ''}" for column, down in order)


def _key(column: str) -> str:
    if column == "ends":
        return _ENDS[connection.vendor]
    if column in _RETRIEVED:
        return _RETRIEVED[column]
    return column if "." in column else f"{_MEMORIES}.{column}"


def _select(
    what: str, source: IndexOnlySource, *, with_retrievals: bool = False
) -> tuple[str, list[Any]]:
    """A SELECT with the predicate, and its parameters."""
    query = source.rows.query.chain()
    try:
        where, params = query.get_compiler(connection=connection).compile(query.where)
    except EmptyResultSet:
        where, params = "1 = 0", ()
    origin, before = _MEMORIES, []
    if source.retrieved_in is not None:
        index = f" INDEXED BY {source.index}" if connection.vendor == "sqlite" else ""
        # SQLite reads the tables of a CROSS JOIN in this order.
        origin = f"{RETRIEVALS}{index} CROSS JOIN {_MEMORIES}"
        where = (
            f"{RETRIEVALS}.project_id = %s AND {RETRIEVALS}.memory_id = {_MEMORIES}.id AND {where}"
        )
        before = [_PROJECT.get_db_prep_value(source.retrieved_in, connection)]
    elif connection.vendor == "sqlite" and source.words:
        origin = f"{TABLE} CROSS JOIN {_MEMORIES} ON {_MEMORIES}.rowid = {TABLE}.rowid"
        where, before = f"{TABLE} MATCH %s AND {where}", [phrase(source.words)]
    elif connection.vendor == "sqlite" and source.index:
        origin = f"{_MEMORIES} INDEXED BY {source.index}"
    if with_retrievals:
        origin += f" LEFT JOIN {RETRIEVALS} ON {RETRIEVALS}.memory_id = {_MEMORIES}.id"
    return f"SELECT {what} FROM {origin} WHERE {where}", [*before, *params]


def _fetch(sql: str, params: Sequence[Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return list(cursor.fetchall())
