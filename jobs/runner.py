"""Runs jobs in threads of this process, as long as it is on duty.

One thread looks for work, once a second or as soon as this process makes some. It starts other
threads for the jobs; each runs one job after the other and ends when there is none.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from django.db import Error as AnyDatabaseError
from django.db import InterfaceError, OperationalError, close_old_connections, connection

from core import disk
from core.database import datastore
from core.errors import (
    InvalidInputError,
    Mem0dashError,
    NotFoundError,
    PermissionDeniedError,
    StorageError,
)
from jobs import claims, kinds, queue, schedules
from jobs.claims import ProjectRotation
from jobs.kinds import Kind, OutageError
from jobs.models import Job
from jobs.queue import JobLostError
from jobs.running import JobCancelledError, JobRun, JobStoppedError

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
THREADS: Final = 4
# Seconds for jobs to put themselves back when the process ends. The lease of the others runs out.
STOP_SECONDS: Final = 10.0
# Seconds until a job is tried again that failed because the disk is full.
REST_SECONDS: Final = 30.0
# Seconds between two lines of the log about the same outage.
LOG_AGAIN_SECONDS: Final = 60.0
AWAY: Final = "The database did not answer."
# Another attempt would fail in the same way.
_FINAL: Final = (InvalidInputError, NotFoundError, PermissionDeniedError)


def always() -> bool:
    """For processes that share the work with nobody, or with all."""
    return True


class Runner:
    """The threads of one process. `on_duty` is asked when there is something to do; without
    `has_index`, kinds that need one are left to other processes."""

    def __init__(self, *, on_duty: Callable[[], bool] = always, has_index: bool = True) -> None:
        self._on_duty, self._has_index = on_duty, has_index
        self._stop = threading.Event()
        self._turns = ProjectRotation()
        # Held while a job is claimed, until the job is in `_at_work`.
        self._lock = threading.Lock()
        # None between two jobs.
        self._at_work: dict[threading.Thread, Kind | None] = {}
        self._thread: threading.Thread | None = None
        self._was_low = False
        self._logged_at: dict[str, float] = {}

    def start(self) -> None:
        """Starts looking for work."""
        self._thread = threading.Thread(target=self._look, name="mem0dash-jobs", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the threads; unfinished jobs go back into the queue."""
        self._stop.set()
        queue.woken.set()
        until = time.monotonic() + STOP_SECONDS
        if self._thread is not None:
            # First, because it may be about to start another thread.
            self._thread.join(timeout=STOP_SECONDS)
        for thread in list(self._at_work):
            thread.join(timeout=max(0.0, until - time.monotonic()))

    # --- Looking ---------------------------------------------------------------------------------
    def _look(self) -> None:
        is_ready = False
        while not self._stop.is_set():
            is_ready = is_ready or self._guarded(schedules.ensure)
            self._guarded(self._round)
            queue.woken.wait(LOOK_SECONDS)
            queue.woken.clear()
        connection.close()

    def _round(self) -> None:
        if self._is_paused():
            return
        work = claims.look_for_work()
        if not (work.ready or work.running or work.due) or not self._on_duty():
            return
        if work.due:
            schedules.fire_due()
        if work.running:
            claims.release_lost()
        while not self._stop.is_set() and self._start_one():
            pass

    def _is_paused(self) -> bool:
        """Jobs wait while the disk is full: the remaining room is for deletes."""
        is_low = disk.is_low()
        if is_low and not self._was_low:
            logger.warning("the disk is full: jobs wait until there is room")
        self._was_low = is_low
        return is_low

    def _guarded(self, work: Callable[[], object]) -> bool:
        """Runs a round and logs its errors, because one failing round must not end the thread."""
        try:
            close_old_connections()
            work()
        except AnyDatabaseError as error:
            # During an outage of the database this happens every second.
            problem, now = datastore.problem_of(error), time.monotonic()
            if now - self._logged_at.get(problem, float("-inf")) >= LOG_AGAIN_SECONDS:
                self._logged_at[problem] = now
                logger.error(f"no look for jobs; trying again: {str(error).strip()[:300]}")
            return False
        except Exception:  # see the docstring
            logger.exception("no look for jobs; trying again")
            return False
        return True

    def _claim(self) -> Job | None:
        """The next job that this process can begin now; the caller holds the lock."""
        busy = [kind for kind in self._at_work.values() if kind is not None]
        if len(busy) >= THREADS or self._stop.is_set() or disk.is_low():
            return None
        is_busy = any(kind.is_heavy for kind in busy)
        names = [
            name
            for name, kind in kinds.known_kinds().items()
            if (self._has_index or not kind.needs_index) and not (is_busy and kind.is_heavy)
        ]
        return claims.claim(names, self._turns)

    # --- Working ---------------------------------------------------------------------------------
    def _start_one(self) -> bool:
        """Starts a thread with the next job; returns whether there was one."""
        with self._lock:
            job = self._claim()
            if job is None:
                return False
            name = f"mem0dash-job-{job.pk}"
            thread = threading.Thread(target=self._work, args=(job,), name=name, daemon=True)
            self._at_work[thread] = kinds.known_kinds()[job.kind]
        thread.start()
        return True

    def _next(self, thread: threading.Thread) -> Job | None:
        """The next job for a thread that has just finished one."""
        with self._lock:
            self._at_work[thread] = None
            job = self._claim()
            if job is not None:
                self._at_work[thread] = kinds.known_kinds()[job.kind]
            return job

    def _work(self, first: Job) -> None:
        thread = threading.current_thread()
        job: Job | None = first
        try:
            while job is not None:
                run_job(job, self._stop)
                job = self._next(thread)
        except Exception:  # The lease runs out, and the job is run again.
            logger.exception("a job's thread has ended")
        finally:
            with self._lock:
                self._at_work.pop(thread, None)
            connection.close()


