"""Running jobs: effects once, retries, cancelling, stopping, and who takes what."""

import sqlite3
import threading

import pytest
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext

from accounts.models import Project
from core import disk
from core.errors import DiskFullError, IndexUnavailableError, InvalidInputError
from jobs import queue, runner
from jobs.kinds import OutageError
from jobs.models import Job, Parked
from jobs.queue import JobLostError
from jobs.running import JobCancelledError, JobRun
from jobs.tests.conftest import claim, run_next

State = Job.State
pytestmark = pytest.mark.django_db
SECONDS = 20


def note(text: str) -> None:
    """An effect in SQL that tests can count."""
    Project.objects.create(slug=text, name=text)


def noted() -> set[str]:
    return set(Project.objects.exclude(slug="default").values_list("slug", flat=True))


def of_kind(name: str, stop: threading.Event | None = None) -> JobRun:
    from jobs import kinds

    job = claim(name)
    return JobRun(job, kinds.known_kinds()[name], stop or threading.Event())


# --- Effects -------------------------------------------------------------------------------------
def test_a_handler_ends_the_job_together_with_its_effect(put, make_kind):
    def work(run: JobRun) -> None:
        with run.finishing("1 thing done"):
            note("done")

    make_kind(work)
    put()
    job = run_next()
    assert (job.state, job.result, noted()) == (State.SUCCEEDED, "1 thing done", {"done"})
    assert job.finished_at is not None


def test_an_effect_that_fails_leaves_the_job_open(put, make_kind):
    def work(run: JobRun) -> None:
        with run.finishing():
            note("done")
            raise InvalidInputError("No.")

    make_kind(work)
    put()
    assert run_next().state == State.FAILED
    assert noted() == set()


def test_the_next_attempt_goes_on_where_the_last_step_was(put, make_kind):
    fails_at = [2]

    def work(run: JobRun) -> None:
        for n in range(run.kept.get("next", 0), 3):
            if n in fails_at:
                raise IndexUnavailableError("Away.")
            with run.step(n + 1, 3, next=n + 1):
                note(f"step-{n}")

    make_kind(work, backoff=(0.0,))
    put()
    job = run_next()
    assert (job.state, job.done, job.total, job.reason) == (State.QUEUED, 2, 3, "Away.")
    fails_at.clear()
    assert run_next().state == State.SUCCEEDED
    assert noted() == {"step-0", "step-1", "step-2"}


def test_who_has_lost_the_job_has_no_effect_any_more(put):
    put()
    run = of_kind("test.work")
    Job.objects.update(attempts=2)
    with pytest.raises(JobLostError), run.step():
        note("step")
    with pytest.raises(JobLostError), run.finishing():
        note("end")
    assert noted() == set()


# --- Failing -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (IndexUnavailableError("The index is away."), "vector_store_unavailable", "The index is"),
        (OperationalError("locked"), "datastore_unavailable", "The database did not"),
        (RuntimeError("secret words"), "internal_error", "An unexpected error"),
    ],
)
def test_a_failing_job_comes_again_as_its_table_says_and_then_gives_up(
    put, make_kind, error, code, reason
):
    def work(run: JobRun) -> None:
        raise error

    make_kind(work, backoff=(0.0, 3600.0))
    put()
    assert run_next().state == State.QUEUED
    job = run_next()
    assert (job.state, job.failures, job.code) == (State.QUEUED, 2, code)
    assert job.reason.startswith(reason)
    assert claim() is None
    queue.run_now(job)
    assert run_next().state == State.FAILED


def test_what_the_provider_wishes_counts_more_than_the_table(put, make_kind):
    def work(run: JobRun) -> None:
        raise IndexUnavailableError("Later.", retry_after=900)

    make_kind(work, backoff=(0.0,))
    put()
    run_next()
    assert claim() is None


def test_what_will_not_help_is_not_tried_again(put, make_kind):
    def work(run: JobRun) -> None:
        raise InvalidInputError("The file is empty.")

    make_kind(work)
    put()
    job = run_next()
    assert (job.state, job.reason) == (State.FAILED, "The file is empty.")


def test_an_outage_parks_the_kind_and_uses_up_no_attempt(put, make_kind):
    is_away = [True]

    def work(run: JobRun) -> None:
        if is_away[0]:
            raise OutageError("The provider is away.", retry_after=1)

    make_kind(work, backoff=())
    first, _ = put(), put()
    job = run_next()
    assert (job.pk, job.state, job.failures) == (first.pk, State.QUEUED, 0)
    assert job.reason == "The provider is away."
    assert claim() is None
    is_away[0] = False
    Parked.objects.update(until="2020-01-01T00:00:00Z")
    assert run_next().state == run_next().state == State.SUCCEEDED
    assert not Parked.objects.exists()


# --- A full disk ---------------------------------------------------------------------------------
def refused_as_full() -> OperationalError:
    """As SQLite's, where the disk has no block left."""
    raw = sqlite3.OperationalError("database or disk is full")
    raw.sqlite_errorcode = sqlite3.SQLITE_FULL
    error = OperationalError(str(raw))
    error.__cause__ = raw
    return error


@pytest.mark.parametrize("told", [DiskFullError("No room.", retry_after=30), refused_as_full()])
def test_a_job_that_finds_the_disk_full_comes_again_and_has_not_failed(put, make_kind, told):
    is_full = [True]

    def work(run: JobRun) -> None:
        if is_full[0]:
            raise told

    make_kind(work, backoff=())
    put()
    job = run_next()
    assert (job.state, job.failures, job.code) == (State.QUEUED, 0, "disk_full")
    assert job.reason and claim() is None
    is_full[0] = False
    queue.run_now(job)
    assert run_next().state == State.SUCCEEDED


