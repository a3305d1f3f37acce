"""What a job costs: to enqueue it, to take it, to end it, and to look for one in vain.

    python -m benchmarks.jobs [--jobs 2000] [--database sqlite | postgresql://…]

In process: CPU time of this process and, with PostgreSQL, of its cluster. Half of the jobs stand in
40 lanes, and they are of two projects. Makes its own data directory and database, and removes them.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

from benchmarks.processes import Database

LOOKS = 2000
LANES = 40


def measure(count: int, database: Database) -> dict[str, float]:
    """Runs with a data directory and a database of its own; CPU milliseconds for one."""
    import django

    django.setup()
    from django.core.management import call_command
    from django.db import connection, transaction

    from accounts.models import Project
    from jobs import claims, kinds, queue
    from jobs.kinds import Kind

    call_command("migrate", verbosity=0)
    kind = Kind(name="benchmark", title="Benchmark", handler=lambda run: None)
    kinds.known_kinds = lambda: {kind.name: kind}  # type: ignore[assignment]
    projects = [Project.objects.get(), Project.objects.create(slug="other", name="Other")]
    turns = claims.ProjectRotation()

    def cpu() -> float:
        return (time.process_time() + database.cpu_seconds()) * 1000

    def each(times: int, work: Callable[[int], object]) -> float:
        started = cpu()
        for n in range(times):
            work(n)
        return (cpu() - started) / times

    def enqueue(n: int) -> None:
        lane = f"lane {n % LANES}" if n % 2 else ""
        queue.enqueue(kind.name, project_id=projects[n % 2].id, lane=lane)

    def take(n: int) -> None:
        job = claims.claim([kind.name], turns)
        if job is None:
            raise RuntimeError("There is no job left.")
        taken.append(job)

    def end(n: int) -> None:
        with transaction.atomic():
            queue.finish(taken[n])

    taken: list[Any] = []
    found = {"look, idle": each(LOOKS, lambda n: claims.look_for_work())}
    found["enqueue"] = each(count, enqueue)
    found[f"look, {count:,} waiting"] = each(LOOKS, lambda n: claims.look_for_work())
    # Of a lane one job is ready at a time: those without a lane are all there are to be taken.
    at_once = count // 2
    found["claim"] = each(at_once, take)
    found["finish"] = each(at_once, end)
    connection.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--database", default="sqlite", help="sqlite, or the URL of PostgreSQL")
    options = parser.parse_args()
    database = Database(options.database)
    try:
        with tempfile.TemporaryDirectory(prefix="mem0dash-jobs-") as folder:
            os.environ |= {
                "MEM0DASH_DATA_DIR": folder,
                "DJANGO_SETTINGS_MODULE": "benchmarks.settings",
                "LOG_LEVEL": "ERROR",
            }
            if database.url:
                os.environ["DATABASE_URL"] = database.url
            for what, ms in measure(options.jobs, database).items():
                print(f"| {what} | {ms:.3f} |")
    finally:
        database.drop()


if __name__ == "__main__":
    main()
