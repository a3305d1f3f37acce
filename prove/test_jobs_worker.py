"""A worker beside a server with the embedded index: it does the jobs that need no index, opens
none, and ends when it is told to."""

import time
from pathlib import Path

from prove.postgres import Cluster
from prove.server import tail
from prove.test_distributed import Worker
from prove.test_kill import postgres_asker

SECONDS = 60.0
DUE = """
from django.utils import timezone
from jobs import schedules
from jobs.models import Schedule
schedules.ensure()
Schedule.objects.update(next_run_at=timezone.now())
"""


def test_a_worker_without_an_index_does_the_jobs_that_need_none(
    tmp_path: Path, postgres: Cluster
) -> None:
    url = postgres.create_database("jobs_worker")
    worker = Worker(tmp_path / "worker", {"DATABASE_URL": url})
    try:
        worker.manage("migrate")
        worker.manage("shell", "--verbosity", "0", "--command", DUE)
        worker.start()
        ask = postgres_asker(url)
        deadline = time.monotonic() + SECONDS
        while ask("SELECT count(*) FROM jobs_job WHERE state = 'succeeded'") < 3:
            assert time.monotonic() < deadline, tail(worker.log)
            time.sleep(0.1)
        assert not (worker.data_dir / "index").exists()
        assert not worker.logged("error", "critical")
        worker.stop()
    finally:
        worker.kill9()
