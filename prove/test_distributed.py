"""Two servers and two workers on one PostgreSQL and one Qdrant, each killed at any moment.

The Qdrant server is the tests' own (memories/tests/qdrant_server.py): Qdrant's embedded engine
behind its REST interface, which the processes talk to with Qdrant's client.
"""

import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg
import pytest
from cryptography.fernet import Fernet

from memories.tests.qdrant_server import QdrantServer
from prove.postgres import Cluster
from prove.server import Client, Server, tail
from prove.test_kill import NEVER, PENDING, Ask, postgres_asker, seed
from prove.writers import Writer

__all__ = ["seed"]

WRITERS_EACH: Final = 3
# A killed process leaves claims and leases behind, which run out; then all is settled.
SETTLE_SECONDS: Final = 120.0
FOUND_SECONDS: Final = 20.0
WORKER_SECONDS: Final = 60.0
# Indexes that are asked for and not built: the lease of a killed builder has to run out first.
WANTED: Final = (
    "SELECT count(*) FROM memories_indexstate"
    " WHERE built_at IS NULL OR rebuild_wanted_at >= built_at"
)
# Who is killed in which round; "build" asks for a new index first.
ROUNDS: Final = (
    ("web 0",),
    ("worker 0", "worker 1"),
    ("qdrant",),
    ("build", "worker 0", "worker 1"),
    ("web 1", "worker 0", "qdrant"),
    ("build", "web 0", "web 1", "worker 1"),
)


class Worker(Server):
    """`manage.py worker`."""

    subcommand = "worker"

    def start(self) -> float:
        started = time.monotonic()
        size = self.log.stat().st_size if self.log.exists() else 0
        self.launch()
        while "works in the background" not in self.log.read_text(errors="replace")[size:]:
            assert self.process is not None
            assert self.process.poll() is None, f"the worker has ended:\n{tail(self.log)}"
            assert time.monotonic() - started < WORKER_SECONDS, tail(self.log)
            time.sleep(0.05)
        return time.monotonic() - started


class Patient(Writer):
    """A writer that knows of the index's outages: a search may then be refused, never be empty."""

    def __init__(self, number: int, seed: str) -> None:
        super().__init__(number, seed)
        self.refused = 0
        self.final = False

    def write(self, server: Server, killed: threading.Event, stop: threading.Event) -> None:
        """Writes until the server is gone, or until told to stop."""
        client = server.client(timeout=30)
        try:
            while not self.surprises and not stop.is_set():
                self._step(client)
        except httpx.TransportError as error:
            if not killed.is_set() or isinstance(error, httpx.TimeoutException):
                self.surprises.append(f"{self.user_id}: {error!r} while the server ran")
        finally:
            client.close()

    def _search(self, client: Client, id_: str) -> None:
        """One answer: the memory may be on its way, what is deleted is never there."""
        filters = {"user_id": self.user_id}
        body = {"query": self.memories[id_].text, "filters": filters}
        answer = client.request("POST", "/search", json=body)
        if answer.status_code == 502 and answer.json()["code"] == "vector_store_unavailable":
            self.refused += 1
        elif answer.status_code != 200:
            self.surprises.append(f"{self.user_id}: search: {answer.status_code} {answer.text}")
        else:
            self.acknowledged["search"] += 1
            gone = {i for i, known in self.memories.items() if known.deleted}
            if back := gone & {hit["id"] for hit in answer.json()["results"]}:
                self.surprises.append(f"{self.user_id}: {back} were deleted and are found")

    def _check_search(self, client: Client) -> None:
        """In the end; before, what a killed process had claimed may still be on its way."""
        if self.final:
            super()._check_search(client)

    def send_again(self, client: Client) -> None:
        """What was in flight; its claim has to run out first where its server was killed."""
        if self.in_flight is None:
            return
        before = {row["id"] for row in client.listed(**self._everything)} - self.memories.keys()
        answer = client.request("POST", "/memories", json=self.in_flight)
        assert answer.status_code == 200, f"again: {answer.status_code} {answer.text}"
        self._note(answer.json()["results"], [m["content"] for m in self.in_flight["messages"]])
        self.in_flight = None
        for id_ in before - self.memories.keys():
            client.delete(id_)


