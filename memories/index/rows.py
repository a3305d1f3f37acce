"""Reads memories from SQL and makes points for the index."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from datetime import time as day_time
from typing import Any, Final, NamedTuple
from uuid import UUID

import numpy as np
from django.db.models import F, FilteredRelation, Q, QuerySet

from core.database.portions import passed
from memories.filters.pushdown import METADATA_WORDS, metadata_words
from memories.index.base import Point
from memories.index.payload import EXPIRES
from memories.models import ENTITY_FIELDS, Memory, MemoryVector, Revision

BATCH: Final = 500
_COLUMNS: Final = (
    "id",
    "rev",
    "deleted_at",
    "text",
    "project_id",
    "collection",
    *ENTITY_FIELDS,
    "actor_id",
    "role",
    "source",
    "confidence",
    "review_status",
    "metadata",
    "expires_at",
    "expiration_date",
    "vector__data",
    "vector__id",
)
# Identifies a row's state: its revision and the id of its vector, which may come later.
Stamp = tuple[int, int | None]


class IndexRow(NamedTuple):
    """One memory for the index; `point` is None if it is deleted."""

    id: UUID
    stamp: Stamp
    point: Point | None

    @property
    def rev(self) -> int:
        return self.stamp[0]


def read_rows(ids: Sequence[UUID], model_key: str) -> list[IndexRow]:
    """The existing rows of these ids, with their vectors of this model if they have one."""
    rows = _with_vector(model_key).filter(id__in=ids).values_list(*_COLUMNS)
    return [_row(dict(zip(_COLUMNS, values, strict=True))) for values in rows]


def read_revisions(ids: Sequence[UUID], model_key: str) -> dict[UUID, Stamp]:
    """The stamps of the rows that `read_rows` would read."""
    columns = ("id", "rev", "vector__id")
    rows = _with_vector(model_key).filter(id__in=ids).values_list(*columns)
    return {id_: (rev, vector_id) for id_, rev, vector_id in rows}


def filter_pending() -> QuerySet[Memory]:
    """Memories whose latest revision is not recorded as indexed."""
    return Memory.objects.filter(rev__gt=F("indexed_rev"))


def ids_changed_since(since: datetime) -> list[UUID]:
    """Memories that any process has changed since then. The history tells, because imports set
    their own times on memories."""
    revisions = Revision.objects.filter(at__gte=since)
    return list(revisions.values_list("memory_id", flat=True).distinct())


def with_vector(ids: Iterable[UUID], model_key: str) -> list[UUID]:
    """Those of the ids that have a vector of this model. A new vector does not change a memory's
    revision."""
    all_ids, with_vectors = list(ids), []
    of_model = MemoryVector.objects.filter(model_key=model_key)
    for at in range(0, len(all_ids), BATCH):
        some = of_model.filter(memory_id__in=all_ids[at : at + BATCH])
        with_vectors += list(some.values_list("memory_id", flat=True))
    return with_vectors


def batches() -> Iterator[list[UUID]]:
    """The ids of all live memories, in order, in batches."""
    rows = Memory.objects.filter(deleted_at=None).order_by("id").values_list("id", flat=True)
    return passed(rows, BATCH)


def _with_vector(model_key: str) -> QuerySet[Memory]:
    of_model = Q(vectors__model_key=model_key)
    return Memory.objects.annotate(vector=FilteredRelation("vectors", condition=of_model))


def _row(values: dict[str, Any]) -> IndexRow:
    stamp = (values["rev"], values["vector__id"])
    if values["deleted_at"] is not None:
        return IndexRow(values["id"], stamp, None)
    fields: dict[str, Any] = {"project": str(values["project_id"])}
    for name in ("collection", *ENTITY_FIELDS, "actor_id", "role", "source"):
        if values[name]:
            fields[name] = values[name]
    fields["confidence"] = values["confidence"]
    fields["review_status"] = values["review_status"]
    if words := metadata_words(values["metadata"]):
        fields[METADATA_WORDS] = words
    if (expires := expiry_second(values["expires_at"], values["expiration_date"])) is not None:
        fields[EXPIRES] = expires
    data = values["vector__data"]
    vector = np.frombuffer(data, dtype="<f4") if data is not None else None
    point = Point(values["id"], values["rev"], values["text"], vector, fields)
    return IndexRow(values["id"], stamp, point)


def expiry_second(expires_at: Any, expiration_date: Any) -> float | None:
    """The Unix second from which a memory is expired; None for never.

    A memory with an expiration date expires at the end of that day, UTC.
    """
    ends = []
    if expires_at is not None:
        ends.append(expires_at.timestamp())
    if expiration_date is not None:
        midnight = datetime.combine(expiration_date, day_time.min, tzinfo=UTC)
        ends.append(midnight.timestamp() + 86_400)
    return min(ends) if ends else None
