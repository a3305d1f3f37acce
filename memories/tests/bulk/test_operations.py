"""Bulk changes as jobs: watched, cancelled, resumed after a kill, never past what was shown."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from django.db import connection

from core.errors import ConflictError, Mem0dashError, NotFoundError, PermissionDeniedError
from core.principal import Scope
from jobs import leases
from memories import visibility
from memories.background import upkeep
from memories.background.upkeep import Upkeep
from memories.browse.selection import Selection
from memories.bulk import job as bulk_work
from memories.bulk import service as bulk
from memories.editing import change
from memories.editing import service as services
from memories.models import Memory, Revision
from memories.models.bulk import Operation, OperationItem
from memories.tests.actions import add, said, settled

ALICE = Selection(fields={"user_id": ("alice",)})


class KilledError(BaseException):
    """Ends a process in the middle, as far as a test can."""


@pytest.fixture
def small(monkeypatch) -> None:
    """Five are many, and worked off two by two."""
    monkeypatch.setattr(bulk, "AT_ONCE", 4)
    monkeypatch.setattr(bulk_work, "BATCH", 2)
    monkeypatch.setattr(bulk_work, "PREPARE_BATCH", 2)


def begin(owner, action="approve", selection=ALICE, **rest) -> Operation:
    begun = bulk.run(owner, bulk.plan(owner, action, selection=selection, **rest).token)
    assert begun.state == "preparing"
    return begun


def work(engine) -> None:
    bulk_work.work(engine.apply)


def now(operation) -> Operation:
    return Operation.objects.get(id=operation.id)


def until(operation, state, engine) -> None:
    """Goes on until it is in this state."""
    for _ in range(100):
        if now(operation).state == state:
            return
        engine.apply(bulk_work.run_next_batch(operation.id))
    raise AssertionError(f"never {state}")


def statuses() -> dict[str, int]:
    counted: dict[str, int] = {}
    for status in Memory.objects.values_list("review_status", flat=True):
        counted[status] = counted.get(status, 0) + 1
    return counted


# --- The whole way -------------------------------------------------------------------------------
def test_many_are_changed_behind_the_scenes(owner, engine, small):
    add(owner, *(f"tea {n}" for n in range(9)))
    [other] = add(owner, "coffee", user_id="jonas")
    begun = begin(owner)
    assert statuses() == {"unreviewed": 10}
    work(engine)
    done = bulk.get(owner, begun.id)
    assert (done.state, done.count, done.done, done.handled) == ("done", 9, 9, 9)
    assert done.finished_at is not None
    assert statuses() == {"approved": 9, "unreviewed": 1}
    assert Memory.objects.get(id=other).rev == 1
    assert not bulk_work.has_work()


def test_the_history_is_in_the_name_of_who_asked(owner, engine, small):
    add(owner, *(f"tea {n}" for n in range(5)))
    asked = replace(owner, request_id="req-9", client="browser", via="session")
    begun = begin(asked)
    work(engine)
    found = Revision.objects.filter(event="UPDATE")
    assert found.count() == 5
    assert set(found.values_list("account_id", "via", "client", "request_id")) == {
        (owner.account_id, "session", "browser", "req-9")
    }
    assert all(r.changes["review_status"] == ["unreviewed", "approved"] for r in found)
    assert bulk.get(owner, begun.id).account.name == "Alice"
    assert {m.reviewed_by for m in Memory.objects.all()} == {"Alice"}


def test_a_job_of_2500_goes_on_after_a_kill_and_does_nothing_twice(owner, engine, monkeypatch):
    ids = add(owner, *(f"tea number {n}" for n in range(2500)))
    begun = begin(owner, "delete")
    write, batches = change.write, []

    def killed(rows, values, **options):
        batches.append(len(rows))
        changes = write(rows, values, **options)
        if len(batches) == 3:
            raise KilledError  # within the transaction, after the memories were changed
        return changes

    monkeypatch.setattr(change, "write", killed)
    with pytest.raises(KilledError):
        work(engine)
    monkeypatch.undo()
    broken = now(begun)
    assert (broken.state, broken.done) == ("running", 1000)
    assert Memory.objects.filter(deleted_at=None).count() == 1500

    # After the commit, before the index heard of it.
    def killed_later(rows):
        raise KilledError

    with pytest.raises(KilledError):
        bulk_work.work(killed_later)
    assert now(begun).done == 1500
    work(engine)
    done = now(begun)
    assert (done.state, done.done, done.skipped) == ("done", 2500, 0)
    assert not Memory.objects.filter(deleted_at=None).exists()
    assert set(Memory.objects.values_list("rev", flat=True)) == {2}
    assert Revision.objects.filter(event="DELETE", memory_id__in=ids).count() == 2500
    settled(engine)
    assert engine.index.count() == 0


def test_a_kill_while_it_notes_down_what_matches_changes_nothing(owner, engine, small):
    add(owner, *(f"tea {n}" for n in range(9)))
    begun = begin(owner)
    bulk_work.run_next_batch(begun.id)
    bulk_work.run_next_batch(begun.id)
    assert OperationItem.objects.count() == 4
    assert statuses() == {"unreviewed": 9}
    work(engine)
    assert now(begun).done == 9
    assert OperationItem.objects.count() == 9


# --- Drift ---------------------------------------------------------------------------------------
def test_what_changed_before_it_began_stops_it(owner, engine, small):
    ids = add(owner, *(f"tea {n}" for n in range(9)))
    token = bulk.plan(owner, "delete", selection=ALICE).token
    services.update_memory(owner, ids[0], text="tea with milk")
    with pytest.raises(ConflictError, match=r"9 then, 9 now \(1 changed\)"):
        bulk.run(owner, token)
    assert not Operation.objects.exists()


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_what_changes_while_it_is_noted_down_stops_it(owner, engine, small, steps):
    ids = add(owner, *(f"tea {n}" for n in range(9)))
    begun = begin(owner, "delete")
    for _ in range(steps):
        bulk_work.run_next_batch(begun.id)
    services.update_memory(owner, max(ids), text="tea with milk")
    work(engine)
    stopped = bulk.get(owner, begun.id)
    assert (stopped.state, stopped.done) == ("stopped", 0)
    assert "9 then, 9 now (1 changed)" in stopped.problem
    assert "Nothing was done" in stopped.problem
    assert not OperationItem.objects.exists()
    assert not Memory.objects.exclude(deleted_at=None).exists()


def test_more_that_match_stop_it_before_anything_changes(owner, engine, small):
    add(owner, *(f"tea {n}" for n in range(9)))
    begun = begin(owner, "delete")
    add(owner, *(f"more tea {n}" for n in range(4)))
    work(engine)
    stopped = now(begun)
    assert stopped.state == "stopped"
    assert "9 then, 13 now (4 added)" in stopped.problem
    assert not Memory.objects.exclude(deleted_at=None).exists()


def test_what_others_change_before_its_turn_is_passed_over_and_counted(owner, engine, small):
    ids = sorted(add(owner, *(f"tea {n}" for n in range(9))))
    begun = begin(owner, "delete")
    until(begun, "running", engine)
    # These would match no more, and must not go.
    services.update_memory(owner, ids[7], text="keep me")
    services.delete_memory(owner, ids[8])
    added = add(owner, "came later")
    work(engine)
    done = now(begun)
    assert (done.state, done.done, done.skipped) == ("done", 7, 2)
    live = set(visibility.filter_reachable(owner).values_list("id", flat=True))
    assert live == {ids[7], *added}
    assert Memory.objects.get(id=ids[8]).rev == 2


def test_a_memory_erased_while_it_waits_leaves_nothing_behind(owner, engine, small):
    ids = sorted(add(owner, *(f"xylophone {n}" for n in range(9))))
    looked_for = Selection.of({"q": ["xylophone"], "mode": ["words"]})
    begun = begin(owner, "approve", selection=looked_for)
    until(begun, "running", engine)
    services.erase_memories(owner, ids[8:])
    work(engine)
    done = now(begun)
    assert (done.state, done.done, done.skipped) == ("done", 8, 1)
    assert (done.words, done.match) == ("", {})


# --- Cancelling ----------------------------------------------------------------------------------
def test_cancelling_keeps_what_is_done_and_leaves_the_rest(owner, engine, small):
    add(owner, *(f"tea {n}" for n in range(9)))
    begun = begin(owner)
    until(begun, "running", engine)
    bulk_work.run_next_batch(begun.id)
    cancelled = bulk.cancel(owner, begun.id)
    assert (cancelled.state, cancelled.done) == ("cancelled", 2)
    work(engine)
    assert statuses() == {"approved": 2, "unreviewed": 7}
    assert bulk_work.run_next_batch(begun.id) == []
    assert bulk.undo(owner, begun.id).undone == 2
    assert statuses() == {"unreviewed": 9}


def test_cancelling_before_it_begins_changes_nothing(owner, engine, small):
    add(owner, *(f"tea {n}" for n in range(9)))
    begun = begin(owner)
    bulk_work.run_next_batch(begun.id)
    assert bulk.cancel(owner, begun.id).state == "cancelled"
    work(engine)
    assert statuses() == {"unreviewed": 9}
    with pytest.raises(ConflictError, match="nothing to undo"):
        bulk.undo(owner, begun.id)


def test_what_is_over_cannot_be_cancelled(owner, engine, small):
    add(owner, *(f"tea {n}" for n in range(9)))
    begun = begin(owner)
    work(engine)
    with pytest.raises(ConflictError):
        bulk.cancel(owner, begun.id)


# --- Several -------------------------------------------------------------------------------------
def test_several_jobs_take_turns(owner, engine, small):
    add(owner, *(f"tea {n}" for n in range(9)))
    add(owner, *(f"tea {n}" for n in range(5)), user_id="jonas")
    first = begin(owner)
    second = begin(owner, selection=Selection(fields={"user_id": ("jonas",)}))
    for _ in range(6):
        bulk_work.run_next_batch(first.id)
        bulk_work.run_next_batch(second.id)
    assert now(first).done > 0
    assert now(second).done > 0
    work(engine)
    assert (now(first).done, now(second).done) == (9, 5)


def test_a_job_that_fails_does_not_hold_up_another(owner, engine, small, monkeypatch):
    add(owner, *(f"tea {n}" for n in range(9)))
    add(owner, *(f"tea {n}" for n in range(5)), user_id="jonas")
    first = begin(owner)
    second = begin(owner, selection=Selection(fields={"user_id": ("jonas",)}))
    step = bulk_work.run_next_batch

    def failing(id_):
        if id_ == first.id:
            raise RuntimeError("disk full")
        return step(id_)

    monkeypatch.setattr(bulk_work, "run_next_batch", failing)
    for _ in range(20):
        with pytest.raises(RuntimeError):
            work(engine)
    monkeypatch.undo()
    assert (now(second).state, now(second).done) == ("done", 5)
    work(engine)
    assert now(first).done == 9


def test_two_jobs_on_the_same_memories_do_not_undo_each_other(owner, engine, small):
    add(owner, *(f"tea {n}" for n in range(9)))
    first, second = begin(owner, "approve"), begin(owner, "reject")
    until(first, "running", engine)
    until(second, "running", engine)
    work(engine)
    assert now(first).done + now(first).skipped == 9
    assert now(second).done + now(second).skipped == 9
    assert now(first).done + now(second).done == 9
    # The first one got there first, with every memory.
    assert statuses() == {"approved": 9}


def test_the_same_token_begins_one_job(owner, engine, small):
    add(owner, *(f"tea {n}" for n in range(9)))
    token = bulk.plan(owner, "approve", selection=ALICE).token
    assert bulk.run(owner, token).id == bulk.run(owner, token).id
    work(engine)
    assert bulk.run(owner, token).state == "done"
    assert set(Memory.objects.values_list("rev", flat=True)) == {2}


def at_the_same_time(*calls) -> list:
    """What each call gave, or its error."""
    start = threading.Barrier(len(calls))

    def one(call):
        try:
            start.wait(10)
            return call()
        except Mem0dashError as error:
            return error
        finally:
            connection.close()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(one, calls))


def test_of_two_at_the_same_time_one_is_done_whole(transactional_db, owner, engine):
    ids = add(owner, *(f"tea {n}" for n in range(40)))
    tokens = [bulk.plan(owner, action, ids=ids).token for action in ("approve", "reject")]
    got = at_the_same_time(*(lambda token=token: bulk.run(owner, token) for token in tokens))
    done = [one for one in got if isinstance(one, Operation)]
    assert len(done) == 1
    assert [type(one) for one in got if one not in done] == [ConflictError]
    [status] = statuses()
    assert status == {"approve": "approved", "reject": "rejected"}[done[0].action]
    assert Operation.objects.count() == 1
    assert Revision.objects.filter(event="UPDATE").count() == 40


def test_a_token_that_comes_twice_at_the_same_time_is_run_once(transactional_db, owner, engine):
    ids = add(owner, *(f"tea {n}" for n in range(40)))
    token = bulk.plan(owner, "delete", ids=ids).token
    got = at_the_same_time(*[lambda: bulk.run(owner, token)] * 3)
    assert {one.id for one in got} == {Operation.objects.get().id}
    assert set(Memory.objects.values_list("rev", flat=True)) == {2}


def test_two_processes_on_one_job_share_it(transactional_db, owner, engine, small):
    add(owner, *(f"tea {n}" for n in range(12)))
    begun = begin(owner)
    at_the_same_time(*[lambda: work(engine)] * 2)
    assert (now(begun).state, now(begun).done, now(begun).skipped) == ("done", 12, 0)
    assert set(Memory.objects.values_list("rev", flat=True)) == {2}
    assert Revision.objects.filter(event="UPDATE").count() == 12


def test_undo_while_it_runs_elsewhere_is_done_once(transactional_db, owner, engine):
    ids = add(owner, *(f"tea {n}" for n in range(12)))
    done = bulk.run(owner, bulk.plan(owner, "delete", ids=ids).token)
    at_the_same_time(*[lambda: bulk.undo(owner, done.id)] * 3)
    assert now(done).undone == 12
    assert set(Memory.objects.values_list("rev", flat=True)) == {3}


# --- Erasing -------------------------------------------------------------------------------------
def test_erasing_many_leaves_no_words_and_keeps_who_did_it(owner, engine, small):
    from memories.tests.editing.test_erasure import traces

    add(owner, *(f"xylophonist {n}" for n in range(7)))
    looked_for = Selection.of({"q": ["xylophonist"], "mode": ["words"]})
    begun = begin(owner, "erase", selection=looked_for)
    work(engine)
    done = now(begun)
    assert (done.state, done.done, done.undo_until) == ("done", 7, None)
    assert traces("xylophonist") == []
    assert said(engine.index, "xylophonist") == set()
    erased = Revision.objects.filter(event="ERASE")
    assert set(erased.values_list("account_id", "request_id")) == {(owner.account_id, "test")}
    with pytest.raises(ConflictError, match="erased"):
        bulk.undo(owner, begun.id)


# --- Who sees it ---------------------------------------------------------------------------------
def test_operations_of_another_project_do_not_exist(owner, engine, small, other_project):
    from accounts.queries import project_view

    add(owner, *(f"tea {n}" for n in range(9)))
    begun = begin(owner)
    stranger = replace(owner, project=project_view(other_project))
    assert bulk.recent(stranger) == []
    for call in (bulk.get, bulk.cancel, bulk.undo):
        for id_ in (begun.id, str(begun.id), uuid.uuid4(), "nonsense"):
            with pytest.raises(NotFoundError):
                call(stranger, id_)
    assert now(begun).state == "preparing"


def test_operations_are_for_who_may_review(owner, engine, small):
    add(owner, *(f"tea {n}" for n in range(9)))
    begun = begin(owner)
    member = replace(owner, scopes=frozenset({Scope.READ, Scope.WRITE}))
    for call in (bulk.get, bulk.cancel, bulk.undo):
        with pytest.raises(PermissionDeniedError):
            call(member, begun.id)
    with pytest.raises(PermissionDeniedError):
        bulk.recent(member)


def test_a_limited_caller_sees_own_operations_alone(owner, engine, small):
    ids = add(owner, "green tea", "black tea")
    limited = replace(owner, key_id=uuid.uuid4(), entity_limit={"user_id": frozenset({"alice"})})
    theirs = bulk.run(owner, bulk.plan(owner, "approve", ids=ids).token)
    own = bulk.run(limited, bulk.plan(limited, "reject", ids=ids).token)
    assert [operation.id for operation in bulk.recent(limited)] == [own.id]
    with pytest.raises(NotFoundError):
        bulk.undo(limited, theirs.id)
    assert [operation.id for operation in bulk.recent(owner)] == [own.id, theirs.id]


def test_a_limited_caller_s_job_stays_within_the_limit(owner, engine, small):
    add(owner, *(f"tea {n}" for n in range(9)))
    add(owner, *(f"tea {n}" for n in range(9)), user_id="jonas")
    limited = replace(owner, entity_limit={"user_id": frozenset({"alice"})})
    begun = begin(limited, "delete", selection=Selection())
    work(engine)
    assert now(begun).done == 9
    assert set(visibility.filter_reachable(owner).values_list("user_id", flat=True)) == {"jonas"}


# --- In the background ---------------------------------------------------------------------------
@pytest.fixture
def quiet(monkeypatch) -> None:
    """Work in the test's own thread must not close its connection."""
    monkeypatch.setattr(upkeep, "close_old_connections", lambda: None)