def test_while_the_disk_is_full_no_job_begins_and_none_goes_on(put, make_kind, monkeypatch):
    is_low = [True]
    monkeypatch.setattr(disk, "is_low", lambda: is_low[0])

    def work(run: JobRun) -> None:
        with run.step(1, 2):
            note("first")
        is_low[0] = True
        with run.step(2, 2):
            note("second")

    make_kind(work, backoff=())
    put()
    process = runner.Runner()
    with CaptureQueriesContext(connection) as asked:
        process._round()
        process._round()
        assert process._claim() is None
    assert not asked.captured_queries
    is_low[0] = False
    job = run_next()
    assert (job.state, job.failures, job.done, noted()) == (State.QUEUED, 0, 1, {"first"})


# --- Ending early --------------------------------------------------------------------------------
def test_a_running_job_hears_that_it_is_cancelled(put, make_kind):
    def work(run: JobRun) -> None:
        with run.step():
            note("before")
        queue.cancel(run.job)
        with run.step():
            note("after")

    make_kind(work)
    put()
    assert run_next().state == State.CANCELLED
    assert noted() == {"before"}


def test_a_cancelled_job_that_fails_is_not_tried_again(put, make_kind):
    def work(run: JobRun) -> None:
        queue.cancel(run.job)
        raise IndexUnavailableError("Away.")

    make_kind(work, backoff=(0.0,))
    put()
    assert run_next().state == State.CANCELLED


def test_beating_keeps_the_job_and_shows_how_far_it_is(put, make_kind):
    make_kind(lease_seconds=0.0)
    put()
    run = of_kind("test.work")
    run.beat(5, 9)
    job = Job.objects.get()
    assert (job.done, job.total) == (5, 9)
    queue.cancel(job)
    with pytest.raises(JobCancelledError):
        run.beat()


def test_a_process_that_ends_gives_its_jobs_back(put, make_kind):
    make_kind(lambda run: run.beat(), backoff=())
    put()
    stop = threading.Event()
    stop.set()
    job = run_next(stop=stop)
    assert (job.state, job.failures, job.holder) == (State.QUEUED, 0, "")
    assert run_next().state == State.SUCCEEDED


# --- The threads ---------------------------------------------------------------------------------
class Works:
    """A runner that is stopped whatever happens."""

    def __init__(self, **options) -> None:
        self.runner = runner.Runner(**options)

    def __enter__(self) -> runner.Runner:
        self.runner.start()
        return self.runner

    def __exit__(self, *_: object) -> None:
        self.runner.stop()


@pytest.mark.django_db(transaction=True)
def test_a_runner_does_what_comes_and_stops(put, make_kind):
    done = threading.Semaphore(0)

    def work(run: JobRun) -> None:
        with run.finishing():
            note(f"job-{run.job.pk}")
        done.release()

    make_kind(work)
    with Works():
        for n in range(12):
            put(lane=f"lane {n % 3}")
        for _ in range(12):
            assert done.acquire(timeout=SECONDS)
    assert len(noted()) == 12
    assert Job.objects.filter(state=State.SUCCEEDED).count() == 12


@pytest.mark.django_db(transaction=True)
def test_heavy_jobs_run_one_at_a_time_and_light_ones_beside_them(put, make_kind):
    beside, ended = [], threading.Semaphore(0)
    light_ran = threading.Event()

    def heavy(run: JobRun) -> None:
        assert light_ran.wait(SECONDS)
        ended.release()

    def light(run: JobRun) -> None:
        # It was put last, so whatever may run beside it has begun.
        beside.append(Job.objects.filter(kind="test.heavy", state=State.RUNNING).count())
        light_ran.set()

    make_kind(heavy, name="test.heavy", is_heavy=True)
    make_kind(light, name="test.light")
    put("test.heavy"), put("test.heavy"), put("test.light")
    with Works():
        for _ in range(2):
            assert ended.acquire(timeout=SECONDS)
    assert beside == [1]


@pytest.mark.django_db(transaction=True)
def test_what_needs_the_index_is_left_to_who_has_it(put, make_kind):
    done = threading.Event()
    make_kind(name="test.indexed", needs_index=True)
    make_kind(lambda run: done.set(), name="test.plain")
    indexed = put("test.indexed")
    put("test.plain")
    with Works(has_index=False):
        assert done.wait(SECONDS)
    indexed.refresh_from_db()
    assert indexed.state == State.QUEUED


@pytest.mark.django_db(transaction=True)
def test_who_is_not_on_duty_takes_nothing(put, make_kind):
    asked = threading.Semaphore(0)

    def is_on_duty() -> bool:
        asked.release()
        return False

    put()
    with Works(on_duty=is_on_duty):
        assert asked.acquire(timeout=SECONDS)
        queue.woken.set()
        assert asked.acquire(timeout=SECONDS)
    assert Job.objects.get().state == State.QUEUED


@pytest.mark.django_db(transaction=True)
def test_a_job_that_is_at_work_when_its_process_ends_waits_for_the_next(put, make_kind):
    begun = threading.Event()

    def work(run: JobRun) -> None:
        begun.set()
        while True:
            run.beat()
            run.stop.wait(0.05)

    make_kind(work)
    put()
    with Works():
        assert begun.wait(SECONDS)
    assert Job.objects.get().state == State.QUEUED