class Site:
    """Everything that runs."""

    def __init__(self, folder: Path, url: str) -> None:
        self.qdrant = QdrantServer(folder / "qdrant", api_key=secrets.token_hex(8)).start()
        environment = {
            "DATABASE_URL": url,
            "QDRANT_URL": self.qdrant.url,
            "QDRANT_API_KEY": self.qdrant.api_key,
            "QDRANT_TIMEOUT": "3",
            "SECRET_KEY": secrets.token_urlsafe(50),
            "JWT_SECRET": secrets.token_urlsafe(50),
            "ENCRYPTION_KEY": Fernet.generate_key().decode(),
            "DJANGO_SETTINGS_MODULE": "prove.distributed_settings",
        }
        self.webs = [Server(folder / f"web{n}", environment) for n in range(2)]
        self.workers = [Worker(folder / f"worker{n}", environment) for n in range(2)]
        self.parts: dict[str, Any] = {"qdrant": self.qdrant}
        self.parts |= {f"web {n}": web for n, web in enumerate(self.webs)}
        self.parts |= {f"worker {n}": worker for n, worker in enumerate(self.workers)}

    def start(self, names: Sequence[str]) -> None:
        """All of them at once, the store first."""
        if "qdrant" in names:
            self.qdrant.start()
        failed: list[BaseException] = []

        def start(name: str) -> None:
            try:
                self.parts[name].start()
            except BaseException as error:  # noqa: BLE001  (told below)
                failed.append(error)

        rest = [name for name in names if name != "qdrant"]
        threads = [threading.Thread(target=start, args=(name,)) for name in rest]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed, failed

    def kill(self, names: Sequence[str]) -> None:
        for name in names:
            self.parts[name].kill9()


@pytest.fixture
def site(model: str, tmp_path: Path, postgres: Cluster) -> Iterator[tuple[Site, Ask, str]]:
    url = postgres.create_database("distributed")
    made = Site(tmp_path, url)
    try:
        made.start([name for name in made.parts if name != "qdrant"])
        key = made.webs[0].bootstrap()
        made.webs[1].key = key
        yield made, postgres_asker(url), url
    finally:
        made.kill(list(made.parts))


def play(site: Site, url: str, rng: random.Random, names: Sequence[str], writers: Any) -> None:
    """A round: clients write on both servers, and in the middle of it some are killed."""
    killed = [threading.Event() for _ in site.webs]
    stop = threading.Event()
    threads = [
        threading.Thread(target=writer.write, args=(site.webs[n % 2], killed[n % 2], stop))
        for n, writer in enumerate(writers)
    ]
    for thread in threads:
        thread.start()
    time.sleep(rng.uniform(0.3, 1.5))
    victims = [name for name in names if name != "build"]
    if "build" in names:
        with psycopg.connect(url) as connection:
            connection.execute("UPDATE memories_indexstate SET rebuild_wanted_at = now()")
        time.sleep(rng.uniform(0.5, 2.5))
    for number, event in enumerate(killed):
        if f"web {number}" in victims:
            event.set()
    site.kill(victims)
    time.sleep(rng.uniform(0.5, 1.5))
    stop.set()
    for thread in threads:
        thread.join(timeout=60)
    surprises = [surprise for writer in writers for surprise in writer.surprises]
    assert not surprises, surprises
    site.start(victims)


def settle(ask: Ask) -> float:
    """Waits until nothing is pending or claimed, and every index asked for is built; the seconds
    that took."""
    started = time.monotonic()
    questions = [
        PENDING,
        WANTED,
        NEVER["adds that run for ever"],
        NEVER["claims that nobody holds"],
    ]
    while left := [ask(sql) for sql in questions if ask(sql)]:
        assert time.monotonic() - started < SETTLE_SECONDS, f"not settled: {left}"
        time.sleep(0.5)
    return time.monotonic() - started


def test_nothing_is_lost_doubled_or_back_whoever_of_them_is_killed(
    site: tuple[Site, Ask, str], seed: str
) -> None:
    running, ask, url = site
    rng = random.Random(seed)
    writers = [Patient(number, seed) for number in range(2 * WRITERS_EACH)]
    first = ask("SELECT generation FROM memories_indexstate")
    for names in ROUNDS:
        started = time.monotonic()
        play(running, url, rng, names, writers)
        print(f"killed {names}: up again after {time.monotonic() - started:.1f} s")
        client = running.webs[rng.randrange(2)].client()
        for writer in writers:
            writer.check(client)
            writer.send_again(client)
        client.close()

    took = settle(ask)
    generation = ask("SELECT generation FROM memories_indexstate")
    assert generation > first, "the index was never built anew"
    for what, sql in NEVER.items():
        assert ask(sql) == 0, what
    assert "are the same" in running.webs[0].manage("check_index")
    for web in running.webs:
        client = web.client()
        for writer in writers:
            writer.final = True
            writer.check(client)
        client.close()
    for part in (*running.webs, *running.workers):
        part.stop()
    total: Counter[str] = sum((writer.acknowledged for writer in writers), Counter())
    refused = sum(writer.refused for writer in writers)
    print(
        f"acknowledged: {dict(total)}; searches refused: {refused}; settled in {took:.1f} s; "
        f"generations of the index: {first} to {generation}"
    )
