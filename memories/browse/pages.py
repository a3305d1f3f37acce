"""The pages of the memory browser, with totals: lists, and searches by meaning and by words.

People see what agents do not: every review status, what has expired, and, with scope `review`, what
was deleted and can still be restored.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.db.models import Exists, OuterRef, Q, QuerySet

from core.errors import EngineError, InvalidInputError
from core.principal import Principal, Scope
from memories import retrievals, visibility
from memories.browse.plans import count_in_memory_order, index_for, ordered
from memories.browse.selection import Selection
from memories.filters import AllOf, Comparison, to_q
from memories.filters.language import mentions
from memories.models import Memory, MemoryRetrieval, ReviewStatus
from memories.retrievals import Retrieval
from memories.search import service as search
from memories.search import substring as keyword
from memories.search.candidates import CandidateReader
from memories.storage import index_only as covered
from memories.storage.index_only import IndexOnlySource, Order

PER_PAGE: Final = 50
# How far a search by meaning reaches.
BEST: Final = 200
NEWEST: Final[Order] = (("created_at", True), ("id", True))
_ORDERS: Final[dict[str, Order]] = {
    "newest": NEWEST,
    "oldest": (("created_at", False), ("id", False)),
    "updated": (("updated_at", True), ("id", True)),
    "expiring": (("ends", False), ("id", False)),
    "most_retrieved": (("retrievals", True), ("retrieved_at", True), *NEWEST),
    "last_retrieved": (("retrieved_at", True), *NEWEST),
}
# The same among those that were ever retrieved, as the index of this name holds them.
_RETRIEVED: Final[dict[str, tuple[str, Order]]] = {
    name: (index, tuple((f"{covered.RETRIEVALS}.{column}", True) for column in columns))
    for name, index, columns in (
        ("most_retrieved", "retrieval_most", ("count", "last_at", "memory_id")),
        ("last_retrieved", "retrieval_last", ("last_at", "memory_id")),
    )
}
# So many memories are sorted by their retrievals one by one; of more, an index has the first ones.
SORTED_AT_ONCE: Final = 20_000
LAST: Final = datetime.max.replace(tzinfo=UTC)
EARLIEST: Final = datetime.min.replace(tzinfo=UTC)
_NEVER: Final = Q(expires_at__isnull=True) & Q(expiration_date__isnull=True)


@dataclass(frozen=True, slots=True)
class MemoryPage:
    """One page of a selection. `number` counts from 1 and is never beyond `pages`.

    `total` is exact, unless `at_least` says that there may be more: for a substring that is in more
    memories than can be counted in time, or too short to be looked for in all of them.
    `mode` says what answered: "list" without a search text, "meaning", or "words"; `scores` (0..1)
    has the rows' scores for meaning alone. `problem` is the code of what kept meaning from
    answering where words stood in, "" otherwise. `retrieved` tells of the rows how often they were
    given to agents, where the selection is sorted by that.
    """

    rows: list[Memory]
    total: int
    number: int
    pages: int
    per_page: int
    mode: str = "list"
    scores: dict[UUID, float] = field(default_factory=dict)
    problem: str = ""
    at_least: bool = False
    retrieved: dict[UUID, Retrieval] = field(default_factory=dict)


def rows_of(principal: Principal, selection: Selection, *, without: str = "") -> QuerySet[Memory]:
    """The memories of the selection's fields, whatever its search text; unsorted.

    `without` leaves one field out. Scope `read`; `review` as well for deleted ones.
    """
    principal.require(Scope.READ)
    if selection.deleted and without != "deleted":
        principal.require(Scope.REVIEW, "Only who may review sees deleted memories.")
        rows = visibility.filter_restorable(principal)
    else:
        rows = visibility.filter_reachable(principal)
    return rows.filter(to_q(selection.where(without=without), principal.project.zone))


def filter_matching(principal: Principal, selection: Selection) -> QuerySet[Memory]:
    """All memories of the selection, unsorted, for bulk actions.

    A search by meaning has no end, and so selects nothing: InvalidInputError.
    """
    refuse_meaning(selection)
    rows = rows_of(principal, selection)
    return rows.filter(keyword.condition(selection.q)) if selection.q else rows


def refuse_meaning(selection: Selection) -> None:
    """InvalidInputError for a search by meaning."""
    if selection.by_meaning:
        raise InvalidInputError(
            "A search by meaning ranks memories, it does not select them: search by words instead, "
            "or tick the memories."
        )


def read_page(
    principal: Principal, selection: Selection, *, number: int = 1, per_page: int = PER_PAGE
) -> MemoryPage:
    """One page of the selection in its order; a number beyond the last page is the last page's.

    A search by meaning has its best BEST at most; where it cannot be had, words answer, and
    `problem` says why. Scope `read` (`review` for deleted ones); EngineError when the database
    fails. A constant number of statements.
    """
    if selection.by_meaning:
        answer = _by_meaning(principal, selection, number, per_page)
    elif selection.by_words:
        answer = _by_words(principal, selection, number, per_page)
    else:
        answer = _listed(principal, selection, number, per_page)
    if selection.sort in _RETRIEVED:
        answer = replace(answer, retrieved=retrievals.of([row.id for row in answer.rows]))
    return answer


# --- Lists ---------------------------------------------------------------------------------------
def _listed(principal: Principal, selection: Selection, number: int, per_page: int) -> MemoryPage:
    rows = rows_of(principal, selection)
    total = covered.count_rows(count_in_memory_order(selection, rows))
    pages = max(1, -(-total // per_page))
    number = min(max(number, 1), pages)
    first = (number - 1) * per_page
    limit = min(per_page, max(total - first, 0))
    # No index covers the metadata: sorting everything would read all rows a second time.
    is_long = total > SORTED_AT_ONCE or bool(selection.fields.get("metadata"))
    if selection.sort in _RETRIEVED and is_long:
        ids = _retrieved(principal.project.id, selection, rows, total, first, limit)
    else:
        ids = _ids(selection, rows, total, first, limit)
    return MemoryPage(_rows(rows, ids), total, number, pages, per_page)


def _ids(
    selection: Selection, rows: QuerySet[Memory], total: int, first: int, limit: int
) -> list[UUID]:
    if not limit:
        return []
    if selection.sort == "expiring":
        return _expiring(selection, rows, total, first, limit)
    order = _ORDERS.get(selection.sort, NEWEST)
    return _window(ordered(selection, rows), order, total, first, limit)


def _window(
    source: IndexOnlySource, order: Order, total: int, first: int, limit: int
) -> list[UUID]:
    """From whichever end is nearer."""
    if first <= total // 2:
        return covered.read_ids(source, order, limit=limit, offset=first)
    backwards = tuple((column, not down) for column, down in order)
    limit = min(limit, total - first)
    return covered.read_ids(source, backwards, limit=limit, offset=total - first - limit)[::-1]


def _expiring(
    selection: Selection, rows: QuerySet[Memory], total: int, first: int, limit: int
) -> list[UUID]:
    """What expires, the soonest first, and then, newest first, what never does."""
    ending, never = rows.exclude(_NEVER), rows.filter(_NEVER)
    index = index_for(selection, "memory_newest")
    count = covered.count_rows(IndexOnlySource(ending, index))
    ids = covered.read_ids(
        IndexOnlySource(ending, index), _ORDERS["expiring"], limit=limit, offset=first
    )
    if len(ids) < limit:
        after, remaining = max(first - count, 0), limit - len(ids)
        ids += _window(IndexOnlySource(never, index), NEWEST, total - count, after, remaining)
    return ids


def _retrieved(
    project: UUID, selection: Selection, rows: QuerySet[Memory], total: int, first: int, limit: int
) -> list[UUID]:
    """What was ever given to agents, the most or the last first, and then, newest first, what never
    was."""
    index, order = _RETRIEVED[selection.sort]
    source = IndexOnlySource(rows, index, retrieved_in=project)
    ids = covered.read_ids(source, order, limit=limit, offset=first)
    if len(ids) < limit:
        count = covered.count_rows(source)
        of_memory = MemoryRetrieval.objects.filter(memory_id=OuterRef("id"))
        never = IndexOnlySource(
            rows.filter(~Exists(of_memory)), index_for(selection, "memory_newest")
        )
        after, remaining = max(first - count, 0), limit - len(ids)
        ids += _window(never, NEWEST, total - count, after, remaining)
    return ids


def _rows(rows: QuerySet[Memory], ids: Sequence[UUID]) -> list[Memory]:
    """The rows of these ids in their order, through the predicate once more."""
    by_id = CandidateReader(rows).memories(ids)
    return [by_id[id_] for id_ in ids if id_ in by_id]


# --- Searches ------------------------------------------------------------------------------------
def search_of(selection: Selection, rows: QuerySet[Memory]) -> keyword.SubstringSearch:
    """The substring search of a selection's text over `rows`."""
    return keyword.SubstringSearch(ordered(selection, rows), selection.q)


