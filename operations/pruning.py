"""The job that deletes old rows of the request log."""

from typing import Final

from django.conf import settings

from jobs.kinds import Kind
from jobs.running import JobRun
from operations.request_log import prune


def _prune(run: JobRun) -> None:
    count = prune(beat=run.beat)
    with run.finishing(f"{count:,} {'request' if count == 1 else 'requests'} removed"):
        pass


PRUNING: Final = Kind(
    name="operations.prune-request-log",
    title="Prune request log",
    about=lambda _: f"Requests older than {settings.REQUEST_LOG_RETENTION_DAYS} days",
    handler=_prune,
    lease_seconds=120.0,
    schedule="every hour",
)
