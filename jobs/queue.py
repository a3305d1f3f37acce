"""The queue: a job enters it in its caller's transaction and leaves it in that of its effect.

A queued job is ready when it is due and at the head of its lane. The column `blocked` says that it
is not: without it, a claim would have to check the lane of every queued job.
"""

import threading
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import DateTimeField, ExpressionWrapper, QuerySet
from django.db.models.functions import Now

from core.errors import ConflictError
from core.principal import Principal
from jobs import kinds
from jobs.kinds import Kind
from jobs.models import OPEN, Job, Lane

State = Job.State
# Set when this process makes a job ready, so that its runner looks at once.
woken: Final = threading.Event()


class JobLostError(ConflictError):
    """Another attempt holds the job now: this one may no longer change anything."""


def seconds_from_now(seconds: float) -> Any:
    """The time in `seconds` from now, by the database's clock."""
    return ExpressionWrapper(Now() + timedelta(seconds=seconds), output_field=DateTimeField())


# --- In ------------------------------------------------------------------------------------------
def enqueue(
    kind: str,
    *,
    project_id: UUID | None,
    payload: dict[str, Any] | None = None,
    principal: Principal | None = None,
    lane: str = "",
    dedup_key: str = "",
    delay: float = 0.0,
    **rest: Any,
) -> Job:
    """Puts a job into the queue, in the caller's transaction; `rest` is its priority, schedule or
    event.

    If an open job has the same `dedup_key`, returns that one. `delay` is in seconds. A caller that
    puts jobs into several lanes in one transaction must use a fixed order, such as that of the
    memories' ids: lanes are locked.
    """
    if kind not in kinds.known_kinds():
        raise LookupError(f"No kind of job is called {kind!r}.")
    job = Job(
        kind=kind,
        project_id=project_id,
        payload=payload or {},
        lane=lane,
        dedup_key=dedup_key,
        **rest,
        **_asked_by(principal),
    )
    if delay:
        job.run_at = seconds_from_now(delay)
    with transaction.atomic():
        if lane:
            _lock_lane(lane)
            job.blocked = _open_in(lane).exists()
        if dedup_key:
            job = _once(job)
        else:
            job.save(force_insert=True)
        transaction.on_commit(woken.set)
    return job


def _once(job: Job) -> Job:
    """Saves the job, unless an open job has its key; returns the open one."""
    same = Job.objects.filter(dedup_key=job.dedup_key, state__in=OPEN)
    while (other := same.first()) is None:
        try:
            with transaction.atomic():
                job.save(force_insert=True)
                return job
        except IntegrityError:
            # Another process has just made one. If that has ended by now, we try again.
            continue
    return other


def _asked_by(principal: Principal | None) -> dict[str, Any]:
    if principal is None:
        return {}
    return {"account_id": principal.account_id, "actor": principal.actor.plain()}


# --- Lanes ---------------------------------------------------------------------------------------
def _open_in(lane: str) -> QuerySet[Job]:
    # PostgreSQL uses the partial index only if the query excludes "" as the index does.
    return Job.objects.filter(lane=lane, state__in=OPEN).exclude(lane="")


def _lock_lane(key: str) -> None:
    """Locks the lane until the caller's transaction ends: no job enters or leaves it meanwhile."""
    while True:
        Lane.objects.bulk_create([Lane(key=key)], ignore_conflicts=True)
        # Tidying may have deleted the row in between.
        if Lane.objects.select_for_update().filter(key=key).first() is not None:
            return


def _unblock_head(lane: str) -> None:
    head = _open_in(lane).order_by("id").first()
    if head is not None and head.blocked:
        Job.objects.filter(pk=head.pk).update(blocked=False)
        transaction.on_commit(woken.set)


def mend_lane(lane: str) -> bool:
    """A safety net: unblocks the head of a lane if it is blocked; returns whether it was. Deletes a
    lane without open jobs."""
    with transaction.atomic():
        _lock_lane(lane)
        head = _open_in(lane).order_by("id").first()
        if head is None:
            Lane.objects.filter(key=lane).delete()
            return False
        _unblock_head(lane)
        return head.blocked


