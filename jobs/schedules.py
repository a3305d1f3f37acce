"""Schedules: each slot makes one job, however many processes look.

Slots that were missed while no process ran are made up for by one job.
"""

from datetime import datetime

from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone

from core.principal import Principal
from jobs import kinds, queue
from jobs.models import Job, Schedule
from jobs.timetable import Timetable


def ensure() -> None:
    """Makes the rows of the kinds with a schedule, and updates a changed timetable."""
    timetables = {
        kind.name: kind.schedule for kind in kinds.known_kinds().values() if kind.schedule
    }
    existing = dict(Schedule.objects.values_list("kind", "expr"))
    now = timezone.now()
    for name, expr in timetables.items():
        if existing.get(name) == expr:
            continue
        next_run_at = Timetable(expr).after(now, now)
        if name in existing:
            Schedule.objects.filter(kind=name).update(expr=expr, next_run_at=next_run_at)
        else:
            row = Schedule(kind=name, expr=expr, next_run_at=next_run_at)
            Schedule.objects.bulk_create([row], ignore_conflicts=True)


def fire_due() -> int:
    """Makes the jobs of the slots that are due; returns how many."""
    due = Schedule.objects.filter(next_run_at__lte=Now(), kind__in=kinds.known_kinds())
    return sum(_fire(row, row.now) for row in due.annotate(now=Now()))


def _fire(row: Schedule, now: datetime) -> bool:
    following = Timetable(row.expr, row.tz).after(row.next_run_at, now)
    with transaction.atomic():
        # Of the processes that look now, one updates the row.
        this_slot = Schedule.objects.filter(pk=row.pk, next_run_at=row.next_run_at)
        if not this_slot.update(next_run_at=following):
            return False
        run(row)
    return True


def run(row: Schedule, principal: Principal | None = None) -> Job:
    """Makes the schedule's job, unless one is open; returns the open one."""
    return queue.enqueue(
        row.kind,
        project_id=None,
        principal=principal,
        dedup_key=f"schedule:{row.kind}",
        schedule=row,
    )
