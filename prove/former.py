"""Makes what a server of the release before leaves behind: its database, its index, and work that
has been begun.

Run as a script with the server's environment, before anything else has made the database. It prints
what the proof has to know, as JSON. The rows are written as the tables were then, whatever the
models of today are.
"""

import hashlib
import json
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final

import django

django.setup()

import numpy as np  # noqa: E402
from django.conf import settings  # noqa: E402
from django.contrib.auth.hashers import make_password  # noqa: E402
from django.core import signing  # noqa: E402
from django.db import connection, transaction  # noqa: E402
from django.db.migrations.executor import MigrationExecutor  # noqa: E402

from benchmarks.stub_embedder import DIMS, StubEmbedder  # noqa: E402
from memories.index.base import Point  # noqa: E402
from memories.index.edge import EdgeIndex  # noqa: E402

# The last migration of each room in the release before this one; a release moves them on.
FORMER: Final = (
    ("accounts", "0004_time_zone"),
    ("apikeys", "0003_made_by"),
    ("jobs", "0001_initial"),
    ("memories", "0011_token_states_of_text"),
    ("operations", "0004_refused_requests"),
    ("sessions", "0001_initial"),
    ("setup_wizard", "0001_initial"),
)
OWNER: Final = {"email": "owner@example.org", "password": "long enough"}
COUNT: Final = 10_000
# Whose memories are being deleted, and how many of them are; whose are in a plan.
DELETING, DELETED, TO_DELETE = "jonas", 1_000, 2_000
PLANNED, TO_APPROVE = "mara", 3_000
WITH_STATES: Final = 500
WORDS: Final = ("tea", "coffee", "wine", "bread", "cheese", "train", "garden", "piano", "rose")
NOW: Final = datetime.now(UTC).replace(microsecond=0)
BATCH: Final = 500


def user_of(number: int) -> str:
    if number < TO_DELETE:
        return DELETING
    return PLANNED if number < TO_DELETE + TO_APPROVE else f"user-{number % 50}"


