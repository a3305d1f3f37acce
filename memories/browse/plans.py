"""Which of SQLite's indexes answers a selection."""

from typing import Final

from django.db.models import QuerySet

from memories.browse.selection import Selection
from memories.models import Collection, Confidence, Memory, ReviewStatus
from memories.storage.index_only import IndexOnlySource

# What the indexes of the browser do not hold.
_UNCOVERED: Final = frozenset({"metadata", "deleted"})
# The first columns of memory_facets, with all that may be in them.
_LEADING: Final = {
    "collection": Collection.values,
    "confidence": Confidence.values,
    "review_status": ReviewStatus.values,
}


def ordered(selection: Selection, rows: QuerySet[Memory]) -> IndexOnlySource:
    """Where to read the ids in the order of the selection."""
    return IndexOnlySource(rows, index_for(selection, _in_order(selection)))


def _in_order(selection: Selection) -> str:
    return "memory_updated" if selection.sort == "updated" else "memory_newest"


def count_in_memory_order(selection: Selection, rows: QuerySet[Memory]) -> IndexOnlySource:
    """Where to count. What the first columns of the index may be is all said, though it changes
    nothing: so the index is entered where the filter's rows are, instead of read from end to end.
    """
    fields = {name for name, values in selection.fields.items() if values}
    index = index_for(selection, "memory_facets")
    if "created" in fields or index != "memory_facets":
        return IndexOnlySource(rows, index_for(selection, "memory_newest"))
    deepest = max((at for at, name in enumerate(_LEADING) if name in fields), default=-1)
    for name in [*_LEADING][: deepest + 1]:
        if name not in fields:
            rows = rows.filter(**{f"{name}__in": _LEADING[name]})
    return IndexOnlySource(rows, index)


def is_covered(selection: Selection) -> bool:
    """Whether indexes alone can answer the selection's fields."""
    return not any(values and name in _UNCOVERED for name, values in selection.fields.items())


def choose_source(selection: Selection, rows: QuerySet[Memory], index: str) -> IndexOnlySource:
    """Where to count groups: through `index`, or one that is nearer to what is selected."""
    nearer = index_for(selection, index)
    return IndexOnlySource(rows, nearer if is_covered(selection) or nearer != index else "")


def index_in_time(selection: Selection) -> str:
    """SQLite's index that has what the selection asks for in the order of time, for one long read;
    "" where SQLite is to choose."""
    if selection.deleted:
        return "memory_deleted"
    if selection.fields.get("run_id"):
        return ""
    return "memory_user" if len(selection.fields.get("user_id", ())) == 1 else "memory_newest"


def index_for(selection: Selection, otherwise: str) -> str:
    """SQLite's index for a selection: of users their own, and none where SQLite knows better."""
    fields = {name for name, values in selection.fields.items() if values}
    if "deleted" in fields:
        return "memory_deleted"
    if "run_id" in fields:
        return ""
    if "updated" in fields:
        return "memory_updated"
    return "memory_user" if "user_id" in fields and otherwise != "memory_updated" else otherwise
