"""The queue: jobs enter it in their caller's transaction and leave it in that of their effect.

Ready is a queued job that is due and at the head of its lane. That it is at the head stands in the
row (`blocked`), for a claim that looked for earlier jobs of the lane would read all that are ready.
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
# Set when this process has made a job ready: its runner need not wait for its next look.
woken: Final = threading.Event()


class JobLostError(ConflictError):
    """Another attempt has the job now: this one may change nothing any more."""


def after(seconds: float) -> Any:
    """So many seconds from now, by the database's clock."""
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

    With a `dedup_key` that an open job has, that job is the answer. `delay` is in seconds. Who puts
    jobs into several lanes in one transaction does so in one order, such as that of the memories'
    ids, as with any rows that are locked.
    """
    if kind not in kinds.known():
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
        job.run_at = after(delay)
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
    """Saves the job, unless an open one has its key; the one that is open."""
    same = Job.objects.filter(dedup_key=job.dedup_key, state__in=OPEN)
    while (other := same.first()) is None:
        try:
            with transaction.atomic():
                job.save(force_insert=True)
                return job
        except IntegrityError:
            # Another has just been made. Should it have ended by now, it is our turn again.
            continue
    return other


def _asked_by(principal: Principal | None) -> dict[str, Any]:
    if principal is None:
        return {}
    return {"account_id": principal.account_id, "actor": principal.actor.plain()}


# --- Lanes ---------------------------------------------------------------------------------------
def _open_in(lane: str) -> QuerySet[Job]:
    # That it is not empty is said for the partial index, which PostgreSQL uses only then.
    return Job.objects.filter(lane=lane, state__in=OPEN).exclude(lane="")


def _lock_lane(key: str) -> None:
    """Nobody else enters or leaves the lane until the caller's transaction ends."""
    while True:
        Lane.objects.bulk_create([Lane(key=key)], ignore_conflicts=True)
        # Tidying may have taken the row away in between.
        if Lane.objects.select_for_update().filter(key=key).first() is not None:
            return


def _unblock_head(lane: str) -> None:
    head = _open_in(lane).order_by("id").first()
    if head is not None and head.blocked:
        Job.objects.filter(pk=head.pk).update(blocked=False)
        transaction.on_commit(woken.set)


def mend_lane(lane: str) -> bool:
    """The net below the lock: whether the lane's head was blocked, and is no more. A lane without
    open jobs is forgotten."""
    with transaction.atomic():
        _lock_lane(lane)
        head = _open_in(lane).order_by("id").first()
        if head is None:
            Lane.objects.filter(key=lane).delete()
            return False
        _unblock_head(lane)
        return head.blocked


# --- While it runs -------------------------------------------------------------------------------
def of_attempt(job: Job) -> QuerySet[Job]:
    """The job's row, while it is this attempt's."""
    return Job.objects.filter(
        pk=job.pk, state=State.RUNNING, attempts=job.attempts, holder=job.holder
    )


def finish(job: Job, **told: Any) -> None:
    """Ends the job well, in the caller's transaction, which does its last effect. JobLostError."""
    _leave(job, State.SUCCEEDED, **told)


def fail(job: Job, kind: Kind, *, reason: str, code: str, retry_after: float, final: bool) -> None:
    """Queues the job again for later, or fails it when it has failed too often. JobLostError."""
    failures = job.failures + 1
    told = {"reason": reason, "code": code, "failures": failures}
    if final or failures > len(kind.backoff):
        _leave(job, State.FAILED, **told)
    else:
        wait = max(kind.backoff[failures - 1], retry_after)
        requeue(job, run_at=after(wait), **told)


def cancelled(job: Job) -> None:
    """Ends a running job whose cancelling was wanted. JobLostError."""
    _leave(job, State.CANCELLED)


def requeue(job: Job, **told: Any) -> None:
    """Gives a job back that is still to be done, unless somebody has cancelled it meanwhile; it
    stays the head of its lane. JobLostError."""
    freed = {"state": State.QUEUED, "leased_until": None, "holder": ""}
    mine = of_attempt(job)
    if mine.filter(cancel_wanted=False).update(**freed, **told):
        return
    if not mine.exists():
        raise JobLostError("Another process has taken over the job.")
    cancelled(job)


def lost(job: Job, kind: Kind | None) -> None:
    """The process that held this attempt is gone: the job comes again, unless it is likely to be
    what its processes die of."""
    losses = job.losses + 1
    if kind is not None and losses > kind.most_losses:
        reason = f"It was lost {losses} times in a row: its process ended or stopped responding."
        _leave(job, State.FAILED, reason=reason, code="process_died", losses=losses)
    else:
        requeue(job, run_at=Now(), losses=losses)


def _leave(job: Job, state: Job.State, **told: Any) -> None:
    with transaction.atomic():
        if job.lane:
            _lock_lane(job.lane)
        ended = {"state": state, "leased_until": None, "finished_at": Now()}
        if not of_attempt(job).update(**ended, **told):
            raise JobLostError("Another process has taken over the job.")
        if job.lane:
            _unblock_head(job.lane)


# --- By people -----------------------------------------------------------------------------------
def cancel(job: Job) -> bool:
    """Ends a job that waits, and asks one that runs to end; whether there was something to end."""
    with transaction.atomic():
        if job.lane:
            _lock_lane(job.lane)
        waiting = Job.objects.filter(pk=job.pk, state=State.QUEUED)
        if waiting.update(state=State.CANCELLED, finished_at=Now(), cancel_wanted=True):
            if job.lane:
                _unblock_head(job.lane)
            return True
        return bool(Job.objects.filter(pk=job.pk, state=State.RUNNING).update(cancel_wanted=True))


def retry(job: Job) -> bool:
    """Queues a job again that failed or was cancelled; whether it was one. In its lane it waits for
    what is open there. ConflictError when an open job does the same."""
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


def hurry(job: Job) -> bool:
    """Makes a job that waits for its time due now; whether it was one."""
    waiting = Job.objects.filter(pk=job.pk, state=State.QUEUED, run_at__gt=Now())
    with transaction.atomic():
        hurried = bool(waiting.update(run_at=Now()))
        transaction.on_commit(woken.set)
    return hurried
