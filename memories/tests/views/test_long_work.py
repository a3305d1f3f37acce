"""Long work on the page of the jobs: bulk changes, re-embedding, word vectors; and what the server
removes by itself."""

import re
import threading
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import Account, Membership, Project, Role
from accounts.tests.signing import sign_in
from core.errors import ConflictError
from jobs import claims, kinds, leases, schedules
from jobs.models import Job, Schedule
from jobs.runner import run_job
from memories.backfill import token_states as token_work
from memories.background import retention
from memories.bulk import service as bulk
from memories.engine import configuration
from memories.models import Memory, MemoryVector
from memories.models.bulk import Operation
from memories.models.server import IndexState, Reembedding
from memories.providers import reembedding
from memories.tests.actions import add, settled
from memories.views import long_work

PAGE = "/dashboard/jobs"
OLD = "2020-01-01T00:00:00Z"
NEW = "other/model/64"
pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("engine")]


@pytest.fixture
def admin(alice: Account, bob: Account) -> Client:
    """An administrator of the project who is not the instance's owner."""
    Membership.objects.filter(account=bob).update(role=Role.ADMIN)
    return sign_in(bob)


@pytest.fixture(autouse=True)
def _counted_now() -> None:
    long_work._progress.clear()


def shown(signed_in: Client, state: str = "") -> str:
    answer = signed_in.get(PAGE, {"state": state} if state else {})
    assert answer.status_code == 200
    return unescape(re.sub(r"\s+", " ", answer.content.decode()))


def run_waiting() -> list[Job]:
    """Does all jobs that are ready; how they stand then."""
    done = []
    while (job := claims.claim(list(kinds.known_kinds()), claims.ProjectRotation())) is not None:
        run_job(job, threading.Event())
        job.refresh_from_db()
        done.append(job)
    return done


# --- Bulk changes --------------------------------------------------------------------------------
@pytest.fixture
def operation(owner: Any, engine: Any, monkeypatch: pytest.MonkeyPatch) -> Operation:
    """A bulk change that is a job, and has not begun."""
    ids = add(owner, "green tea", "black coffee", "red wine")
    monkeypatch.setattr(bulk, "AT_ONCE", 1)
    return bulk.run(owner, bulk.plan(owner, "delete", ids=ids).token)


def test_a_bulk_change_is_listed_with_its_progress_and_can_be_cancelled(signed_in, operation):
    Operation.objects.update(state=Operation.State.RUNNING, done=1)
    page = shown(signed_in, "running")
    assert f'href="/dashboard/operations/{operation.id}">Delete: 3 memories</a>' in page
    assert "1 of 3" in page
    assert "Alice" in page
    signed_in.post(f"{PAGE}/bulk/{operation.id}/cancel")
    assert "Cancelled" in shown(signed_in, "done")
    again = signed_in.post(f"{PAGE}/bulk/{operation.id}/cancel", follow=True)
    assert "nothing left to cancel" in again.content.decode()


def test_a_bulk_change_that_stopped_tells_why(signed_in, operation):
    Operation.objects.update(state=Operation.State.STOPPED, problem="2 were changed since.")
    page = shown(signed_in, "failed")
    assert "2 were changed since." in page
    assert "Stopped" in page


def test_bulk_changes_of_another_project_do_not_exist(operation, charlie):
    stranger = sign_in(charlie)
    assert "Delete: 3 memories" not in shown(stranger)
    for id_ in (operation.id, "not-an-id"):
        assert stranger.post(f"{PAGE}/bulk/{id_}/cancel").status_code == 404


# --- Re-embedding --------------------------------------------------------------------------------
@pytest.fixture
def passage(engine: Any, owner: Any) -> Reembedding:
    """Two of three memories have their new vectors, and the provider refuses the third."""
    ids = add(owner, "green tea", "black coffee", "red wine")
    job = Reembedding.objects.create(
        config=configuration.seal(configuration.current_configuration()),
        model_key=NEW,
        dims=64,
        former_config=configuration.seal(configuration.current_configuration()),
        problem="The provider has refused the key since 16:58.",
        account_id=owner.account_id,
    )
    IndexState.objects.filter(model_key="").update(model_key=engine.engine.model_key)
    for id_ in ids[:2]:
        MemoryVector.objects.create(memory_id=id_, model_key=NEW, dims=64, data=b"\0" * 256)
    return job


