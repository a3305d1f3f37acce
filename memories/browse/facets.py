"""Counts per field: what values there are among what is selected, and how many memories of each."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson
from django.utils import timezone

from core.principal import Principal
from memories.browse import pages as paging
from memories.browse import plans
from memories.browse.kept_counts import cached_count
from memories.browse.selection import EXPIRY, SOON, Selection
from memories.models import ENTITY_FIELDS
from memories.storage import index_only as covered
from memories.storage.index_only import IndexOnlySource

# Of these there are few values: one pass counts every combination of them, and whatever the other
# fields leave of each.
_FEW: Final = ("collection", "confidence", "review_status", "source", "agent_id", "app_id")
_MANY: Final = ("user_id", "run_id")
FACETS: Final = (
    *("collection", "user_id", "agent_id", "app_id", "run_id"),
    *("source", "confidence", "review_status", "expiry"),
)
TOP: Final = 20
PERIODS: Final = ("24h", "7d", "30d")
# Metadata has no index: its keys are looked for in this many memories.
NEWEST: Final = 2000


@dataclass(frozen=True, slots=True)
class FacetValue:
    """A value of a field ("" is none), how many memories have it, and whether it is selected."""

    value: str
    count: int
    chosen: bool = False


def facets(
    principal: Principal, selection: Selection, only: Sequence[str] | None = None
) -> dict[str, list[FacetValue]]:
    """For each field of `only`, what values there are and how many memories have each, most first.

    Without `only`, for those of FACETS, but for runs only where a user, an agent, an app or a run
    is asked for: among all, hardly any run stands out.

    The selection's other fields count, the field's own does not, so that another value can be
    chosen. The TOP most frequent, and after them the chosen ones that are rarer, also at 0; of
    `expiry` all four. A search text by words counts as a filter; one by meaning, which leaves
    nothing out, does not; for one that is in more memories than can be counted in time, {}.
    Scope `read` (`review` for deleted ones). A constant number of statements: one for all fields of
    few values, and up to two for each other one; what took long is kept until a memory changes.
    """
    if only is None:
        has_entity = any(selection.fields.get(name) for name in ENTITY_FIELDS)
        only = [name for name in FACETS if name != "run_id" or has_entity]
    key = (tuple(selection.params()), tuple(only))
    return cached_count(principal, ("facets", *key), lambda: _counted(principal, selection, only))


def more_facets(principal: Principal, selection: Selection) -> dict[str, list[FacetValue]]:
    """As `facets`, for what has no values of its own: the PERIODS of `created` and `updated`, and
    under `metadata` the keys that the newest NEWEST have, with how many of these have each (not for
    a search by words)."""

    def count() -> dict[str, list[FacetValue]]:
        periods = {name: _periods(principal, selection, name) for name in ("created", "updated")}
        return periods | {"metadata": _metadata_keys(principal, selection)}

    return cached_count(principal, ("more_facets", tuple(selection.params())), count)


def _periods(principal: Principal, selection: Selection, name: str) -> list[FacetValue]:
    selected = selection.fields.get(name, ())
    listed = []
    for value in PERIODS:
        narrowed = selection.minus(name).plus(name, value)
        rows = paging.rows_of(principal, narrowed)
        if narrowed.by_words:
            source = replace(paging.search_of(narrowed, rows).source, index="")
        else:
            source = plans.count_in_memory_order(narrowed, rows)
        listed.append(FacetValue(value, covered.count_rows(source), value in selected))
    return listed


def _metadata_keys(principal: Principal, selection: Selection) -> list[FacetValue]:
    if selection.by_words:
        return []
    narrowed = selection.minus("metadata")
    source = IndexOnlySource(paging.rows_of(principal, narrowed), plans.index_in_time(narrowed))
    newest = covered.read_rows(source, ("metadata",), paging.NEWEST, limit=NEWEST)
    counts = Counter(
        key
        for (kept_as,) in newest
        for key in (orjson.loads(kept_as) if isinstance(kept_as, str) else kept_as)
    )
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return [FacetValue(key, n) for key, n in ranked[:TOP]]


def _counted(
    principal: Principal, selection: Selection, only: Sequence[str]
) -> dict[str, list[FacetValue]]:
    if selection.by_words:
        rows = paging.rows_of(principal, selection)
        if not paging.search_of(selection, rows).countable:
            return {}
    by_field: dict[str, dict[str, int]] = {}
    few = [name for name in only if name in _FEW]
    if few:
        by_field |= _few(principal, selection, few)
    for name in only:
        if name in _MANY:
            by_field[name] = _many(principal, selection, name)
    if "expiry" in only:
        by_field["expiry"] = _expiry(principal, selection)
    return {name: _listed(by_field[name], selection.fields.get(name, ()), name) for name in only}


def _listed(counts: dict[str, int], selected: tuple[str, ...], name: str) -> list[FacetValue]:
    if name == "expiry":
        return [FacetValue(value, counts[value], value in selected) for value in EXPIRY]
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    pairs = ranked[:TOP] + [pair for pair in ranked[TOP:] if pair[0] in selected]
    pairs += [(value, 0) for value in selected if value not in counts]
    return [FacetValue(value, count, value in selected) for value, count in pairs]


def _source(
    principal: Principal, selection: Selection, index: str, without: str = ""
) -> IndexOnlySource:
    """What to count in, through `index` where SQLite has all it needs in there."""
    narrowed = selection.minus(without) if without else selection
    rows = paging.rows_of(principal, narrowed)
    if selection.by_words:
        return replace(paging.search_of(narrowed, rows).source, index="")
    return plans.choose_source(narrowed, rows, index)


def _few(principal: Principal, selection: Selection, only: Sequence[str]) -> dict[str, Any]:
    """Counts of the fields with few values: every combination is counted without the filters of
    these fields; then each field's counts apply the filters of the others, never its own."""
    requested = {name: set(values) for name, values in selection.fields.items() if name in _FEW}
    wide = selection
    for name in requested:
        wide = wide.minus(name)
    # As the index has them, from its first column on: so equal ones are side by side in there.
    deepest = max(_FEW.index(name) for name in (*requested, *only))
    columns = _FEW[: deepest + 1]
    source = _source(principal, wide, "memory_facets")
    counts: dict[str, Counter[str]] = {name: Counter() for name in only}
    for *values, n in covered.count_groups(source, columns):
        row = dict(zip(columns, values, strict=True))
        failing = [name for name, allowed in requested.items() if row[name] not in allowed]
        if not failing:
            for name in only:
                counts[name][row[name]] += n
        elif len(failing) == 1 and failing[0] in counts:
            counts[failing[0]][row[failing[0]]] += n
    return dict(counts)


def _many(principal: Principal, selection: Selection, name: str) -> dict[str, int]:
    """Counts of a field of many values: of the most frequent ones, and of those asked for."""
    index = "memory_user" if name == "user_id" else "memory_facets"
    source = _source(principal, selection, index, without=name)
    counts = dict(covered.most_frequent(source, name, TOP))
    if selected := selection.fields.get(name, ()):
        rows = source.rows.filter(**{f"{name}__in": selected})
        counts |= dict(covered.most_frequent(replace(source, rows=rows), name, len(selected)))
    return counts


def _expiry(principal: Principal, selection: Selection) -> dict[str, int]:
    """Counts of each value of `expiry`, in one pass."""
    source = _source(principal, selection, "memory_newest", without="expiry")
    now = timezone.now()
    total, ending, expired, soon = covered.count_expiring(source, now, now + SOON)
    counts = (expired, soon - expired, ending - soon, total - ending)
    return dict(zip(EXPIRY, counts, strict=True))
