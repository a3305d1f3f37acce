"""A new index is made from SQL alone, beside the old one; opened, swapped, lost and found."""

import shutil
import uuid
from contextlib import suppress

import numpy as np
import pytest
from django.utils import timezone

from core.errors import IndexUnavailableError
from memories import runtime
from memories.editing import service as services
from memories.filters import EVERYTHING, Comparison
from memories.index.edge import EdgeIndex
from memories.index.indexer import Indexer
from memories.models import Memory
from memories.models.server import IndexState
from memories.search.service import search_memories
from memories.tests.actions import add, meant, pending, said, settled

pytestmark = pytest.mark.one_form


@pytest.fixture
def engine(engine_in_folder):
    return engine_in_folder


@pytest.fixture
def reopen(engine, embedder, tmp_path):
    """`reopen()` closes the index and opens it again, as a restart does."""

    def reopen(model_key=embedder.model_key, dims=embedder.dims, **options) -> Indexer:
        engine.indexer.index.close()
        options = {"open_index": EdgeIndex, **options}
        engine.indexer = Indexer(tmp_path / "index", model_key, dims, **options)
        return engine.indexer

    return reopen


# --- Rebuilding ----------------------------------------------------------------------------------
def test_a_rebuilt_index_equals_sql_and_costs_no_embedding(owner, engine, embedder):
    kept = add(owner, "green tea", "black tea")
    [gone] = add(owner, "white tea")
    engine.index.delete(kept)  # the index went wrong
    services.delete_memory(owner, gone)
    embedder.batches.clear()
    seen = []
    assert engine.indexer.rebuild(lambda done, total: seen.append((done, total))) == 2
    assert embedder.batches == []
    assert seen[-1] == (2, 2)
    assert dict(engine.index.scan_ids()) == dict.fromkeys(kept, 1)
    assert set(meant(engine.index, embedder, "green tea")) == set(kept)
    assert said(engine.index, "tea", Comparison("user_id", "in", ("alice",))) == set(kept)


def test_only_the_folder_in_use_is_left_after_a_rebuild(owner, engine, tmp_path, reopen, embedder):
    [one] = add(owner, "green tea")
    for _ in range(2):
        engine.indexer.rebuild()
    [folder] = (tmp_path / "index").iterdir()
    assert folder.name == f"{IndexState.objects.get().generation:06d}" == "000003"
    (tmp_path / "index" / "000001").mkdir()
    assert said(reopen().index, "tea") == {one}
    assert [f.name for f in (tmp_path / "index").iterdir()] == ["000003"]


def test_a_rebuild_that_was_broken_off_leaves_the_old_index_in_place(owner, engine, reopen):
    [one] = add(owner, "green tea")

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.indexer.rebuild(stop)
    assert said(engine.index, "tea") == {one}
    [two] = add(owner, "black tea")
    assert said(reopen().index, "tea") == {one, two}
    assert engine.indexer.rebuild() == 2


def test_changes_during_the_rebuild_end_in_the_new_index(owner, engine, embedder):
    ids = add(owner, *(f"tea number {n}" for n in range(600)))
    first, last = min(ids), max(ids)
    new: list[uuid.UUID] = []

    def meanwhile(done: int, total: int) -> None:
        if not new:  # after the first batch: `first` is copied already, `last` is not
            new.extend(add(owner, "fresh tea"))
            services.delete_memory(owner, first)
            services.update_memory(owner, last, text="cold coffee")
            assert new[0] in said(engine.index, "tea")  # the old index answers meanwhile
            assert len(search_memories(owner, "fresh tea", top_k=5).hits) == 5

    engine.indexer.rebuild(meanwhile)
    assert dict(engine.index.scan_ids()) == dict(
        Memory.objects.filter(deleted_at=None).values_list("id", "rev")
    )
    assert said(engine.index, "coffee") == {last}
    assert new[0] in said(engine.index, "fresh")
    assert new[0] in meant(engine.index, embedder, "fresh tea")


def test_what_changes_while_the_new_index_is_brought_to_disk_is_on_disk_in_the_end(
    owner, engine, monkeypatch
):
    calls: list[str] = []
    add(owner, "green tea")

    class Recorded(EdgeIndex):
        def upsert(self, points):
            calls.append("write")
            super().upsert(points)

        def flush(self):
            super().flush()
            calls.append("flush")
            if calls.count("flush") == 1:
                add(owner, "fresh tea")

    monkeypatch.setattr(engine.indexer, "_open", Recorded)
    engine.indexer.rebuild()
    assert (calls[-1], pending()) == ("write", 2)
    engine.indexer.settle()
    assert (calls[-1], pending()) == ("flush", 0)


