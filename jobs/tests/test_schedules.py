"""Schedules: each slot once, a missed one once, in the time zone that was meant."""

from datetime import UTC, datetime, timedelta

import pytest
from django.db.models.functions import Now
from django.utils import timezone

from jobs import claims, schedules
from jobs.models import Job, Schedule
from jobs.tests.conftest import run_next
from jobs.timetable import Timetable

State = Job.State


def at(written: str) -> datetime:
    return datetime.fromisoformat(written).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("expr", "tz", "slot", "now", "following"),
    [
        ("every hour", "UTC", "2026-03-01 10:00", "2026-03-01 10:00", "2026-03-01 11:00"),
        ("every hour", "UTC", "2026-03-01 10:00", "2026-03-01 14:30", "2026-03-01 15:00"),
        ("every 10 minutes", "UTC", "2026-03-01 10:03", "2026-03-01 10:04", "2026-03-01 10:13"),
        ("every 2 hours", "UTC", "2026-03-01 23:00", "2026-03-02 01:00", "2026-03-02 03:00"),
        ("daily at 03:00", "UTC", "2026-03-01 03:00", "2026-03-01 03:00", "2026-03-02 03:00"),
        ("daily at 03:00", "UTC", "2026-03-01 03:00", "2026-03-09 02:00", "2026-03-09 03:00"),
        (
            "daily at 03:00",
            "Asia/Tokyo",
            "2026-03-01 18:00",
            "2026-03-02 00:00",
            "2026-03-02 18:00",
        ),
        # The clocks of Berlin skip 02:30 on this day, and have it twice on that one.
        (
            "daily at 02:30",
            "Europe/Berlin",
            "2026-03-28 01:30",
            "2026-03-28 12:00",
            "2026-03-29 01:30",
        ),
        (
            "daily at 02:30",
            "Europe/Berlin",
            "2026-10-24 00:30",
            "2026-10-24 12:00",
            "2026-10-25 00:30",
        ),
        (
            "daily at 02:30",
            "Europe/Berlin",
            "2026-10-25 00:30",
            "2026-10-25 00:40",
            "2026-10-26 01:30",
        ),
    ],
)
def test_when_the_next_slot_is(expr, tz, slot, now, following):
    assert Timetable(expr, tz).after(at(slot), at(now)) == at(following)


@pytest.mark.parametrize(
    "expr",
    ["", "hourly", "every", "every 0 minutes", "daily at 24:00", "daily at 3:00", "* * * * *"],
)
def test_what_is_no_timetable_is_refused(expr):
    with pytest.raises(ValueError, match="timetable"):
        Timetable(expr)


@pytest.fixture
def hourly(db, make_kind):
    make_kind(name="test.hourly", schedule="every hour")
    schedules.ensure()
    return Schedule.objects.get()


def make_due(hours: float = 0.0) -> None:
    Schedule.objects.update(next_run_at=timezone.now() - timedelta(hours=hours, seconds=1))


def test_a_new_schedule_waits_for_its_first_slot(hourly):
    assert schedules.fire_due() == 0
    assert not claims.look_for_work().due
    assert hourly.next_run_at > timezone.now()


def test_a_slot_makes_one_job_however_many_processes_look(hourly):
    make_due()
    assert claims.look_for_work().due
    [seen] = Schedule.objects.annotate(now=Now())
    assert schedules.fire_due() == 1
    assert schedules._fire(seen, seen.now) is False
    assert schedules.fire_due() == 0
    job = Job.objects.get()
    assert (job.kind, job.project_id, job.schedule_id) == ("test.hourly", None, hourly.pk)


def test_missed_slots_are_made_up_for_once(hourly):
    make_due(hours=50.5)
    assert schedules.fire_due() == 1
    hourly.refresh_from_db()
    now = timezone.now()
    assert now < hourly.next_run_at <= now + timedelta(hours=1)
    assert run_next().state == State.SUCCEEDED


def test_a_slot_that_comes_while_the_last_job_is_open_makes_no_second_one(hourly):
    for _ in range(2):
        make_due()
        assert schedules.fire_due() == 1
    assert Job.objects.count() == 1
    run_next()
    make_due()
    schedules.fire_due()
    assert Job.objects.count() == 2


def test_another_timetable_is_taken_up_and_an_unchanged_one_keeps_its_slot(hourly, make_kind):
    before = hourly.next_run_at
    schedules.ensure()
    hourly.refresh_from_db()
    assert hourly.next_run_at == before
    make_kind(name="test.hourly", schedule="every 5 minutes")
    schedules.ensure()
    hourly.refresh_from_db()
    assert hourly.expr == "every 5 minutes"
    assert hourly.next_run_at < before


def test_a_kind_that_this_version_does_not_know_is_left_alone(hourly, _no_other_kinds):
    make_due()
    _no_other_kinds.clear()
    assert schedules.fire_due() == 0
