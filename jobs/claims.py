"""How processes claim jobs: due work, turns of projects, jobs of dead processes."""

import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from django.db import connection, transaction
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Coalesce, Now

from jobs import kinds, queue
from jobs.holders import HOLDER, is_dead
from jobs.models import Job, Parked
from jobs.queue import JobLostError

State = Job.State
# Seconds for which the list of waiting projects is kept.
TURNS_SECONDS: Final = 1.0
# Seconds that a kind waits while its provider is away; longer each time.
PARK_SECONDS: Final = (10.0, 30.0, 60.0, 120.0, 300.0)
_NOW: Final = {
    "sqlite": "STRFTIME('%Y-%m-%d %H:%M:%f', 'NOW')",
    "postgresql": "STATEMENT_TIMESTAMP()",
}
# One statement: every process runs it every second, mostly without finding work.
_LOOK: Final = """SELECT
 EXISTS(SELECT 1 FROM jobs_job WHERE state = 'queued' AND NOT blocked AND run_at <= {now}),
 EXISTS(SELECT 1 FROM jobs_job WHERE state = 'running'),
 EXISTS(SELECT 1 FROM jobs_schedule WHERE next_run_at <= {now})"""


@dataclass(frozen=True, slots=True)
class WorkFound:
    """Whether a job is ready, one is running, a schedule is due."""

    ready: bool
    running: bool
    due: bool


def look_for_work() -> WorkFound:
    """Whether there is work. Writes nothing."""
    with connection.cursor() as cursor:
        cursor.execute(_LOOK.format(now=_NOW[connection.vendor]))
        return WorkFound(*(bool(value) for value in cursor.fetchone()))


class ProjectRotation:
    """Round robin over projects, for one process: one project's import starves no other."""

    def __init__(self) -> None:
        # The project that has waited longest comes first.
        self._order: list[UUID | None] = []
        self._asked_at = float("-inf")

    def of(self, ready: QuerySet[Job]) -> Iterator[UUID | None]:
        """Projects with ready jobs of the most urgent priority; the next in turn comes first."""
        if time.monotonic() - self._asked_at < TURNS_SECONDS:
            yield from list(self._order)
        pairs = list(ready.order_by().values_list("priority", "project_id").distinct())
        urgent = min((priority for priority, _ in pairs), default=0)
        urgent_projects = {project for priority, project in pairs if priority == urgent}
        in_order = [project for project in self._order if project in urgent_projects]
        self._order = [*(urgent_projects - set(in_order)), *in_order]
        self._asked_at = time.monotonic()
        yield from list(self._order)

    def move_back(self, project_id: UUID | None) -> None:
        """Moves the project behind the others."""
        self._order.remove(project_id)
        self._order.append(project_id)


def claim(names: Collection[str], turns: ProjectRotation) -> Job | None:
    """Takes the next ready job of these kinds for this process."""
    parked = Parked.objects.filter(until__gt=Now()).values("kind")
    ready = Job.objects.filter(
        state=State.QUEUED, blocked=False, run_at__lte=Now(), kind__in=names
    ).exclude(kind__in=parked)
    for project_id in turns.of(ready):
        mine = ready.filter(project_id=project_id) if project_id else ready.filter(project=None)
        if (job := _take(mine.order_by("priority", "run_at", "id"))) is not None:
            turns.move_back(project_id)
            return job
    return None


def _take(ready: QuerySet[Job]) -> Job | None:
    with transaction.atomic():
        if connection.features.has_select_for_update_skip_locked:
            ready = ready.select_for_update(skip_locked=True)
        job = ready.first()
        if job is None:
            return None
        job.state, job.holder, job.attempts = State.RUNNING, HOLDER, job.attempts + 1
        Job.objects.filter(pk=job.pk).update(
            state=job.state,
            holder=job.holder,
            attempts=job.attempts,
            leased_until=queue.seconds_from_now(kinds.known_kinds()[job.kind].lease_seconds),
            started_at=Coalesce(F("started_at"), Now()),
            reason="",
            code="",
        )
    return job


def release_lost() -> int:
    """Frees the jobs of processes that are dead, or whose lease has run out; returns how many."""
    running = Job.objects.filter(state=State.RUNNING)
    holders = running.values_list("holder", flat=True).distinct()
    dead = [holder for holder in holders if is_dead(holder)]
    count = 0
    for job in running.filter(Q(leased_until__lte=Now()) | Q(holder__in=dead)):
        with suppress(JobLostError):
            queue.handle_loss(job, kinds.known_kinds().get(job.kind))
            count += 1
    return count


# --- When a provider is away ---------------------------------------------------------------------
def park(kind: str, *, reason: str, retry_after: float) -> None:
    """Makes all jobs of the kind wait: longer each time in a row, at least `retry_after`
    seconds."""
    row = Parked.objects.filter(kind=kind).first()
    if row is None:
        until = queue.seconds_from_now(max(PARK_SECONDS[0], retry_after))
        first = Parked(kind=kind, until=until, reason=reason)
        Parked.objects.bulk_create([first], ignore_conflicts=True)
        return
    wait = max(PARK_SECONDS[min(row.times, len(PARK_SECONDS) - 1)], retry_after)
    # Several jobs may meet the same outage at once. Only the first one counts.
    Parked.objects.filter(kind=kind, times=row.times, until__lte=Now()).update(
        until=queue.seconds_from_now(wait), times=row.times + 1, reason=reason
    )


def unpark(kind: str) -> None:
    """Lets jobs of the kind run again at once; the next outage starts with a short wait."""
    Parked.objects.filter(kind=kind).delete()