def run_job(job: Job, stop: threading.Event) -> None:
    """Runs a job that this process has claimed, and stores its outcome."""
    kind = kinds.known_kinds()[job.kind]
    run = JobRun(job, kind, stop)
    extra = {"job": job.pk, "kind": job.kind, "attempt": job.attempts}
    try:
        _handle(run, kind)
    except JobLostError:
        logger.warning("a job was taken over by another process", extra=extra)
    except AnyDatabaseError as error:
        # The failure cannot be stored either. The lease runs out, and the job is run again.
        logger.error(f"a job was cut off: {str(error).strip()[:300]}", extra=extra)


def _handle(run: JobRun, kind: Kind) -> None:
    job = run.job
    try:
        kind.handler(run)
        if not run.is_finished:
            with run.finishing():
                pass
        if job.failures or job.reason:
            claims.unpark(kind.name)
    except JobStoppedError:
        queue.requeue(job)
    except JobCancelledError:
        queue.finish_cancelled(job)
    except OutageError as error:
        claims.park(kind.name, reason=error.message, retry_after=error.retry_after or 0)
        queue.requeue(job, reason=error.message, code=error.code)
    except JobLostError:
        raise
    except (StorageError, OperationalError, InterfaceError) as error:
        _not_stored(run, error)
    except Mem0dashError as error:
        final = isinstance(error, _FINAL)
        _fail(run, error.message, error.code, float(error.retry_after or 0), final=final)
    except Exception:  # whatever a handler raises, the job must not vanish
        logger.exception("a job failed", extra={"job": job.pk, "kind": job.kind})
        _fail(run, "An unexpected error. The server's log has the details.", "internal_error")


def _not_stored(run: JobRun, error: Exception) -> None:
    """Queues the job for later without counting a failure: the disk is full. A database that does
    not answer does count: the job may be the cause."""
    explained = error if isinstance(error, StorageError) else datastore.explain(error, AWAY)
    if not isinstance(explained, StorageError):
        _fail(run, AWAY, "datastore_unavailable")
        return
    wait = queue.seconds_from_now(explained.retry_after or REST_SECONDS)
    queue.requeue(run.job, run_at=wait, reason=explained.message, code=explained.code)


def _fail(
    run: JobRun, reason: str, code: str, retry_after: float = 0.0, *, final: bool = False
) -> None:
    job = run.job
    queue.fail(job, run.kind, reason=reason, code=code, retry_after=retry_after, final=final)
    logger.warning("a job failed", extra={"job": job.pk, "kind": job.kind, "code": code})
