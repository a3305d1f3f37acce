"""Who does the background work: the only process, a worker, or a server while there is none."""

import threading
import time
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from core.errors import ConflictError, IndexUnavailableError
from jobs import leases
from jobs.models import Lease
from memories.adding import claims
from memories.background import upkeep
from memories.background.upkeep import RECONCILED, WORKERS, Upkeep
from memories.index.opening import open_indexer
from memories.models import AddInput, IngestClaim, Memory, MemoryVector
from memories.models.server import IndexState
from memories.tests.actions import add, pending, said, settled


@pytest.fixture(params=["embedded", "shared"])
def any_engine(request):
    return request.getfixturevalue(f"{request.param}_engine")


@pytest.fixture
def quiet(monkeypatch):
    """The providers' configuration is not looked at: the engine is a stand-in."""
    from memories.runtime import Runtime

    monkeypatch.setattr(Runtime, "refresh", lambda self: None)


@pytest.fixture(autouse=True)
def _one_connection(monkeypatch):
    """The connection of a test that is undone in the end must not be renewed."""
    monkeypatch.setattr(upkeep, "close_old_connections", lambda: None)


# --- Duty ----------------------------------------------------------------------------------------
def test_embedded_the_one_process_does_everything(owner, embedded_engine, quiet):
    only = Upkeep(embedded_engine)
    leases.acquire(WORKERS, holder=WORKERS)
    embedded_engine.apply = lambda memories: None
    [one] = add(owner, "green tea")
    only._quick_round()
    assert said(embedded_engine.index, "tea") == {one}
    assert Lease.objects.count() == 1  # it needs none of its own


def test_before_it_serves_only_a_process_that_is_alone_ends_the_adds_of_the_one_before(
    owner, any_engine
):
    cut_off = AddInput.objects.create(
        project_id=owner.project.id, messages=[], options={}, created_at=timezone.now()
    )
    upkeep.take_over(any_engine)
    cut_off.refresh_from_db()
    is_over = cut_off.outcome == AddInput.Outcome.FAILED
    assert is_over == any_engine.indexer.is_alone


def test_a_server_works_while_there_is_no_worker_and_only_follows_when_there_is_one(
    owner, shared_engine, quiet
):
    web = Upkeep(shared_engine)
    shared_engine.apply = lambda memories: None
    [one] = add(owner, "green tea")
    Upkeep(shared_engine, is_worker=True)._on_duty()
    web._quick_round()
    assert pending() == 1
    Lease.objects.filter(name=WORKERS).update(until=timezone.now() - timedelta(seconds=1))
    web._quick_round()
    assert pending() == 0
    assert said(shared_engine.index, "tea") == {one}


def test_several_workers_are_on_duty_and_seen_as_one(shared_engine):
    for _ in range(2):
        assert Upkeep(shared_engine, is_worker=True)._on_duty()
    assert leases.is_held(WORKERS)
    assert not Upkeep(shared_engine)._on_duty()


def test_a_server_follows_a_flip_although_a_worker_does_the_work(
    owner, shared_engine, collections, embedder, quiet
):
    from memories.index.shared_indexer import SharedIndexer

    [one] = add(owner, "green tea")
    leases.acquire(WORKERS, holder=WORKERS)
    SharedIndexer(collections, embedder.model_key, embedder.dims).rebuild()
    before = shared_engine.index
    Upkeep(shared_engine)._quick_round()
    assert shared_engine.index is not before
    assert said(shared_engine.index, "tea") == {one}


def test_jobs_are_the_workers_and_the_servers_while_there_is_none(shared_engine):
    web = Upkeep(shared_engine)
    assert web.is_on_duty()
    leases.acquire(WORKERS, holder=WORKERS)
    assert not web.is_on_duty()
    assert Upkeep(shared_engine, is_worker=True).is_on_duty()


def test_a_failing_round_is_logged_in_one_line_and_the_next_one_comes(
    any_engine, quiet, monkeypatch, caplog
):
    calls = []

    def fail() -> None:
        calls.append(True)
        raise IndexUnavailableError("The memory index failed.") from OSError("refused")

    monkeypatch.setattr(any_engine, "tick", fail)
    work = Upkeep(any_engine)
    with caplog.at_level("INFO"):
        work._quick_round()
        work._quick_round()
    assert len(calls) == 2
    assert all(record.exc_info is None for record in caplog.records)