def test_re_embedding_is_listed_with_its_problem_for_the_owner_alone(signed_in, admin, passage):
    page = shown(signed_in, "running")
    assert "Re-embed memories" in page
    assert NEW in page
    assert "2 of 3" in page
    assert "The provider has refused the key since 16:58." in page
    address = f"{PAGE}/reembedding/{passage.pk}/cancel"
    assert "lost" in signed_in.get(address).content.decode()
    assert "Re-embed memories" not in shown(admin, "running")
    assert admin.get(address).status_code == admin.post(address).status_code == 404


def test_cancelling_it_answers_at_once_and_a_job_removes_its_vectors(signed_in, passage):
    signed_in.post(f"{PAGE}/reembedding/{passage.pk}/cancel")
    assert reembedding.find_running() is None
    assert MemoryVector.objects.filter(model_key=NEW).count() == 2
    [job] = run_waiting()
    assert (job.state, job.result) == ("succeeded", "2 vectors removed")
    assert not MemoryVector.objects.filter(model_key=NEW).exists()
    assert MemoryVector.objects.count() == 3
    again = signed_in.post(f"{PAGE}/reembedding/{passage.pk}/cancel", follow=True)
    assert "ended already" in again.content.decode()


def test_vectors_that_are_wanted_again_meanwhile_stay(signed_in, passage):
    signed_in.post(f"{PAGE}/reembedding/{passage.pk}/cancel")
    Reembedding.objects.update(state=Reembedding.State.RUNNING)
    run_waiting()
    assert MemoryVector.objects.filter(model_key=NEW).count() == 2


# --- Word vectors --------------------------------------------------------------------------------
def test_word_vectors_are_listed_while_they_are_made(signed_in, admin, owner):
    add(owner, "green tea")
    assert "Store word vectors" not in shown(signed_in)
    leases.acquire(token_work.LEASE)
    assert "Store word vectors" in shown(signed_in, "running")
    assert "0 of 1" in shown(signed_in, "running")
    assert "Store word vectors" not in shown(admin)
    told = signed_in.post(f"{PAGE}/late-interaction/all/cancel", follow=True).content.decode()
    assert "in Settings" in told
    assert admin.post(f"{PAGE}/late-interaction/all/cancel").status_code == 404


def test_what_takes_long_to_count_is_not_counted_again_at_once(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("core.kept.time.monotonic", lambda: now[0])
    counted = []

    def count() -> tuple[int, int]:
        now[0] += 2.0
        counted.append(now[0])
        return len(counted), 9

    assert long_work._progress.get("a", count) == (1, 9)
    now[0] += 30.0
    assert long_work._progress.get("a", count) == (1, 9)
    now[0] += 20.0
    assert long_work._progress.get("a", count) == (2, 9)


# --- What goes by itself -------------------------------------------------------------------------
def test_what_was_deleted_long_enough_ago_goes_by_itself(owner, engine, signed_in):
    gone, young = add(owner, "green tea", "black coffee")
    schedules.ensure()
    for id_, days in ((gone, 31), (young, 29)):
        at = timezone.now() - timedelta(days=days)
        Memory.objects.filter(id=id_).update(deleted_at=at, rev=2, indexed_rev=2)
    settled(engine)
    Schedule.objects.filter(kind="memories.retention").update(next_run_at=OLD)
    schedules.fire_due()
    [job] = run_waiting()
    assert (job.state, job.result) == ("succeeded", "1 memory removed")
    assert list(Memory.objects.values_list("id", flat=True)) == [young]
    page = shown(signed_in, "schedules")
    assert "Remove deleted memories" in page
    assert "1 memory removed" in page


def test_a_purge_that_is_cancelled_ends_after_its_portion(owner, engine, monkeypatch):
    monkeypatch.setattr(retention, "BATCH", 1)
    ids = add(owner, "green tea", "black coffee", "red wine")
    old = timezone.now() - timedelta(days=31)
    Memory.objects.filter(id__in=ids).update(deleted_at=old, rev=2, indexed_rev=2)

    def stop(total: int) -> None:
        raise ConflictError("Cancelled.")

    with pytest.raises(ConflictError):
        retention.purge_all(stop)
    assert Memory.objects.count() == 2
    assert retention.purge_all() == 2
    assert Project.objects.exists()
