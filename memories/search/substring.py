"""Substring search: case and width of letters do not count, all else does.

Three letters and more are found through an index (storage.substring_index). Shorter texts, and all
where the database has no such index, are looked for on pages among the newest REACH memories only.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from django.db import connection
from django.db.models import BooleanField, Expression, F, Q
from django.db.models.sql.compiler import SQLCompiler

from core import limits
from core.errors import InvalidInputError
from core.principal import Principal, Scope
from memories import retrievals, visibility
from memories.filters import EVERYTHING, Node, to_q
from memories.filters.sql import TextHolds
from memories.models import Memory
from memories.search.candidates import CandidateReader
from memories.storage import index_only as covered
from memories.storage import substring_index as fulltext
from memories.storage.index_only import IndexOnlySource, Order
from memories.texts import fold

REACH: Final = 200_000
# Up to so many finds in the index are looked up one by one, in all projects together.
FEW: Final = 20_000
# What more finds are of is counted only so far as COUNTED.
MANY: Final = 100_000
# Where this share of what is found comes first, reading on from the first memory finds it soon.
SOON: Final = 0.05
# Counting ends here where the index alone cannot count.
COUNTED: Final = 10_000


def fold_query(text: str) -> str:
    """`text` as it is looked for; InvalidInputError when it is blank or holds a NUL character."""
    folded = fold(text.strip())
    if not folded:
        raise InvalidInputError("Invalid query: cannot be empty or whitespace-only.")
    if "\0" in folded:
        raise InvalidInputError("Invalid query: cannot contain a NUL character.")
    return folded


def condition(text: str) -> Q:
    """Holds for memories whose text has `text` in it; for `filter`, `count` and bulk actions.

    Exact, whatever its length: short texts read every memory. InvalidInputError as `fold_query`.
    """
    folded = fold_query(text)
    if len(folded) >= fulltext.SHORTEST and fulltext.available():
        if connection.vendor == "sqlite":
            return Q(_IndexHolds(folded))
        return Q(text_fold__contains=folded)
    return condition_without_index(text)


def condition_without_index(text: str) -> Q:
    """As `condition`, without the index: best where all are read anyway, in their order."""
    return Q(TextHolds("text_fold", "contains", fold_query(text)))


class SubstringSearch:
    """One substring search over `rows`, as what it finds can best be counted and read.

    `source` is its predicate. `partial` says that it looks among the newest REACH memories alone.
    """

    def __init__(self, source: IndexOnlySource, text: str) -> None:
        self.text = text
        folded = fold_query(text)
        indexed = len(folded) >= fulltext.SHORTEST and fulltext.available()
        self._few = self._many = self.partial = False
        self._all = source
        self._indexed = indexed
        if not indexed:
            reach = _reach(source)
            self.partial = reach is not None
            rows = source.rows.filter(
                condition_without_index(text), *([] if reach is None else [reach])
            )
            self.source = replace(source, rows=rows)
        elif connection.vendor == "postgresql":
            self.source = replace(source, rows=source.rows.filter(text_fold__contains=folded))
        else:
            finds = _index_finds(folded)
            self._few, self._many = finds <= FEW, finds > MANY
            rows = source.rows
            self.source = (
                replace(source, index="", words=folded)
                if self._few
                else replace(source, rows=rows.filter(_IndexHolds(folded)))
            )

    def count(self) -> tuple[int, bool]:
        """How many there are, and whether there may be more than that."""
        if connection.vendor == "sqlite" and not self.partial and not self._many:
            return covered.count_rows(self.source), False
        source = self._read_on() if self._many else self.source
        count = covered.count_rows(source, up_to=COUNTED + 1)
        return min(count, COUNTED), self.partial or count > COUNTED

    @property
    def countable(self) -> bool:
        """Whether groups of what it finds can be counted in time."""
        if connection.vendor == "postgresql":
            return not self.count()[1]
        return not self.partial and (self._few or not self._indexed)

    def _read_on(self) -> IndexOnlySource:
        """All memories in order, each looked at: soon at an end where many fit."""
        return replace(self._all, rows=self._all.rows.filter(condition_without_index(self.text)))

    def ids(self, order: Order, *, limit: int, offset: int, total: int | None = None) -> list[Any]:
        """The ids from `offset` on, in order; `total` is what `count` said, where it is known."""
        source = self.source
        if connection.vendor == "sqlite" and not self._few and not self.partial:
            soon = offset + limit <= (total * SOON if total else 10 * limit)
            if soon:
                source = self._read_on()
        return covered.read_ids(source, order, limit=limit, offset=offset)


def find(
    principal: Principal,
    text: str,
    *,
    where: Node = EVERYTHING,
    limit: int,
    offset: int = 0,
    statuses: Sequence[str] | None = None,
    show_expired: bool = True,
) -> list[Memory]:
    """Up to `limit` memories that hold `text`, the last updated first, after the first `offset`.

    `statuses` names the review statuses that are shown; None leaves it to `where` and to what
    agents get to see (queries.visible). They count as given to an agent (memories.retrievals).
    Scope `read`; InvalidInputError when `text` is blank.
    """
    principal.require(Scope.READ)
    limits.check_query(text)
    if statuses is None:
        rows = visibility.filter_visible(principal, where, show_expired=show_expired)
    else:
        rows = visibility.filter_reachable(principal).filter(
            to_q(where, principal.project.zone), review_status__in=statuses
        )
    ids = SubstringSearch(IndexOnlySource(rows, index="memory_updated"), text).ids(
        (("updated_at", True), ("id", True)), limit=limit, offset=offset
    )
    by_id = CandidateReader(rows).memories(ids)
    memories = [by_id[id_] for id_ in ids if id_ in by_id]
    retrievals.note(memories)
    return memories


def _index_finds(folded: str) -> int:
    """How many the index of words finds, in all projects, up to one more than MANY."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT count(*) FROM (SELECT rowid FROM {fulltext.TABLE} "
            f"WHERE {fulltext.TABLE} MATCH %s LIMIT {MANY + 1})",
            [fulltext.phrase(folded)],
        )
        return int(cursor.fetchone()[0])


def _reach(source: IndexOnlySource) -> Q | None:
    """What keeps a search among the newest REACH memories; None where there are no more."""
    plain = replace(source, rows=source.rows.order_by())
    last = covered.read_ids(plain, (("created_at", True), ("id", True)), limit=1, offset=REACH)
    if not last:
        return None
    [at] = Memory.objects.filter(id=last[0]).values_list("created_at", flat=True)
    return Q(created_at__gt=at)


class _IndexHolds(Expression):
    """SQLite: the index of words leads to the row. It is of folded texts, letter for letter."""

    conditional = True

    def __init__(self, wanted: str) -> None:
        super().__init__(output_field=BooleanField())
        self.column: Any = F("text_fold")
        self.wanted = wanted

    def get_source_expressions(self) -> list[Any]:
        return [self.column]

    def set_source_expressions(self, exprs: Any) -> None:
        [self.column] = exprs

    @property
    def identity(self) -> Any:
        return (type(self), repr(self.column), self.wanted)

    def as_sql(self, compiler: SQLCompiler, connection: Any) -> Any:
        sql, _ = compiler.compile(self.column)
        table = sql.rpartition(".")[0]
        own = f"{table}.rowid" if table else "rowid"
        subquery = f"SELECT rowid FROM {fulltext.TABLE} WHERE {fulltext.TABLE} MATCH %s"
        return f"{own} IN ({subquery})", [fulltext.phrase(self.wanted)]
