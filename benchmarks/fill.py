"""Fills the configured database with invented memories, through the product's own `records.insert`.

Run by benchmarks.load: `python -m benchmarks.fill 10000`, while the server runs on the same database
and indexes what arrives. Ends when the index has caught up; the last line is JSON: ids to ask for.
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
from apikeys.services import project_view  # noqa: E402
from benchmarks import corpus  # noqa: E402
from benchmarks.stub_embedder import StubEmbedder  # noqa: E402
from mem0dash.principal import ALL_SCOPES, Principal  # noqa: E402
from memories import records  # noqa: E402
from memories.models import Memory  # noqa: E402

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
            ids += _store(principal, embedder, batch)
            batch = []
    ids += _store(principal, embedder, batch)
    _wait_for_index()
    random.Random(2).shuffle(ids)
    heavy = [str(id_) for user, id_ in ids if user == corpus.HEAVY_USER]
    others = [str(id_) for user, id_ in ids if user != corpus.HEAVY_USER]
    print(json.dumps({"heavy": heavy[:SAMPLE], "others": others[:SAMPLE]}))


def _store(
    principal: Principal, embedder: StubEmbedder, rows: Sequence[corpus.Row]
) -> list[tuple[str, UUID]]:
    """Stores the rows in one transaction: each run as one add, each lone fact as an add by itself."""
    vectors = embedder.embed([row.text for row in rows])
    drafts = [
        records.Draft(
            text=row.text,
            vector=records.checked_vector(vector, embedder.dims),
            model_key=embedder.model_key,
            entities={"user_id": row.user_id, **({"run_id": row.run_id} if row.run_id else {})},
            metadata={"created_at": row.created_at.isoformat(), "source": "benchmark"},
            role=row.role,
        )
        for row, vector in zip(rows, vectors, strict=True)
    ]
    with transaction.atomic():
        for run_id, run in itertools.groupby(drafts, key=lambda d: d.entities.get("run_id")):
            adds = [list(run)] if run_id else [[draft] for draft in run]
            for add in adds:
                records.insert(add, principal=principal, batch_id=uuid4())
    return [(row.user_id, draft.id) for row, draft in zip(rows, drafts, strict=True)]


def _wait_for_index() -> None:
    ends = time.monotonic() + GIVE_UP_SECONDS
    while Memory.objects.filter(rev__gt=F("indexed_rev")).exists():
        if time.monotonic() > ends:
            raise SystemExit("The index did not catch up; is the server running?")
        time.sleep(0.2)


if __name__ == "__main__":
    main(int(sys.argv[1]))
