"""While a provider hangs everything else goes on; a kill in the middle of an add loses nothing."""

import json
import random
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import httpx
import pytest

from prove.conftest import MakeServer
from prove.environment import ROOT
from prove.server import Client, Server, free_port
from prove.test_kill import NEVER, sqlite_asker

pytestmark = pytest.mark.alone

ALICE: Final[dict[str, Any]] = {"user_id": "alice"}
HANGING: Final = 30
CALLS: Final = 60
ROUNDS: Final = 15
WRITERS: Final = 6


class Stub:
    """The stub provider in a process of its own."""

    def __init__(self) -> None:
        self.port = free_port()
        self.origin = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "memories.tests.provider", "--port", str(self.port)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def tell(self, part: str = "chat", do: str = "", **options: Any) -> dict[str, Any]:
        """Steers it; how often each part was asked."""
        order = {"part": part, "do": do, "with": options}
        answer = httpx.post(f"{self.origin}/_control", json=order, trust_env=False, timeout=10)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def wait_for(self, count: int, part: str = "chat") -> None:
        """Returns once so many calls are under way."""
        deadline = time.monotonic() + 30
        while (found := self.tell()[part]["in_flight"]) < count:
            assert time.monotonic() < deadline, f"{found} of {count} calls are under way"
            time.sleep(0.05)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(timeout=10)


@pytest.fixture
def stub() -> Iterator[Stub]:
    made = Stub()
    yield made
    made.stop()


@pytest.fixture
def extracting(make_server: MakeServer, stub: Stub) -> Callable[..., Server]:
    """Makes a running server whose LLM is the stub."""

    def make(**environment: str) -> Server:
        given = {"OPENAI_BASE_URL": f"{stub.origin}/v1", "OPENAI_API_KEY": "sk-stub"}
        server = make_server(environment={**given, **environment})
        server.start()
        server.bootstrap()
        return server

    return make


def body_of(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **ALICE}


