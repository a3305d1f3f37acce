"""A program of the proof about jobs: `fill` makes them, `work` does them in processes that are
killed, `report` tells what came of it.

Processes are forked, for a start of Python for each death would take most of the time. Whatever
opens a connection or names the holder is done after the fork.
"""

import json
import os
import random
import signal
import sys
import time
import uuid
from typing import Any, Final

import django

LANES: Final = 8
OF_LANE: Final = 12
WITHOUT_LANE: Final = 24
EVENTS: Final = 24
PROCESSES: Final = 3
KILLS: Final = 10
END_SECONDS: Final = 120.0


def fill() -> None:
    """The database, the table of effects, and all jobs."""
    from django.core.management import call_command
    from django.db import connection, transaction

    from accounts.models import Project
    from jobs import outbox, queue

    call_command("migrate", interactive=False, verbosity=0)
    serial = "integer PRIMARY KEY" if connection.vendor == "sqlite" else "bigserial PRIMARY KEY"
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE effect (id {serial}, job bigint, lane text, step integer)")
    projects = [Project.objects.get(), Project.objects.create(slug="other", name="Other")]
    memories = [uuid.uuid4() for _ in range(4)]
    with transaction.atomic():
        for n in range(OF_LANE * LANES + WITHOUT_LANE):
            payload = {"dies": n == 0, "fails": n % 3 if n % 20 == 7 else None}
            queue.enqueue(
                "prove.steps",
                project_id=projects[n % 2].id,
                payload=payload,
                lane=f"lane {n % LANES}" if n < OF_LANE * LANES else "",
            )
    for n in range(EVENTS):
        memory = memories[n % len(memories)]
        outbox.publish("memory.changed", project_id=projects[0].id, memory_id=memory)


def work(seed: str) -> None:
    """Keeps processes at work until nothing is left; kills one of them now and then."""
    rng = random.Random(seed)
    deaths, kills, deadline = 0, 0, time.monotonic() + END_SECONDS
    children = {_forked() for _ in range(PROCESSES)}
    kill_at = time.monotonic() + 0.5
    while children:
        assert time.monotonic() < deadline, "not ended in time"
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            children.discard(pid)
            if os.WIFSIGNALED(status):
                deaths += 1
                children.add(_forked())
            else:
                assert os.WEXITSTATUS(status) == 0, status
        elif kills < KILLS and time.monotonic() >= kill_at:
            kills += 1
            os.kill(rng.choice(sorted(children)), signal.SIGKILL)
            kill_at = time.monotonic() + rng.uniform(0.1, 0.5)
        else:
            time.sleep(0.01)
    print(json.dumps({"deaths": deaths, "kills": kills}))


def _forked() -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        _be_at_work()
        status = 0
    finally:
        sys.stderr.flush()
        os._exit(status)


def _be_at_work() -> None:
    from django.db import OperationalError

    from jobs.models import OPEN, Job
    from jobs.runner import Runner

    runner = Runner()
    runner.start()
    is_open = True
    while is_open:
        time.sleep(0.1)
        try:
            is_open = Job.objects.filter(state__in=OPEN).exists()
        except OperationalError:
            continue
    runner.stop()


def report() -> None:
    """What holds in the end."""
    from django.db import connection
    from django.db.models import Count, Max

    from jobs.models import Job

    def asked(sql: str) -> list[Any]:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall()

    order: dict[str, list[int]] = {}
    for lane, job in asked("SELECT lane, job FROM effect WHERE lane <> '' ORDER BY id"):
        order.setdefault(lane, []).append(job)
    [(effects,)] = asked("SELECT count(*) FROM effect")
    twice = "SELECT count(*) FROM (SELECT job FROM effect GROUP BY job, step HAVING count(*) > 1) t"
    [(twice_count,)] = asked(twice)
    states = Job.objects.values_list("state").annotate(Count("id"))
    found = {
        "states": dict(states),
        "effects": effects,
        "twice": twice_count,
        "lanes": len(order),
        "out_of_order": sum(jobs != sorted(jobs) for jobs in order.values()),
        "most_attempts": Job.objects.aggregate(most=Max("attempts"))["most"],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    django.setup()
    {"fill": fill, "work": lambda: work(sys.argv[2]), "report": report}[sys.argv[1]]()
