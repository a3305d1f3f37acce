"""The queue: jobs enter with their caller's transaction, keep their lanes, and end once."""

import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.utils import timezone

from accounts.models import Project
from core.errors import ConflictError
from jobs import claims, queue
from jobs.holders import HOLDER
from jobs.models import Job, Lane, Parked
from jobs.tests.conftest import claim

State = Job.State
pytestmark = pytest.mark.django_db


def states() -> list[str]:
    return list(Job.objects.order_by("id").values_list("state", flat=True))


def finish(job: Job) -> None:
    with transaction.atomic():
        queue.finish(job)


# --- In ------------------------------------------------------------------------------------------
def test_a_job_enters_with_its_callers_transaction_or_not_at_all(put):
    with pytest.raises(RuntimeError), transaction.atomic():
        put()
        raise RuntimeError
    assert states() == []
    put()
    assert states() == [State.QUEUED]


def test_of_one_key_one_job_is_open(put):
    first = put(dedup_key="import:1")
    assert put(dedup_key="import:1").pk == first.pk
    assert put(dedup_key="import:2").pk != first.pk
    finish(claim())
    assert put(dedup_key="import:1").pk != first.pk


def test_a_kind_that_nobody_knows_is_refused(project):
    with pytest.raises(LookupError):
        queue.enqueue("test.unknown", project_id=project.id)


def test_who_asked_for_it_is_written_down(put, owner):
    job = put(principal=owner)
    assert (job.account_id, job.actor["via"]) == (owner.account_id, "api_key")


# --- Out -----------------------------------------------------------------------------------------
def test_urgent_jobs_come_first_and_then_those_that_have_waited_longest(put):
    late, early, urgent = put(delay=-5.0), put(delay=-60.0), put(priority=-1)
    assert [claim().pk for _ in range(3)] == [urgent.pk, early.pk, late.pk]
    assert claim() is None


def test_projects_take_turns(put, project, other_project):
    third = Project.objects.create(slug="third", name="Third")
    for of, count in ((project, 6), (other_project, 2), (third, 1)):
        for _ in range(count):
            put(project_id=of.id)
    turns = claims.ProjectRotation()
    taken = [claim(turns=turns).project_id for _ in range(9)]
    assert set(taken[:3]) == {project.id, other_project.id, third.id}
    assert set(taken[3:5]) == {project.id, other_project.id}
    assert claim(turns=turns) is None


def test_jobs_of_the_instance_take_turns_too(put, project):
    put(), put(), put(project_id=None)
    turns = claims.ProjectRotation()
    taken = [claim(turns=turns).project_id for _ in range(3)]
    assert None in taken[:2]


def test_a_project_that_comes_late_does_not_wait_for_all_of_another(put, project, other_project):
    for _ in range(5):
        put()
    turns = claims.ProjectRotation()
    claim(turns=turns)
    put(project_id=other_project.id)
    turns._asked_at = float("-inf")  # a second later
    assert claim(turns=turns).project_id == other_project.id


def test_what_is_not_due_waits_until_somebody_hurries_it(put):
    job = put(delay=3600)
    assert claim() is None
    assert queue.run_now(job)
    assert claim().pk == job.pk
    assert not queue.run_now(job)


def test_a_process_takes_only_the_kinds_that_it_can_do(put):
    put("test.indexed")
    other = put("test.other")
    assert claim("test.other").pk == other.pk
    assert claim("test.other") is None


@pytest.mark.django_db(transaction=True)
def test_processes_that_claim_at_once_take_each_job_once(put):
    for n in range(24):
        put(lane=f"lane {n % 4}")
    taken: list[tuple[str, int]] = []

    def work(_: int) -> None:
        try:
            while Job.objects.filter(state__in=("queued", "running")).exists():
                if (job := claim()) is not None:
                    taken.append((job.lane, job.pk))
                    finish(job)
        finally:
            connection.close()

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(work, range(3)))
    assert Counter(pk for _, pk in taken).most_common(1)[0][1] == 1
    assert states() == [State.SUCCEEDED] * 24
    for n in range(4):
        of_lane = [pk for lane, pk in taken if lane == f"lane {n}"]
        assert of_lane == sorted(of_lane)


# --- Lanes ---------------------------------------------------------------------------------------
def test_jobs_of_a_lane_wait_for_the_one_before(put):
    first, second, other = put(lane="a"), put(lane="a"), put(lane="b")
    assert [claim().pk, claim().pk] == [first.pk, other.pk]
    assert claim() is None
    finish(first_running := Job.objects.get(pk=first.pk))
    assert first_running.lane == "a"
    assert claim().pk == second.pk


def test_a_job_that_is_tried_again_holds_its_lane_and_one_that_gave_up_does_not(put, make_kind):
    kind = make_kind(backoff=(60.0,))
    put(lane="a")
    second = put(lane="a")
    queue.fail(claim(), kind, reason="Away.", code="x", retry_after=0, final=False)
    assert claim() is None
    queue.run_now(Job.objects.exclude(pk=second.pk).get())
    queue.fail(claim(), kind, reason="Away.", code="x", retry_after=0, final=False)
    assert states() == [State.FAILED, State.QUEUED]
    assert claim().pk == second.pk


@pytest.mark.parametrize("is_running", [False, True])
def test_a_cancelled_job_lets_its_lane_go_on(put, is_running):
    first, second = put(lane="a"), put(lane="a")
    if is_running:
        job = claim()
        assert queue.cancel(first)
        assert states() == [State.RUNNING, State.QUEUED]
        job.refresh_from_db()
        queue.finish_cancelled(job)
    else:
        assert queue.cancel(first)
    assert states() == [State.CANCELLED, State.QUEUED]
    assert claim().pk == second.pk