def memories(tables: Any, project: Any) -> list[Any]:
    """All of them, as rows that are not saved; the first DELETED ones are deleted."""
    rows = []
    for number in range(COUNT):
        text = f"note {number}: the {WORDS[number % len(WORDS)]} of house {number // 10}"
        created = NOW - timedelta(days=1) + timedelta(seconds=number)
        gone = number < DELETED
        rows.append(
            tables.get_model("memories", "Memory")(
                id=uuid.uuid4(),
                project=project,
                text=text,
                text_fold=text,
                user_id=user_of(number),
                fingerprint=hashlib.sha256(text.encode()).hexdigest(),
                metadata={"house": number // 10},
                created_at=created,
                updated_at=NOW if gone else created,
                rev=2 if gone else 1,
                indexed_rev=2 if gone else 1,
                deleted_at=NOW if gone else None,
            )
        )
    # In the order in which they are shown and locked.
    ids = sorted(row.id for row in rows[:TO_DELETE])
    for row, id_ in zip(rows, ids, strict=False):
        row.id = id_
    return rows


def in_batches(model: Any, rows: Iterator[Any]) -> None:
    while some := list(islice(rows, BATCH)):
        model.objects.bulk_create(some)


def store(tables: Any, project: Any, rows: Sequence[Any], vectors: Any) -> None:
    """Memories with their vectors, some token states, and their history."""
    model = lambda name: tables.get_model("memories", name)  # noqa: E731
    in_batches(model("Memory"), iter(rows))
    in_batches(
        model("MemoryVector"),
        (
            model("MemoryVector")(
                memory_id=row.id, model_key=StubEmbedder.model_key, dims=DIMS, data=vector.tobytes()
            )
            for row, vector in zip(rows, vectors, strict=True)
        ),
    )
    in_batches(
        model("MemoryTokens"),
        (
            model("MemoryTokens")(memory_id=row.id, states_key="former", data=b"\0" * 660)
            for row in rows[-WITH_STATES:]
        ),
    )

    def revision(row: Any, event: str, at: datetime, **texts: str) -> Any:
        return model("Revision")(
            project=project,
            memory_id=row.id,
            event=event,
            memory_created_at=row.created_at,
            at=at,
            via="internal",
            **texts,
        )

    in_batches(
        model("Revision"),
        (revision(row, "ADD", row.created_at, new_text=row.text) for row in rows),
    )
    deleted = (revision(row, "DELETE", NOW, old_text=row.text) for row in rows[:DELETED])
    in_batches(model("Revision"), deleted)


def digest(pairs: Iterator[tuple[uuid.UUID, int]]) -> str:
    """What a plan remembers of memories and their revisions."""
    total = 0
    for id_, rev in pairs:
        hashed = hashlib.blake2b(id_.bytes + rev.to_bytes(8), digest_size=16).digest()
        total = (total + int.from_bytes(hashed)) % 2**128
    return f"{total:032x}"


def begin_to_delete(tables: Any, project: Any, rows: Sequence[Any]) -> uuid.UUID:
    """A bulk change that was stopped half-way."""
    asked = rows[:TO_DELETE]
    operation = tables.get_model("memories", "Operation").objects.create(
        id=uuid.uuid4(),
        project=project,
        action="delete",
        match={"params": {"user_id": [DELETING]}},
        words=f"user {DELETING}",
        count=TO_DELETE,
        digest=digest((row.id, 1) for row in asked),
        planned_at=NOW,
        state="running",
        done=DELETED,
        via="internal",
        created_at=NOW,
    )
    item = tables.get_model("memories", "OperationItem")
    in_batches(
        item,
        (
            item(
                operation=operation,
                memory_id=row.id,
                rev=row.rev,
                state="pending" if row.deleted_at is None else "done",
                before={} if row.deleted_at is None else {"deleted_at": None},
            )
            for row in asked
        ),
    )
    return uuid.UUID(str(operation.id))


def plan_to_approve(project: Any, account: Any, rows: Sequence[Any]) -> str:
    """What the page of a plan has in its form."""
    planned = rows[TO_DELETE : TO_DELETE + TO_APPROVE]
    return signing.dumps(
        {
            "id": uuid.uuid4().hex,
            "do": ["approve", ""],
            "match": {"params": {"user_id": [PLANNED]}},
            "count": TO_APPROVE,
            "digest": digest((row.id, row.rev) for row in planned),
            "at": NOW.isoformat(),
            "who": [str(project.id), str(account.id), "[]"],
        },
        salt="memories.bulk",
        compress=True,
    )


def write_index(tables: Any, project: Any, rows: Sequence[Any], vectors: Any) -> None:
    """The embedded index of the live memories, and the row that says so."""
    root = settings.DATA_DIR / "index"
    root.mkdir(mode=0o700)
    index = EdgeIndex(root / "000001", DIMS)
    points = [
        Point(
            row.id,
            row.rev,
            row.text,
            vector,
            {
                "project": str(project.id),
                "collection": row.collection,
                "user_id": row.user_id,
                "confidence": row.confidence,
                "review_status": row.review_status,
            },
        )
        for row, vector in zip(rows, vectors, strict=True)
        if row.deleted_at is None
    ]
    for at in range(0, len(points), BATCH):
        index.upsert(points[at : at + BATCH])
    index.flush()
    index.close()
    tables.get_model("memories", "IndexState").objects.create(
        name="default", model_key=StubEmbedder.model_key, dims=DIMS, generation=1, built_at=NOW
    )


def own(tables: Any, project: Any) -> tuple[Any, str]:
    """The owner of a server that is set up, and a key of theirs."""
    account = tables.get_model("accounts", "Account").objects.create(
        email=OWNER["email"], name="Owner", password=make_password(OWNER["password"]), is_owner=True
    )
    tables.get_model("accounts", "InstanceState").objects.update_or_create(
        id=1, defaults={"owner_created_at": NOW, "setup_completed_at": NOW}
    )
    key = f"m0sk_{'former-' * 6}x"
    tables.get_model("apikeys", "ApiKey").objects.create(
        project=project,
        owner=account,
        label="of before",
        prefix=key[:12],
        last4=key[-4:],
        digest=hashlib.sha256(key.encode()).hexdigest(),
        scopes=["read", "write", "review"],
    )
    return account, key


def main() -> None:
    executor = MigrationExecutor(connection)
    tables = executor.migrate([*FORMER]).apps
    projects = tables.get_model("accounts", "Project").objects
    project, _ = projects.get_or_create(slug="default", defaults={"name": "Default"})
    account, key = own(tables, project)
    rows = memories(tables, project)
    made = StubEmbedder().embed([row.text for row in rows])
    vectors = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype("<f4")
    with transaction.atomic():
        store(tables, project, rows, vectors)
        operation = begin_to_delete(tables, project, rows)
    write_index(tables, project, rows, vectors)
    told = {
        "key": key,
        "operation": str(operation),
        "token": plan_to_approve(project, account, rows),
        "one": [str(rows[-1].id), rows[-1].text, rows[-1].user_id],
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
