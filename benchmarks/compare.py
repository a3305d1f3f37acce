"""Measures two or more checkouts in turns, round by round, so that a busy moment meets all of them.

    python -m benchmarks.compare ../before . --only "get one" search "add verbatim"

Each checkout has its own `.venv`, server and data. CPU is in milliseconds per request, of server
and database: the median and the least of all rounds but the first, and how they differ from the
first checkout.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROUNDS = 8
REQUESTS = 200


def answer_rounds(database: str, memories: int) -> None:
    """Runs in a checkout: starts its server, then measures what each line of the input asks for."""
    from benchmarks import client, load
    from benchmarks.processes import Database, Provider, Server, cpu_seconds

    store, provider = Database(database), Provider()
    with tempfile.TemporaryDirectory(prefix="mem0dash-compare-") as folder:
        server = Server(Path(folder), store, settings="benchmarks.settings")
        server.use_llm(provider.url)
        try:
            key = server.bootstrap()
            server.start()
            ids = json.loads(server.command("-m", "benchmarks.fill", str(memories)))
            target = load.Target(server, key, ids["heavy"], ids["others"])
            load.warm_up(target)
            kinds = {kind.name: (kind, kind.make(target)) for kind in load.KINDS}
            print(json.dumps("ready"), flush=True)
            for line in sys.stdin:
                name, count, concurrency = json.loads(line)
                kind, requests = kinds[name]
                before = cpu_seconds(server.pid) + store.cpu_seconds()
                result = asyncio.run(
                    client.run(
                        server.port,
                        kind.key(target),
                        itertools.islice(requests, count),
                        concurrency=concurrency,
                        seconds=60,
                        keep=False,
                    )
                )
                if kind.writes:
                    time.sleep(load.SETTLE_SECONDS)
                used = cpu_seconds(server.pid) + store.cpu_seconds() - before
                times = sorted(result.latencies)
                figures = {
                    "cpu": used / len(times) * 1000,
                    "p50": times[len(times) // 2] * 1000,
                    "p95": times[int(0.95 * (len(times) - 1))] * 1000,
                }
                print(json.dumps(figures), flush=True)
        finally:
            server.stop()
            provider.stop()
            store.drop()


class Checkout:
    """One checkout with its server."""

    def __init__(self, path: Path, options: argparse.Namespace) -> None:
        self.name = path.resolve().name
        command = [sys.executable, __file__, "--answer", options.database, str(options.memories)]
        self.process = subprocess.Popen(
            [str(path / ".venv" / "bin" / "python"), *command[1:]],
            cwd=path,
            env={"PYTHONPATH": str(path.resolve()), "PATH": "/usr/local/bin:/usr/bin:/bin"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.read()

    def read(self) -> Any:
        """The next answer."""
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def ask(self, kind: str, options: argparse.Namespace) -> dict[str, float]:
        """One round of a kind of request."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([kind, options.requests, options.concurrency]) + "\n")
        self.process.stdin.flush()
        return dict(self.read())

    def end(self) -> None:
        """Ends the server."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def show(kind: str, found: dict[str, list[dict[str, float]]]) -> None:
    """A line for each checkout."""
    first: tuple[float, float] | None = None
    for name, rounds in found.items():
        figures = rounds[1:]
        cpu = statistics.median(x["cpu"] for x in figures), min(x["cpu"] for x in figures)
        first = first or cpu
        more = [f"{(now / then - 1) * 100:+.1f} %" for now, then in zip(cpu, first, strict=True)]
        p50, p95 = (statistics.median(x[key] for x in figures) for key in ("p50", "p95"))
        print(
            f"{kind:24} {name:16} CPU {cpu[0]:6.2f} ({more[0]}), least {cpu[1]:6.2f} ({more[1]}), "
            f"p50 {p50:5.1f}, p95 {p95:5.1f} ms"
        )


def main() -> None:
    if sys.argv[1:2] == ["--answer"]:
        answer_rounds(sys.argv[2], int(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkouts", type=Path, nargs="+")
    parser.add_argument("--database", default="sqlite", help="sqlite, or the URL of PostgreSQL")
    parser.add_argument("--memories", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--requests", type=int, default=REQUESTS, help="of each kind, in a round")
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument(
        "--only", nargs="+", default=["get one", "list 20", "search", "add verbatim"]
    )
    options = parser.parse_args()
    checkouts = [Checkout(path, options) for path in options.checkouts]
    try:
        for kind in options.only:
            found: dict[str, list[dict[str, float]]] = {one.name: [] for one in checkouts}
            for number in range(options.rounds):
                for one in checkouts if number % 2 else reversed(checkouts):
                    found[one.name].append(one.ask(kind, options))
            show(kind, found)
    finally:
        for one in checkouts:
            one.end()


if __name__ == "__main__":
    main()
