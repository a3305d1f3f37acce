"""Finds the differences between an index and SQL, in constant memory and while both change."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final
from uuid import UUID

from core.errors import IndexUnavailableError
from memories.index.base import VectorIndex
from memories.index.rows import BATCH
from memories.models import Memory

_PAGE: Final = 2000


@dataclass(slots=True)
class Differences:
    """Memories that the index lacks, has in another revision, or still has after their deletion.

    `ahead` are those of `stale` that have a later revision in the index than in SQL, as after a
    restore of the database from a backup.
    """

    compared: int = 0
    missing: list[UUID] = field(default_factory=list)
    stale: list[UUID] = field(default_factory=list)
    ahead: list[UUID] = field(default_factory=list)
    ghosts: list[UUID] = field(default_factory=list)

    @property
    def all(self) -> list[UUID]:
        return [*self.missing, *self.stale, *self.ghosts]

    def note(self, id_: UUID, expected: int | None, actual: int | None) -> None:
        if expected == actual:
            return
        if actual is None:
            self.missing.append(id_)
        elif expected is None:
            self.ghosts.append(id_)
        else:
            self.stale.append(id_)
            if actual > expected:
                self.ahead.append(id_)


def compare_all(
    index: VectorIndex, *, pending_too: bool = False, each: Callable[[], None] = lambda: None
) -> Differences:
    """Compares every point's id and revision with SQL; IndexUnavailableError may rise.

    Pending changes are no differences, unless `pending_too`. `each` is called after every page.
    """
    first = Differences()
    for rows, points in _windows(index):
        each()
        first.compared += len(points)
        for id_ in rows.keys() | points.keys():
            expected, pending = rows.get(id_, (None, False))
            if pending_too or not pending:
                first.note(id_, expected, points.get(id_))
    if not first.all:
        return first
    # Check the suspects again, because the two were not read at the same moment.
    sure = Differences(compared=first.compared)
    suspects = first.all
    for at in range(0, len(suspects), BATCH):
        each()
        ids = suspects[at : at + BATCH]
        now, rows = index.revisions(ids), _expected_revisions(Memory.objects.filter(id__in=ids))
        for id_ in ids:
            expected, pending = rows.get(id_, (None, False))
            if pending_too or not pending:
                sure.note(id_, expected, now.get(id_))
    return sure


def compare_batch(index: VectorIndex, ids: Sequence[UUID]) -> list[UUID]:
    """The ids of a batch that the index lacks, has in another revision than SQL, or still has after
    their deletion."""
    points, rows = index.revisions(ids), _expected_revisions(Memory.objects.filter(id__in=ids))
    return [id_ for id_ in ids if rows.get(id_, (None, False))[0] != points.get(id_)]


_Rows = dict[UUID, tuple[int | None, bool]]


def _windows(index: VectorIndex) -> Iterator[tuple[_Rows, dict[UUID, int]]]:
    """SQL's rows and the index's points, one id range after the other."""
    last: UUID | None = None
    for page in _pages(index.scan_ids()):
        ids = [id_ for id_, _ in page]
        if ids != sorted(ids) or (last is not None and ids[0] <= last):
            raise IndexUnavailableError("The memory index does not give its points in order.")
        rows = Memory.objects.filter(id__lte=ids[-1])
        yield _expected_revisions(rows.filter(id__gt=last) if last else rows), dict(page)
        last = ids[-1]
    while True:
        rows = Memory.objects.filter(id__gt=last) if last else Memory.objects.all()
        remaining = _expected_revisions(rows.order_by("id")[:_PAGE])
        if not remaining:
            return
        yield remaining, {}
        last = max(remaining)


def _expected_revisions(rows: Any) -> _Rows:
    """The revision that the index should have of each row (None: no point), and whether it is
    pending."""
    columns = rows.values_list("id", "rev", "indexed_rev", "deleted_at")
    return {
        id_: (rev if deleted is None else None, rev > indexed)
        for id_, rev, indexed, deleted in columns
    }


def _pages(points: Iterable[tuple[UUID, int]]) -> Iterator[list[tuple[UUID, int]]]:
    iterator = iter(points)
    while page := list(islice(iterator, _PAGE)):
        yield page
