"""The door: jobs as people see them, and what people may do with them.

Administrators see the jobs of their project, the instance owner those of the instance too. For
everybody else they do not exist.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.db import transaction
from django.db.models import Count, Q, QuerySet
from django.utils import timezone

from accounts import audit
from accounts.audit import AuditAction, AuditTarget
from core.errors import ConflictError, NotFoundError
from core.principal import Principal, Scope
from jobs import kinds, queue, rows, schedules
from jobs.models import Job, Parked, Schedule
from jobs.queue import enqueue as enqueue
from jobs.rows import JobGroup, JobRow

State = Job.State
# The name of the queue's own jobs among the sources.
QUEUE: Final = "queue"
# The most rows of another room's running work.
MOST_RUNNING: Final = 100
# The most jobs that one request queues again.
MOST_RETRIED: Final = 1000
_STATES: Final[Mapping[JobGroup, tuple[State, ...]]] = {
    JobGroup.RUNNING: (State.RUNNING,),
    JobGroup.WAITING: (State.QUEUED,),
    JobGroup.FAILED: (State.FAILED,),
    JobGroup.DONE: (State.SUCCEEDED, State.CANCELLED),
}
_GROUPS: Final = {state: group for group, states in _STATES.items() for state in states}


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """A schedule with its last job, None before the first."""

    id: int
    title: str
    about: str
    expr: str
    next_run_at: datetime
    last: JobRow | None
    is_open: bool


def _may_see(principal: Principal) -> None:
    principal.require(Scope.ADMIN, "Only administrators can see jobs.")


def _visible(principal: Principal) -> QuerySet[Job]:
    _may_see(principal)
    condition = Q(project_id=principal.project.id)
    if _sees_instance(principal):
        condition |= Q(project=None)
    return Job.objects.filter(condition)


def _scopes(principal: Principal) -> list[QuerySet[Job]]:
    of_project = Job.objects.filter(project_id=principal.project.id)
    instance = [Job.objects.filter(project=None)] if _sees_instance(principal) else []
    return [of_project, *instance]


def _sees_instance(principal: Principal) -> bool:
    return principal.is_owner and principal.entity_limit is None


# --- Reading -------------------------------------------------------------------------------------
def count_by_group(principal: Principal) -> dict[JobGroup, int]:
    """The number of rows in each group, other rooms included."""
    numbers: Counter[JobGroup] = Counter(dict.fromkeys(JobGroup, 0))
    states = _visible(principal).order_by().values_list("state").annotate(Count("id"))
    for state, count in states:
        numbers[_GROUPS[State(state)]] += count
    for source in rows.job_sources().values():
        numbers.update(source.counts(principal))
    return dict(numbers)


def list_jobs(principal: Principal, group: JobGroup, *, start: int, limit: int) -> list[JobRow]:
    """Rows `start` to `start + limit` of a group, the newest first."""
    _may_see(principal)
    upto = start + limit
    jobs: list[Job] = []
    # One query each, because an index has each of them in order.
    for jobs_of in _scopes(principal):
        for state in _STATES[group]:
            of_state = jobs_of.filter(state=state).select_related("account")
            jobs += of_state.order_by("-finished_at", "-id")[:upto]
    all_rows = _to_rows(jobs)
    for source in rows.job_sources().values():
        all_rows += source.rows(principal, group, upto)
    now = timezone.now()
    all_rows.sort(key=lambda row: row.ended_at or row.at or now, reverse=True)
    return all_rows[start:upto]


def list_schedules(principal: Principal) -> list[ScheduleRow]:
    """All schedules with their last job, for the instance owner; an empty list for others."""
    _may_see(principal)
    if not _sees_instance(principal):
        return []
    result = []
    for row in Schedule.objects.filter(kind__in=kinds.known_kinds()).order_by("next_run_at"):
        kind = kinds.known_kinds()[row.kind]
        last = row.jobs.select_related("account").order_by("-id").first()
        last_row = _to_rows([last])[0] if last else None
        is_open = last is not None and last.is_open
        about = kind.about({})
        result.append(
            ScheduleRow(row.pk, kind.title, about, row.expr, row.next_run_at, last_row, is_open)
        )
    return result


def _to_rows(jobs: list[Job]) -> list[JobRow]:
    """Jobs as rows of the page."""
    parked: dict[str, Parked] = {}
    if any(job.state == State.QUEUED for job in jobs):
        parked = {row.kind: row for row in Parked.objects.filter(until__gt=timezone.now())}
    return [_row(job, parked.get(job.kind)) for job in jobs]


def _row(job: Job, parked: Parked | None) -> JobRow:
    kind = kinds.known_kinds().get(job.kind)
    state = State(job.state)
    return JobRow(
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
def _get_job(principal: Principal, job_id: str) -> Job:
    if job_id.isascii() and job_id.isdigit() and len(job_id) < 19:
        job = _visible(principal).filter(pk=int(job_id)).first()
        if job is not None:
            return job
    _may_see(principal)
    raise NotFoundError("No such job.")


def cancel(principal: Principal, source: str, row_id: str) -> None:
    """Ends a waiting job at once, and a running one at its next step. Its work so far stays.

    Another room records its own audit entry. NotFoundError; ConflictError if the job has ended.
    """
    _may_see(principal)
    if source in rows.job_sources():
        rows.job_sources()[source].cancel(principal, row_id)
        return
    if source != QUEUE:
        raise NotFoundError("No such job.")
    job = _get_job(principal, row_id)
    with transaction.atomic():
        if not queue.cancel(job):
            raise ConflictError("The job has ended already.")
        _record(AuditAction.JOB_CANCELLED, principal, job)


def retry(principal: Principal, job_id: str) -> None:
    """Queues a failed or cancelled job again. NotFoundError; ConflictError if it is neither, or if
    an open job does the same."""
    if not _retry(principal, _get_job(principal, job_id)):
        raise ConflictError("Only a job that failed or was cancelled can be retried.")


def _retry(principal: Principal, job: Job) -> bool:
    with transaction.atomic():
        is_queued = queue.retry(job)
        if is_queued:
            _record(AuditAction.JOB_RETRIED, principal, job)
    return is_queued


def retry_failed(principal: Principal) -> int:
    """Queues failed jobs again, the oldest first, at most MOST_RETRIED; returns how many. A job
    stays failed if an open one does the same."""
    count = 0
    jobs = _visible(principal).filter(state=State.FAILED, kind__in=kinds.known_kinds())
    for job in jobs.order_by("id")[:MOST_RETRIED]:
        try:
            count += _retry(principal, job)
        except ConflictError:
            continue
    return count


def run_now(principal: Principal, job_id: str) -> None:
    """Makes a job due now that waits for its time. NotFoundError; ConflictError."""
    job = _get_job(principal, job_id)
    with transaction.atomic():
        if not queue.run_now(job):
            raise ConflictError("The job does not wait for its time.")
        _record(AuditAction.JOB_STARTED, principal, job)


def run_schedule(principal: Principal, schedule_id: int) -> None:
    """Makes the job of a schedule now, in addition to its slots, for the instance owner.
    NotFoundError."""
    _may_see(principal)
    row = Schedule.objects.filter(pk=schedule_id, kind__in=kinds.known_kinds()).first()
    if row is None or not _sees_instance(principal):
        raise NotFoundError("No such schedule.")
    with transaction.atomic():
        _record(AuditAction.JOB_STARTED, principal, schedules.run(row, principal))


def _record(action: AuditAction, principal: Principal, job: Job) -> None:
    """Leaves an entry in the audit, in the caller's transaction."""
    kind = kinds.known_kinds().get(job.kind)
    about = kind.about(job.payload) if kind else ""
    audit.record(
        action,
        actor=principal.actor,
        project_id=job.project_id,
        target=AuditTarget("job", str(job.pk), kind.title if kind else job.kind),
        details={"about": about} if about else {},
    )


def get_row(principal: Principal, source: str, row_id: str) -> JobRow:
    """The row of a job that can be cancelled. NotFoundError."""
    _may_see(principal)
    if source == QUEUE:
        return _to_rows([_get_job(principal, row_id)])[0]
    if source in rows.job_sources():
        for row in rows.job_sources()[source].rows(principal, JobGroup.RUNNING, MOST_RUNNING):
            if row.id == row_id:
                return row
    raise NotFoundError("No such job.")


def count_failed(principal: Principal) -> int:
    """About how many jobs `retry_failed` would queue again."""
    return _visible(principal).filter(state=State.FAILED, kind__in=kinds.known_kinds()).count()
