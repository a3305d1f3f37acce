"""Fills the configured database with invented memories, through the product's `records.insert`.

Run by benchmarks.load (`python -m benchmarks.fill 10000`) while the server runs on the same
database and indexes what arrives. Ends when the index has caught up; its last line is JSON: ids.
"""

import itertools
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from uuid import UUID, uuid4

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")

import django

django.setup()

from django.db import transaction  # noqa: E402
from django.db.models import F  # noqa: E402

from accounts.models import Project  # noqa: E402
from accounts.queries import project_view  # noqa: E402
from benchmarks import corpus  # noqa: E402
from benchmarks.stub_embedder import StubEmbedder  # noqa: E402
from core.principal import ALL_SCOPES, Principal  # noqa: E402
from memories.engine.engine import Engine  # noqa: E402
from memories.models import Memory  # noqa: E402
from memories.storage import rows as records  # noqa: E402

TRANSACTION = 500
SAMPLE = 4000
GIVE_UP_SECONDS = 600


def main(count: int) -> None:
    project = Project.objects.get(slug="default")
    principal = Principal(project=project_view(project), scopes=ALL_SCOPES, via="internal")
    embedder = StubEmbedder()
    batch: list[corpus.Row] = []
    ids: list[tuple[str, UUID]] = []
    for row in corpus.rows(count):
        batch.append(row)
        if len(batch) == TRANSACTION:
            ids += store(principal, embedder, batch)
            batch = []
    ids += store(principal, embedder, batch)
    _wait_for_index()
    random.Random(2).shuffle(ids)
    heavy = [str(id_) for user, id_ in ids if user == corpus.HEAVY_USER]
    others = [str(id_) for user, id_ in ids if user != corpus.HEAVY_USER]
    print(json.dumps({"heavy": heavy[:SAMPLE], "others": others[:SAMPLE]}))


def store(
    principal: Principal, embedder: StubEmbedder, rows: Sequence[corpus.Row]
) -> list[tuple[str, UUID]]:
    """Stores the rows in one transaction: each run as one add, each lone fact as its own."""
    memories: list[Memory] = []
    for _, add in itertools.groupby(enumerate(rows), key=lambda pair: pair[1].run_id or pair[0]):
        drafts = [_draft(row) for _, row in add]
        memories += records.build_memories(drafts, principal=principal, batch_id=uuid4())
    readings = Engine(embedder, reader=embedder).read(
        [records.text_to_embed(memory) for memory in memories]
    )
    keys = (embedder.model_key, embedder.states_key)
    with transaction.atomic():
        records.insert_memories(memories, readings, *keys, principal=principal)
    return [(memory.user_id, memory.id) for memory in memories]


def _draft(row: corpus.Row) -> records.Draft:
    return records.Draft(
        text=row.text,
        entities={"user_id": row.user_id, **({"run_id": row.run_id} if row.run_id else {})},
        metadata={"created_at": row.created_at.isoformat(), "source": "benchmark"},
        role=row.role,
    )


def _wait_for_index() -> None:
    ends = time.monotonic() + GIVE_UP_SECONDS
    while Memory.objects.filter(rev__gt=F("indexed_rev")).exists():
        if time.monotonic() > ends:
            raise SystemExit("The index did not catch up; is the server running?")
        time.sleep(0.2)


if __name__ == "__main__":
    main(int(sys.argv[1]))
