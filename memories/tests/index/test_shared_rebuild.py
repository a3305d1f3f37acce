"""A shared index is built anew by one process, beside what all do; a flip, in both forms."""

import threading
import uuid
from contextlib import suppress
from datetime import timedelta

import numpy as np
import pytest
from django.db import connection
from django.utils import timezone

from core.errors import ConflictError, IndexUnavailableError
from jobs import leases
from jobs.models import Lease
from memories.editing import service as services
from memories.filters import EVERYTHING
from memories.index import leftovers, rows
from memories.index import shared_indexer as shared
from memories.index.shared_indexer import SharedIndexer
from memories.models import Memory, MemoryVector
from memories.models.server import IndexState
from memories.tests.actions import add, meant, pending, said

OTHER = ("test/other-1", 8)


@pytest.fixture
def engine(shared_engine):
    return shared_engine


@pytest.fixture(params=["embedded", "shared"])
def any_engine(request):
    return request.getfixturevalue(f"{request.param}_engine")


@pytest.fixture
def another(engine, collections, embedder):
    """The indexer of another process."""
    return SharedIndexer(collections, embedder.model_key, embedder.dims)


def other_vectors(ids) -> None:
    data = np.eye(8, dtype="<f4")[0].tobytes()
    MemoryVector.objects.bulk_create(
        MemoryVector(memory_id=id_, model_key=OTHER[0], dims=8, data=data) for id_ in ids
    )


def held_by_another(name: str, seconds: float) -> None:
    until = timezone.now() + timedelta(seconds=seconds)
    Lease.objects.update_or_create(name=name, defaults={"holder": "another", "until": until})


def near(index) -> list[uuid.UUID]:
    vector = np.eye(8, dtype=np.float32)[0]
    return [id_ for id_, _ in index.search(vector, limit=100, where=EVERYTHING)]


# --- One builds ----------------------------------------------------------------------------------
def test_one_process_builds_and_the_others_go_over_to_what_it_built(
    owner, engine, another, collections, embedder
):
    ids = add(owner, "green tea", "black tea")
    before = engine.index
    seen = []
    embedder.batches.clear()
    assert another.rebuild(lambda done, total: seen.append((done, total))) == 2
    assert (seen[-1], embedder.batches) == ((2, 2), [])
    assert said(before, "tea") == set(ids)  # who has not seen it yet still finds everything
    engine.indexer.refresh()
    assert engine.index is not before
    assert engine.index.name == another.index.name
    assert set(meant(engine.index, embedder, "green tea")) == set(ids)
    [new] = add(owner, "white tea")
    assert new in said(another.index, "tea")
    assert pending() == 0


def test_only_one_process_builds(owner, engine):
    add(owner, "green tea")
    held_by_another(shared.BUILD, 30)
    IndexState.objects.update(rebuild_wanted_at=timezone.now())
    assert not engine.indexer.rebuild_wanted()
    with pytest.raises(ConflictError):
        engine.indexer.rebuild()
    held_by_another(shared.BUILD, -1)  # it was killed
    assert engine.indexer.rebuild_wanted()
    engine.tick()
    assert not engine.indexer.rebuild_wanted()


def test_who_lost_the_lease_flips_nothing(owner, engine, another, collections):
    [one] = add(owner, "green tea")
    generation = IndexState.objects.get().generation
    with pytest.raises(leases.LeaseLostError):
        engine.indexer.rebuild(lambda done, total: held_by_another(shared.BUILD, 30))
    assert IndexState.objects.get().generation == generation
    assert said(engine.index, "tea") == {one}
    assert collections.generations() == [generation]


