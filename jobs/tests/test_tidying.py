"""Tidying: what is over goes, what is open or young stays."""

from datetime import timedelta

import pytest
from django.utils import timezone

from jobs import queue, schedules
from jobs.models import Event, Job, Lane, Schedule
from jobs.tests.conftest import claim, run_next
from jobs.tidying import TIDYING

State = Job.State
pytestmark = pytest.mark.django_db


@pytest.fixture
def tidy(_no_other_kinds, make_kind):
    """Does the tidying's next slot."""
    _no_other_kinds[TIDYING.name] = TIDYING
    schedules.ensure()

    def run(**changes) -> Job:
        Schedule.objects.update(next_run_at=timezone.now() - timedelta(seconds=1))
        schedules.fire_due()
        Job.objects.filter(kind=TIDYING.name, state=State.QUEUED).update(**changes)
        job = run_next()
        assert job.state == State.SUCCEEDED, job.reason
        return job

    return run


def ended(put, state: str, days: float, **rest) -> int:
    job = put(**rest)
    at = timezone.now() - timedelta(days=days)
    Job.objects.filter(pk=job.pk).update(state=state, finished_at=at, blocked=False)
    return job.pk


def test_ended_jobs_go_by_their_age(put, tidy, make_kind):
    make_kind()
    schedule = Schedule.objects.get()
    stay = {
        ended(put, State.SUCCEEDED, 6.5),
        ended(put, State.FAILED, 29.5),
        ended(put, State.CANCELLED, 29.5),
        ended(put, State.FAILED, 1.5, schedule=schedule),
        put(delay=3600).pk,
    }
    ended(put, State.SUCCEEDED, 7.5)
    # Of a schedule the last run stays, which is the tidying itself here.
    ended(put, State.SUCCEEDED, 0.1, schedule=schedule)
    ended(put, State.FAILED, 30.5)
    ended(put, State.CANCELLED, 30.5)
    job = tidy()
    assert job.result == "4 old jobs and events removed"
    assert set(Job.objects.exclude(pk=job.pk).values_list("pk", flat=True)) == stay


def test_events_go_when_they_are_old_and_everybody_has_them(put, project, tidy):
    heard, awaited, young = (Event.objects.create(project=project, kind=kind) for kind in "abc")
    put(event=awaited, delay=3600)
    old = timezone.now() - timedelta(days=31)
    Event.objects.exclude(pk=young.pk).update(created_at=old)
    tidy()
    assert set(Event.objects.values_list("pk", flat=True)) == {awaited.pk, young.pk}
    assert heard.pk not in {awaited.pk, young.pk}


def test_lanes_are_mended_and_those_without_jobs_forgotten(put, tidy):
    put("test.work", lane="empty")
    queue.finish_cancelled(claim("test.work"))
    stuck = put("test.work", lane="stuck")
    put("test.work", lane="well"), put("test.work", lane="well")
    Job.objects.filter(pk=stuck.pk).update(blocked=True)
    # Urgent, so that it comes before those.
    job = tidy(priority=-1)
    assert job.result.endswith("1 stuck job freed")
    assert set(Lane.objects.values_list("key", flat=True)) == {"stuck", "well"}
    assert {claim("test.work").lane for _ in range(2)} == {"stuck", "well"}
    assert claim("test.work") is None
