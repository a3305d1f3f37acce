"""The interface for handlers: the job, its lease, its progress and its end."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from django.db import transaction

from core import disk
from jobs import queue
from jobs.kinds import Kind
from jobs.models import Job
from jobs.queue import JobLostError

_BEAT_SECONDS: Final = 2.0


class JobCancelledError(Exception):
    """Somebody has cancelled the job."""


class JobStoppedError(Exception):
    """The process ends; another one continues the job."""


class JobRun:
    """One attempt at a job."""

    def __init__(self, job: Job, kind: Kind, stop: threading.Event) -> None:
        self.job, self.kind, self.stop = job, kind, stop
        self.payload: dict[str, Any] = job.payload
        # What the last step stored.
        self.kept: dict[str, Any] = job.kept
        self.is_finished = False
        self._beat_at = time.monotonic()

    def beat(self, done: int | None = None, total: int | None = None) -> None:
        """Renews the lease and stores the progress. Call it often: it writes only now and then.

        Raises JobLostError, JobCancelledError, JobStoppedError or, while the disk is full,
        DiskFullError, which the handler lets through.
        """
        self._check()
        self._set(done, total)
        if time.monotonic() - self._beat_at >= min(_BEAT_SECONDS, self.kind.lease_seconds / 4):
            self._write()

    @contextmanager
    def step(
        self, done: int | None = None, total: int | None = None, **kept: Any
    ) -> Iterator[None]:
        """One transaction for an effect and for the job's progress: after a kill either both have
        happened or neither. The next attempt finds `kept` again. Raises as `beat`."""
        self._check()
        self._set(done, total)
        with transaction.atomic():
            self._write(kept={**self.kept, **kept}, losses=0)
            yield
        self.kept |= kept

    @contextmanager
    def finishing(self, result: str = "") -> Iterator[None]:
        """One transaction for the last effect and the end of the job. JobLostError."""
        with transaction.atomic():
            # The lane is locked before the row, as everywhere.
            queue.finish(self.job, result=result, done=self.job.done, total=self.job.total)
            yield
        self.is_finished = True

    def _check(self) -> None:
        if self.stop.is_set():
            raise JobStoppedError
        if disk.is_low():
            raise disk.write_refused_error()

    def _set(self, done: int | None, total: int | None) -> None:
        self.job.done = self.job.done if done is None else done
        self.job.total = self.job.total if total is None else total

    def _write(self, **more: Any) -> None:
        mine = queue.rows_of_attempt(self.job)
        updated = mine.filter(cancel_wanted=False).update(
            leased_until=queue.seconds_from_now(self.kind.lease_seconds),
            done=self.job.done,
            total=self.job.total,
            **more,
        )
        if not updated:
            if mine.exists():
                raise JobCancelledError
            raise JobLostError("Another process has taken over the job.")
        self._beat_at = time.monotonic()
