"""Reads what a search ranks: candidates re-checked in SQL, and the turns around them."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import numpy as np
import orjson
from django.core.exceptions import EmptyResultSet
from django.db import connection
from django.db.models import QuerySet

from memories.models import Memory
from memories.readings import Vector, text_sum
from memories.search.ranking import Candidate, Key

# The ids come first: left to itself, SQLite reads every memory of the project instead of these.
_IDS: Final = {
    "sqlite": "json_each(%s) AS wanted CROSS JOIN",
    "postgresql": "unnest(%s::text[]::uuid[]) AS wanted(value) JOIN",
}
_WANTED: Final = "{ids} memories_memory ON memories_memory.id = wanted.value"
_KEPT: Final = """
SELECT {key}, kept.data{more}
FROM {ids} {table} AS kept ON kept.memory_id = wanted.value AND {of}"""
# An id as Key; a UUID of PostgreSQL's would be made into one of Python's first.
_KEY: Final = {"sqlite": "{}", "postgresql": "encode(uuid_send({}), 'hex')"}
# As text, with its zone: what Django and psycopg read instants with takes several times as long.
_INSTANT: Final = {"sqlite": "{} || '+00:00'", "postgresql": "{}::text"}
# IS TRUE keeps a planner without statistics from going through all memories of the project.
_TURN: Final = """
CASE WHEN memories_memory.session <> '' THEN (
  SELECT {key} FROM memories_memory n
  WHERE n.session = memories_memory.session AND NOT (n.session = '')
    AND (n.project_id = memories_memory.project_id) IS TRUE AND n.deleted_at IS NULL
    AND (n.created_at, n.seq, n.id)
      {than} (memories_memory.created_at, memories_memory.seq, memories_memory.id)
  ORDER BY n.created_at {order}, n.seq {order}, n.id {order} LIMIT 1) END"""


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
        vendor = connection.vendor
        self._wanted, key = _WANTED.format(ids=_IDS[vendor]), _KEY[vendor]
        turn = key.format("n.id")
        columns = (
            key.format("memories_memory.id"),
            "memories_memory.text",
            _INSTANT[vendor].format("memories_memory.created_at"),
            "memories_memory.session",
            _TURN.format(key=turn, than="<", order="DESC"),
            _TURN.format(key=turn, than=">", order="ASC"),
        )
        self._columns = ", ".join(columns)

    def candidates(self, ids: Collection[Key]) -> dict[Key, Candidate]:
        """Those of `ids` that the predicate lets through."""
        sql = f"SELECT {self._columns}, 1 FROM {self._wanted} WHERE {self._where}"
        return self._read(sql, ids, [_parameter(ids), *self._params])

    def lenders(self, ids: Collection[Key]) -> dict[Key, Candidate]:
        """All live ones of `ids`, as neighbours that lend their score whatever their own status:
        they are of the same conversation. `may_answer` says whether the predicate lets them
        through."""
        sql = (
            f"SELECT {self._columns}, CASE WHEN {self._where} THEN 1 ELSE 0 END "
            f"FROM {self._wanted} WHERE memories_memory.deleted_at IS NULL"
        )
        candidates = self._read(sql, ids, [*self._params, _parameter(ids)])
        for candidate in candidates.values():
            candidate.is_candidate = False
        return candidates

    @staticmethod
    def cosines(ids: Collection[Key], vector: Vector, model_key: str) -> dict[Key, float]:
        """The cosine (−1..1) of each stored vector of `ids` with a unit vector of the same model.
        Memories without a vector of that model are left out. Reads the table, which saves a second
        call to the index."""
        of = "kept.model_key = %s AND kept.dims = %s"
        rows = _kept("memories_memoryvector", ids, of, [model_key, len(vector)])
        if not rows:
            return {}
        vectors = np.frombuffer(b"".join(data for (data,) in rows.values()), "<f4").reshape(
            len(rows), -1
        )
        nearness: list[float] = (vectors @ vector).tolist()
        return dict(zip(rows, nearness, strict=True))

    @staticmethod
    def tokens(texts: Mapping[Key, str], states_key: str) -> dict[Key, bytes]:
        """The packed token states of these memories. Memories without states of this key, or with
        states of another text than the given one, are left out."""
        of = "kept.states_key = %s"
        rows = _kept(
            "memories_memorytokens", texts.keys(), of, [states_key], more=", kept.text_sum"
        )
        return {
            id_: data
            for id_, (data, read_from) in rows.items()
            if read_from == text_sum(texts[id_])
        }

    def memories(self, ids: Collection[UUID]) -> dict[UUID, Memory]:
        """Whole rows, through the predicate once more."""
        if not ids:
            return {}
        sql = f"SELECT memories_memory.* FROM {self._wanted} WHERE {self._where}"
        parameter = _parameter([id_.hex for id_ in ids])
        rows = Memory.objects.raw(sql, [parameter, *self._params])
        return {row.id: row for row in rows}

    def updated_at(self, ids: Collection[Key]) -> dict[Key, datetime]:
        """When each of `ids` was last changed."""
        if not ids:
            return {}
        key = _KEY[connection.vendor].format("memories_memory.id")
        at = _INSTANT[connection.vendor].format("memories_memory.updated_at")
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {key}, {at} FROM {self._wanted}", [_parameter(ids)])
            return {id_: datetime.fromisoformat(at) for id_, at in cursor.fetchall()}

    @staticmethod
    def _read(sql: str, ids: Collection[Key], parameters: list[Any]) -> dict[Key, Candidate]:
        if not ids:
            return {}
        with connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            rows = cursor.fetchall()
        return {
            id_: Candidate(
                id=id_,
                text=text,
                created_at=datetime.fromisoformat(created_at),
                session=session,
                previous=previous,
                next=following,
                may_answer=bool(may_answer),
            )
            for id_, text, created_at, session, previous, following, may_answer in rows
        }


def _parameter(ids: Collection[Key]) -> Any:
    """The ids as one parameter."""
    return list(ids) if connection.vendor == "postgresql" else orjson.dumps(list(ids)).decode()


def _kept(
    table: str, ids: Collection[Key], of: str, parameters: list[Any], *, more: str = ""
) -> dict[Key, tuple[Any, ...]]:
    """What a table beside the memories keeps of `ids`, in one statement: the data, and `more`."""
    if not ids:
        return {}
    vendor = connection.vendor
    key = _KEY[vendor].format("kept.memory_id")
    sql = _KEPT.format(key=key, ids=_IDS[vendor], table=table, of=of, more=more)
    arguments = [_parameter(ids), *parameters]
    if vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute(sql, arguments)
            return {row[0]: row[1:] for row in cursor.fetchall()}
    # This cursor returns bytes as they are; Django's receives them as hexadecimal text.
    from django.db.backends.postgresql.base import ServerBindingCursor

    connection.ensure_connection()
    with connection.wrap_database_errors:
        open_cursor: Any = ServerBindingCursor  # which is psycopg's, but its stub does not say so
        raw = open_cursor(connection.connection)
        raw.execute(sql, arguments, binary=True)
        return {row[0]: row[1:] for row in raw.fetchall()}
