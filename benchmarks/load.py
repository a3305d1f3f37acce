"""Measures what each kind of request costs: CPU of server and database, latency, throughput.

    python -m benchmarks.load --database sqlite --memories 1000 10000 --json out.json

Every run has a fresh data directory and a fresh database, and stops by itself.
"""

import argparse
import asyncio
import itertools
import json
import os
import platform
import random
import secrets
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import client, corpus
from benchmarks.client import Request, Result
from benchmarks.processes import Database, Provider, Server, cpu_seconds, memory_mib

ROUNDS = 2
# What the background thread does right after a write belongs to the write.
SETTLE_SECONDS = 1.5
WARM_UP = 200
# The revisions of MCP that stand for its two eras: without a handshake, and with one.
MODERN = "2026-07-28"
HANDSHAKE = "2025-11-25"


@dataclass(slots=True)
class Target:
    """A running server with memories in it, and what is known about them."""

    server: Server
    key: str
    heavy: list[str]
    others: list[str]
    added: list[str] = field(default_factory=list)
    language: corpus.Language = field(default_factory=lambda: corpus.Language(seed=3))

    def ids(self) -> Iterator[str]:
        """Ids of all users, endlessly."""
        return itertools.cycle(self.heavy + self.others)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of request; `make` gives as many as are wanted."""

    name: str
    make: Callable[[Target], Iterator[Request]]
    writes: bool = False
    key: Callable[[Target], str] = lambda target: target.key


def _get(target: Target) -> Iterator[Request]:
    return (Request("GET", f"/memories/{id_}") for id_ in target.ids())


def _list(target: Target) -> Iterator[Request]:
    users = itertools.cycle((corpus.HEAVY_USER, *random.Random(4).sample(corpus.OTHER_USERS, 10)))
    return (Request("GET", f"/memories?user_id={user}&top_k=20") for user in users)


def _search(target: Target) -> Iterator[Request]:
    while True:
        query = target.language.text(4, 8)
        yield Request("POST", "/search", {"query": query, "user_id": corpus.HEAVY_USER})


def _entities(target: Target) -> Iterator[Request]:
    return itertools.repeat(Request("GET", "/entities"))


def _unknown(target: Target) -> Iterator[Request]:
    return (Request("GET", f"/memories/{id_}", expect=401) for id_ in target.ids())


def _add(target: Target) -> Iterator[Request]:
    for user in itertools.cycle((corpus.HEAVY_USER, *corpus.OTHER_USERS)):
        message = {"role": "user", "content": target.language.text(8, 24)}
        body = {"messages": [message], "user_id": user, "infer": False}
        yield Request("POST", "/memories", body)


def _extract(target: Target) -> Iterator[Request]:
    for user in itertools.cycle((corpus.HEAVY_USER, *corpus.OTHER_USERS)):
        text = f"I like {target.language.text(6, 10)}. I went to {target.language.text(6, 10)}."
        body = {"messages": [{"role": "user", "content": text}], "user_id": user}
        yield Request("POST", "/memories", body)


def _add_once(target: Target) -> Iterator[Request]:
    """As mem0-server's clients add, and agents: the same is not stored twice."""
    for request in _extract(target):
        [message] = request.body["messages"]
        body = {"content": message["content"], "user_id": request.body["user_id"]}
        yield Request("POST", "/api/v1/memories", body)


def _called(tool: str, arguments: dict[str, Any], era: str) -> Request:
    """A call of a tool, as clients of this era of MCP send it."""
    params: dict[str, Any] = {"name": tool, "arguments": arguments}
    head = f"Accept: application/json, text/event-stream\r\nMcp-Protocol-Version: {era}\r\n"
    if era == MODERN:
        prefix = "io.modelcontextprotocol"
        params["_meta"] = {f"{prefix}/protocolVersion": era, f"{prefix}/clientCapabilities": {}}
        head += f"Mcp-Method: tools/call\r\nMcp-Name: {tool}\r\n"
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    return Request("POST", "/mcp", body, head=head)


def _search_by_mcp(era: str) -> Callable[[Target], Iterator[Request]]:
    """The same searches as by REST, with as many results."""

    def make(target: Target) -> Iterator[Request]:
        return (
            _called("search_memories", {**request.body, "limit": 20}, era)
            for request in _search(target)
        )

    return make


