"""What a search costs with late interaction and without, and what it takes to store for it.

    python -m benchmarks.late [--memories 10000 100000] [--database sqlite | postgresql://…]

All memories are one user's: the hardest case. In process, with the stub embedder: CPU time of this
process and of PostgreSQL for `search_memories` alone, each query a new one. Makes its own data
directories and databases, and removes them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.processes import Database

SEARCHES = 200
WARM_UP = 40
STORED_AT_ONCE = 500


def measure(count: int, database: Database) -> dict[str, Any]:
    """Runs with a data directory and a database of its own; milliseconds, bytes."""
    import django

    django.setup()
    from django.core.management import call_command
    from django.db import connection
    from django.db.models import Sum
    from django.db.models.functions import Length

    from accounts.models import Project
    from accounts.queries import project_view
    from benchmarks import corpus
    from benchmarks.fill import store
    from benchmarks.stub_embedder import StubEmbedder
    from core.principal import ALL_SCOPES, Principal
    from memories import runtime
    from memories.filters import Comparison
    from memories.models import MemoryTokens
    from memories.search import service as search

    call_command("migrate", verbosity=0)
    project = project_view(Project.objects.get(slug="default"))
    principal = Principal(project=project, scopes=ALL_SCOPES, via="internal", is_owner=True)
    running = runtime.open_runtime()
    runtime.install(running)
    rows = [replace(row, user_id=corpus.HEAVY_USER) for row in corpus.rows(count)]
    started = time.perf_counter()
    for at in range(0, count, STORED_AT_ONCE):
        store(principal, StubEmbedder(), rows[at : at + STORED_AT_ONCE])
    stored = time.perf_counter() - started
    while running.indexer is not None and running.indexer.drain():
        pass
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")  # as PostgreSQL does by itself within minutes
    language = corpus.Language(seed=3)
    where = Comparison("user_id", "eq", corpus.HEAVY_USER)

    def ask() -> None:
        found = search.search_memories(principal, language.text(4, 8), where=where)
        assert len(found.hits) == 20, found

    reader = running.engine.reader
    figures: dict[str, Any] = {"memories": count, "stored_per_second": round(count / stored)}
    for name, used in (("late interaction", reader), ("first step", None)):
        running.engine.reader = used
        figures[name] = _cost(ask, database)
    kept = MemoryTokens.objects.aggregate(bytes=Sum(Length("data")))["bytes"] or 0
    figures["bytes_per_memory"] = round(kept / count)
    running.close()
    return figures


def _cost(ask: Callable[[], None], database: Database) -> dict[str, float]:
    for _ in range(WARM_UP):
        ask()
    own, store, walls = time.process_time(), database.cpu_seconds(), []
    for _ in range(SEARCHES):
        started = time.perf_counter()
        ask()
        walls.append((time.perf_counter() - started) * 1000)
    own, store = time.process_time() - own, database.cpu_seconds() - store
    walls.sort()
    return {
        "cpu_ms": round((own + store) / SEARCHES * 1000, 2),
        "server_ms": round(own / SEARCHES * 1000, 2),
        "store_ms": round(store / SEARCHES * 1000, 2),
        "p50_ms": round(statistics.median(walls), 1),
        "p95_ms": round(walls[int(0.95 * SEARCHES)], 1),
    }


def one(count: int, url: str) -> None:
    """A run in this process, which has read no settings yet."""
    database = Database(url)
    try:
        with tempfile.TemporaryDirectory(prefix="mem0dash-late-") as folder:
            os.environ |= {
                "MEM0DASH_DATA_DIR": folder,
                "DJANGO_SETTINGS_MODULE": "benchmarks.settings",
                "LOG_LEVEL": "ERROR",
            }
            if database.url:
                os.environ["DATABASE_URL"] = database.url
            print(json.dumps(measure(count, database)))
    finally:
        database.drop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memories", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--database", default="sqlite", help="sqlite, or the URL of PostgreSQL")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return one(options.one, options.database)
    print("| memories | search | CPU ms | server | store | p50 ms | p95 ms |")
    print("|---|---|---|---|---|---|---|")
    for count in options.memories:
        command = [sys.executable, "-m", "benchmarks.late", "--one", str(count)]
        command += ["--database", options.database]
        done = subprocess.run(
            command, cwd=Path(__file__).parent.parent, check=True, stdout=subprocess.PIPE, text=True
        )
        figures = json.loads(done.stdout.splitlines()[-1])
        for name in ("late interaction", "first step"):
            numbers = " | ".join(str(number) for number in figures[name].values())
            print(f"| {count:,} | {name} | {numbers} |")
        print(
            f"{figures['bytes_per_memory']:,} bytes of token states a memory; "
            f"{figures['stored_per_second']:,} memories stored a second"
        )
    return None


if __name__ == "__main__":
    main()
