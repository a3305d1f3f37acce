"""Fifty clients that add, search, list, read and delete, with the database locked in the middle.

    python -m benchmarks.mixed [--seconds 180] [--lock 25] [--clients 50]
                               [--database sqlite | postgresql://…]

Against the real server with a stub embedder. Another program takes the lock: SQLite's write lock,
or on PostgreSQL one that keeps everybody from writing memories. Prints errors inside and outside
of that time, latencies of each kind before, during and after it, and what the process holds.
"""

import argparse
import asyncio
import json
import random
import sqlite3
import statistics
import tempfile
import threading
import time
from collections import Counter, deque
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from benchmarks import corpus
from benchmarks.client import Connection, Request
from benchmarks.processes import Database, Server, memory_mib

PAUSE_SECONDS = 0.05
# So long after the release everything has to be as it was.
SETTLE_SECONDS = 1.0
CLIENT_TIMEOUT = 60.0
KINDS = {"add": 30, "search": 20, "list": 15, "get": 20, "delete": 15}
WRITES = ("add", "delete")
USERS = [f"user-{number}" for number in range(20)]


@dataclass(frozen=True, slots=True)
class Done:
    """A request: its kind, when it began and ended (monotonic seconds), its status, 0 for none."""

    kind: str
    began: float
    ended: float
    status: int


