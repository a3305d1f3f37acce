"""Fills the configured database with believable memories by bulk SQL: rows only, no vectors.

`python -m benchmarks.million 1000000`, run by benchmarks.browse. The rows count as indexed, so that
no server embeds them. Its last line is JSON: how many, and the seconds it took.
"""

import itertools
import json
import os
import random
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")

import django

django.setup()

from django.db import connection, transaction  # noqa: E402

from accounts.models import Project  # noqa: E402
from benchmarks.corpus import Language  # noqa: E402
from memories import texts  # noqa: E402
from memories.models import ENTITY_FIELDS, Memory  # noqa: E402

BATCH = 20_000
USERS = 5000
RUN = 20
# One in so many holds the rare word, and "so" many the common one.
RARE_WORD, RARE_EVERY = "quetzalcoatl", 100_000
NEWEST = datetime(2026, 11, 20, 12, tzinfo=UTC)
SPAN = timedelta(days=700)
SOURCES = ("import:chatgpt", "import:claude", "capture:telegram", "opencode", "cli", "mcp", "api")
AGENTS = tuple(f"agent-{n}" for n in range(12))
APPS = tuple(f"app-{n}" for n in range(6))
FIELDS = list(Memory._meta.concrete_fields)


def rows(count: int, project_id: uuid.UUID) -> Iterator[dict[str, Any]]:
    """`count` memories, oldest first: a third are turns in runs, the others lone facts."""
    rng, language = random.Random(4), Language(seed=4)
    users = [f"user-{n:04d}" for n in range(USERS)]
    weights = list(itertools.accumulate(1 / (rank + 20) for rank in range(USERS)))
    step = SPAN / count
    entities: dict[str, str] = {}
    batch = uuid.UUID(int=0)
    for n in range(count):
        created = NEWEST - SPAN + n * step
        in_run = n // RUN % 3 == 0
        if not in_run or n % RUN == 0:
            batch = uuid.UUID(int=rng.getrandbits(128))
            entities = dict.fromkeys(ENTITY_FIELDS, "")
            entities["user_id"] = rng.choices(users, cum_weights=weights)[0]
            entities["agent_id"] = rng.choice(AGENTS) if rng.random() < 0.4 else ""
            entities["app_id"] = rng.choice(APPS) if rng.random() < 0.3 else ""
            entities["run_id"] = f"run-{n // RUN}" if in_run else ""
        text = language.text(6, 30)
        if n % RARE_EVERY == RARE_EVERY // 2:
            text += f" {RARE_WORD}"
        changed = rng.random() < 0.1
        yield {
            "id": uuid.UUID(int=rng.getrandbits(128)),
            "project_id": project_id,
            "collection": "knowledge" if rng.random() < 0.1 else "conversational",
            "text": text,
            "text_fold": texts.fold(text),
            **entities,
            "metadata": {"topic": rng.choice(language.words[:50]), "weight": rng.randrange(10)},
            "categories": [],
            "source": rng.choice(SOURCES) if rng.random() < 0.6 else "",
            "confidence": rng.choices(("unknown", "high", "medium", "low"), (50, 25, 15, 10))[0],
            "review_status": rng.choices(
                ("unreviewed", "approved", "rejected", "stale"), (80, 15, 3, 2)
            )[0],
            "expires_at": NEWEST + rng.uniform(-1, 1) * SPAN if rng.random() < 0.08 else None,
            "expiration_date": (NEWEST + rng.uniform(-1, 1) * SPAN).date()
            if rng.random() < 0.04
            else None,
            "fingerprint": f"{rng.getrandbits(256):064x}",
            "batch_id": batch,
            "seq": n % RUN if in_run else 0,
            "session": f"{n // RUN:032x}" if in_run else "",
            "created_at": created,
            "updated_at": created + rng.random() * (NEWEST - created) if changed else created,
            "rev": 1,
            "indexed_rev": 1,
            "deleted_at": NEWEST - timedelta(days=3) if rng.random() < 0.02 else None,
        }


def fill(count: int) -> float:
    """Stores them; the seconds it took."""
    started = time.perf_counter()
    project = Project.objects.get(slug="default")
    blank = {f.attname: f.get_default() for f in FIELDS if not f.primary_key}
    made = ({**blank, **row} for row in rows(count, project.id))
    while batch := list(itertools.islice(made, BATCH)):
        with transaction.atomic(), connection.cursor() as cursor:
            _store(cursor, batch)
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("COMMIT" if connection.in_atomic_block else "SELECT 1")
            cursor.execute("VACUUM ANALYZE memories_memory")
    return time.perf_counter() - started


def _store(cursor: Any, batch: list[dict[str, Any]]) -> None:
    table = Memory._meta.db_table
    columns = ", ".join(f'"{field.column}"' for field in FIELDS)
    values = [[f.get_db_prep_save(row[f.attname], connection) for f in FIELDS] for row in batch]
    if connection.vendor == "postgresql":
        with cursor.copy(f"COPY {table} ({columns}) FROM STDIN") as copy:
            for line in values:
                copy.write_row(line)
        return
    marks = ", ".join(["%s"] * len(FIELDS))
    cursor.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", values)


if __name__ == "__main__":
    wanted = int(sys.argv[1])
    print(json.dumps({"memories": wanted, "seconds": round(fill(wanted), 1)}))
