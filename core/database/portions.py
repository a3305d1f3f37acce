"""Rows that are changed or deleted a portion at a time: none is locked for long."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from django.db.models import QuerySet

T = TypeVar("T")


def portions(rows: QuerySet[Any, T], size: int) -> Iterator[list[T]]:
    """The first `size` rows again and again: whoever gets a portion takes it out of what `rows`
    asks for, or never comes to an end."""
    while portion := list(rows[:size]):
        yield portion


def passed(
    rows: QuerySet[Any, T], size: int, key: Callable[[T], object] = lambda row: row
) -> Iterator[list[T]]:
    """Goes over the rows once, in the order of their primary keys, and reads none of them twice.
    `key` gives the primary key of what `rows` gives."""
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
