"""The door: jobs as people see them, and what people may do with them.

Jobs of a project are for its administrators, those of the instance for its owner. For everybody
else they do not exist.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.db.models import Count, Q, QuerySet
from django.utils import timezone

from core.errors import ConflictError, NotFoundError
from core.principal import Principal, Scope
from jobs import kinds, queue, rows, schedules
from jobs.models import Job, Parked, Schedule
from jobs.queue import enqueue as enqueue
from jobs.rows import Group, Row

State = Job.State
# The name of the queue's own jobs among the sources.
QUEUE: Final = "queue"
# Of another room's long work, at the same time.
MOST_RUNNING: Final = 100
# In one request.
MOST_RETRIED: Final = 1000
_STATES: Final[Mapping[Group, tuple[State, ...]]] = {
    Group.RUNNING: (State.RUNNING,),
    Group.WAITING: (State.QUEUED,),
    Group.FAILED: (State.FAILED,),
    Group.DONE: (State.SUCCEEDED, State.CANCELLED),
}
_GROUPS: Final = {state: group for group, states in _STATES.items() for state in states}


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A schedule with its last job, None before the first."""

    id: int
    title: str
    about: str
    expr: str
    next_run_at: datetime
    last: Row | None
    is_open: bool


def _may_see(principal: Principal) -> None:
    principal.require(Scope.ADMIN, "Only administrators can see jobs.")


def _visible(principal: Principal) -> QuerySet[Job]:
    _may_see(principal)
    seen = Q(project_id=principal.project.id)
    if _sees_instance(principal):
        seen |= Q(project=None)
    return Job.objects.filter(seen)


def _scopes(principal: Principal) -> list[QuerySet[Job]]:
    of_project = Job.objects.filter(project_id=principal.project.id)
    instance = [Job.objects.filter(project=None)] if _sees_instance(principal) else []
    return [of_project, *instance]


def _sees_instance(principal: Principal) -> bool:
    return principal.is_owner and principal.entity_limit is None


# --- Reading -------------------------------------------------------------------------------------
def counts(principal: Principal) -> dict[Group, int]:
    """How many rows there are of each group, those of other rooms included."""
    found: Counter[Group] = Counter(dict.fromkeys(Group, 0))
    states = _visible(principal).order_by().values_list("state").annotate(Count("id"))
    for state, count in states:
        found[_GROUPS[State(state)]] += count
    for source in rows.sources().values():
        found.update(source.counts(principal))
    return dict(found)


def listed(principal: Principal, group: Group, *, start: int, limit: int) -> list[Row]:
    """Rows `start` to `start + limit` of a group, the newest first."""
    _may_see(principal)
    upto = start + limit
    jobs: list[Job] = []
    # One by one, for each of these can be read in order from an index.
    for jobs_of in _scopes(principal):
        for state in _STATES[group]:
            of_state = jobs_of.filter(state=state).select_related("account")
            jobs += of_state.order_by("-finished_at", "-id")[:upto]
    found = _told(jobs)
    for source in rows.sources().values():
        found += source.rows(principal, group, upto)
    now = timezone.now()
    found.sort(key=lambda row: row.ended_at or row.at or now, reverse=True)
    return found[start:upto]


def scheduled(principal: Principal) -> list[Scheduled]:
    """All schedules with what they last did; the instance owner's, none for others."""
    _may_see(principal)
    if not _sees_instance(principal):
        return []
    found = []
    for row in Schedule.objects.filter(kind__in=kinds.known()).order_by("next_run_at"):
        kind = kinds.known()[row.kind]
        last = row.jobs.select_related("account").order_by("-id").first()
        told = _told([last])[0] if last else None
        is_open = last is not None and last.is_open
        about = kind.about({})
        found.append(Scheduled(row.pk, kind.title, about, row.expr, row.next_run_at, told, is_open))
    return found


def _told(jobs: list[Job]) -> list[Row]:
    """Jobs in the words of the page."""
    parked: dict[str, Parked] = {}
    if any(job.state == State.QUEUED for job in jobs):
        parked = {row.kind: row for row in Parked.objects.filter(until__gt=timezone.now())}
    return [_row(job, parked.get(job.kind)) for job in jobs]


def _row(job: Job, parked: Parked | None) -> Row:
    kind = kinds.known().get(job.kind)
    state = State(job.state)
    return Row(
        source=QUEUE,
        id=str(job.pk),
        title=kind.title if kind else job.kind,
        about=kind.about(job.payload) if kind else "This version does not know such jobs.",
        group=_GROUPS[state],
        at=job.started_at or job.created_at,
        ended_at=job.finished_at,
        state=_state_words(job, parked),
        note=_note(job, kind, parked),
        done=job.done,
        total=job.total if state == State.RUNNING else None,
        started_by=_who(job),
        can_cancel=job.is_open and not job.cancel_wanted,
        can_retry=kind is not None and state in {State.FAILED, State.CANCELLED},
        can_hurry=state == State.QUEUED and job.run_at > timezone.now() and not job.blocked,
    )


