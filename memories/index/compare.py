"""Tells where an index differs from SQL, in constant memory and while both go on changing."""

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
    """Memories that the index lacks, has in another revision, or has although they are gone.

    `ahead` are those of `stale` of which the index has a later revision than SQL, as after a
    database was restored from a backup.
    """

    compared: int = 0
    missing: list[UUID] = field(default_factory=list)
    stale: list[UUID] = field(default_factory=list)
    ahead: list[UUID] = field(default_factory=list)
    ghosts: list[UUID] = field(default_factory=list)

    @property
    def all(self) -> list[UUID]:
        return [*self.missing, *self.stale, *self.ghosts]

    def note(self, id_: UUID, wanted: int | None, held: int | None) -> None:
        if wanted == held:
            return
        if held is None:
            self.missing.append(id_)
        elif wanted is None:
            self.ghosts.append(id_)
        else:
            self.stale.append(id_)
            if held > wanted:
                self.ahead.append(id_)


def compare_all(
    index: VectorIndex, *, pending_too: bool = False, each: Callable[[], None] = lambda: None
) -> Differences:
    """Compares every point's id and revision with SQL; IndexUnavailableError may rise.

    What is pending is on its way and no difference, unless `pending_too`. `each` is called after
    every page.
    """
    first = Differences()
    for rows, held in _windows(index):
        each()
        first.compared += len(held)
        for id_ in rows.keys() | held.keys():
            wanted, pending = rows.get(id_, (None, False))
            if pending_too or not pending:
                first.note(id_, wanted, held.get(id_))
    if not first.all:
        return first
    # Once more: the two were not read in the same moment.
    sure = Differences(compared=first.compared)
    suspects = first.all
    for at in range(0, len(suspects), BATCH):
        each()
        ids = suspects[at : at + BATCH]
        now, rows = index.revisions(ids), _wanted(Memory.objects.filter(id__in=ids))
        for id_ in ids:
            wanted, pending = rows.get(id_, (None, False))
            if pending_too or not pending:
                sure.note(id_, wanted, now.get(id_))
    return sure


def compare_batch(index: VectorIndex, ids: Sequence[UUID]) -> list[UUID]:
    """Those of a batch that the index has in another revision than SQL, has not, or has although
    they are gone."""
    held, rows = index.revisions(ids), _wanted(Memory.objects.filter(id__in=ids))
    return [id_ for id_ in ids if rows.get(id_, (None, False))[0] != held.get(id_)]


_Rows = dict[UUID, tuple[int | None, bool]]


def _windows(index: VectorIndex) -> Iterator[tuple[_Rows, dict[UUID, int]]]:
    """SQL's rows and the index's points between two ids, until both are at their end."""
    last: UUID | None = None
    for page in _pages(index.scan_ids()):
        ids = [id_ for id_, _ in page]
        if ids != sorted(ids) or (last is not None and ids[0] <= last):
            raise IndexUnavailableError("The memory index does not give its points in order.")
        rows = Memory.objects.filter(id__lte=ids[-1])
        yield _wanted(rows.filter(id__gt=last) if last else rows), dict(page)
        last = ids[-1]
    while True:
        rows = Memory.objects.filter(id__gt=last) if last else Memory.objects.all()
        found = _wanted(rows.order_by("id")[:_PAGE])
        if not found:
            return
        yield found, {}
        last = max(found)


def _wanted(rows: Any) -> _Rows:
    """What the index is to hold of these rows (None: nothing), and whether that is pending."""
    columns = rows.values_list("id", "rev", "indexed_rev", "deleted_at")
    return {
        id_: (rev if deleted is None else None, rev > seen) for id_, rev, seen, deleted in columns
    }


def _pages(points: Iterable[tuple[UUID, int]]) -> Iterator[list[tuple[UUID, int]]]:
    iterator = iter(points)
    while page := list(islice(iterator, _PAGE)):
        yield page
