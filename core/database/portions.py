"""Changes or deletes rows in portions, so that none is locked for long."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from django.db.models import QuerySet

T = TypeVar("T")


def portions(rows: QuerySet[Any, T], size: int) -> Iterator[list[T]]:
    """The first `size` rows, repeatedly. The caller has to remove each portion from the query's
    result, or the loop never ends."""
    while portion := list(rows[:size]):
        yield portion


def passed(
    rows: QuerySet[Any, T], size: int, key: Callable[[T], object] = lambda row: row
) -> Iterator[list[T]]:
    """Passes over the rows once, in the order of their primary keys. `key` returns the primary key
    of an item of `rows`."""
    last: object = None
    while portion := list((rows if last is None else rows.filter(pk__gt=last))[:size]):
        yield portion
        last = key(portion[-1])


def delete(
    rows: QuerySet[Any, Any], size: int, beat: Callable[[int], object] = lambda total: None
) -> int:
    """Deletes the rows and returns how many. Calls `beat` after each portion with that number."""
    total = 0
    for ids in portions(rows.values_list("pk", flat=True), size):
        rows.filter(pk__in=ids).delete()
        total += len(ids)
        beat(total)
    return total
