"""kill -9 at any moment loses nothing that was acknowledged, and repairs itself within seconds."""

import os
import random
import secrets
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import psycopg
import pytest

from prove.conftest import MakeServer
from prove.postgres import Cluster
from prove.server import Server
from prove.writers import Writer

pytestmark = pytest.mark.alone

WRITERS: Final = 8
SQLITE_ROUNDS: Final = 20
POSTGRES_ROUNDS: Final = 8
# Within this time the index has everything, and within the other one it is written down as such.
APPLY_SECONDS: Final = 5.0
SETTLE_SECONDS: Final = 60.0

Ask = Callable[[str], int]

PENDING: Final = "SELECT count(*) FROM memories_memory WHERE rev > indexed_rev"
# What must be zero in the database, always.
NEVER: Final = {
    "memories with several ADD revisions": (
        "SELECT count(*) FROM (SELECT memory_id FROM memories_revision WHERE event = 'ADD'"
        " GROUP BY memory_id HAVING count(*) > 1) AS twice"
    ),
    "memories without a revision": (
        "SELECT count(*) FROM memories_memory m WHERE NOT EXISTS"
        " (SELECT 1 FROM memories_revision r WHERE r.memory_id = m.id AND r.event = 'ADD')"
    ),
    "revisions without a memory": (
        "SELECT count(*) FROM memories_revision r WHERE NOT EXISTS"
        " (SELECT 1 FROM memories_memory m WHERE m.id = r.memory_id)"
    ),
    "live memories without a vector": (
        "SELECT count(*) FROM memories_memory m WHERE deleted_at IS NULL AND NOT EXISTS"
        " (SELECT 1 FROM memories_memoryvector v WHERE v.memory_id = m.id)"
    ),
    "adds that run for ever": "SELECT count(*) FROM memories_addinput WHERE outcome = 'running'",
    "claims that nobody holds": "SELECT count(*) FROM memories_ingestclaim",
}


def sqlite_asker(server: Server) -> Ask:
    """Puts a question to the server's SQLite file."""

    def ask(sql: str) -> int:
        uri = f"file:{server.data_dir / 'mem0dash.sqlite3'}?mode=ro"
        connection = sqlite3.connect(uri, uri=True, timeout=20)
        try:
            return int(connection.execute(sql).fetchone()[0])
        finally:
            connection.close()

    return ask


def postgres_asker(url: str) -> Ask:
    """Puts a question to a PostgreSQL database."""

    def ask(sql: str) -> int:
        with psycopg.connect(url) as connection:
            row: Any = connection.execute(sql.encode()).fetchone()
            return int(row[0])

    return ask


@pytest.fixture
def seed() -> str:
    """Random, and printed; PROVE_SEED repeats a run as far as threads can be repeated."""
    chosen = os.environ.get("PROVE_SEED") or secrets.token_hex(4)
    print(f"PROVE_SEED={chosen}")
    return chosen


class Rounds:
    """Kills and checks, again and again, with clients that remember everything."""

    def __init__(self, server: Server, ask: Ask, seed: str) -> None:
        self.server, self.ask = server, ask
        self.rng = random.Random(seed)
        self.writers = [Writer(number, seed) for number in range(WRITERS)]
        self.stored_unanswered = 0
        self.slowest_retry = self.slowest_start = 0.0

    def play(self, count: int) -> None:
        for number in range(count):
            print(f"round {number}: ", end="")
            self._kill_while_writing(settling=number % 8 == 6)
            self._claims_hold()
            if number % 4 == 1:
                lost = self.server.index_on_disk("lose-tail")["lost"]
                print(f"  {lost} changes taken from the index, as by a power cut")
            if number % 3 == 2:
                self._kill_while_starting()
            self.slowest_start = max(self.slowest_start, self.server.start())
            self._check()
            if number % 4 == 3:
                self._index_equals_database(cleanly=True)
                self.server.start()
        self._index_equals_database(cleanly=False)
        total: Counter[str] = sum((writer.acknowledged for writer in self.writers), Counter())
        print(
            f"acknowledged: {dict(total)}; stored without an answer: {self.stored_unanswered}; "
            f"slowest start {self.slowest_start:.1f} s, slowest retry {self.slowest_retry:.2f} s"
        )

    def _kill_while_writing(self, *, settling: bool) -> None:
        """Kills at a random moment, or in the very moment in which the index goes to disk."""
        killed = threading.Event()
        threads = [
            threading.Thread(target=writer.run, args=(self.server, killed))
            for writer in self.writers
        ]
        for thread in threads:
            thread.start()
        started = time.monotonic()
        if settling:
            self._wait_for_settling()
        else:
            time.sleep(self.rng.uniform(0.1, 1.5))
        moment = time.monotonic() - started
        killed.set()
        self.server.kill9()
        for thread in threads:
            thread.join(timeout=60)
        surprises = [surprise for writer in self.writers for surprise in writer.surprises]
        assert not surprises, surprises
        print(f"killed after {moment:.3f} s")

    def _kill_while_starting(self) -> None:
        moment = self.rng.uniform(0.1, 1.5)
        self.server.launch()
        time.sleep(moment)
        self.server.kill9()
        print(f"  killed {moment:.3f} s into a start")

    def _claims_hold(self) -> None:
        """What the database calls indexed is in the index on disk, with no repair."""
        found = self.server.index_on_disk("compare")
        assert not found["broken"], found
        assert not found["unknown"], found

    def _check(self) -> None:
        client = self.server.client()
        for writer in self.writers:
            writer.check(client)
        for what, sql in NEVER.items():
            assert self.ask(sql) == 0, what
        for writer in self.writers:
            seconds, stored = writer.retry(client)
            self.slowest_retry = max(self.slowest_retry, seconds)
            self.stored_unanswered += stored
        client.close()

    def _wait_for_settling(self) -> None:
        """Nothing but settling makes fewer what is pending."""
        deadline = time.monotonic() + SETTLE_SECONDS
        most = 0
        while (pending := self.ask(PENDING)) >= most:
            assert time.monotonic() < deadline, f"{pending} memories are not settled"
            most = pending
            time.sleep(0.01)

    def _settle(self) -> None:
        deadline = time.monotonic() + SETTLE_SECONDS
        while pending := self.ask(PENDING):
            assert time.monotonic() < deadline, f"{pending} memories are not settled"
            time.sleep(0.2)

    def _index_equals_database(self, *, cleanly: bool) -> None:
        """Seconds after a crash a server that is stopped leaves an index without a difference; once
        the database calls everything indexed, so does one that is killed."""
        if cleanly:
            time.sleep(APPLY_SECONDS)
            self.server.stop()
        else:
            self._settle()
            self.server.kill9()
        found = self.server.index_on_disk("compare")
        assert found["held"] == found["live"], found
        assert not found["broken"], found
        assert not found["unknown"], found
        assert found["pending"] == 0, found


def test_nothing_acknowledged_is_lost_when_a_server_on_sqlite_is_killed(
    model: str, server: Server, seed: str
) -> None:
    Rounds(server, sqlite_asker(server), seed).play(SQLITE_ROUNDS)


def test_nothing_acknowledged_is_lost_when_a_server_on_postgresql_is_killed(
    model: str, make_server: MakeServer, postgres: Cluster, seed: str
) -> None:
    url = postgres.create_database("kill")
    server = make_server(environment={"DATABASE_URL": url})
    server.start()
    server.bootstrap()
    Rounds(server, postgres_asker(url), seed).play(POSTGRES_ROUNDS)