def test_a_retried_job_waits_for_what_is_open_in_its_lane(put, make_kind):
    kind = make_kind(backoff=())
    first, second = put(lane="a"), put(lane="a")
    queue.fail(claim(), kind, reason="", code="", retry_after=0, final=True)
    running = claim()
    assert running.pk == second.pk
    assert queue.retry(first)
    assert claim() is None
    finish(running)
    assert claim().pk == first.pk


def test_a_lane_whose_head_was_left_blocked_is_mended(put):
    job = put(lane="a")
    Job.objects.update(blocked=True)
    assert claim() is None
    assert queue.mend_lane("a")
    assert claim().pk == job.pk
    assert not queue.mend_lane("a")


def test_a_lane_without_jobs_is_forgotten(put):
    put(lane="a")
    finish(claim())
    assert not queue.mend_lane("a")
    assert not Lane.objects.exists()
    assert put(lane="a").blocked is False


# --- Leases --------------------------------------------------------------------------------------
def run_out(job: Job) -> None:
    Job.objects.filter(pk=job.pk).update(leased_until=timezone.now() - timedelta(seconds=1))


def test_what_a_silent_process_held_comes_again_and_the_silent_one_may_end_nothing(put):
    put(lane="a"), put(lane="a")
    silent = claim()
    assert claims.release_lost() == 0
    run_out(silent)
    assert claims.release_lost() == 1
    again = claim()
    assert (again.pk, again.attempts) == (silent.pk, 2)
    for end in (finish, queue.finish_cancelled, queue.requeue):
        with pytest.raises(queue.JobLostError):
            end(silent)
    finish(again)
    assert states() == [State.SUCCEEDED, State.QUEUED]


def test_a_dead_process_of_this_machine_is_not_waited_for(put):
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    place, _, _ = HOLDER.split(":")
    for pid in (dead.pid, os.getpid()):  # the second: a restarted container's earlier process
        put()
        Job.objects.filter(pk=claim().pk).update(holder=f"{place}:{pid}:0000")
    if not place:
        pytest.skip("this system does not tell its machine")
    put()
    claim()
    assert claims.release_lost() == 2
    assert states() == [State.QUEUED, State.QUEUED, State.RUNNING]


def test_a_job_that_its_processes_die_of_is_given_up(put, make_kind):
    make_kind(most_losses=2)
    put()
    for _ in range(3):
        run_out(claim())
        claims.release_lost()
    job = Job.objects.get()
    assert (job.state, job.code) == (State.FAILED, "process_died")
    assert "3 times" in job.reason


def test_a_job_that_is_to_be_cancelled_does_not_come_again_after_a_death(put):
    put()
    job = claim()
    queue.cancel(job)
    run_out(job)
    claims.release_lost()
    assert states() == [State.CANCELLED]


# --- By people -----------------------------------------------------------------------------------
def test_what_has_ended_can_be_retried_once_and_not_cancelled(put, make_kind):
    kind = make_kind(backoff=())
    job = put(dedup_key="a")
    queue.fail(claim(), kind, reason="Away.", code="x", retry_after=0, final=True)
    assert not queue.cancel(job)
    other = put(dedup_key="a")
    with pytest.raises(ConflictError):
        queue.retry(job)
    queue.cancel(other)
    assert queue.retry(job)
    assert not queue.retry(job)
    job.refresh_from_db()
    assert (job.state, job.failures, job.reason) == (State.QUEUED, 0, "")


# --- When a provider is away ---------------------------------------------------------------------
def test_a_parked_kind_waits_as_a_whole_and_longer_each_time(put):
    put()
    other = put("test.other")
    claims.park("test.work", reason="Away.", retry_after=0)
    assert claim().pk == other.pk
    assert claim() is None
    claims.park("test.work", reason="Away.", retry_after=0)
    assert Parked.objects.get().times == 1  # found out together
    Parked.objects.update(until=timezone.now() - timedelta(seconds=1))
    claims.park("test.work", reason="Away.", retry_after=0)
    row = Parked.objects.get()
    assert row.times == 2
    assert row.until > timezone.now() + timedelta(seconds=claims.PARK_SECONDS[1] - 5)
    claims.unpark("test.work")
    assert claim() is not None


# --- Looking -------------------------------------------------------------------------------------
def test_a_look_is_one_statement_that_writes_nothing(put, django_assert_num_queries):
    with django_assert_num_queries(1) as asked:
        assert claims.look_for_work() == claims.WorkFound(ready=False, running=False, due=False)
    assert asked.captured_queries[0]["sql"].startswith("SELECT")
    put(delay=3600)
    assert not claims.look_for_work().ready
    put(lane="a"), put(lane="a")
    assert claims.look_for_work().ready
    claim()
    assert claims.look_for_work() == claims.WorkFound(ready=False, running=True, due=False)


@pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL plans by its statistics")
def test_a_look_reads_no_job_that_has_ended(db):
    with connection.cursor() as cursor:
        now = claims._NOW[connection.vendor]
        cursor.execute(f"EXPLAIN QUERY PLAN {claims._LOOK.format(now=now)}")
        plan = [row[-1] for row in cursor.fetchall()]
    assert not [step for step in plan if step.startswith("SCAN jobs")], plan