def in_background(server: Server, texts: list[str]) -> tuple[list[threading.Thread], list[Any]]:
    """Adds all the texts at once; the threads, and what they get in the end."""
    answers: list[Any] = []

    def add(text: str) -> None:
        client = server.client()
        try:
            answers.append(client.request("POST", "/memories", json=body_of(text)))
        except httpx.TransportError as error:
            answers.append(error)
        finally:
            client.close()

    threads = [threading.Thread(target=add, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    return threads, answers


def ended(threads: list[threading.Thread], seconds: float = 30) -> None:
    for thread in threads:
        thread.join(timeout=seconds)
        assert not thread.is_alive()


def p95(calls: Callable[[int], Any]) -> float:
    """The seconds that all but the slowest 5 % of the calls take."""
    taken = []
    for number in range(CALLS):
        started = time.perf_counter()
        calls(number)
        taken.append(time.perf_counter() - started)
    return statistics.quantiles(taken, n=20)[-1]


def paces(client: Client, stored: str) -> dict[str, float]:
    words = ("bees", "ferry", "garden", "piano", "bread")
    return {
        "GET /memories": p95(lambda _: client.listed(**ALICE)),
        "GET /memories/{id}": p95(lambda _: client.get(stored)),
        "POST /search": p95(lambda n: client.search(f"{words[n % 5]} {n}", **ALICE)),
        "GET /healthz": p95(lambda _: client.request("GET", "/healthz").raise_for_status()),
    }


# --- A provider that hangs -----------------------------------------------------------------------
def test_thirty_adds_that_hang_slow_nothing_else_down(
    extracting: Callable[..., Server], stub: Stub
) -> None:
    server = extracting()
    client = server.client()
    rows = [client.add(f"Note {n}: bees, bread and the garden", **ALICE) for n in range(50)]
    stored = rows[0][0]["id"]
    client.search("bees", **ALICE)
    before = paces(client, stored)
    stub.tell(do="hang")
    threads, answers = in_background(server, [f"I own {n} bicycles." for n in range(HANGING)])
    stub.wait_for(HANGING)
    during = paces(client, stored)
    for what, seconds in during.items():
        print(f"{what}: p95 {1000 * before[what]:.1f} ms before, {1000 * seconds:.1f} ms during")
        assert seconds < 4 * before[what] + 0.1, what
    assert stub.tell()["chat"]["in_flight"] == HANGING
    stub.tell(do="heal")
    ended(threads)
    assert {answer.status_code for answer in answers} == {200}
    assert len(client.listed(**ALICE, top_k=1000)) == 50 + HANGING
    server.stop()


def test_more_hanging_adds_than_threads_leave_searches_and_the_remedy_alone(
    extracting: Callable[..., Server], stub: Stub
) -> None:
    server = extracting(WAITING_THREADS="4")
    client = server.client(timeout=10)
    client.add("The bees sleep", **ALICE)
    stub.tell(do="hang")
    threads, answers = in_background(server, [f"I own {n} bicycles." for n in range(12)])
    stub.wait_for(4)
    assert client.search("bees", **ALICE)
    assert client.listed(**ALICE)
    answer = client.request("POST", "/configure", json={"llm": {"provider": "none"}})
    assert answer.status_code == 200, answer.text
    stub.tell(do="heal")
    ended(threads)
    assert {answer.status_code for answer in answers} == {200}
    server.stop()


def test_searches_that_wait_for_a_hanging_embedder_slow_nothing_else_down(
    extracting: Callable[..., Server], stub: Stub
) -> None:
    server = extracting(
        MEM0_EMBED_PROVIDER="openai", MEM0_EMBED_MODEL="stub-embed", PROVIDER_EMBED_TIMEOUT="4"
    )
    client = server.client()
    client.add("The bees sleep", **ALICE)
    found: list[Any] = []

    def search(number: int) -> None:
        body = {"query": f"bees {number}", **ALICE}
        found.append(server.client().request("POST", "/search", json=body))

    stub.tell("embeddings", "hang")
    threads = [threading.Thread(target=search, args=(n,)) for n in range(40)]
    for thread in threads:
        thread.start()
    stub.wait_for(10, "embeddings")
    started = time.monotonic()
    for _ in range(20):
        assert client.listed(**ALICE)
        client.request("GET", "/healthz").raise_for_status()
    assert time.monotonic() - started < 2
    ended(threads, 20)
    assert time.monotonic() - started < 12
    for answer in found:
        assert answer.status_code == 200
        assert answer.headers["X-Mem0dash-Search"] == "keyword"
        assert answer.headers["X-Mem0dash-Problem"] == "provider_timeout"
    server.stop()


def test_a_server_ends_although_its_provider_hangs(
    extracting: Callable[..., Server], stub: Stub
) -> None:
    server = extracting(PROVIDER_TIMEOUT="300")
    stub.tell(do="hang")
    threads, _ = in_background(server, ["I keep bees."])
    stub.wait_for(1)
    assert server.process is not None
    server.process.terminate()
    assert server.process.wait(timeout=40) == 0
    server.process = None
    stub.tell(do="heal")
    ended(threads)
    server.start()
    settle(server)
    assert [row["outcome"] for row in inputs(server)] == ["stored"]
    server.stop()


# --- A kill --------------------------------------------------------------------------------------
def inputs(server: Server) -> list[dict[str, Any]]:
    """What is known of each add: its text and its outcome."""
    uri = f"file:{server.data_dir / 'mem0dash.sqlite3'}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, timeout=20)
    try:
        rows = connection.execute(
            "SELECT messages, outcome, reason FROM memories_addinput ORDER BY created_at"
        ).fetchall()
    finally:
        connection.close()
    return [
        {"text": json.loads(messages)[0]["content"], "outcome": outcome, "reason": reason}
        for messages, outcome, reason in rows
    ]


def settle(server: Server) -> None:
    """Returns once nothing is under way, nor waits to be tried again after a stop."""
    stopped = "The server stopped before this was stored."
    deadline = time.monotonic() + 60
    while [r for r in inputs(server) if r["outcome"] == "running" or r["reason"] == stopped]:
        assert time.monotonic() < deadline, "what was cut off is not tried again"
        time.sleep(0.1)


def test_an_extraction_that_a_kill_cut_off_is_stored_once_after_the_start(
    extracting: Callable[..., Server], stub: Stub
) -> None:
    server = extracting()
    stub.tell(do="hold")
    threads, answers = in_background(server, ["I keep bees behind the house."])
    stub.wait_for(1)
    server.kill9()
    ended(threads)
    assert isinstance(answers[0], httpx.TransportError)
    stub.tell(do="heal")
    server.start()
    client = server.client()
    settle(server)
    [kept] = inputs(server)
    assert (kept["text"], kept["outcome"]) == ("I keep bees behind the house.", "stored")
    [row] = client.listed(**ALICE)
    assert row["memory"] == "I keep bees behind the house."
    assert "0 of 0 adds went well." in server.manage("retry_adds")
    deadline = time.monotonic() + 10
    while not client.search("bees", **ALICE):
        assert time.monotonic() < deadline, "what has been stored is not found"
        time.sleep(0.2)
    assert len(client.listed(**ALICE)) == 1
    ask = sqlite_asker(server)
    assert [what for what, sql in NEVER.items() if ask(sql) and "vector" not in what] == []
    server.stop()


class Sender(threading.Thread):
    """Adds one text after the other until the server is gone."""

    def __init__(self, server: Server, name: str) -> None:
        super().__init__()
        self.server, self.prefix = server, name
        self.sent: list[str] = []
        self.acknowledged: list[str] = []
        self.surprises: list[str] = []

    def run(self) -> None:
        client = self.server.client()
        try:
            for number in range(10_000):
                text = f"Fact {self.prefix} has number {number}."
                self.sent.append(text)
                answer = client.request("POST", "/memories", json=body_of(text))
                if answer.status_code != 200 or len(answer.json()["results"]) != 1:
                    self.surprises.append(f"{answer.status_code} {answer.text}")
                self.acknowledged.append(text)
        except httpx.TransportError:
            pass
        finally:
            client.close()


def test_kills_at_any_moment_of_an_extraction_lose_nothing_and_double_nothing(
    extracting: Callable[..., Server], stub: Stub
) -> None:
    server = extracting()
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    rng = random.Random(seed)
    stub.tell(do="slow", seconds=0.03)
    sent: list[str] = []
    acknowledged: list[str] = []
    for number in range(ROUNDS):
        senders = [Sender(server, f"{number}-{n}") for n in range(WRITERS)]
        for sender in senders:
            sender.start()
        # The first extraction imports mem0; from then on a moment is anywhere in an add.
        stub.wait_for(1)
        time.sleep(rng.uniform(0, 0.8))
        server.kill9()
        for sender in senders:
            sender.join(timeout=30)
            assert not sender.surprises, sender.surprises
            sent += sender.sent
            acknowledged += sender.acknowledged
        server.start()
        settle(server)
        check(server, sent, acknowledged)
    server.manage("retry_adds")
    check(server, sent, acknowledged, everything=True)
    failed = sum(row["outcome"] == "failed" for row in inputs(server))
    assert failed == 0
    print(f"{len(sent)} sent, {len(acknowledged)} acknowledged")
    server.stop()


def check(
    server: Server, sent: list[str], acknowledged: list[str], *, everything: bool = False
) -> None:
    """Stored once or failed with the input kept; `everything` that is known has been stored."""
    ask = sqlite_asker(server)
    assert [what for what, sql in NEVER.items() if ask(sql) and "vector" not in what] == []
    client = server.client()
    stored = [row["memory"] for row in client.listed(**ALICE, top_k=100_000)]
    client.close()
    assert len(stored) == len(set(stored)), "stored twice"
    assert set(acknowledged) <= set(stored), "lost"
    known = {row["text"]: row["outcome"] for row in inputs(server)}
    for text in sent:
        if everything:
            assert (text in stored) == (text in known), text
        elif text in known:
            assert known[text] == ("stored" if text in stored else "failed"), text
        else:
            assert text not in stored, text


def test_a_provider_that_is_not_there_is_told_at_once(make_server: MakeServer) -> None:
    server = make_server(
        environment={
            "OPENAI_BASE_URL": f"http://127.0.0.1:{free_port()}/v1",
            "OPENAI_API_KEY": "sk-stub",
        }
    )
    server.start()
    server.bootstrap()
    client = server.client()
    started = time.monotonic()
    answer = client.request("POST", "/memories", json=body_of("I keep bees."))
    assert answer.status_code == 502
    assert answer.json()["code"] == "provider_unavailable"
    assert time.monotonic() - started < 15
    assert [row["outcome"] for row in inputs(server)] == ["failed"]
    server.stop()