def _add_by_mcp(era: str) -> Callable[[Target], Iterator[Request]]:
    """The same adds as by REST, of what is not known yet."""

    def make(target: Target) -> Iterator[Request]:
        return (_called("add_memory", request.body, era) for request in _add_once(target))

    return make


def _update_text(target: Target) -> Iterator[Request]:
    for id_ in target.ids():
        yield Request("PUT", f"/memories/{id_}", {"text": target.language.text(8, 24)})


def _update_metadata(target: Target) -> Iterator[Request]:
    for number, id_ in enumerate(target.ids()):
        yield Request("PUT", f"/memories/{id_}", {"metadata": {"seen": number}})


def _delete(target: Target) -> Iterator[Request]:
    while target.added:
        yield Request("DELETE", f"/memories/{target.added.pop()}")


KINDS = (
    Kind("get one", _get),
    Kind("get one, ADMIN_API_KEY", _get, key=lambda target: target.server.admin_key),
    Kind("get one, unknown key (401)", _unknown, key=lambda t: "m0sk_" + secrets.token_urlsafe(32)),
    Kind("list 20", _list),
    Kind("search", _search),
    Kind("search by MCP", _search_by_mcp(MODERN)),
    Kind("search by MCP, 2025", _search_by_mcp(HANDSHAKE)),
    Kind("entities", _entities),
    Kind("update metadata", _update_metadata, writes=True),
    Kind("update text", _update_text, writes=True),
    Kind("add verbatim", _add, writes=True),
    Kind("delete", _delete, writes=True),
    # Two facts of one message, by mem0's pipeline and an LLM that answers at once.
    Kind("add extracted", _extract, writes=True),
    Kind("add extracted once", _add_once, writes=True),
    Kind("the same by MCP", _add_by_mcp(MODERN), writes=True),
    Kind("the same by MCP, 2025", _add_by_mcp(HANDSHAKE), writes=True),
)


@dataclass(slots=True)
class Cost:
    """What one kind of request has cost so far."""

    result: Result = field(default_factory=Result)
    server: float = 0.0
    store: float = 0.0

    def figures(self) -> dict[str, Any]:
        """CPU and latencies in milliseconds."""
        times = sorted(self.result.latencies)
        count = len(times)
        return {
            "requests": count,
            "cpu_ms": round((self.server + self.store) / count * 1000, 2),
            "server_ms": round(self.server / count * 1000, 2),
            "store_ms": round(self.store / count * 1000, 2),
            "p50_ms": round(statistics.median(times) * 1000, 1),
            "p95_ms": round(times[int(0.95 * (count - 1))] * 1000, 1),
            "per_second": round(count / self.result.seconds),
            "unexpected": self.result.failures,
        }


