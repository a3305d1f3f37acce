"""Jobs whose effects can be counted, and which kill their process once at each of their steps."""

import os
import signal
from pathlib import Path
from typing import Final
from uuid import UUID

from django.db import connection

from core.errors import IndexUnavailableError
from jobs.kinds import Kind
from jobs.models import Event
from jobs.outbox import Subscriber
from jobs.running import JobRun

STEP_COUNT: Final = 3


def die_once(run: JobRun, where: str) -> None:
    """kill -9 of this very process, the first time that it comes here with a job that dies."""
    if not run.payload.get("dies"):
        return
    try:
        fd = os.open(Path(os.environ["DEATHS"]) / where, os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return
    os.close(fd)
    os.kill(os.getpid(), signal.SIGKILL)


def effect(run: JobRun, step: int) -> None:
    """What has to be there once in the end."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO effect (job, lane, step) VALUES (%s, %s, %s)",
            [run.job.pk, run.job.lane, step],
        )


def work(run: JobRun) -> None:
    die_once(run, "begin")
    for step in range(run.kept.get("step", 0), STEP_COUNT):
        die_once(run, f"{step}-before")
        if run.payload.get("fails") == step and not run.job.failures:
            raise IndexUnavailableError("Away for a moment.")
        with run.step(step + 1, STEP_COUNT, step=step + 1):
            effect(run, step)
            die_once(run, f"{step}-inside")
        die_once(run, f"{step}-after")
    with run.finishing("done"):
        effect(run, STEP_COUNT)
        die_once(run, "end-inside")
    die_once(run, "end-after")


def hear(run: JobRun, event: Event) -> None:
    with run.finishing(event.kind):
        effect(run, 0)


def wants(project_id: UUID, kind: str) -> bool:
    return True


# Processes die here for another reason than the job.
STEPS: Final = Kind(
    name="prove.steps",
    title="Steps",
    handler=work,
    backoff=(0.0, 0.0),
    lease_seconds=5.0,
    most_losses=100,
)
LISTENER: Final = Subscriber(name="listener", title="Listener", wants=wants, deliver=hear)