def test_what_another_process_is_at_is_no_failure(any_engine, caplog):
    def taken() -> None:
        raise ConflictError("Another process is at work: index-build.")

    with caplog.at_level("WARNING"):
        Upkeep(any_engine)._guarded(taken)
    assert caplog.records == []


# --- Slow work -----------------------------------------------------------------------------------
def test_missing_vectors_are_made_at_the_start(owner, any_engine, embedder):
    add(owner, "green tea")
    MemoryVector.objects.all().delete()
    Upkeep(any_engine)._slow_round()
    assert MemoryVector.objects.count() == 1


def test_missing_vectors_are_made_by_one_process_at_a_time(owner, shared_engine):
    add(owner, "green tea")
    MemoryVector.objects.all().delete()
    until = timezone.now() + timedelta(seconds=30)
    Lease.objects.update_or_create(name="embed", defaults={"holder": "another", "until": until})
    work = Upkeep(shared_engine)
    work._slow_round()
    assert MemoryVector.objects.count() == 0
    Lease.objects.filter(name="embed").update(until=timezone.now() - timedelta(seconds=1))
    work._last.clear()
    work._slow_round()
    assert MemoryVector.objects.count() == 1


def test_a_shared_index_is_compared_and_repaired_once_an_hour_whoever_does_it(owner, shared_engine):
    ids = add(owner, "green tea", "black tea")
    shared_engine.index.delete([ids[0]])
    work = Upkeep(shared_engine, is_worker=True)
    work._reconcile()
    assert said(shared_engine.index, "tea") == set(ids)

    # A minute later it is looked at again, and this process was the one that did it.
    shared_engine.index.delete([ids[0]])
    work._last.clear()
    work._reconcile()
    another = Upkeep(shared_engine, is_worker=True)
    another._reconcile()
    assert said(shared_engine.index, "tea") == {ids[1]}

    Lease.objects.filter(name=RECONCILED).update(until=timezone.now() - timedelta(seconds=1))
    work._last.clear()
    work._reconcile()
    assert said(shared_engine.index, "tea") == set(ids)


def test_a_process_that_died_while_it_compared_keeps_the_others_from_it_for_a_minute(
    owner, shared_engine
):
    ids = add(owner, "green tea", "black tea")
    shared_engine.index.delete([ids[0]])
    until = timezone.now() + timedelta(seconds=60)
    Lease.objects.create(name="reconcile", holder="another-machine/1:7", until=until)
    work = Upkeep(shared_engine, is_worker=True)
    work._reconcile()
    assert said(shared_engine.index, "tea") == {ids[1]}
    Lease.objects.filter(name="reconcile").update(until=timezone.now() - timedelta(seconds=1))
    work._last.clear()
    work._reconcile()
    assert said(shared_engine.index, "tea") == set(ids)