def test_a_build_that_was_killed_is_started_over_and_what_it_left_is_swept_away(
    owner, engine, another, collections, monkeypatch
):
    [one] = add(owner, "green tea")
    monkeypatch.setattr(engine.indexer, "_give_up", lambda building: None)

    def die(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        engine.indexer.rebuild(die)
    left, live = collections.generations()[-1], IndexState.objects.get().generation
    another.rebuild()
    flipped = IndexState.objects.get().generation
    assert flipped > left > live  # never into what somebody else may still write to
    assert said(another.index, "tea") == {one}
    another._leftovers._swept_at = float("-inf")
    another.drain()
    assert collections.generations() == [live, left, flipped]  # not at once: others may be in it
    monkeypatch.setattr(leftovers, "KEEP_OLD_SECONDS", 0.0)
    another._leftovers._swept_at = float("-inf")
    another.drain()
    assert collections.generations() == [flipped]


def test_nothing_is_swept_away_while_somebody_builds(
    owner, engine, another, collections, monkeypatch
):
    monkeypatch.setattr(leftovers, "KEEP_OLD_SECONDS", 0.0)
    collections.create(900, 4)
    held_by_another(shared.BUILD, 30)
    another._leftovers._swept_at = float("-inf")
    another.drain()
    assert 900 in collections.generations()


# --- What others do meanwhile --------------------------------------------------------------------
def test_what_other_processes_change_during_a_build_is_in_the_new_index(
    owner, engine, another, embedder, monkeypatch
):
    ids = add(owner, *(f"tea number {n}" for n in range(600)))
    first, second, last = ids[0], ids[1], ids[-1]
    MemoryVector.objects.filter(memory_id=second).delete()
    engine.indexer.apply([second])
    new: list[uuid.UUID] = []

    def meanwhile(done: int, total: int) -> None:
        if new:
            return
        # `engine` is another process: it does not know of the build.
        old = {"created_at": "2001-01-01T00:00:00Z"}
        new.extend(add(owner, "fresh tea", metadata=old))
        services.delete_memory(owner, first)
        services.update_memory(owner, last, text="cold coffee")

    assert another.rebuild(meanwhile) >= 599
    live = dict(Memory.objects.filter(deleted_at=None).values_list("id", "rev"))
    assert dict(another.index.scan_ids()) == live
    assert said(another.index, "coffee") == {last}
    assert new[0] in said(another.index, "fresh")


def after_the_last_look(monkeypatch, act) -> None:
    """Has `act` done while nothing is written down as applied, too late for the one who builds."""
    changed = rows.ids_changed_since

    def then_more(since):
        found = changed(since)
        if leases.is_held(shared.FENCE):
            act()
        return found

    monkeypatch.setattr(rows, "ids_changed_since", then_more)


def test_what_others_change_after_the_last_look_stays_pending_and_is_drained(
    owner, engine, another, monkeypatch
):
    ids = add(owner, "green tea", "black tea")
    new: list[uuid.UUID] = []

    def change():
        new.extend(add(owner, "white tea"))
        services.delete_memory(owner, ids[0])

    # Nobody waits for the change: it is made by the one who brings it about.
    monkeypatch.setattr(shared, "FOLLOW_SECONDS", 0.0)
    after_the_last_look(monkeypatch, change)
    another.rebuild()
    assert pending() == 2
    assert another.drain() == 2
    assert said(another.index, "tea") == {ids[1], new[0]}
    assert pending() == 0


@pytest.mark.django_db(transaction=True)
def test_what_is_added_during_the_change_over_is_answered_when_the_new_index_has_it(
    owner, engine, another, monkeypatch
):
    add(owner, "green tea")
    written, threads, answered = threading.Event(), [], []
    apply = engine.indexer._apply

    def noted(ids):
        told = apply(ids)
        written.set()
        return told

    def adding():
        answered.extend(add(owner, "white tea"))
        connection.close()

    def in_another_process():
        thread = threading.Thread(target=adding)
        threads.append(thread)
        thread.start()
        assert written.wait(timeout=60)

    monkeypatch.setattr(shared, "FOLLOW_SECONDS", 60.0)
    monkeypatch.setattr(engine.indexer, "_apply", noted)
    after_the_last_look(monkeypatch, in_another_process)
    another.rebuild()
    threads[0].join(timeout=60)
    # Without any drain: a client may search in the other process right away.
    assert said(another.index, "white") == set(answered)
    assert pending() == 0


def test_for_a_while_changes_go_to_the_index_before_too_where_others_still_search(
    owner, engine, another
):
    ids = add(owner, "green tea")
    old = engine.indexer.index
    another.rebuild()
    engine.indexer.refresh()
    ids += add(owner, "white tea")
    assert said(engine.indexer.index, "tea") == set(ids)
    assert said(old, "tea") == set(ids)


def test_a_vector_that_is_made_during_a_build_is_in_the_new_index(
    owner, engine, another, embedder, monkeypatch
):
    [one] = add(owner, "green tea")
    kept = MemoryVector.objects.get()
    MemoryVector.objects.all().delete()
    engine.indexer.apply([one])

    def made(done: int, total: int) -> None:
        kept.pk = None
        kept.save(force_insert=True)
        engine.indexer.apply([one])

    another.rebuild(made)
    assert meant(another.index, embedder, "green tea") == [one]


# --- The flip, in both forms ---------------------------------------------------------------------
def test_an_index_of_another_model_takes_over_with_its_vectors_and_what_commit_writes(
    owner, any_engine
):
    ids = add(owner, "green tea", "black tea", "white tea")
    other_vectors(ids[:2])
    told = []
    indexer = any_engine.indexer

    def commit():
        Memory.objects.filter(id=ids[0]).update(source="committed")

    def swapped():
        told.append((indexer.swap_lock.locked(), indexer.model_key, indexer.index.dims))

    indexer.rebuild(model=OTHER, commit=commit, swapped=swapped)
    assert told == [(True, *OTHER)]
    state = IndexState.objects.get()
    assert (state.model_key, state.dims, indexer.dims) == (*OTHER, 8)
    assert set(near(indexer.index)) == set(ids[:2])
    assert said(indexer.index, "tea") == set(ids)  # without a vector of the model: by words
    assert Memory.objects.get(id=ids[0]).source == "committed"
    assert indexer.complete
    assert not indexer.rebuild_wanted()


def test_when_commit_refuses_nothing_has_changed(owner, any_engine, embedder, collections):
    ids = add(owner, "green tea", "black tea")
    other_vectors(ids)
    before = IndexState.objects.values().get()
    indexer, index, there = any_engine.indexer, any_engine.index, collections.generations()

    def refuse():
        Memory.objects.update(source="x")
        raise ConflictError("No.")

    with pytest.raises(ConflictError, match=r"No\."):
        indexer.rebuild(model=OTHER, commit=refuse, swapped=lambda: pytest.fail("swapped"))
    assert IndexState.objects.values().get() == before
    assert Memory.objects.filter(source="x").count() == 0
    assert (indexer.index, indexer.model_key) == (index, embedder.model_key)
    assert set(meant(index, embedder, "green tea")) == set(ids)
    assert collections.generations() == there
    [new] = add(owner, "white tea")
    assert new in said(index, "tea")


def test_changes_during_the_build_go_to_both_with_the_vectors_of_each(owner, any_engine, embedder):
    ids = add(owner, "green tea", "black tea")
    other_vectors(ids)
    old = any_engine.index
    new: list[uuid.UUID] = []

    def meanwhile(done: int, total: int) -> None:
        if new:
            return
        new.extend(add(owner, "fresh tea"))
        other_vectors(new)
        any_engine.indexer.apply(new)
        assert new[0] in meant(old, embedder, "fresh tea")

    any_engine.indexer.rebuild(meanwhile, model=OTHER)
    assert set(near(any_engine.index)) == {*ids, *new}
    assert new[0] in said(any_engine.index, "fresh")


def test_a_second_build_in_the_same_process_is_refused(owner, any_engine):
    add(owner, "green tea")
    refused = []

    def again(done: int, total: int) -> None:
        with pytest.raises(ConflictError):
            any_engine.indexer.rebuild()
        refused.append(True)

    any_engine.indexer.rebuild(again)
    assert refused


# --- Another model, in other processes -----------------------------------------------------------
def test_a_process_goes_over_to_another_model_together_with_its_engine(owner, engine, another):
    [one] = add(owner, "green tea")
    other_vectors([one])
    another.rebuild(model=OTHER)
    before = engine.index
    engine.indexer.refresh()
    assert engine.index is before  # its vectors are of the former model, and so is the engine
    assert not engine.indexer.rebuild_wanted()
    told = []
    assert engine.indexer.rebuild(model=OTHER, swapped=lambda: told.append(True)) == 1
    assert told == [True]
    assert IndexState.objects.get().generation == another.state.generation  # nothing was built
    assert near(engine.index) == [one]


def test_a_process_that_does_not_get_the_new_engine_answers_nothing_after_a_while(
    owner, engine, another, monkeypatch
):
    add(owner, "green tea")
    another.rebuild(model=OTHER)
    engine.indexer.refresh()
    assert engine.indexer.complete
    monkeypatch.setattr(shared, "BEHIND_SECONDS", 0.0)
    assert not engine.indexer.complete
    with pytest.raises(IndexUnavailableError):
        engine.index.count()


def test_a_process_that_was_started_with_a_first_embedder_builds_for_it(
    owner, collections, engine, embedder
):
    [one] = add(owner, "green tea")
    IndexState.objects.update(model_key="", dims=0)
    started = SharedIndexer(collections, embedder.model_key, embedder.dims)
    assert not started.complete
    assert started.rebuild_wanted()
    started.rebuild()
    assert started.complete
    assert meant(started.index, embedder, "green tea") == [one]


def test_a_process_without_an_embedder_follows_to_any_model(owner, collections, engine):
    [one] = add(owner, "green tea")
    other_vectors([one])
    engine.indexer.rebuild(model=("", 0))
    blind = SharedIndexer(collections, "", 0)
    engine.indexer.rebuild(model=OTHER)
    blind.refresh()
    assert said(blind.index, "tea") == {one}
    assert blind.complete


# --- Comparing, in both forms --------------------------------------------------------------------
def test_differences_are_told_and_repaired(owner, any_engine):
    indexer = any_engine.indexer
    ids = add(owner, *(f"tea number {n}" for n in range(30)))
    indexer.drain()
    indexer.settle()
    assert indexer.differences().all == []
    missing, stale, ghost, ahead, *_ = ids
    indexer.index.delete([missing])
    Memory.objects.filter(id=stale).update(rev=2, indexed_rev=2, text="cold coffee")
    Memory.objects.filter(id=ahead).update(rev=5, indexed_rev=5)
    indexer.apply([ahead])
    Memory.objects.filter(id=ahead).update(rev=4, indexed_rev=4)  # a backup was restored
    Memory.objects.filter(id=ghost).update(rev=2, indexed_rev=2, deleted_at=timezone.now())
    # What is on its way is no difference.
    Memory.objects.filter(id=ids[-1]).update(rev=2)
    found = indexer.differences()
    assert (found.missing, found.ghosts) == ([missing], [ghost])
    assert (set(found.stale), found.ahead) == ({stale, ahead}, [ahead])
    indexer.repair(found)
    indexer.drain()
    assert indexer.differences().all == []
    assert dict(indexer.index.scan_ids()) == dict(
        Memory.objects.filter(deleted_at=None).values_list("id", "rev")
    )
    assert said(indexer.index, "coffee") == {stale}


def test_memories_beyond_the_last_point_and_an_empty_index_are_compared_too(owner, any_engine):
    indexer = any_engine.indexer
    ids = add(owner, "green tea", "black tea")
    indexer.drain()
    indexer.settle()
    indexer.index.delete([max(ids)])
    assert indexer.differences().missing == [max(ids)]
    indexer.index.delete(ids)
    assert set(indexer.differences().missing) == set(ids)
