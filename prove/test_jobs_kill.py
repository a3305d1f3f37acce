"""kill -9 of workers at every step of a job, and at random: every effect in SQL is there once, and
jobs of a lane keep their order."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from prove.environment import ROOT, clean_environment
from prove.job_kinds import STEP_COUNT
from prove.job_worker import EVENTS, KILLS, LANES, OF_LANE, WITHOUT_LANE
from prove.postgres import Cluster
from prove.test_kill import seed

__all__ = ["seed"]

# At the begin, before, in and after each step, and in and after the end.
DEATHS = 1 + 3 * STEP_COUNT + 2


def _prove(folder: Path, seed: str, **environment: str) -> None:
    deaths = folder / "deaths"
    deaths.mkdir()
    environment |= {
        "DJANGO_SETTINGS_MODULE": "prove.jobs_settings",
        "MEM0DASH_DATA_DIR": str(folder / "data"),
        "DEATHS": str(deaths),
        "LOG_LEVEL": "ERROR",
    }

    def run(*command: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "prove.job_worker", *command],
            env={**clean_environment(), **environment},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout or "null")

    run("fill")
    worked = run("work", seed)
    assert len(list(deaths.iterdir())) == DEATHS
    assert worked["deaths"] >= max(DEATHS, KILLS)
    found = run("report")
    print(worked, found)
    jobs = LANES * OF_LANE + WITHOUT_LANE
    assert found["states"] == {"succeeded": jobs + EVENTS}
    assert found["twice"] == 0
    assert found["effects"] == jobs * (STEP_COUNT + 1) + EVENTS
    assert found["lanes"] == LANES + 4
    assert found["out_of_order"] == 0
    assert found["most_attempts"] >= DEATHS


def test_jobs_survive_kills_on_sqlite(tmp_path: Path, seed: str) -> None:
    _prove(tmp_path, seed)


def test_jobs_survive_kills_on_postgresql(tmp_path: Path, postgres: Cluster, seed: str) -> None:
    _prove(tmp_path, seed, DATABASE_URL=postgres.create_database("jobs"))