# --- While it runs -------------------------------------------------------------------------------
def rows_of_attempt(job: Job) -> QuerySet[Job]:
    """The job's row, if this attempt still holds it; else no row."""
    return Job.objects.filter(
        pk=job.pk, state=State.RUNNING, attempts=job.attempts, holder=job.holder
    )


def finish(job: Job, **columns: Any) -> None:
    """Ends the job as succeeded, in the transaction of its last effect. JobLostError."""
    _leave(job, State.SUCCEEDED, **columns)


def fail(job: Job, kind: Kind, *, reason: str, code: str, retry_after: float, final: bool) -> None:
    """Queues the job again for later, or ends it as failed after too many attempts.
    JobLostError."""
    failures = job.failures + 1
    columns = {"reason": reason, "code": code, "failures": failures}
    if final or failures > len(kind.backoff):
        _leave(job, State.FAILED, **columns)
    else:
        wait = max(kind.backoff[failures - 1], retry_after)
        requeue(job, run_at=seconds_from_now(wait), **columns)


def finish_cancelled(job: Job) -> None:
    """Ends a running job that somebody cancelled. JobLostError."""
    _leave(job, State.CANCELLED)


def requeue(job: Job, **columns: Any) -> None:
    """Puts a running job back into the queue, or ends it if somebody has cancelled it. It stays the
    head of its lane. JobLostError."""
    freed = {"state": State.QUEUED, "leased_until": None, "holder": ""}
    mine = rows_of_attempt(job)
    if mine.filter(cancel_wanted=False).update(**freed, **columns):
        return
    if not mine.exists():
        raise JobLostError("Another process has taken over the job.")
    finish_cancelled(job)


def handle_loss(job: Job, kind: Kind | None) -> None:
    """Queues a job again whose process has died, or ends it as failed if that happened too often:
    the job probably kills its processes."""
    losses = job.losses + 1
    if kind is not None and losses > kind.most_losses:
        reason = f"It was lost {losses} times in a row: its process ended or stopped responding."
        _leave(job, State.FAILED, reason=reason, code="process_died", losses=losses)
    else:
        requeue(job, run_at=Now(), losses=losses)


def _leave(job: Job, state: Job.State, **columns: Any) -> None:
    with transaction.atomic():
        if job.lane:
            _lock_lane(job.lane)
        ended = {"state": state, "leased_until": None, "finished_at": Now()}
        if not rows_of_attempt(job).update(**ended, **columns):
            raise JobLostError("Another process has taken over the job.")
        if job.lane:
            _unblock_head(job.lane)


# --- By people -----------------------------------------------------------------------------------
def cancel(job: Job) -> bool:
    """Ends a waiting job, or asks a running one to end; returns whether it was open."""
    with transaction.atomic():
        if job.lane:
            _lock_lane(job.lane)
        queued = Job.objects.filter(pk=job.pk, state=State.QUEUED)
        if queued.update(state=State.CANCELLED, finished_at=Now(), cancel_wanted=True):
            if job.lane:
                _unblock_head(job.lane)
            return True
        return bool(Job.objects.filter(pk=job.pk, state=State.RUNNING).update(cancel_wanted=True))


def retry(job: Job) -> bool:
    """Queues a failed or cancelled job again; returns whether it was one. It waits for the open
    jobs of its lane. ConflictError if an open job has its `dedup_key`."""
    fresh: dict[str, Any] = {
        "state": State.QUEUED,
        "run_at": Now(),
        "failures": 0,
        "losses": 0,
        "cancel_wanted": False,
        "finished_at": None,
        "holder": "",
        "reason": "",
        "code": "",
    }
    try:
        with transaction.atomic():
            if job.lane:
                _lock_lane(job.lane)
                fresh["blocked"] = _open_in(job.lane).exists()
            ended = Job.objects.filter(pk=job.pk, state__in=(State.FAILED, State.CANCELLED))
            again = bool(ended.update(**fresh))
            transaction.on_commit(woken.set)
    except IntegrityError as error:
        raise ConflictError("The same job is waiting or running already.") from error
    return again


def run_now(job: Job) -> bool:
    """Makes a job due now that waits for its time; returns whether it was one."""
    queued = Job.objects.filter(pk=job.pk, state=State.QUEUED, run_at__gt=Now())
    with transaction.atomic():
        hurried = bool(queued.update(run_at=Now()))
        transaction.on_commit(woken.set)
    return hurried