def test_a_comparison_that_failed_is_tried_again(owner, shared_engine, monkeypatch):
    [id_] = add(owner, "green tea")
    shared_engine.index.delete([id_])
    work = Upkeep(shared_engine, is_worker=True)
    with monkeypatch.context() as patch:
        patch.setattr(shared_engine.index, "scan_ids", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            work._reconcile()
    work._last.clear()
    work._reconcile()
    assert said(shared_engine.index, "tea") == {id_}


def test_work_that_lost_its_lease_ends(shared_engine, monkeypatch):
    monkeypatch.setattr(leases, "_RENEW_SECONDS", -1)
    stop = threading.Event()
    with leases.hold("embed") as lease:
        waiting = upkeep._WhileHeld(stop, lease)
        assert not waiting.is_set()
        Lease.objects.filter(name="embed").update(holder="another")
        with pytest.raises(leases.LeaseLostError):
            waiting.is_set()
        stop.set()
        assert waiting.is_set()


def test_the_threads_start_and_stop(transactional_db, any_engine, quiet, monkeypatch):
    rounds = threading.Event()
    monkeypatch.setattr(any_engine, "tick", rounds.set)
    work = Upkeep(any_engine)
    work.start()
    assert rounds.wait(10)
    started = time.monotonic()
    work.stop()
    assert time.monotonic() - started < 5
    with pytest.raises(IndexUnavailableError):
        any_engine.indexer.index.count()


# --- Adds whose process is gone ------------------------------------------------------------------
def running_add(project, *, age: float, lease: float | None) -> AddInput:
    now = timezone.now()
    kept = AddInput.objects.create(
        project=project,
        messages=[{"role": "user", "content": "tea"}],
        created_at=now - timedelta(seconds=age),
    )
    if lease is not None:
        until = now + timedelta(seconds=lease)
        IngestClaim.objects.create(digest=str(kept.pk), input=kept, lease_until=until)
    return kept


def test_adds_end_as_failed_when_their_claim_has_run_out_and_their_input_is_kept(project, settings):
    settings.CLAIM_LEASE_SECONDS = 180
    alive = running_add(project, age=170, lease=10)
    again = running_add(project, age=900_000, lease=100)  # an old input that is run once more
    dead = running_add(project, age=200, lease=-20)
    taken_over = running_add(project, age=400, lease=None)
    just_begun = running_add(project, age=1, lease=None)
    assert claims.end_expired() == 2
    outcomes = dict(AddInput.objects.values_list("id", "outcome"))
    assert outcomes[dead.id] == outcomes[taken_over.id] == "failed"
    assert {outcomes[kept.id] for kept in (alive, again, just_begun)} == {"running"}
    assert set(IngestClaim.objects.values_list("input_id", flat=True)) == {alive.id, again.id}
    assert AddInput.objects.get(id=dead.id).messages[0]["content"] == "tea"
    forgotten = running_add(project, age=200_000, lease=None)
    assert claims.end_expired() == 0
    assert claims.end_expired(of_all_times=True) == 1
    assert AddInput.objects.get(id=forgotten.id).outcome == "failed"


# --- Commands ------------------------------------------------------------------------------------
def command(name: str, *arguments: str) -> str:
    out = StringIO()
    call_command(name, *arguments, stdout=out)
    return out.getvalue()


@pytest.fixture(params=["engine_in_folder", "shared_engine"], ids=["embedded", "shared"])
def opened(request, settings, tmp_path, embedder) -> Any:
    """The engine on the index that a command opens; `close` lets go of it."""
    settings.DATA_DIR = tmp_path  # where the engine's index is
    running = request.getfixturevalue(request.param)
    if running.index.is_remote:
        server = request.getfixturevalue("qdrant")
        settings.QDRANT_URL, settings.QDRANT_API_KEY = server.url, server.api_key
        collections = request.getfixturevalue("collections")
        settings.QDRANT_COLLECTION = collections.server.collection
    return running


def let_go(running: Any) -> None:
    settled(running)
    if running.indexer.is_alone:
        running.indexer.index.close()


def test_the_settings_say_which_index_is_opened(opened):
    let_go(opened)
    state = IndexState.objects.get()
    found = open_indexer(state.model_key, state.dims)
    assert type(found) is type(opened.indexer)
    found.close()


def test_the_command_says_that_index_and_database_are_the_same(owner, opened):
    add(owner, "green tea")
    let_go(opened)
    said_ = command("check_index")
    assert "1 points compared" in said_
    assert "are the same" in said_


def test_the_command_does_not_call_the_same_what_is_still_on_its_way(owner, opened):
    add(owner, "green tea")
    let_go(opened)
    Memory.objects.update(rev=2)
    told = command("check_index")
    assert "1 changes are on their way" in told
    assert "Nothing differs but what is on its way" in told
    assert "the same" not in told


def test_the_command_tells_what_differs_and_repairs_it(owner, opened):
    ids = add(owner, "green tea", "black tea")
    settled(opened)
    opened.index.delete([ids[0]])
    Memory.objects.filter(id=ids[1]).update(rev=2, indexed_rev=2)
    let_go(opened)
    with pytest.raises(CommandError, match="2 points differ"):
        command("check_index")
    told = command("check_index", "--repair")
    assert f"1 missing: {ids[0]}" in told
    assert f"1 of another revision: {ids[1]}" in told
    assert "2 points are repaired" in told
    assert "are the same" in command("check_index")


def test_the_command_says_what_to_do_while_the_server_holds_the_index(
    owner, engine_in_folder, settings, tmp_path
):
    settings.DATA_DIR = tmp_path
    add(owner, "green tea")
    with pytest.raises(CommandError, match="stop the server"):
        command("check_index")


def test_the_command_fails_when_the_server_of_the_index_does_not_answer(opened, owner, qdrant):
    if opened.indexer.is_alone:
        pytest.skip("an embedded index has no server")
    add(owner, "green tea")
    qdrant.tell(fail=503)
    with pytest.raises(CommandError, match="cannot be compared"):
        command("check_index")


@pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL may have workers")
def test_there_is_no_worker_on_sqlite(db):
    with pytest.raises(CommandError, match="DATABASE_URL"):
        command("worker")
