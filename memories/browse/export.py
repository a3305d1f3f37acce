"""Exports a selection as JSON, JSON Lines or CSV: every column, in pieces, in constant memory."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import orjson
from django.db.models import Q

from core.pages import tabular
from core.principal import Principal
from memories.browse import pages as paging
from memories.browse import plans
from memories.browse.selection import Selection
from memories.search import substring as keyword
from memories.storage import index_only as covered
from memories.storage.index_only import IndexOnlySource, Order

FORMATS: Final = ("json", "jsonl", "csv")
BATCH: Final = 1000
# Name in the file -> column.
COLUMNS: Final = {
    "id": "id",
    "memory": "text",
    **{
        name: name
        for name in (
            *("collection", "user_id", "agent_id", "app_id", "run_id", "actor_id", "role"),
            *("attributed_to", "memory_type", "categories", "source", "confidence"),
            *("review_status", "reviewed_by", "reviewed_at", "expires_at", "expiration_date"),
            *("metadata", "batch_id", "created_at", "updated_at", "deleted_at"),
        )
    },
}
_NAMES: Final = tuple(COLUMNS)
_IDS: Final = tuple(_NAMES.index(name) for name in ("id", "batch_id"))
_JSON: Final = ("categories", "metadata")
_INSTANTS: Final = tuple(at for at, name in enumerate(_NAMES) if name.endswith("_at"))
_AT: Final = _NAMES.index("created_at")
_OLDEST: Final[Order] = (("created_at", False), ("id", False))


def export(principal: Principal, selection: Selection, format_: str) -> Iterator[bytes]:
    """The file in pieces of UTF-8, oldest memory first; each memory that is there all the time
    comes exactly once, whatever is added or deleted meanwhile.

    Refuses before the first piece: InvalidInputError for an unknown format or a search by meaning,
    PermissionDeniedError (scope `read`; `review` for deleted memories). In a CSV, an apostrophe
    stands before what a spreadsheet would take for a formula.
    """
    tabular.check_format(format_, FORMATS)
    paging.refuse_meaning(selection)
    rows = paging.rows_of(principal, selection)
    if selection.q:
        rows = rows.filter(keyword.condition_without_index(selection.q))
    batches = _batches(IndexOnlySource(rows, plans.index_in_time(selection)))
    return tabular.pieces(format_, _NAMES, batches, raw=_JSON, option=orjson.OPT_UTC_Z)


def _batches(source: IndexOnlySource) -> Iterator[list[list[Any]]]:
    """The rows, each as its values in the order of COLUMNS: ids as text, JSON as it is stored.

    A statement of its own for each batch, so that a slow reader holds nothing in the database.
    """
    part = source
    while batch := covered.read_rows(part, [*COLUMNS.values()], _OLDEST, limit=BATCH):
        at, id_ = batch[-1][_AT], batch[-1][0]
        if isinstance(at, str):
            at, id_ = datetime.fromisoformat(at).replace(tzinfo=UTC), UUID(id_)
        yield [_plain(row) for row in batch]
        after = Q(created_at__gte=at) & (Q(created_at__gt=at) | Q(id__gt=id_))
        part = replace(source, rows=source.rows.filter(after))


def _plain(row: tuple[Any, ...]) -> list[Any]:
    """The same for both databases."""
    values = list(row)
    for at in _IDS:
        values[at] = _dashed(values[at])
    for at in _INSTANTS:
        if isinstance(value := values[at], str):
            values[at] = f"{value[:10]}T{value[11:]}Z"
    return values


def _dashed(id_: UUID | str | None) -> str | None:
    if isinstance(id_, str):
        return f"{id_[:8]}-{id_[8:12]}-{id_[12:16]}-{id_[16:20]}-{id_[20:]}"
    return None if id_ is None else str(id_)
