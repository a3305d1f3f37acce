"""The index follows SQL: at once, through crashes, and from many threads."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta

import pytest
from django.db import connection

from core.errors import IndexUnavailableError
from memories import queries, runtime
from memories.editing import service as services
from memories.filters import Comparison
from memories.filters.pushdown import metadata_word
from memories.index.edge import EdgeIndex
from memories.index.indexer import Indexer, expiry_second
from memories.models import Memory
from memories.tests.actions import add, pending, said, settled


@pytest.fixture
def engine(engine_in_folder):
    return engine_in_folder


@pytest.fixture
def crash(engine, monkeypatch):
    """`crash()`: from now on changes are committed and the process dies before it applies them."""

    def crash():
        monkeypatch.setattr(engine, "apply", lambda memories: None)

    return crash


# --- Following -----------------------------------------------------------------------------------
def test_a_change_shows_at_once_and_is_written_down_once_on_disk(owner, engine):
    [one] = add(owner, "green tea")
    assert said(engine.index, "tea") == {one}
    assert engine.indexer.drain() == 0
    assert (pending(), engine.indexer.unsettled) == (1, 1)
    engine.indexer.settle()
    assert (pending(), engine.indexer.unsettled) == (0, 0)
    assert Memory.objects.get(id=one).indexed_rev == 1


def test_nothing_is_written_down_before_it_is_on_disk(owner, engine, monkeypatch):
    add(owner, "green tea")

    def fail():
        raise IndexUnavailableError("The disk is full.")

    monkeypatch.setattr(engine.index, "flush", fail)
    with pytest.raises(IndexUnavailableError):
        engine.indexer.settle()
    assert pending() == 1
    monkeypatch.undo()
    settled(engine)
    assert pending() == 0


def test_the_drain_applies_what_a_crash_left_between_commit_and_index(owner, engine, crash):
    [kept] = add(owner, "green tea")
    [gone] = add(owner, "black tea")
    settled(engine)
    crash()
    [new] = add(owner, "white tea")
    services.delete_memory(owner, gone)
    services.update_memory(owner, kept, text="cold coffee")
    assert said(engine.index, "tea") == {kept, gone}
    assert pending() == 3
    assert engine.indexer.drain() == 3
    assert said(engine.index, "tea") == {new}
    assert said(engine.index, "coffee") == {kept}
    engine.indexer.settle()
    assert pending() == 0


def test_a_row_that_changes_while_the_index_is_brought_to_disk_stays_pending(
    owner, engine, monkeypatch
):
    [one] = add(owner, "green tea")
    flush = engine.index.flush

    def change_then_flush():
        monkeypatch.undo()
        monkeypatch.setattr(engine, "apply", lambda memories: None)
        services.update_memory(owner, one, text="coffee")
        flush()

    monkeypatch.setattr(engine.index, "flush", change_then_flush)
    engine.indexer.settle()
    assert Memory.objects.get(id=one).indexed_rev == 0
    assert engine.indexer.drain() == 1
    assert said(engine.index, "coffee") == {one}
    engine.indexer.settle()
    assert pending() == 0


def test_a_failing_index_fails_no_write_and_catches_up_later(owner, engine, monkeypatch):
    def fail(points):
        raise IndexUnavailableError("The disk is full.")

    monkeypatch.setattr(engine.index, "upsert", fail)
    [one] = add(owner, "green tea")
    assert queries.get_memory(owner, one).text == "green tea"
    monkeypatch.undo()
    engine.tick()
    assert said(engine.index, "tea") == {one}


def test_the_drain_works_through_more_than_one_batch(owner, engine, crash):
    crash()
    add(owner, *(f"tea number {n}" for n in range(1100)))
    assert engine.indexer.drain() == 1100
    assert engine.index.count() == 1100
    engine.indexer.settle()
    assert pending() == 0


def test_what_was_applied_and_not_brought_to_disk_is_applied_again_after_a_crash(
    owner, engine, embedder, tmp_path
):
    [one] = add(owner, "green tea")
    engine.index.close()
    fresh = Indexer(tmp_path / "index", embedder.model_key, embedder.dims, open_index=EdgeIndex)
    engine.indexer = fresh
    assert fresh.drain() == 1
    assert dict(engine.index.scan_ids()) == {one: 1}


def test_a_round_brings_the_index_to_disk_when_that_is_due(owner, engine, monkeypatch):
    add(owner, "green tea")
    engine.tick()
    assert pending() == 1
    monkeypatch.setattr(runtime, "SETTLE_SECONDS", 0.0)
    engine.tick()
    assert pending() == 0


def test_rows_that_are_deleted_or_gone_leave_the_index(owner, engine):
    deleted, purged, kept = add(owner, "green tea", "black tea", "white tea")
    services.delete_memory(owner, deleted)
    Memory.objects.filter(id=purged).delete()
    engine.indexer.apply([purged])
    assert said(engine.index, "tea") == {kept}
    assert dict(engine.index.scan_ids()) == {kept: 1}


def test_the_index_holds_the_fields_that_filters_ask_for(owner, engine):
    metadata = {"source": "cli", "confidence": "high", "tag": "x", "n": 1.0, "deep": {"a": 1}}
    [one] = add(owner, "green tea", metadata={**metadata, "app_id": "shop"})
    for where, there in (
        (Comparison("project", "in", (str(owner.project.id),)), True),
        (Comparison("project", "in", (str(uuid.uuid4()),)), False),
        (Comparison("app_id", "in", ("shop",)), True),
        (Comparison("user_id", "in", ("alice",)), True),
        (Comparison("source", "in", ("cli",)), True),
        (Comparison("confidence", "in", ("high",)), True),
        (Comparison("review_status", "in", ("unreviewed",)), True),
        (Comparison("role", "in", ("user",)), True),
        (Comparison("meta", "in", (metadata_word("tag", "x"),)), True),
        (Comparison("meta", "in", (metadata_word("n", 1),)), True),
        (Comparison("meta", "in", (metadata_word("n", 2),)), False),
    ):
        assert said(engine.index, "tea", where) == ({one} if there else set()), where


def test_a_memory_expires_with_the_earlier_of_instant_and_end_of_day():
    noon = datetime(2024, 3, 5, 12, tzinfo=UTC)
    end = datetime(2024, 3, 6, tzinfo=UTC).timestamp()
    assert expiry_second(None, None) is None
    assert expiry_second(noon, None) == noon.timestamp()
    assert expiry_second(None, date(2024, 3, 5)) == end
    assert expiry_second(noon, date(2024, 3, 5)) == noon.timestamp()
    assert expiry_second(noon + timedelta(days=2), date(2024, 3, 5)) == end


def test_of_two_changes_at_once_the_later_one_stays(transactional_db, owner, engine):
    [one] = add(owner, "tea at the start")

    def change(number: int) -> None:
        try:
            services.update_memory(owner, one, metadata={"n": number})
        finally:
            connection.close()

    stop = threading.Event()

    def drain() -> None:
        try:
            while not stop.is_set():
                settled(engine)
        finally:
            connection.close()

    with ThreadPoolExecutor(5) as pool:
        draining = pool.submit(drain)
        list(pool.map(change, range(40)))
        stop.set()
        draining.result()
    settled(engine)
    row = Memory.objects.get(id=one)
    assert (row.rev, row.indexed_rev) == (41, 41)
    assert list(engine.index.scan_ids()) == [(one, 41)]
    word = Comparison("meta", "in", (metadata_word("n", row.metadata["n"]),))
    assert said(engine.index, "tea", word) == {one}


def test_apply_of_nothing_asks_nothing(engine, django_assert_num_queries):
    with django_assert_num_queries(0):
        engine.indexer.apply([])
        runtime.Runtime(engine.engine, None).apply([])