@dataclass(slots=True)
class Run:
    """A run while it goes on. `locked` and `free` are when the lock was taken and released."""

    server: Server
    key: str
    data_dir: Path
    seconds: float
    lock_seconds: float
    done: list[Done] = field(default_factory=list)
    held: list[dict[str, float]] = field(default_factory=list)
    ids: deque[str] = field(default_factory=deque)
    locked: float = float("inf")
    free: float = float("inf")

    async def play(self, clients: int) -> None:
        """Runs all clients and the lock."""
        ends = time.monotonic() + self.seconds
        locker = threading.Timer((self.seconds - self.lock_seconds) / 2, self._lock)
        locker.start()
        watching = asyncio.create_task(self._watch())
        await asyncio.gather(*(self._client(number, ends) for number in range(clients)))
        watching.cancel()
        locker.join()

    async def _client(self, number: int, ends: float) -> None:
        chance, language = random.Random(number), corpus.Language(seed=number)
        connection = await self._connected()
        kinds, weights = list(KINDS), list(KINDS.values())
        while time.monotonic() < ends:
            kind = chance.choices(kinds, weights)[0]
            if kind in {"get", "delete"} and not self.ids:
                kind = "add"
            request = self._request(kind, chance, language)
            connection = await self._send(connection, kind, request)
            await asyncio.sleep(PAUSE_SECONDS)
        connection.close()

    def _request(self, kind: str, chance: random.Random, language: corpus.Language) -> Request:
        user = chance.choice(USERS)
        if kind == "add":
            message = {"role": "user", "content": language.text(8, 24)}
            body = {"messages": [message], "user_id": user, "infer": False}
            return Request("POST", "/memories", body)
        if kind == "search":
            return Request("POST", "/search", {"query": language.text(3, 6), "user_id": user})
        if kind == "list":
            return Request("GET", f"/memories?user_id={user}&top_k=20")
        if kind == "delete":
            return Request("DELETE", f"/memories/{self.ids.popleft()}")
        return Request("GET", f"/memories/{self.ids[-1]}")

    async def _send(self, connection: Connection, kind: str, request: Request) -> Connection:
        began, status, body = time.monotonic(), 0, b""
        try:
            status, body = await asyncio.wait_for(connection.send(request), CLIENT_TIMEOUT)
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            connection.close()
            connection = await self._connected()
        self.done.append(Done(kind, began, time.monotonic(), status))
        if kind == "add" and status == 200:
            self.ids += [row["id"] for row in json.loads(body)["results"]]
        return connection

    async def _connected(self) -> Connection:
        connection = Connection(self.server.port, self.key)
        await connection.open()
        return connection

    async def _watch(self) -> None:
        """What the process holds, and how long it takes to tell its health, every second."""
        connection = await self._connected()
        process = Path(f"/proc/{self.server.pid}")
        log = self.data_dir / "mem0dash.sqlite3-wal"
        while True:
            connection = await self._send(connection, "healthz", Request("GET", "/healthz"))
            self.held.append(
                {
                    "RSS, MiB": memory_mib(self.server.pid)["rss"],
                    "threads": len(list((process / "task").iterdir())),
                    "descriptors": len(list((process / "fd").iterdir())),
                    "log, MiB": round(log.stat().st_size / 2**20, 1) if log.exists() else 0.0,
                }
            )
            await asyncio.sleep(1)

    def _lock(self) -> None:
        if url := self.server.database.url:
            with psycopg.connect(url) as other:
                other.execute("LOCK TABLE memories_memory IN EXCLUSIVE MODE")
                self._hold()
                other.rollback()
            return
        file = self.data_dir / "mem0dash.sqlite3"
        with closing(sqlite3.connect(file, isolation_level=None, timeout=60)) as other:
            other.execute("BEGIN IMMEDIATE")
            self._hold()
            other.execute("ROLLBACK")

    def _hold(self) -> None:
        self.locked = time.monotonic()
        time.sleep(self.lock_seconds)
        self.free = time.monotonic()

    # --- Figures ---------------------------------------------------------------------------------
    def report(self) -> dict[str, Any]:
        """All figures; prints them as tables in Markdown."""
        calls = [one for one in self.done if one.kind != "healthz"]
        failed = [one for one in calls if one.status not in {200, 404}]
        after = self.free + SETTLE_SECONDS
        outside = [one for one in failed if one.ended < self.locked or one.began > after]
        first = min(
            (
                d.ended
                for d in self.done
                if d.kind == "add" and d.ended > self.free and d.status == 200
            ),
            default=float("inf"),
        )
        figures: dict[str, Any] = {
            "requests": len(calls),
            "errors while locked": dict(Counter(d.status for d in failed if d not in outside)),
            "errors outside": dict(Counter(one.status for one in outside)),
            "first add after the release, s": round(first - self.free, 2),
        }
        print("\n".join(f"- {name}: {value}" for name, value in figures.items()))
        phases = {
            "before": lambda d: d.ended < self.locked,
            "during": lambda d: d.ended >= self.locked and d.began <= after,
            "after": lambda d: d.began > after,
            "all": lambda d: True,
        }
        print("\n| kind | when | requests | answered 200 | p50 ms | p95 ms | max ms |")
        print("|---|---|---|---|---|---|---|")
        for kind in (*KINDS, "healthz"):
            for name, belongs in phases.items():
                some = [d for d in self.done if d.kind == kind and belongs(d)]
                figures[f"{kind}, {name}"] = row = _latencies(some)
                print(f"| {kind} | {name} | {' | '.join(map(str, row))} |")
        print("\n| the process | least | most | at the end |\n|---|---|---|---|")
        for name in self.held[0]:
            seen = [one[name] for one in self.held]
            figures[name] = (min(seen), max(seen), seen[-1])
            print(f"| {name} | {min(seen)} | {max(seen)} | {seen[-1]} |", flush=True)
        return figures


def _latencies(some: list[Done]) -> tuple[Any, ...]:
    if len(some) < 2:
        return (len(some), *["–"] * 4)
    times = [(one.ended - one.began) * 1000 for one in some]
    cuts = statistics.quantiles(times, n=20, method="inclusive")
    well = sum(one.status == 200 for one in some)
    return len(some), well, round(cuts[9]), round(cuts[18]), round(max(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", default="sqlite", help="sqlite, or the URL of PostgreSQL")
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--lock", type=float, default=25)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    database = Database(options.database)
    with tempfile.TemporaryDirectory(prefix="mem0dash-mixed-") as folder:
        server = Server(Path(folder), database, settings="benchmarks.settings")
        server.environment["LOG_LEVEL"] = "WARNING"
        try:
            key = server.bootstrap()
            server.start()
            run = Run(server, key, Path(folder), options.seconds, options.lock)
            asyncio.run(run.play(options.clients))
            figures = run.report()
        finally:
            server.stop()
            database.drop()
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