def _by_words(
    principal: Principal, selection: Selection, number: int, per_page: int, problem: str = ""
) -> MemoryPage:
    rows = rows_of(principal, selection)
    matches = search_of(selection, rows)
    total, at_least = matches.count()
    pages = max(1, -(-total // per_page))
    number = min(max(number, 1), pages)
    order = _ORDERS.get(selection.sort, NEWEST)
    first = (number - 1) * per_page
    ids = matches.ids(order, limit=per_page, offset=first, total=total)
    return MemoryPage(
        _rows(rows, ids),
        *(total, number, pages, per_page, "words"),
        problem=problem,
        at_least=at_least,
    )


def _by_meaning(
    principal: Principal, selection: Selection, number: int, per_page: int
) -> MemoryPage:
    principal.require(Scope.READ)
    if selection.deleted:
        return _by_words(principal, selection, number, per_page, "deleted")
    where = selection.where()
    if not mentions(where, "review_status"):
        # People see what agents do not.
        every = Comparison("review_status", "in", tuple(ReviewStatus.values))
        where = AllOf((where, every))
    try:
        answer = search.search_memories(
            principal, selection.q, where=where, top_k=BEST, show_expired=True, counts=False
        )
    except EngineError as error:
        return _by_words(principal, selection, number, per_page, error.code)
    by_meaning = answer.mode == "semantic"
    hits = answer.hits
    if selection.sort in _RETRIEVED:
        hits = _by_retrieval(selection.sort, hits)
    elif selection.sort != "best":
        hits = sorted(hits, key=lambda hit: _sort_key(selection.sort, hit.memory))
    pages = max(1, -(-len(hits) // per_page))
    number = min(max(number, 1), pages)
    hits_of_page = hits[(number - 1) * per_page : number * per_page]
    return MemoryPage(
        [hit.memory for hit in hits_of_page],
        *(len(hits), number, pages, per_page, "meaning" if by_meaning else "words"),
        scores={hit.memory.id: hit.score for hit in hits_of_page} if by_meaning else {},
        problem=answer.problem or ("" if by_meaning else "no_embedder"),
    )


def _by_retrieval(sort: str, hits: list[search.SearchHit]) -> list[search.SearchHit]:
    """The order of `_ORDERS` for hits in memory."""
    retrieved = retrievals.of([hit.memory.id for hit in hits])

    def key(hit: search.SearchHit) -> tuple[Any, ...]:
        count, last_at = retrieved.get(hit.memory.id, (0, EARLIEST))
        how_often = (count,) if sort == "most_retrieved" else ()
        return (*how_often, last_at, hit.memory.created_at, hit.memory.id)

    return sorted(hits, key=key, reverse=True)


def _sort_key(sort: str, memory: Memory) -> tuple[float, int]:
    """The order of `_ORDERS` for rows in memory."""
    if sort == "expiring":
        return ends_at(memory).timestamp() if ends_at(memory) != LAST else float("inf"), 0
    at = memory.updated_at if sort == "updated" else memory.created_at
    sign = 1 if sort == "oldest" else -1
    return sign * at.timestamp(), sign * memory.id.int


def ends_at(memory: Memory) -> datetime:
    """When the memory expires; the end of the calendar if it never does."""
    ends = [LAST]
    if memory.expires_at is not None:
        ends.append(memory.expires_at)
    if memory.expiration_date is not None:
        day = memory.expiration_date
        try:
            midnight = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)
        except OverflowError:
            midnight = LAST
        ends.append(midnight)
    return min(ends)
