"""Measures the memory browser with a million memories: pages, counts, searches, an export.

    python -m benchmarks.browse [--memories 1000000] [--database sqlite | postgresql://…]

Makes its own data directory and database, fills it by bulk SQL (no vectors), and removes both.
Whole pages are asked for, through all of Django, in process: wall time, and CPU time of this one
(PostgreSQL's own share is in the wall time alone). "first" is the first time a page is asked for:
counts that took long are kept until a memory changes.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.processes import Database, Server

ROUNDS = 20
FIVE = (
    "review_status=unreviewed&source=cli&confidence=high&agent_id=agent-3&collection=conversational"
)
# Name, address, page.
PAGES: list[tuple[str, str, int]] = [
    ("first page", "", 1),
    ("page 1000", "", 1000),
    ("last page", "", 999_999_999),
    ("last updated first, page 1000", "sort=updated", 1000),
    ("soonest to expire", "sort=expiring", 1),
    ("unreviewed, page 1000", "review_status=unreviewed", 1000),
    ("one user", "user_id=user-0000", 1),
    ("five fields", FIVE, 1),
    ("created in 30 days, one source", "created=30d&source=cli", 1),
    ("a key of the metadata", "metadata=topic%3Dtea", 1),
    ("deleted", "deleted=yes", 1),
    ("words: in every second memory", "q=pegalu&mode=words", 1),
    ("words: in one of 14", "q=remeve&mode=words", 1),
    ("words: in one of 300", "q=tutevi&mode=words", 1),
    ("words: in ten", "q=quetzalcoatl&mode=words", 1),
    ("words: in none", "q=zzzqqq&mode=words", 1),
    ("words: two letters, in none", "q=zz&mode=words", 1),
]
FACETS = [
    ("all", ""),
    ("all, unreviewed", "review_status=unreviewed"),
    ("all, five fields", FIVE),
    ("all, one user", "user_id=user-0000"),
    ("all, words in one of 300", "q=tutevi&mode=words"),
]

OTHERS = [
    ("users, most memories first", "/dashboard/entities"),
    ("activity", "/dashboard/activity"),
    ("/api/v1: list, offset 8,000", "/api/v1/memories?user_id=user-0000&limit=100&offset=8000"),
]


def measure() -> dict[str, Any]:
    """Runs in the process that has the database: milliseconds for each page, whole."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")
    import django

    django.setup()
    from django.test import Client

    client = Client(HTTP_HOST="127.0.0.1")

    def get(address: str) -> Any:
        answer = client.get(address)
        assert answer.status_code == 200, (address, answer.status_code)
        return answer

    def timed(address: str) -> dict[str, float]:
        walls, cpu = [], time.process_time()
        for _ in range(ROUNDS):
            started = time.perf_counter()
            get(address)
            walls.append(time.perf_counter() - started)
        first = walls[0]
        walls.sort()
        return {
            "first": round(first * 1000, 1),
            "p50": round(walls[ROUNDS // 2] * 1000, 1),
            "p95": round(walls[int(ROUNDS * 0.95) - 1] * 1000, 1),
            "cpu": round((time.process_time() - cpu) / ROUNDS * 1000, 1),
        }

    get("/dashboard/memories?user_id=user-0001")  # templates and connections are made once
    figures: dict[str, Any] = {}
    for name, query, number in PAGES:
        figures[name] = timed(f"/dashboard/memories?{query}&page={number}")
    for name, query in FACETS:
        figures[f"counts per field: {name}"] = timed(f"/dashboard/memories/filters?{query}")
    for name, address in OTHERS:
        figures[name] = timed(address)
    for kind in ("csv", "jsonl", "json"):
        started, lines = time.perf_counter(), 0
        for piece in get(f"/dashboard/memories/export?format={kind}").streaming_content:
            lines += piece.count(b"\n")
        seconds = time.perf_counter() - started
        figures[f"export, {kind}"] = {"memories per second": round(lines / seconds)}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memories", type=int, default=1_000_000)
    parser.add_argument("--database", default="sqlite")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure()))
        return
    with tempfile.TemporaryDirectory(prefix="mem0dash-browse-") as folder:
        database = Database(options.database)
        server = Server(Path(folder), database, settings="benchmarks.settings")
        try:
            server.bootstrap()
            server.environment |= {"AUTH_DISABLED": "true", "LOG_LEVEL": "WARNING"}
            print(server.command("-m", "benchmarks.million", str(options.memories)))
            for name, figures in json.loads(
                server.command("-m", "benchmarks.browse", "--measure")
            ).items():
                print(f"{name:45} {figures}", flush=True)
        finally:
            server.stop()
            database.drop()


if __name__ == "__main__":
    sys.exit(main())
