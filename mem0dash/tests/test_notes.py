"""Notes are joined, wait through outages, and are dropped only where they do not fit."""

import operator
from typing import Any

import pytest
from django.db import OperationalError

from core.notes import Notes

pytestmark = pytest.mark.one_form


class Table:
    """What is written, in batches; it can be away."""

    def __init__(self) -> None:
        self.batches: list[dict[str, int]] = []
        self.is_away = False

    def store(self, batch: dict[str, int]) -> int:
        if self.is_away:
            raise OperationalError("gone")
        self.batches.append(dict(batch))
        return 0


@pytest.fixture
def table() -> Table:
    return Table()


def test_notes_about_the_same_are_joined_even_where_no_other_fits(
    table: Table, caplog: Any
) -> None:
    caplog.set_level("WARNING", logger="core.notes")
    kept = Notes("uses", table.store, join=operator.add, size=2)
    for key in ("a", "b", "c", "a", "c"):
        kept.put(key, 1)
    assert kept.count == 2
    assert kept.write()
    assert table.batches == [{"a": 2, "b": 1}]
    assert [line.notes for line in caplog.records] == [2]


def test_without_a_rule_the_newer_note_counts(table: Table) -> None:
    kept = Notes("uses", table.store)
    kept.put("a", 1)
    kept.put("a", 2)
    assert kept.write() and table.batches == [{"a": 2}]


def test_what_could_not_be_written_is_written_once_and_first(table: Table) -> None:
    kept = Notes("uses", table.store, join=operator.add, batch=2)
    for key in ("a", "b", "c"):
        kept.put(key, 1)
    table.is_away = True
    assert not kept.write()
    kept.put("a", 5)
    assert not kept.write()
    table.is_away = False
    assert kept.write()
    assert table.batches == [{"a": 1, "b": 1}, {"c": 1, "a": 5}]
    assert kept.write() and kept.count == 0


def test_an_unforeseen_error_takes_its_batch_alone(table: Table, caplog: Any) -> None:
    def broken(batch: dict[str, int]) -> int:
        raise RuntimeError("unforeseen")

    caplog.set_level("WARNING", logger="core.notes")
    kept = Notes("uses", broken)
    kept.put("a", 1)
    assert not kept.write()
    kept.store = table.store
    kept.put("b", 1)
    assert kept.write() and table.batches == [{"b": 1}]
    assert [line.notes for line in caplog.records if hasattr(line, "notes")] == [1]
