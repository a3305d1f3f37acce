"""Twenty clients while another program holds the database's lock: reads go on, adds wait or are
refused as busy, and everything is as before once the lock is released."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg
import pytest

from prove.conftest import MakeServer
from prove.postgres import Cluster
from prove.server import START_SECONDS, Server, tail

pytestmark = pytest.mark.alone

CLIENTS: Final = 20
BEFORE_SECONDS: Final = 4.0
LOCK_SECONDS: Final = 8.0
AFTER_SECONDS: Final = 6.0
# On two busy cores a request may take this long where nothing holds it up.
SLOW_SECONDS: Final = 6.0


@dataclass(frozen=True)
class Seen:
    writes: bool
    began: float
    ended: float
    status: int
    detail: str = ""
    retry_after: str = ""


@dataclass
class Load:
    """Clients that each read, search, add and delete in turn."""

    server: Server
    seen: list[Seen] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)
    stop: threading.Event = field(default_factory=threading.Event)

    def client(self, number: int) -> None:
        client, turn, own = self.server.client(), 0, ""
        user = {"user_id": f"user-{number % 5}"}
        while not self.stop.is_set():
            turn += 1
            if turn % 5 == 0:
                text = f"Client {number} likes the number {turn}"
                body = {"messages": [{"role": "user", "content": text}], "infer": False, **user}
                answer = self.call(client, True, "POST", "/memories", json=body)
                if answer.status_code == 200:
                    own = answer.json()["results"][0]["id"]
                    self.acknowledged.add(own)
            elif turn % 5 == 1 and own and number % 2:
                if self.call(client, True, "DELETE", f"/memories/{own}").status_code == 200:
                    self.acknowledged.discard(own)
                    own = ""
            elif turn % 5 == 2:
                body = {"query": "numbers", "filters": user}
                self.call(client, False, "POST", "/search", json=body)
            elif turn % 5 == 3:
                self.call(client, False, "GET", "/memories", params=user)
            else:
                self.call(client, False, "GET", "/entities")
            time.sleep(0.05)

    def call(self, client: Any, writes: bool, method: str, path: str, **rest: Any) -> Any:
        began = time.monotonic()
        answer = client.request(method, path, **rest)
        failed = answer.status_code != 200
        self.seen.append(
            Seen(
                writes,
                began,
                time.monotonic(),
                answer.status_code,
                answer.text if failed else "",
                answer.headers.get("Retry-After", ""),
            )
        )
        return answer

    @contextmanager
    def running(self) -> Iterator[None]:
        with ThreadPoolExecutor(CLIENTS) as pool:
            futures = [pool.submit(self.client, number) for number in range(CLIENTS)]
            try:
                yield
            finally:
                self.stop.set()
            for one in futures:
                one.result(90)


def prove(server: Server, hold: Callable[[], Any]) -> None:
    """`hold` is a context in which another program has the lock."""
    load = Load(server)
    with load.running():
        time.sleep(BEFORE_SECONDS)
        with hold():
            locked = time.monotonic()
            time.sleep(LOCK_SECONDS)
            health = server.client().request("GET", "/healthz")
            free = time.monotonic()
        until_written(load, free)
        time.sleep(AFTER_SECONDS)
        after = server.client().request("GET", "/healthz")

    [part] = [one for one in health.json()["parts"] if one["name"] == "database"]
    assert (health.status_code, part["state"]) == (503, "locked"), health.text
    assert after.status_code == 200, after.text
    reads = [one for one in load.seen if not one.writes]
    assert {one.status for one in reads} == {200}
    during = [one for one in reads if locked <= one.began and one.ended <= free]
    assert len(during) >= CLIENTS, "reads did not go on while the lock was held"
    refused = [one for one in load.seen if one.status != 200]
    assert {one.status for one in refused} <= {503}, refused[:3]
    assert all("The database is busy" in one.detail and one.retry_after for one in refused)
    outside = [one for one in refused if one.ended < locked or one.began > free + SLOW_SECONDS]
    assert not outside, outside[:3]
    kept = {row["id"] for row in everything(server)}
    assert load.acknowledged <= kept, "an acknowledged memory is gone"


def until_written(load: Load, free: float) -> None:
    end = time.monotonic() + SLOW_SECONDS
    while not any(
        one.writes and one.status == 200 and one.ended > free for one in load.seen[-500:]
    ):
        assert time.monotonic() < end, "nothing is written after the lock was released"
        time.sleep(0.05)


def everything(server: Server) -> list[dict[str, Any]]:
    client = server.client()
    found: list[dict[str, Any]] = []
    for number in range(5):
        params = {"user_id": f"user-{number}", "top_k": 1000}
        found += client.request("GET", "/memories", params=params).json()["results"]
    return found


def test_a_lock_on_sqlite_stops_the_writes_and_nothing_else(server: Server) -> None:
    @contextmanager
    def hold() -> Iterator[None]:
        file = server.data_dir / "mem0dash.sqlite3"
        with closing(sqlite3.connect(file, isolation_level=None, timeout=60)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")

    prove(server, hold)
    assert server.process is not None
    threads = len(list(Path(f"/proc/{server.process.pid}/task").iterdir()))
    assert threads < 150, threads


def test_a_lock_on_postgresql_stops_the_writes_and_nothing_else(
    model: str, make_server: MakeServer, postgres: Cluster
) -> None:
    url = postgres.create_database("busy")
    server = make_server(environment={"DATABASE_URL": url})
    server.start()
    server.bootstrap()

    @contextmanager
    def hold() -> Iterator[None]:
        with psycopg.connect(url) as other:
            other.execute("LOCK TABLE memories_memory IN EXCLUSIVE MODE")
            yield
            other.rollback()

    prove(server, hold)


def test_a_server_that_starts_under_a_lock_serves_reads_and_writes_once_it_is_released(
    server: Server,
) -> None:
    client = server.client()
    client.add("Ann keeps bees.", user_id="ann")
    server.stop()
    file = server.data_dir / "mem0dash.sqlite3"
    with closing(sqlite3.connect(file, isolation_level=None, timeout=60)) as other:
        other.execute("BEGIN IMMEDIATE")
        server.launch()
        # Its first writer finds the lock out, and health says what that one found.
        end = time.monotonic() + START_SECONDS
        state = ""
        while state != "locked":
            assert server.process is not None
            assert server.process.poll() is None, tail(server.log)
            assert time.monotonic() < end, (state, tail(server.log))
            with suppress(httpx.TransportError):
                health = client.request("GET", "/healthz")
                [part] = [one for one in health.json()["parts"] if one["name"] == "database"]
                state = part["state"]
            time.sleep(0.1)
        assert health.status_code == 503
        assert [row["memory"] for row in client.listed(user_id="ann")] == ["Ann keeps bees."]
        other.execute("ROLLBACK")
    client.add("Ann keeps hens.", user_id="ann")
    assert len(client.listed(user_id="ann")) == 2
