"""PostgreSQL takes connections and answers nothing: all is bounded, told, and over by itself."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpx
import pytest

from prove.conftest import MakeServer
from prove.postgres import Cluster
from prove.server import Server

MONITOR_SECONDS: Final = 2.5
# The first requests that meet the silence: overdue after 2.5 s, a look of 2 s; 5 s to connect.
ANSWER_SECONDS: Final = 8.0
RECOVERY_SECONDS: Final = 10.0
READERS: Final = 30


@contextmanager
def stopped(cluster: Cluster) -> Iterator[None]:
    """The server's processes stand still; the kernel goes on taking connections for them."""
    first = int((cluster.data / "postmaster.pid").read_text().split()[0])
    children = subprocess.run(
        ["pgrep", "-P", str(first)], capture_output=True, text=True, check=True
    ).stdout
    processes = [first, *map(int, children.split())]
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)


@pytest.fixture
def on_postgres(make_server: MakeServer, postgres: Cluster) -> Server:
    server = make_server(
        environment={
            "DATABASE_URL": postgres.create_database("silent"),
            "ADMIN_API_KEY": "a static key of the operator",
        }
    )
    server.start()
    server.bootstrap()
    return server


def ask(server: Server, path: str, **rest: Any) -> tuple[httpx.Response, float]:
    """The answer, and how many seconds it took."""
    began = time.monotonic()
    headers = {"X-API-Key": rest.pop("key", server.key)}
    answer = httpx.request(
        rest.pop("method", "GET"),
        server.url + path,
        headers=headers,
        timeout=60,
        trust_env=False,
        **rest,
    )
    return answer, time.monotonic() - began


def test_a_database_that_stands_still_is_told_in_time_and_recovers(
    on_postgres: Server, postgres: Cluster
) -> None:
    add = {
        "method": "POST",
        "json": {
            "messages": [{"role": "user", "content": "I keep bees"}],
            "user_id": "ann",
            "infer": False,
        },
    }
    assert ask(on_postgres, "/memories", **add)[0].status_code == 200
    seen: list[tuple[httpx.Response, float]] = []
    with stopped(postgres):
        crowd = [
            threading.Thread(target=lambda: seen.append(ask(on_postgres, "/memories?user_id=ann")))
            for _ in range(READERS)
        ]
        for one in crowd:
            one.start()
        for path in ("/healthz", "/metrics"):
            for key in (on_postgres.key, "a static key of the operator"):
                answer, seconds = ask(on_postgres, path, key=key)
                assert seconds < MONITOR_SECONDS, (path, seconds)
                # Whose key it is cannot be known without the database.
                expected = 503 if path == "/healthz" or key == on_postgres.key else 200
                assert answer.status_code == expected, (path, answer.text)
        seen.append(ask(on_postgres, "/memories", **add))
        for one in crowd:
            one.join(60)
        # By now it is known: nobody waits any more.
        seen.append(ask(on_postgres, "/memories?user_id=ann"))
    for answer, seconds in seen:
        assert answer.status_code == 503, answer.text
        assert answer.json()["code"] == "datastore_unavailable"
        assert answer.headers["Retry-After"]
        assert seconds < ANSWER_SECONDS, seconds
    end = time.monotonic() + RECOVERY_SECONDS
    while ask(on_postgres, "/healthz")[0].status_code != 200:
        assert time.monotonic() < end, "it does not recover"
        time.sleep(0.1)
    answer, _ = ask(on_postgres, "/memories?user_id=ann")
    assert [row["memory"] for row in answer.json()["results"]] == ["I keep bees"]
