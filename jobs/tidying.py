"""Keeps the queue small: removes ended jobs, delivered events, and lanes without jobs."""

from datetime import timedelta
from typing import Final

from django.db.models import Max, Min, Q, QuerySet
from django.db.models.functions import Now

from core.database.portions import delete, passed
from jobs import queue
from jobs.kinds import Kind
from jobs.models import OPEN, Event, Job, Lane
from jobs.running import JobRun

State = Job.State
DONE_DAYS: Final = 7
FAILED_DAYS: Final = 30
EVENT_DAYS: Final = 30
_PORTION: Final = 1000


def tidy(run: JobRun) -> None:
    """The handler. It also mends lanes, as a safety net for their locks."""
    removed = sum(
        delete(rows.order_by("id"), _PORTION, lambda _: run.beat())
        for rows in (_ended_jobs(), _delivered_events())
    )
    mended = _mend_lanes(run)
    result = f"{removed:,} old jobs and events removed"
    freed = f", {mended:,} stuck {'job' if mended == 1 else 'jobs'} freed" if mended else ""
    with run.finishing(result + freed):
        pass


def _ended_jobs() -> QuerySet[Job]:
    def ended(days: int, *states: State) -> Q:
        return Q(state__in=states, finished_at__lt=Now() - timedelta(days=days))

    # Schedules run often, so only the last job of each is kept.
    of_schedules = Job.objects.filter(schedule__isnull=False).order_by()
    last = of_schedules.values("schedule").annotate(last=Max("id")).values("last")
    scheduled = Q(state=State.SUCCEEDED, schedule__isnull=False) & ~Q(id__in=last)
    succeeded = ended(DONE_DAYS, State.SUCCEEDED)
    return Job.objects.filter(
        scheduled | succeeded | ended(FAILED_DAYS, State.FAILED, State.CANCELLED)
    )


def _delivered_events() -> QuerySet[Event]:
    old = Event.objects.filter(created_at__lt=Now() - timedelta(days=EVENT_DAYS))
    undelivered = Job.objects.filter(state__in=OPEN, event__isnull=False)
    return old.exclude(pk__in=undelivered.values("event"))


def _mend_lanes(run: JobRun) -> int:
    mended = 0
    for keys in passed(Lane.objects.order_by("key").values_list("key", flat=True), _PORTION):
        heads = Job.objects.filter(lane__in=keys, state__in=OPEN).exclude(lane="")
        open_ = dict(heads.values_list("lane").annotate(head=Min("id")))
        well = set(Job.objects.filter(pk__in=open_.values(), blocked=False).values_list("lane"))
        for key in keys:
            if (key,) not in well:
                mended += queue.mend_lane(key)
        run.beat()
    return mended


TIDYING: Final = Kind(
    name="jobs.tidy",
    title="Remove old jobs",
    about=lambda _: f"Done: after {DONE_DAYS} days. Failed: after {FAILED_DAYS} days.",
    handler=tidy,
    schedule="every hour",
)