def measure(target: Target, kind: Kind, cost: Cost, options: argparse.Namespace) -> None:
    """One round of one kind; what the server does right after a write is part of its cost."""
    requests = itertools.islice(kind.make(target), options.requests // ROUNDS)
    database, pid = target.server.database, target.server.pid
    server, store = cpu_seconds(pid), database.cpu_seconds()
    result = asyncio.run(
        client.run(
            target.server.port,
            kind.key(target),
            requests,
            concurrency=options.concurrency,
            seconds=options.seconds / ROUNDS,
            keep=kind.name == "add verbatim",
        )
    )
    if kind.writes:
        time.sleep(SETTLE_SECONDS)
    cost.server += cpu_seconds(pid) - server
    cost.store += database.cpu_seconds() - store
    target.added += [added["results"][0]["id"] for added in result.answers if "results" in added]
    result.answers.clear()
    cost.result.add(result)


def warm_up(target: Target) -> None:
    """Every thread of the server makes its connection and its plans before anything counts."""
    mixed = (
        request for pair in zip(_get(target), _search(target), strict=False) for request in pair
    )
    requests = itertools.islice(mixed, WARM_UP)
    run = client.run(
        target.server.port, target.key, requests, concurrency=16, seconds=20, keep=False
    )
    asyncio.run(run)


def run_one(count: int, folder: Path, database: Database, options: argparse.Namespace) -> Any:
    """Fills a fresh server with `count` memories and measures every kind."""
    server = Server(folder, database, settings="benchmarks.settings")
    provider = Provider()
    server.use_llm(provider.url)
    try:
        key = server.bootstrap()
        server.start()
        filling = time.perf_counter()
        ids = json.loads(server.command("-m", "benchmarks.fill", str(count)))
        filled = round(time.perf_counter() - filling, 1)
        server.stop()
        starts = []
        for _ in range(3):
            server.stop()
            starts.append(server.start())
        target = Target(server, key, ids["heavy"], ids["others"])
        at_start = memory_mib(server.pid)
        warm_up(target)
        kinds = [kind for kind in KINDS if not options.only or kind.name in options.only]
        costs = {kind.name: Cost() for kind in kinds}
        for _ in range(ROUNDS):
            for kind in kinds:
                measure(target, kind, costs[kind.name], options)
        return {
            "memories": count,
            "fill_seconds": filled,
            "cold_start": min(starts, key=lambda start: start["seconds"]),
            "memory_at_start_mib": at_start,
            "memory_at_end_mib": memory_mib(server.pid),
            "kinds": {
                name: cost.figures() for name, cost in costs.items() if cost.result.latencies
            },
        }
    finally:
        server.stop()
        provider.stop()


def run_with_model(folder: Path) -> Any:
    """Cold start and memory with the real local embedding model, after some adds and searches."""
    database = Database("sqlite")
    server = Server(folder, database, settings="mem0dash.settings")
    try:
        if not server.command("manage.py", "prepare_embedder").endswith("is ready."):
            raise SystemExit("The local embedding model cannot be prepared.")
        key = server.bootstrap()
        server.start()
        server.stop()
        start = server.start()
        at_start = memory_mib(server.pid)
        target = Target(server, key, [], [])
        mixed = (
            pair for pairs in zip(_add(target), _search(target), strict=False) for pair in pairs
        )
        requests = itertools.islice(mixed, 400)
        run = client.run(server.port, key, requests, concurrency=4, seconds=30, keep=False)
        asyncio.run(run)
        return {
            "cold_start": start,
            "memory_at_start_mib": at_start,
            "memory_at_end_mib": memory_mib(server.pid),
        }
    finally:
        server.stop()


def show_run(database: str, run: dict[str, Any]) -> None:
    """One run as a table in Markdown, as benchmarks/README.md holds it."""
    print(f"\n{database}, {run['memories']:,} memories\n")
    print("| request | CPU ms | server | store | p50 ms | p95 ms | per second |")
    print("|---|---|---|---|---|---|---|")
    columns = ("cpu_ms", "server_ms", "store_ms", "p50_ms", "p95_ms", "per_second")
    for name, figures in run["kinds"].items():
        numbers = " | ".join(str(figures[column]) for column in columns)
        unexpected = f" unexpected: {figures['unexpected']}" if figures["unexpected"] else ""
        print(f"| {name} | {numbers} |{unexpected}")
    print(f"\nFilled in {run['fill_seconds']} s; cold start {run['cold_start']};")
    print(f"MiB at the start {run['memory_at_start_mib']}, at the end {run['memory_at_end_mib']}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--database", default="sqlite", help="sqlite, or the URL of PostgreSQL")
    parser.add_argument("--memories", type=int, nargs="*", default=[1000, 10_000])
    parser.add_argument("--requests", type=int, default=1000, help="at most, of each kind")
    parser.add_argument("--seconds", type=float, default=20, help="at most, for each kind")
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--only", nargs="*", choices=[kind.name for kind in KINDS])
    parser.add_argument("--with-model", action="store_true", help="start and memory with the model")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    report: dict[str, Any] = {
        "database": "SQLite" if options.database == "sqlite" else "PostgreSQL",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "concurrency": options.concurrency,
        "runs": [],
    }
    for count in dict.fromkeys(options.memories):
        database = Database(options.database)
        try:
            with tempfile.TemporaryDirectory(prefix="mem0dash-bench-") as folder:
                run = run_one(count, Path(folder), database, options)
        finally:
            database.drop()
        run["load_average"] = os.getloadavg()[1]
        report["runs"].append(run)
        show_run(report["database"], run)
        save(report, options.json)
    if options.with_model:
        with tempfile.TemporaryDirectory(prefix="mem0dash-bench-") as folder:
            report["with_model"] = run_with_model(Path(folder))
        print(f"\nWith the local embedding model: {report['with_model']}")
        save(report, options.json)


def save(report: dict[str, Any], path: Path | None) -> None:
    """After every run, so that a later failure loses nothing."""
    if path is not None:
        path.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
