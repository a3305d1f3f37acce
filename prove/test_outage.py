"""While the database is away or the disk is full, errors are clear; afterwards all works again."""

import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpx
import pytest

from prove.conftest import MakeServer
from prove.postgres import Cluster
from prove.server import Client, Server
from prove.test_kill import APPLY_SECONDS, NEVER, postgres_asker, sqlite_asker

pytestmark = pytest.mark.alone

RECOVERY_SECONDS: Final = 10.0
ALICE: Final[dict[str, Any]] = {"user_id": "alice"}


@pytest.fixture
def own_cluster(postgres: Cluster) -> Iterator[Cluster]:
    """The cluster, which this proof may stop: it runs again afterwards."""
    yield postgres
    if not postgres.running():
        postgres.start()


@pytest.fixture
def on_postgres(model: str, make_server: MakeServer, postgres: Cluster) -> Server:
    server = make_server(environment={"DATABASE_URL": postgres.create_database("outage")})
    server.start()
    server.bootstrap()
    return server


def assert_unavailable(answer: httpx.Response) -> None:
    """The database's outage as the OSS dialect tells it."""
    assert answer.status_code == 502, f"{answer.status_code} {answer.text}"
    body = answer.json()
    assert body["code"] == "datastore_unavailable", body
    assert body["detail"], body
    assert body["request_id"] == answer.headers["X-Request-ID"]
    assert "Traceback" not in answer.text


def every_call(client: Client, memory_id: str) -> list[httpx.Response]:
    """One call of every route that needs the database."""
    message = {"role": "user", "content": "Written while the database was away."}
    return [
        client.request("POST", "/memories", json={"messages": [message], **ALICE}),
        client.request("GET", "/memories", params=ALICE),
        client.request("GET", "/memories"),
        client.request("GET", f"/memories/{memory_id}"),
        client.request("GET", f"/memories/{memory_id}/history"),
        client.request("PUT", f"/memories/{memory_id}", json={"text": "Changed."}),
        client.request("DELETE", f"/memories/{memory_id}"),
        client.request("DELETE", "/memories", params=ALICE),
        client.request("POST", "/search", json={"query": "Where?", "filters": ALICE}),
        client.request("GET", "/entities"),
        client.request("DELETE", "/entities/user/alice"),
    ]


def healthy_within(client: Client, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while client.request("GET", "/healthz").status_code != 200:
        assert time.monotonic() < deadline, f"not healthy {seconds:.0f} s after the outage"
        time.sleep(0.1)


def test_without_the_database_every_call_says_so_and_none_answers_an_empty_list(
    on_postgres: Server, own_cluster: Cluster
) -> None:
    client = on_postgres.client()
    [stored] = client.add("I keep bees behind the house", **ALICE)
    own_cluster.stop()
    for answer in every_call(client, stored["id"]):
        assert_unavailable(answer)
    health = client.request("GET", "/healthz")
    assert health.status_code == 503
    assert health.json()["failing"] == ["database"]

    own_cluster.start()
    healthy_within(client, RECOVERY_SECONDS)
    [row] = client.listed(**ALICE)
    assert row["memory"] == "I keep bees behind the house"
    assert client.search("keeping bees", **ALICE)[0]["id"] == stored["id"]
    client.add("The hives stand in the orchard", **ALICE)
    assert len(client.listed(**ALICE)) == 2
    on_postgres.stop()


def test_adds_that_an_outage_of_the_database_cut_off_can_be_sent_again_at_once(
    model: str, make_server: MakeServer, own_cluster: Cluster
) -> None:
    url = own_cluster.create_database("cut")
    server = make_server(environment={"DATABASE_URL": url})
    server.start()
    server.bootstrap()
    refused: list[tuple[dict[str, Any], httpx.Response]] = []

    def write(number: int) -> None:
        client = server.client()
        for turn in range(10_000):
            text = f"Turn {turn} of client {number}"
            body = {"messages": [{"role": "user", "content": text}], "infer": False, **ALICE}
            answer = client.request("POST", "/memories", json=body)
            if answer.status_code != 200:
                refused.append((body, answer))
                return

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    own_cluster.stop()
    for thread in threads:
        thread.join(timeout=60)
    assert len(refused) == len(threads)
    for _, answer in refused:
        assert_unavailable(answer)

    own_cluster.start()
    client = server.client()
    healthy_within(client, RECOVERY_SECONDS)
    for body, _ in refused:
        started = time.monotonic()
        answer = client.request("POST", "/memories", json=body)
        seconds = time.monotonic() - started
        assert answer.status_code == 200, answer.text
        assert seconds < RECOVERY_SECONDS, f"the retry was answered after {seconds:.1f} s"
    ask = postgres_asker(url)
    deadline = time.monotonic() + RECOVERY_SECONDS
    while remaining := [what for what, sql in NEVER.items() if ask(sql)]:
        assert time.monotonic() < deadline, remaining
        time.sleep(0.2)
    server.stop()


@contextmanager
def no_file_grows_beyond(server: Server, size: int) -> Iterator[None]:
    """Every write of the server past `size` bytes of a file fails, as on a full disk."""
    assert server.process is not None
    kind, pid = resource.RLIMIT_FSIZE, server.process.pid
    soft, hard = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (size, hard))
    yield
    resource.prlimit(pid, kind, (soft, hard))


def test_on_a_full_disk_writes_fail_clearly_reads_go_on_and_all_is_well_afterwards(
    model: str, server: Server
) -> None:
    client = server.client()
    [kept] = client.add("The ferry leaves at seven", **ALICE)
    journal = server.data_dir / "mem0dash.sqlite3-wal"
    with no_file_grows_beyond(server, journal.stat().st_size):
        full = {"messages": [{"role": "user", "content": "The ferry " * 20_000}], **ALICE}
        for _ in range(3):
            assert_unavailable(client.request("POST", "/memories", json=full))
        assert client.get(kept["id"]) is not None
        assert [row["id"] for row in client.listed(**ALICE)] == [kept["id"]]
        assert client.search("when does the boat depart", **ALICE)[0]["id"] == kept["id"]
    [later] = client.add("The last ferry leaves at nine", **ALICE)
    client.update(kept["id"], text="The ferry leaves at eight")
    assert {row["id"] for row in client.listed(**ALICE)} == {kept["id"], later["id"]}
    ask = sqlite_asker(server)
    assert [what for what, sql in NEVER.items() if ask(sql)] == []
    time.sleep(APPLY_SECONDS)
    server.stop()
    found = server.index_on_disk("compare")
    assert found["held"] == found["live"] == 2, found
    assert not found["broken"], found
    assert found["pending"] == 0, found
