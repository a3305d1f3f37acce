"""Reads what a search ranks: candidates re-checked in SQL, and the turns around them."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import orjson
from django.core.exceptions import EmptyResultSet
from django.db import connection
from django.db.models import QuerySet

from memories.models import Memory
from memories.ranking import Candidate

# The ids come first: left to itself, SQLite reads every memory of the project instead of these.
_WANTED: Final = {
    "sqlite": "json_each(%s) AS wanted CROSS JOIN memories_memory"
    " ON memories_memory.id = wanted.value",
    "postgresql": "unnest(%s::uuid[]) AS wanted(value) JOIN memories_memory"
    " ON memories_memory.id = wanted.value",
}
_TURN: Final = """
CASE WHEN memories_memory.session <> '' THEN (
  SELECT n.id FROM memories_memory n
  WHERE n.session = memories_memory.session AND NOT (n.session = '')
    AND n.project_id = memories_memory.project_id AND n.deleted_at IS NULL
    AND (n.created_at, n.seq, n.id)
      {than} (memories_memory.created_at, memories_memory.seq, memories_memory.id)
  ORDER BY n.created_at {order}, n.seq {order}, n.id {order} LIMIT 1) END"""
_COLUMNS: Final = ", ".join(
    (
        *(f"memories_memory.{name}" for name in ("id", "text", "created_at", "session")),
        _TURN.format(than="<", order="DESC"),
        _TURN.format(than=">", order="ASC"),
    )
)


class CandidateReader:
    """Reads memories by id through the predicate of `rows`: one statement, with both neighbours.

    By hand, since the ORM can neither put the ids first nor join the turn before and after.
    """

    def __init__(self, rows: QuerySet[Memory]) -> None:
        query = rows.query.chain()
        compiler = query.get_compiler(connection=connection)
        try:
            self._where, self._params = compiler.compile(query.where)
        except EmptyResultSet:
            self._where, self._params = "1 = 0", ()
        self._wanted = _WANTED[connection.vendor]

    def candidates(self, ids: Collection[UUID]) -> dict[UUID, Candidate]:
        """Those of `ids` that the predicate lets through."""
        sql = f"SELECT {_COLUMNS}, 1 FROM {self._wanted} WHERE {self._where}"
        return self._read(sql, ids, [_parameter(ids), *self._params])

    def lenders(self, ids: Collection[UUID]) -> dict[UUID, Candidate]:
        """All live ones of `ids`, as neighbours that lend their score whatever their own status:
        they are of the same conversation. `may_answer` says whether the predicate lets them
        through."""
        sql = (
            f"SELECT {_COLUMNS}, CASE WHEN {self._where} THEN 1 ELSE 0 END "
            f"FROM {self._wanted} WHERE memories_memory.deleted_at IS NULL"
        )
        found = self._read(sql, ids, [*self._params, _parameter(ids)])
        for candidate in found.values():
            candidate.is_candidate = False
        return found

    def memories(self, ids: Sequence[UUID]) -> dict[UUID, Memory]:
        """Whole rows, through the predicate once more."""
        if not ids:
            return {}
        sql = f"SELECT memories_memory.* FROM {self._wanted} WHERE {self._where}"
        rows = Memory.objects.raw(sql, [_parameter(ids), *self._params])
        return {row.id: row for row in rows}

    def updated_at(self, ids: Collection[UUID]) -> dict[UUID, datetime]:
        """When each of `ids` was last changed."""
        if not ids:
            return {}
        columns = "memories_memory.id, memories_memory.updated_at"
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {columns} FROM {self._wanted}", [_parameter(ids)])
            return {_uuid(id_): _instant(at) for id_, at in cursor.fetchall()}

    def _read(
        self, sql: str, ids: Collection[UUID], parameters: list[Any]
    ) -> dict[UUID, Candidate]:
        if not ids:
            return {}
        with connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            rows = cursor.fetchall()
        # Making a UUID of 32 digits costs more than all else here, and most are at hand.
        known: dict[Any, UUID] = dict(zip(_keys(ids), ids, strict=True))

        def uuid_of(key: Any) -> UUID:
            return known.get(key) or known.setdefault(key, _uuid(key))

        found: dict[UUID, Candidate] = {}
        for id_, text, created_at, session, previous, following, may_answer in rows:
            own = uuid_of(id_)
            found[own] = Candidate(
                id=own,
                text=text,
                created_at=_instant(created_at),
                session=session,
                previous=uuid_of(previous) if previous else None,
                next=uuid_of(following) if following else None,
                may_answer=bool(may_answer),
            )
        return found


def _parameter(ids: Collection[UUID]) -> Any:
    """The ids as one parameter: SQLite keeps them as 32 hex digits."""
    if connection.vendor == "postgresql":
        return list(ids)
    return orjson.dumps(_keys(ids)).decode()


def _keys(ids: Collection[UUID]) -> list[Any]:
    """Ids as the database gives them."""
    if connection.features.has_native_uuid_field:
        return list(ids)
    return [id_.hex for id_ in ids]


def _uuid(value: Any) -> UUID:
    return value if isinstance(value, UUID) else UUID(hex=value)


def _instant(value: datetime) -> datetime:
    """SQLite gives instants without their zone, which is UTC."""
    return value if value.tzinfo else value.replace(tzinfo=UTC)