def test_the_background_work_takes_it_up(owner, engine, small, quiet):
    add(owner, *(f"tea {n}" for n in range(9)))
    begun = begin(owner)
    Upkeep(engine)._bulk_round()
    assert now(begun).state == "done"


def test_where_there_are_workers_one_of_them_does_it(owner, engine, small, quiet):
    add(owner, *(f"tea {n}" for n in range(9)))
    begun = begin(owner)
    web = Upkeep(engine)
    web.is_alone = False
    leases.acquire(upkeep.WORKERS, holder=upkeep.WORKERS)
    web._bulk_round()
    assert now(begun).state == "preparing"
    worker = Upkeep(engine, is_worker=True)
    worker.is_alone = False
    leases.acquire(bulk_work.LEASE, holder="another machine")
    worker._bulk_round()
    assert now(begun).state == "preparing"
    leases.Lease.objects.all().delete()
    worker._bulk_round()
    assert now(begun).state == "done"
    assert not leases.is_held(bulk_work.LEASE)


def test_a_stop_ends_it_between_two_batches(owner, engine, small):
    add(owner, *(f"tea {n}" for n in range(9)))
    begun = begin(owner)
    until(begun, "running", engine)
    stop = threading.Event()
    bulk_work.work(lambda rows: stop.set(), stop)
    assert (now(begun).state, now(begun).done) == ("running", 2)
    work(engine)
    assert now(begun).done == 9
