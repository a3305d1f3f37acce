"""Several processes follow SQL into one index on a server: slow ones, killed ones, at once."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from django.db import connection
from django.utils import timezone

from core.errors import IndexUnavailableError
from jobs.models import Lease
from memories.backfill import vectors
from memories.editing import service as services
from memories.filters import EVERYTHING
from memories.index import leftovers, qdrant
from memories.index import shared_indexer as shared
from memories.index.shared_indexer import SharedIndexer
from memories.models import Memory, MemoryVector
from memories.models.server import IndexState
from memories.search.service import search_memories
from memories.tests.actions import add, meant, pending, said


@pytest.fixture
def engine(shared_engine):
    return shared_engine


@pytest.fixture
def another(engine, collections, embedder):
    """The indexer of another process."""
    return SharedIndexer(collections, embedder.model_key, embedder.dims)


@pytest.fixture
def crash(engine, monkeypatch):
    """`crash()`: from now on changes are committed and the process dies before it applies them."""
    return lambda: monkeypatch.setattr(engine, "apply", lambda memories: None)


# --- Following -----------------------------------------------------------------------------------
def test_a_change_shows_at_once_everywhere_and_is_written_down_at_once(owner, engine, another):
    [one] = add(owner, "green tea")
    assert said(engine.index, "tea") == said(another.index, "tea") == {one}
    assert (pending(), engine.indexer.unsettled) == (0, 0)
    services.delete_memory(owner, one)
    assert said(another.index, "tea") == set()
    assert pending() == 0


def test_any_process_applies_what_a_crashed_one_left(owner, engine, another, crash):
    [kept, gone] = add(owner, "green tea", "black tea")
    crash()
    [new] = add(owner, "white tea")
    services.delete_memory(owner, gone)
    services.update_memory(owner, kept, text="cold coffee")
    assert pending() == 3
    assert another.drain() == 3
    assert another.drain() == 0
    assert said(engine.index, "tea") == {new}
    assert said(engine.index, "coffee") == {kept}
    assert pending() == 0


def test_a_failing_server_fails_no_write_and_is_caught_up_with(owner, engine, qdrant):
    qdrant.tell(fail=500)
    [one] = add(owner, "green tea")
    assert pending() == 1
    with pytest.raises(IndexUnavailableError):
        engine.indexer.drain()
    qdrant.tell()
    assert engine.indexer.drain() == 1
    assert said(engine.index, "tea") == {one}
    assert pending() == 0


def test_more_than_one_batch_is_drained(owner, engine, crash):
    crash()
    add(owner, *(f"tea number {n}" for n in range(1100)))
    assert engine.indexer.drain() == 1100
    assert engine.index.count() == 1100
    assert pending() == 0


def test_what_is_young_is_left_to_who_wrote_it_and_what_is_of_the_future_is_not_young(
    owner, engine, crash, monkeypatch
):
    monkeypatch.setattr(shared, "YOUNG_SECONDS", 2.0)
    crash()
    [one] = add(owner, "green tea")
    [import_] = add(owner, "tea of tomorrow", metadata={"created_at": "2999-01-01T00:00:00Z"})
    assert engine.indexer.drain() == 1
    assert said(engine.index, "tea") == {import_}
    Memory.objects.filter(id=one).update(updated_at=timezone.now() - timedelta(seconds=3))
    assert engine.indexer.drain() == 1
    assert said(engine.index, "tea") == {one, import_}


def test_what_another_process_is_at_is_left_to_it_for_a_minute(owner, engine, crash):
    crash()
    add(owner, "green tea")
    Memory.objects.update(claimed_until=timezone.now() + timedelta(seconds=60))
    assert engine.indexer.drain() == 0
    Memory.objects.update(claimed_until=timezone.now() - timedelta(seconds=1))
    assert engine.indexer.drain() == 1
    assert Memory.objects.get().claimed_until is None


# --- Slow processes ------------------------------------------------------------------------------
@pytest.mark.parametrize("conditional", [True, False])
def test_a_slow_process_leaves_no_older_state_behind(
    owner, engine, another, monkeypatch, conditional
):
    """Between its reading and its writing the memory is changed by another one. With a server that
    does not know the condition of an upsert, too."""
    if not conditional:
        monkeypatch.setattr(qdrant, "_not_newer", lambda points: None)
    [one] = add(owner, "green tea")
    upsert = engine.index.upsert
    undone = []

    def slow(points):
        if not undone:
            undone.append(True)
            change_by_another()
        upsert(points)

    def change_by_another():
        Memory.objects.filter(id=one).update(text="cold coffee", rev=2)
        another.apply([one])

    monkeypatch.setattr(engine.index, "upsert", slow)
    engine.indexer.apply([one])
    assert dict(engine.index.scan_ids()) == {one: 2}
    assert said(engine.index, "coffee") == {one}
    assert pending() == 0


def test_a_slow_process_brings_nothing_back_from_the_dead(owner, engine, another, monkeypatch):
    [one] = add(owner, "green tea")
    upsert = engine.index.upsert
    undone = []

    def slow(points):
        if not undone:
            undone.append(True)
            Memory.objects.filter(id=one).update(deleted_at=timezone.now(), rev=2)
            another.apply([one])
        upsert(points)

    monkeypatch.setattr(engine.index, "upsert", slow)
    engine.indexer.apply([one])
    assert engine.index.count() == 0
    assert pending() == 0


def test_a_vector_that_is_made_meanwhile_is_not_lost_though_the_revision_is_the_same(
    owner, engine, another, monkeypatch, embedder
):
    [one] = add(owner, "green tea")
    data = MemoryVector.objects.get().data
    MemoryVector.objects.all().delete()
    upsert = engine.index.upsert
    undone = []

    def slow(points):
        if not undone:
            undone.append(True)
            made = {"model_key": embedder.model_key, "dims": embedder.dims, "data": data}
            MemoryVector.objects.create(memory_id=one, **made)
            another.apply([one])
        upsert(points)

    monkeypatch.setattr(engine.index, "upsert", slow)
    engine.indexer.apply([one])
    assert meant(engine.index, embedder, "green tea") == [one]


def test_what_does_not_come_to_rest_stays_pending(owner, engine, monkeypatch):
    [one] = add(owner, "green tea")
    Memory.objects.update(indexed_rev=0)
    upsert = engine.index.upsert

    def slow(points):
        upsert(points)
        row = Memory.objects.get(id=one)
        Memory.objects.filter(id=one).update(rev=row.rev + 1)

    monkeypatch.setattr(engine.index, "upsert", slow)
    engine.indexer.apply([one])
    assert pending() == 1


@pytest.mark.skipif("sqlite" in connection.vendor, reason="only PostgreSQL is shared")
def test_several_processes_at_once_apply_everything_once_and_end_with_the_latest_state(
    transactional_db, owner, engine, another, monkeypatch
):
    applied: list[uuid.UUID] = []
    for indexer in (engine.indexer, another):
        apply = indexer.apply

        def counted(ids, apply=apply):
            applied.extend(ids)
            apply(ids)

        monkeypatch.setattr(indexer, "apply", counted)
    monkeypatch.setattr(engine, "apply", lambda memories: None)
    ids = add(owner, *(f"tea number {n}" for n in range(1200)))
    gate = threading.Barrier(2)

    def drain(indexer: SharedIndexer) -> None:
        try:
            gate.wait()
            indexer.drain()
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(drain, [engine.indexer, another]))
    assert sorted(applied) == sorted(ids)
    assert pending() == 0
    assert dict(engine.index.scan_ids()) == dict.fromkeys(ids, 1)


@pytest.mark.skipif("sqlite" in connection.vendor, reason="only PostgreSQL is shared")
def test_of_changes_from_two_processes_the_latest_one_stays(
    transactional_db, owner, engine, another
):
    [one] = add(owner, "tea at the start")

    def change(number: int) -> None:
        try:
            services.update_memory(owner, one, metadata={"n": number})
            another.apply([one])
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(change, range(40)))
    for indexer in (engine.indexer, another):
        indexer.drain()
    row = Memory.objects.get(id=one)
    assert (row.rev, row.indexed_rev) == (41, 41)
    assert list(engine.index.scan_ids()) == [(one, 41)]


# --- Nothing is written down wrongly -------------------------------------------------------------
def test_who_has_not_seen_a_flip_writes_nothing_down(owner, engine, another, monkeypatch):
    add(owner, "green tea")
    another.rebuild()
    monkeypatch.setattr(engine.indexer, "refresh", lambda: None)
    [two] = add(owner, "black tea")
    assert Memory.objects.get(id=two).indexed_rev == 0
    assert another.drain() == 1
    assert two in said(another.index, "tea")
    assert pending() == 0


def test_while_an_index_is_being_replaced_nothing_is_written_down(owner, engine):
    until = timezone.now() + timedelta(seconds=60)
    Lease.objects.update_or_create(
        name=shared.FENCE, defaults={"holder": "another", "until": until}
    )
    [one] = add(owner, "green tea")
    assert said(engine.index, "tea") == {one}
    assert pending() == 1
    Lease.objects.all().delete()
    assert engine.indexer.drain() == 1
    assert pending() == 0


def test_no_call_of_the_server_happens_inside_a_transaction(
    transactional_db, owner, engine, collections, monkeypatch
):
    inside = []
    send = collections._client.http.client.send_inner

    def watched(request):
        inside.append(connection.in_atomic_block)
        return send(request)

    monkeypatch.setattr(collections._client.http.client, "send_inner", watched)
    [one] = add(owner, "green tea")
    services.update_memory(owner, one, text="black tea")
    search_memories(owner, "tea")
    engine.indexer.rebuild()
    engine.tick()
    assert len(inside) > 20
    assert not any(inside)


# --- Writes that are late -------------------------------------------------------------------------
@pytest.fixture
def late(collections, monkeypatch):
    """What was written to the points of the index, to be delivered once more: as by something on
    the way that held it, gave up on its sender, and delivers it at last."""
    client = collections._client.http.client
    send, sent = client.send_inner, []

    def noted(request):
        if request.method == "PUT" and request.url.path.endswith("/points"):
            sent.append((str(request.url), request.read(), dict(request.headers)))
        return send(request)

    def deliver():
        monkeypatch.setattr(client, "send_inner", send)
        for url, content, headers in sent:
            assert httpx.put(url, content=content, headers=headers).status_code == 200

    monkeypatch.setattr(client, "send_inner", noted)
    return deliver


@pytest.mark.parametrize("erased", [False, True])
def test_a_write_that_arrives_after_the_memory_is_gone_does_not_bring_it_back(
    owner, engine, embedder, collections, late, erased
):
    add(owner, "black coffee")
    [one] = add(owner, "green tea")
    services.update_memory(owner, one, text="white tea")
    services.delete_memory(owner, one)
    if erased:
        services.erase_memories(owner, [one])
    late()
    index = engine.index
    assert said(index, "tea") == set()
    assert one not in meant(index, embedder, "green tea")
    assert one not in dict(index.scan_ids())
    assert index.revisions([one]) == {}
    assert index.count() == 1
    assert pending() == 0
    left, _ = collections._client.scroll(index.name, with_payload=True, with_vectors=True)
    [grave] = [point for point in left if point.id == str(one)]
    assert set(grave.payload) == {"rev", "gone"}
    assert not grave.vector


def test_a_delete_that_arrives_after_the_memory_was_restored_does_not_take_it_away(
    owner, engine, late
):
    [one] = add(owner, "green tea")
    services.delete_memory(owner, one)
    services.restore_memories(owner, [one])
    assert said(engine.index, "tea") == {one}
    late()
    assert said(engine.index, "tea") == {one}
    assert engine.index.count() == 1


def test_what_is_left_of_a_memory_that_is_gone_is_taken_away_after_a_while(
    owner, engine, collections, monkeypatch
):
    kept, one = add(owner, "black tea", "green tea")
    services.delete_memory(owner, one)
    points = lambda: {p.id for p in collections._client.scroll(engine.index.name)[0]}  # noqa: E731
    engine.indexer._leftovers._swept_at = engine.indexer._leftovers._dug_at = -1e9
    engine.indexer.drain()
    assert points() == {str(kept), str(one)}
    monkeypatch.setattr(leftovers, "BURIED_SECONDS", -60.0)
    engine.indexer._leftovers._swept_at = engine.indexer._leftovers._dug_at = -1e9
    engine.indexer.drain()
    assert points() == {str(kept)}


def test_a_memory_that_a_restored_backup_has_is_brought_back_although_the_index_knows_it_as_gone(
    owner, engine
):
    [one] = add(owner, "green tea")
    services.delete_memory(owner, one)
    Memory.objects.filter(id=one).update(deleted_at=None, rev=1, indexed_rev=1)
    found = engine.indexer.differences()
    assert found.missing == [one]
    engine.indexer.repair(found)
    assert said(engine.index, "tea") == {one}


# --- Outages -------------------------------------------------------------------------------------
def finding(owner):
    return [hit.memory.id for hit in search_memories(owner, "green tea").hits]


@pytest.mark.parametrize("how", [{"fail": 500}, {"fail": 429}, {"fail": 404}, {"hang": 3}])
def test_while_the_server_is_out_of_order_a_search_is_an_error(
    owner, engine, qdrant, collections, how, monkeypatch
):
    [one] = add(owner, "green tea")
    monkeypatch.setattr(collections.patience.searching, "seconds", 0.5)
    qdrant.tell(**how)
    with pytest.raises(IndexUnavailableError):
        search_memories(owner, "green tea")
    qdrant.tell()
    assert finding(owner) == [one]


def test_a_server_that_does_not_listen_or_that_refuses_the_key_is_an_error_and_tells_no_key(
    owner, qdrant, caplog, capsys
):
    for url, key in ((qdrant.url, "wrong-secret"), ("http://127.0.0.1:1", "wrong-secret")):
        server = shared.Collections(_server(url, key))
        with pytest.raises(IndexUnavailableError) as raised:
            server.open(1, 64).search_text("tea", limit=1, where=EVERYTHING)
        chain, error = [], raised.value
        while error is not None:
            chain.append(f"{error!r} {error}")
            error = error.__cause__ or error.__context__
        assert "wrong-secret" not in " ".join(chain)
        assert "wrong-secret" not in repr(server.server)
    assert "wrong-secret" not in caplog.text + "".join(capsys.readouterr())


def test_opening_asks_nobody_anything(db, embedder):
    threads = threading.enumerate()
    collections = shared.Collections(_server("http://127.0.0.1:1", "secret"))
    collections.open(1, embedder.dims)
    assert threading.enumerate() == threads  # no check of versions behind the scenes


def _server(url: str, key: str):
    return qdrant.Server(url, key, timeout=2)


def test_lost_data_is_noticed_and_until_it_is_built_anew_a_search_is_an_error(
    owner, engine, another, qdrant, embedder
):
    [one] = add(owner, "green tea")
    qdrant.tell(lose=True)
    for _ in range(2):
        with pytest.raises(IndexUnavailableError):
            search_memories(owner, "green tea")
    [two] = add(owner, "black tea")  # the collection is not made by writing to it
    engine.indexer._looked_at = another._looked_at = float("-inf")
    assert another.rebuild_wanted()
    another.refresh()
    assert not another.complete
    assert IndexState.objects.get().built_at is None
    with pytest.raises(IndexUnavailableError):
        search_memories(owner, "green tea")
    embedder.batches.clear()
    engine.tick()
    assert set(finding(owner)) == {one, two}
    assert embedder.batches == []
    another.refresh()
    assert another.complete
    assert said(another.index, "tea") == {one, two}
    assert pending() == 0


def test_a_process_starts_although_the_server_is_away_and_finds_what_is_there_later(
    owner, engine, qdrant, collections, embedder
):
    [one] = add(owner, "green tea")
    qdrant.tell(fail=503)
    started = SharedIndexer(collections, embedder.model_key, embedder.dims)
    with pytest.raises(IndexUnavailableError):
        started.index.count()
    qdrant.tell()
    assert said(started.index, "tea") == {one}


def test_the_first_start_is_possible_without_the_server(db, qdrant, collections, embedder):
    qdrant.tell(fail=503)
    started = SharedIndexer(collections, embedder.model_key, embedder.dims)
    assert not started.complete
    qdrant.tell()
    assert started.rebuild_wanted()
    started.rebuild()
    assert started.complete
    assert not started.rebuild_wanted()


def test_vectors_are_made_for_what_lacks_them_and_found(owner, engine, embedder):
    [one] = add(owner, "green tea")
    MemoryVector.objects.all().delete()
    engine.indexer.apply([one])
    assert meant(engine.index, embedder, "green tea") == []
    assert vectors.embed_missing(engine) == 1
    assert meant(engine.index, embedder, "green tea") == [one]
    assert pending() == 0


def test_old_imports_are_indexed_like_all_others(owner, engine, crash):
    crash()
    old = datetime(2001, 1, 1, tzinfo=UTC).isoformat()
    [one] = add(owner, "green tea", metadata={"created_at": old})
    assert engine.indexer.drain() == 1
    assert said(engine.index, "tea") == {one}
