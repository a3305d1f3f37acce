"""How many connections to PostgreSQL a web process opens, with every kind of thread at work."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import psycopg
import pytest

from prove.conftest import MakeServer
from prove.postgres import Cluster
from prove.test_providers import ALICE, Stub, body_of
from prove.test_waiting import Calls, client_of, everything_else, until

# docs/scaling.md, with the default settings.
MOST: Final = 79
# What language models are asked at a time, and what may be in the database of it.
EXTRACTING: Final = 32
SHARED: Final = 8


@pytest.fixture
def stub() -> Iterator[Stub]:
    made = Stub()
    yield made
    made.stop()


class Counted:
    """What PostgreSQL knows of the server's connections."""

    def __init__(self, url: str) -> None:
        self._own = psycopg.connect(url, autocommit=True)

    def now(self) -> int:
        sql = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid()"
        )
        row: Any = self._own.execute(sql).fetchone()
        return int(row[0])


def test_a_crowd_of_every_kind_stays_below_the_figure_and_nothing_waits_for_a_connection(
    make_server: MakeServer, postgres: Cluster, stub: Stub
) -> None:
    url = postgres.create_database("crowd")
    server = make_server(
        environment={
            "DATABASE_URL": url,
            "OPENAI_BASE_URL": f"{stub.origin}/v1",
            "OPENAI_API_KEY": "sk-stub",
        }
    )
    server.start()
    server.bootstrap()
    client, counted = client_of(server), Counted(url)
    verbatim = {**body_of("The bees sleep"), "infer": False}
    [stored] = client.post("/memories", json=verbatim).json()["results"]
    stub.tell(do="hold")
    calls = Calls()
    for number in range(EXTRACTING):
        calls.start(client, "POST", "/memories", json=body_of(f"I own {number} bicycles."))
    stub.wait_for(EXTRACTING)
    before = counted.now()
    seen = []

    def crowd(number: int) -> set[int]:
        own = client_of(server)
        found = everything_else(own, server, stored["id"]) if number < 4 else []
        for _ in range(10):
            found.append(own.get("/memories", params=ALICE))
            found.append(own.post("/search", json={"query": f"bees {number}", **ALICE}))
            found.append(own.post("/memories", json={**body_of(f"{number} {_}"), "infer": False}))
            seen.append(counted.now())
        return {answer.status_code for answer in found}

    with ThreadPoolExecutor(48) as pool:
        statuses = set().union(*pool.map(crowd, range(48)))
    assert statuses == {200}
    assert max(seen) <= MOST, max(seen)
    assert calls.answers == [], "they came too late to tell"
    stub.tell(do="heal")
    until(lambda: seen.append(counted.now()) or len(calls.answers) == EXTRACTING, "adds wait")
    assert calls.statuses() == [200] * EXTRACTING
    assert max(seen) <= MOST, max(seen)
    # Whatever waits for a language model is not in the database meanwhile.
    assert before < MOST - EXTRACTING