def test_a_search_under_way_is_answered_although_the_index_is_swapped(owner, engine, monkeypatch):
    [one] = add(owner, "green tea")
    old = engine.index
    search = old.search

    def swap_after(*args, **options):
        hits = search(*args, **options)
        engine.indexer.rebuild()
        return hits

    monkeypatch.setattr(old, "search", swap_after)
    assert [hit.memory.id for hit in search_memories(owner, "green tea").hits] == [one]
    assert engine.index is not old


def test_a_search_under_way_is_answered_although_the_round_that_rebuilds_also_goes_to_disk(
    owner, engine, monkeypatch
):
    [one] = add(owner, "green tea")
    old = engine.index
    search = old.search

    def swap_after(*args, **options):
        hits = search(*args, **options)
        IndexState.objects.update(rebuild_wanted_at=timezone.now())
        monkeypatch.setattr(runtime, "SETTLE_SECONDS", 0.0)  # a rebuild takes longer than that
        engine.tick()
        return hits

    monkeypatch.setattr(old, "search", swap_after)
    assert [hit.memory.id for hit in search_memories(owner, "green tea").hits] == [one]


def test_a_rebuild_happens_when_it_is_asked_for_and_once(owner, engine):
    [one] = add(owner, "green tea")
    engine.tick()
    assert not engine.indexer.rebuild_wanted()
    IndexState.objects.update(rebuild_wanted_at=timezone.now())
    assert engine.indexer.rebuild_wanted()
    engine.tick()
    assert not engine.indexer.rebuild_wanted()
    assert IndexState.objects.get().generation == 2
    assert said(engine.index, "tea") == {one}


def test_a_rebuild_that_is_asked_for_during_a_rebuild_is_not_forgotten(owner, engine):
    add(owner, "green tea")
    engine.indexer.rebuild(
        lambda done, total: IndexState.objects.update(rebuild_wanted_at=timezone.now())
    )
    assert engine.indexer.rebuild_wanted()


def lose_index(engine, tmp_path, embedder):
    """The folder of the index is emptied, and the server opens it as a new one."""
    engine.index.close()
    shutil.rmtree(tmp_path / "index")
    (tmp_path / "index").mkdir()
    engine.indexer = Indexer(
        tmp_path / "index", embedder.model_key, embedder.dims, open_index=EdgeIndex
    )


# --- Opening -------------------------------------------------------------------------------------
def test_opening_an_index_that_is_whole_asks_for_no_rebuild(owner, engine, reopen):
    [one] = add(owner, "green tea")
    assert said(reopen().index, "tea") == {one}
    assert not engine.indexer.rebuild_wanted()


def test_a_lost_folder_is_rebuilt_and_nothing_is_asked_of_the_embedder(
    owner, engine, reopen, tmp_path, embedder
):
    [one] = add(owner, "green tea")
    settled(engine)
    embedder.batches.clear()
    lose_index(engine, tmp_path, embedder)
    assert engine.indexer.rebuild_wanted()
    engine.tick()
    assert meant(engine.index, embedder, "green tea") == [one]
    assert said(engine.index, "tea") == {one}
    assert len(embedder.batches) == 1  # the query above
    assert not engine.indexer.rebuild_wanted()


def test_until_a_lost_index_is_rebuilt_a_search_is_no_empty_list(owner, engine, tmp_path, embedder):
    [one] = add(owner, "green tea")
    settled(engine)
    lose_index(engine, tmp_path, embedder)
    try:
        found = search_memories(owner, "green tea")
    except IndexUnavailableError:
        return
    assert [hit.memory.id for hit in found.hits] == [one]


def test_a_restart_before_a_lost_index_is_rebuilt_makes_no_empty_list_of_it_either(
    owner, engine, tmp_path, embedder, reopen
):
    [one] = add(owner, "green tea")
    settled(engine)
    lose_index(engine, tmp_path, embedder)
    reopen()
    with suppress(IndexUnavailableError):
        assert [hit.memory.id for hit in search_memories(owner, "green tea").hits] == [one]
    engine.tick()
    assert [hit.memory.id for hit in search_memories(owner, "green tea").hits] == [one]


def test_another_model_makes_a_new_generation_of_its_dimensions(owner, engine, reopen, embedder):
    [one] = add(owner, "green tea")
    engine.tick()
    other = reopen("test/other-1", 8)
    state = IndexState.objects.get()
    assert (state.model_key, state.dims, state.generation) == ("test/other-1", 8, 2)
    assert other.rebuild_wanted()
    engine.tick()
    # The vectors of the former model are of no use to it: until there are new ones, words answer.
    assert said(other.index, "tea") == {one}
    assert other.index.search(np.ones(8, np.float32), limit=5, where=EVERYTHING) == []


def test_the_folders_of_former_generations_are_removed(owner, engine, reopen, tmp_path):
    add(owner, "green tea")
    reopen("test/other-1", 8)
    assert [f.name for f in (tmp_path / "index").iterdir()] == ["000002"]
