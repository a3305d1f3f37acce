"""PgBouncer in transaction mode between two servers, two workers and PostgreSQL: they start at once
on an empty database, and bulk changes, a rebuild and another embedder pass under load without one
error."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from prove.conftest import need
from prove.environment import ROOT, clean_environment
from prove.pgbouncer import HOW_TO_GET, PgBouncer, program
from prove.postgres import Cluster
from prove.server import Server
from prove.test_distributed import Site
from prove.test_kill import PENDING, Ask, postgres_asker

MANY: Final = 5_000
CLIENTS: Final = 4
LATE: Final = "index not updated"
GIVE_UP_SECONDS: Final = 120.0
DIMS: Final = 64

FILL: Final = f"""
import uuid
from django.db import transaction
from accounts.queries import operator_of
from memories.storage import rows as records
operator = operator_of("default")
for at in range(0, {MANY}, 1000):
    texts = (f"mara said sentence {{n}}" for n in range(at, at + 1000))
    drafts = [records.Draft(text=text, entities={{"user_id": "mara"}}) for text in texts]
    rows = records.build_memories(drafts, principal=operator, batch_id=uuid.uuid4())
    with transaction.atomic():
        records.insert_memories(rows, [records.Reading(None)] * 1000, "", "", principal=operator)
"""
# Twelve dry runs, four at a time, and the run of what the last one showed.
BULK: Final = """
from concurrent.futures import ThreadPoolExecutor
from accounts.queries import operator_of
from memories.bulk import service as bulk
from memories.browse.selection import Selection
operator = operator_of("default")
def plan(_):
    return bulk.plan(operator, "delete", selection=Selection.of({"user_id": ["mara"]}))
with ThreadPoolExecutor(4) as threads:
    shown = list(threads.map(plan, range(12)))
print([one.count for one in shown], bulk.run(operator, shown[-1].token).count)
"""
LEFT: Final = "SELECT count(*) FROM memories_memory WHERE user_id = 'mara' AND deleted_at IS NULL"
FLIPPED: Final = "SELECT count(*) FROM memories_reembedding WHERE state = 'flipped'"


class Client(threading.Thread):
    """Adds on one server and looks for it on the other at once, changes it, and deletes some."""

    def __init__(self, number: int, servers: list[Server], stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.number, self.servers, self.stop = number, servers, stop
        self.rounds = 0
        self.errors: list[str] = []
        # Not found on the other server right after the answer.
        self.missed: list[str] = []

    def run(self) -> None:
        a, b = (self.servers[(self.number + n) % 2].client() for n in range(2))
        user = f"user-{self.number}"
        while not self.stop.is_set():
            word = f"word{self.number}x{self.rounds}"
            try:
                [made] = a.add(f"The {word} is in the cellar", user_id=user)
                if made["id"] not in {hit["id"] for hit in b.search(word, user_id=user)}:
                    self.missed.append(word)
                b.update(made["id"], text=f"The {word} is in the garden")
                assert a.get(made["id"]) is not None
                if self.rounds % 3 == 0:
                    a.delete(made["id"])
            except Exception as error:  # noqa: BLE001  (whatever it was, it is told in the end)
                self.errors.append(repr(error)[:500])
            self.rounds += 1


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "memories.tests.provider", "--dims", str(DIMS)]
    with (tmp_path / "provider.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE, stderr=log
        )
    assert process.stdout is not None
    yield process.stdout.readline().decode().split()[-1]
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture
def site(model: str, tmp_path: Path, postgres: Cluster) -> Iterator[tuple[Site, Ask]]:
    need(program(), HOW_TO_GET)
    direct = postgres.create_database("pooled")
    pooler = PgBouncer(postgres)
    made = Site(tmp_path, pooler.url("pooled"))
    try:
        # All at once: one of them migrates.
        made.start([name for name in made.parts if name != "qdrant"])
        made.webs[1].key = made.webs[0].bootstrap()
        yield made, postgres_asker(direct)
    finally:
        made.kill(list(made.parts))
        pooler.remove()


def until(what: str, is_so: Callable[[], Any]) -> None:
    started = time.monotonic()
    while not is_so():
        assert time.monotonic() - started < GIVE_UP_SECONDS, f"waited too long for: {what}"
        time.sleep(0.2)


def test_everything_goes_through_a_pooler_without_an_error(
    site: tuple[Site, Ask], provider: str, tmp_path: Path
) -> None:
    running, ask = site
    web = running.webs[0]
    web.manage("shell", "--verbosity", "0", "--command", FILL)
    stop = threading.Event()
    clients = [Client(n, running.webs, stop) for n in range(CLIENTS)]
    for client in clients:
        client.start()

    def further(rounds: int = 5) -> None:
        """Every client has come a while further."""
        marks = [client.rounds + rounds for client in clients]
        until("load", lambda: all(c.rounds >= m for c, m in zip(clients, marks, strict=True)))

    try:
        told = web.manage("shell", "--verbosity", "0", "--command", BULK)
        assert told.split() == [*f"{[MANY] * 12} {MANY}".split()], told
        until("the bulk change", lambda: ask(LEFT) == 0)
        generation = ask("SELECT generation FROM memories_indexstate")
        web.manage("rebuild_index")
        assert ask("SELECT generation FROM memories_indexstate") > generation
        further()
        missed = [word for client in clients for word in client.missed]
        key = tmp_path / "key"
        key.write_text("sk-proof")
        arguments = ("--provider", "openai", "--model", "text-embedding-3-small")
        web.manage("reembed", *arguments, "--base-url", provider, "--api-key-file", str(key))
        until("the other embedder", lambda: ask(FLIPPED) == 1)
        further()
    finally:
        stop.set()
        for client in clients:
            client.join(timeout=60)
    assert [error for client in clients for error in client.errors] == []
    # What took the index too long, on a busy machine, was left to the workers, and that is said.
    late = [
        entry for web in running.webs for entry in web.logged("warning") if LATE in entry["message"]
    ]
    assert len(missed) <= len(late), missed
    until("the index", lambda: ask(PENDING) == 0)
    assert "are the same" in web.manage("check_index")
    for part in (*running.webs, *running.workers):
        assert part.logged("error", "critical") == []
        part.stop()
    rounds = sum(client.rounds for client in clients)
    print(
        f"{rounds} rounds of {CLIENTS} clients; not found at once: {len(missed)}; late: {len(late)}"
    )
