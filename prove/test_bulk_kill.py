"""kill -9 in the middle of a bulk change over 20,000 memories, and of its undo: both come to their
end, nothing is done twice, and nothing beyond what was shown is touched."""

import random
import time
from typing import Final

from prove.conftest import MakeServer
from prove.postgres import Cluster
from prove.server import Server
from prove.test_kill import PENDING, SETTLE_SECONDS, Ask, postgres_asker, seed, sqlite_asker

__all__ = ["seed"]

MANY: Final = 20_000
OTHERS: Final = 2_000
END_SECONDS: Final = 300.0

FILL: Final = f"""
import uuid
from django.db import transaction
from accounts.queries import operator_of
from memories.storage import rows as records
operator = operator_of("default")
for user, count in (("mara", {MANY}), ("jonas", {OTHERS})):
    for at in range(0, count, 1000):
        texts = (f"{{user}} said sentence {{n}}" for n in range(at, at + 1000))
        drafts = [records.Draft(text=text, entities={{"user_id": user}}) for text in texts]
        rows = records.build_memories(drafts, principal=operator, batch_id=uuid.uuid4())
        with transaction.atomic():
            nothing_read = [records.Reading(None)] * 1000
            records.insert_memories(rows, nothing_read, "", "", principal=operator)
"""
BEGIN: Final = """
from accounts.queries import operator_of
from memories.bulk import service as bulk
from memories.browse.selection import Selection
operator = operator_of("default")
shown = bulk.plan(operator, "delete", selection=Selection.of({"user_id": ["mara"]}))
print(bulk.run(operator, shown.token).count)
"""
UNDO: Final = """
from accounts.queries import operator_of
from memories.bulk import service as bulk
operator = operator_of("default")
[operation] = bulk.recent(operator)
print(bulk.undo(operator, operation.id).state)
"""
# What holds at any moment, whatever was killed: {what: SQL that gives 0}.
NEVER: Final = {
    "others' memories touched": (
        "SELECT count(*) FROM memories_memory"
        " WHERE user_id <> 'mara' AND (rev <> 1 OR deleted_at IS NOT NULL)"
    ),
    "memories in the history twice": (
        "SELECT count(*) FROM (SELECT memory_id FROM memories_revision"
        " GROUP BY memory_id, event HAVING count(*) > 1) AS twice"
    ),
    "memories changed without being counted": (
        "SELECT (SELECT count(*) FROM memories_memory WHERE rev > 1)"
        " - (SELECT done FROM memories_operation)"
    ),
    "memories changed without an entry in the history": (
        "SELECT (SELECT sum(rev) FROM memories_memory) - (SELECT count(*) FROM memories_revision)"
    ),
    "memories counted without a note": (
        "SELECT (SELECT done FROM memories_operation) - (SELECT count(*)"
        " FROM memories_operationitem WHERE state IN ('done', 'undone', 'left'))"
    ),
    "memories passed over": 'SELECT skipped + unchanged + "left" FROM memories_operation',
}
NOTED_AND_DONE: Final = (
    "SELECT (SELECT count(*) FROM memories_operationitem) + (SELECT done FROM memories_operation)"
)
DELETED: Final = "SELECT count(*) FROM memories_memory WHERE deleted_at IS NOT NULL"


def _shell(server: Server, script: str) -> str:
    return server.manage("shell", "--verbosity", "0", "--command", script).split()[-1]


def _kill_until_ended(
    server: Server, ask: Ask, ended: str, progress: str, moments: list[int]
) -> None:
    """Kills the server at these moments of the progress and starts it again; returns when the
    operation is in the state `ended`."""
    in_the_end = f"SELECT count(*) FROM memories_operation WHERE state = '{ended}'"
    deadline = time.monotonic() + END_SECONDS
    for moment in [*moments, None]:
        while not ask(in_the_end) and (moment is None or ask(progress) < moment):
            assert time.monotonic() < deadline, f"not {ended} after {END_SECONDS:.0f} s"
            time.sleep(0.01)
        if moment is None:
            return
        assert not ask(in_the_end), f"{ended} before it was killed at {moment}"
        server.kill9()
        for what, sql in NEVER.items():
            assert ask(sql) == 0, what
        print(f"  killed at {ask(progress):,}; {ask(DELETED):,} of {MANY:,} are deleted")
        server.start()


def _prove(server: Server, ask: Ask, seed: str) -> None:
    rng = random.Random(seed)
    server.manage("shell", "--verbosity", "0", "--command", FILL)
    assert _shell(server, BEGIN) == str(MANY)
    # Ids are noted down first, all of them; then comes the work.
    moments = sorted([rng.randrange(MANY), *(rng.randrange(MANY, MANY * 2 - 2000) for _ in "1234")])
    _kill_until_ended(server, ask, "done", NOTED_AND_DONE, moments)
    assert ask(DELETED) == MANY
    assert _shell(server, UNDO) == "undoing"
    moments = sorted(rng.randrange(MANY - 2000) for _ in "123")
    _kill_until_ended(server, ask, "undone", "SELECT undone FROM memories_operation", moments)
    assert ask(DELETED) == 0
    for what, sql in NEVER.items():
        assert ask(sql) == 0, what
    assert ask("SELECT undone FROM memories_operation") == MANY
    # The vectors of all are made meanwhile, which takes as long as the machine has other work.
    deadline = time.monotonic() + 5 * SETTLE_SECONDS
    while pending := ask(PENDING):
        assert time.monotonic() < deadline, f"the index lacks {pending} memories"
        time.sleep(0.2)


def test_a_bulk_change_survives_kills_on_sqlite(server: Server, seed: str) -> None:
    _prove(server, sqlite_asker(server), seed)
    server.kill9()
    found = server.index_on_disk("compare")
    assert found["held"] == found["live"] == MANY + OTHERS, found
    assert not found["broken"], found


def test_a_bulk_change_survives_kills_on_postgresql(
    make_server: MakeServer, postgres: Cluster, seed: str
) -> None:
    url = postgres.create_database("bulk")
    server = make_server(environment={"DATABASE_URL": url})
    server.start()
    server.bootstrap()
    _prove(server, postgres_asker(url), seed)