def _state_words(job: Job, parked: Parked | None) -> str:
    if job.state == State.CANCELLED:
        return "Cancelled"
    if job.state == State.RUNNING and job.cancel_wanted:
        return "Cancelling"
    if job.state == State.QUEUED and not job.blocked:
        until = max(job.run_at, parked.until) if parked else job.run_at
        if until > timezone.now():
            day = "" if until.date() == timezone.now().date() else f"{until:%d %b} "
            return f"Waiting until {day}{until:%H:%M} UTC"
    return ""


def _note(job: Job, kind: kinds.Kind | None, parked: Parked | None) -> str:
    if job.state == State.RUNNING:
        return _progress(job)
    if job.state != State.QUEUED:
        return job.result or job.reason
    if job.blocked:
        return "Behind an earlier job for the same thing"
    if job.failures and kind is not None:
        return f"Attempt {job.failures + 1} of {len(kind.backoff) + 1}. {job.reason}"
    return (parked.reason if parked else "") or job.reason


def _progress(job: Job) -> str:
    if job.total:
        return f"{job.done:,} of {job.total:,}"
    return f"{job.done:,} so far" if job.done else ""


def _who(job: Job) -> str:
    if job.account is not None:
        return job.account.name or job.account.email
    if prefix := job.actor.get("key_prefix"):
        return f"key {prefix}…"
    return "Schedule" if job.schedule_id else ""


# --- Acting --------------------------------------------------------------------------------------
def _found(principal: Principal, job_id: str) -> Job:
    if job_id.isascii() and job_id.isdigit() and len(job_id) < 19:
        job = _visible(principal).filter(pk=int(job_id)).first()
        if job is not None:
            return job
    _may_see(principal)
    raise NotFoundError("No such job.")


def cancel(principal: Principal, source: str, row_id: str) -> None:
    """Ends a job that waits at once, and one that runs at its next step; what it has done stays.
    NotFoundError; ConflictError when it has ended."""
    _may_see(principal)
    if source in rows.sources():
        rows.sources()[source].cancel(principal, row_id)
    elif source != QUEUE:
        raise NotFoundError("No such job.")
    elif not queue.cancel(_found(principal, row_id)):
        raise ConflictError("The job has ended already.")


def retry(principal: Principal, job_id: str) -> None:
    """Queues a job again that failed or was cancelled. NotFoundError; ConflictError when it is
    neither, or when an open job does the same."""
    if not queue.retry(_found(principal, job_id)):
        raise ConflictError("Only a job that failed or was cancelled can be retried.")


def retry_failed(principal: Principal) -> int:
    """Queues failed jobs again, up to MOST_RETRIED at a time, the oldest first; how many. Those
    that an open job does already stay."""
    count = 0
    jobs = _visible(principal).filter(state=State.FAILED, kind__in=kinds.known())
    for job in jobs.order_by("id")[:MOST_RETRIED]:
        try:
            count += queue.retry(job)
        except ConflictError:
            continue
    return count


def hurry(principal: Principal, job_id: str) -> None:
    """Lets a job that waits for its time run now. NotFoundError; ConflictError."""
    if not queue.hurry(_found(principal, job_id)):
        raise ConflictError("The job does not wait for its time.")


def run_schedule(principal: Principal, schedule_id: int) -> None:
    """Runs what a schedule does now, beside its slots. The instance owner's; NotFoundError."""
    _may_see(principal)
    row = Schedule.objects.filter(pk=schedule_id, kind__in=kinds.known()).first()
    if row is None or not _sees_instance(principal):
        raise NotFoundError("No such schedule.")
    schedules.run(row, principal)


def one(principal: Principal, source: str, row_id: str) -> Row:
    """The row of what may be cancelled. NotFoundError."""
    _may_see(principal)
    if source == QUEUE:
        return _told([_found(principal, row_id)])[0]
    if source in rows.sources():
        for row in rows.sources()[source].rows(principal, Group.RUNNING, MOST_RUNNING):
            if row.id == row_id:
                return row
    raise NotFoundError("No such job.")


def failed(principal: Principal) -> int:
    """How many jobs `retry_failed` would queue again, about."""
    return _visible(principal).filter(state=State.FAILED, kind__in=kinds.known()).count()
