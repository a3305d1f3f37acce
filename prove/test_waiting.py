"""What needs no provider never waits for one; what waits is bounded, and a stop loses nothing."""

import json
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import httpx
import pytest

from prove.conftest import MakeServer
from prove.server import Server, tail
from prove.test_bounds import opened
from prove.test_providers import ALICE, Stub, body_of, ended, inputs

pytestmark = pytest.mark.alone

PATIENCE: Final = 60.0
OWNER: Final = {"email": "owner@example.org", "password": "long enough"}


@pytest.fixture
def stub() -> Iterator[Stub]:
    made = Stub()
    yield made
    made.stop()


@pytest.fixture
def asking(make_server: MakeServer, stub: Stub) -> Callable[..., Server]:
    """Makes a running server whose LLM is the stub."""

    def make(**environment: str) -> Server:
        given = {"OPENAI_BASE_URL": f"{stub.origin}/v1", "OPENAI_API_KEY": "sk-stub"}
        server = make_server(environment={**given, "THREADS": "4", **environment})
        server.start()
        server.bootstrap()
        return server

    return make


class Calls:
    """Requests that go on in the background; `answers` are those that have come."""

    def __init__(self) -> None:
        self.answers: list[httpx.Response | Exception] = []
        self.threads: list[threading.Thread] = []

    def start(self, client: httpx.Client, method: str, path: str, **rest: Any) -> None:
        def ask() -> None:
            try:
                self.answers.append(client.request(method, path, **rest))
            except httpx.TransportError as error:
                self.answers.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        self.threads.append(thread)

    def statuses(self) -> list[int]:
        ended(self.threads, PATIENCE)
        return sorted(getattr(answer, "status_code", 0) for answer in self.answers)


def until(holds: Callable[[], Any], what: str) -> None:
    """Returns once `holds` does."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def client_of(server: Server) -> httpx.Client:
    limits = httpx.Limits(max_connections=200)
    return httpx.Client(
        base_url=server.url,
        headers={"X-API-Key": server.key},
        timeout=PATIENCE,
        limits=limits,
        trust_env=False,
    )


def add_of(server: Server, text: str) -> bytes:
    """A whole request, as it goes over the wire."""
    body = json.dumps(body_of(text))
    return (
        f"POST /memories HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {server.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


def signed_in(server: Server) -> httpx.Client:
    """A browser in which the owner is signed in."""
    browser = httpx.Client(base_url=server.url, timeout=PATIENCE, trust_env=False)
    page = browser.get("/login").text
    [token] = re.findall(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
    answer = browser.post("/login", data={**OWNER, "csrfmiddlewaretoken": token})
    assert answer.status_code == 302, answer.text[:500]
    return browser


def everything_else(client: httpx.Client, server: Server, memory_id: str) -> list[httpx.Response]:
    """One of everything that asks no provider."""
    found = [
        client.get("/healthz"),
        client.get(f"/memories/{memory_id}"),
        client.get("/memories", params=ALICE),
        client.get("/entities"),
        client.get("/api/v1/memories", params=ALICE),
        client.get("/static/css/base.css"),
        client.put(f"/memories/{memory_id}", json={"metadata": {"k": "v"}}),
        client.post("/api/v1/memories/search", json={"query": "bees", "mode": "keyword", **ALICE}),
    ]
    browser = signed_in(server)
    found += [browser.get("/dashboard"), browser.get("/dashboard/memories?q=bees&mode=words")]
    return found


def test_pages_that_search_and_a_silent_embedder_leave_everything_else_alone(
    asking: Callable[..., Server], stub: Stub
) -> None:
    server = asking(MEM0_EMBED_PROVIDER="openai", MEM0_EMBED_MODEL="stub-embed")
    client, browser = client_of(server), signed_in(server)
    body = {**body_of("The bees sleep"), "infer": False}
    [stored] = client.post("/memories", json=body).json()["results"]
    stub.tell("embeddings", "hold")
    calls = Calls()
    for number in range(6):
        calls.start(browser, "GET", f"/dashboard/memories?q=bees+number+{number}")
        calls.start(client, "POST", "/search", json={"query": f"bees {number}", **ALICE})
        text = {"text": f"The bees sleep {number}"}
        calls.start(client, "PUT", f"/memories/{stored['id']}", json=text)
    stub.wait_for(5, "embeddings")
    answers = everything_else(client, server, stored["id"])
    deleted = client.delete(f"/memories/{stored['id']}")
    assert calls.answers == [], "they came too late to tell"
    assert {answer.status_code for answer in [*answers, deleted]} == {200}
    until(lambda: len(calls.answers) >= 6, "searches outlast the time that a query has")
    stub.tell("embeddings", "heal")
    assert set(calls.statuses()) <= {200, 404, 502}


def test_what_asks_no_llm_does_not_wait_for_one_and_only_so_many_do(
    asking: Callable[..., Server], stub: Stub
) -> None:
    server = asking(WAITING_THREADS="4", WAITING_QUEUE="6", PROVIDER_TIMEOUT="300")
    client = client_of(server)
    verbatim = {**body_of("The bees sleep"), "infer": False}
    [stored] = client.post("/memories", json=verbatim).json()["results"]
    stub.tell(do="hold")
    calls = Calls()
    for number in range(4):
        calls.start(client, "POST", "/memories", json=body_of(f"I own {number} bicycles."))
    stub.wait_for(4)
    for number in range(3):
        calls.start(client, "POST", "/memories", json=body_of(f"I own {number} boats."))
    leaving = [opened(server, add_of(server, f"I own {number} kites.")) for number in range(3)]
    refused: list[httpx.Response] = []

    def is_full() -> bool:
        with httpx.Client(base_url=server.url, headers=client.headers, trust_env=False) as probe:
            try:
                answer = probe.post("/memories", json=body_of("One too many."), timeout=1.0)
            except httpx.TimeoutException:
                return False
        refused.append(answer)
        return True

    until(is_full, "the queue has no end")
    busy = refused[-1]
    assert busy.status_code == 503
    assert busy.headers["Retry-After"]
    assert busy.json()["code"] == "busy"
    memserv = client.post("/api/v1/memories", json={"content": "One too many.", **ALICE})
    assert (memserv.status_code, memserv.json()["error"]) == (503, "busy")

    answers = [
        client.post("/memories", json={**body_of("Word for word"), "infer": False}),
        client.put(f"/memories/{stored['id']}", json={"text": "The bees wake"}),
        client.put(f"/api/v1/memories/{stored['id']}", json={"content": "The bees fly"}),
        client.post("/search", json={"query": "bees", **ALICE}),
        *everything_else(client, server, stored["id"]),
    ]
    assert {answer.status_code for answer in answers} == {200}
    assert calls.answers == []

    for connection in leaving:
        connection.close()
    # They leave the queue to others.
    late = Calls()
    for number in range(3):
        late.start(client, "POST", "/memories", json=body_of(f"I own {number} cars."))
    until(is_full, "who has gone is waited for")
    stub.tell(do="heal")
    assert set(calls.statuses()) == {200}
    assert set(late.statuses()) == {200}
    texts = [row["text"] for row in inputs(server)]
    assert not [text for text in texts if "kites" in text], "worked for who had gone"


def test_a_stop_answers_what_waits_keeps_its_input_and_stores_it_after_the_start(
    asking: Callable[..., Server], stub: Stub
) -> None:
    server = asking(PROVIDER_TIMEOUT="300", STOP_SECONDS="1")
    client = client_of(server)
    stub.tell(do="hold")
    oss, memserv = Calls(), Calls()
    oss.start(client, "POST", "/memories", json=body_of("I keep bees."))
    memserv.start(client, "POST", "/api/v1/memories", json={"content": "I keep goats.", **ALICE})
    stub.wait_for(2)
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)
    server.process.send_signal(signal.SIGTERM)
    for calls, word in ((oss, "code"), (memserv, "error")):
        assert calls.statuses() == [503], calls.answers
        [answer] = calls.answers
        assert isinstance(answer, httpx.Response)
        told = answer.json()
        assert told["detail"].startswith("The server is stopping; the input is kept"), told
        assert told[word] == "stopping"
        assert told["request_id"] == answer.headers["X-Request-ID"]
        assert int(answer.headers["Retry-After"]) > 0
    assert server.process.wait(timeout=PATIENCE) == 0, tail(server.log)
    server.process = None
    assert [row["outcome"] for row in inputs(server)] == ["failed"] * 2

    stub.tell(do="heal")
    server.start()
    client = client_of(server)

    def stored() -> list[str]:
        rows = client.get("/memories", params=ALICE).json()["results"]
        return sorted(row["memory"] for row in rows)

    until(lambda: len(stored()) == 2, "what was cut off is not tried again")
    again = client.post("/memories", json=body_of("I keep bees."))
    assert [row["memory"] for row in again.json()["results"]] == ["I keep bees."]
    assert stored() == ["I keep bees.", "I keep goats."], "stored twice"
    assert {row["outcome"] for row in inputs(server)} == {"stored"}
    server.stop()


def test_what_fails_again_after_a_stop_has_failed(
    asking: Callable[..., Server], stub: Stub
) -> None:
    server = asking(PROVIDER_TIMEOUT="300", STOP_SECONDS="1")
    stub.tell(do="hold")
    calls = Calls()
    calls.start(client_of(server), "POST", "/memories", json=body_of("I keep bees."))
    stub.wait_for(1)
    server.kill9()
    assert calls.statuses() == [0]
    stub.tell(do="heal")
    stub.tell(do="fail", status=401)
    server.start()

    def reason() -> str:
        [row] = inputs(server)
        return str(row["reason"]) if row["outcome"] == "failed" else ""

    until(lambda: reason().startswith("Provider rejected"), "the new reason is not told")
    asked = stub.tell()["chat"]
    server.restart()
    assert stub.tell()["chat"]["count"] == asked["count"], "tried again and again"
    server.stop()


def test_clients_that_hang_up_take_no_place_from_others_and_their_adds_are_stored(
    asking: Callable[..., Server], stub: Stub
) -> None:
    server = asking(WAITING_THREADS="4", WAITING_QUEUE="6", PROVIDER_TIMEOUT="300")
    client = client_of(server)
    stub.tell(do="hold")
    gone = 0
    while gone < 52:
        leaving = [opened(server, add_of(server, f"I own {gone + n} kites.")) for n in range(4)]
        gone += len(leaving)
        stub.wait_for(gone)
        for one in leaving:
            one.close()
    calls = Calls()
    calls.start(client, "POST", "/memories", json=body_of("I own a boat."))
    stub.wait_for(gone + 1)
    stub.tell(do="heal")
    assert calls.statuses() == [200]

    def all_are_stored() -> bool:
        found = client.get("/memories", params={**ALICE, "top_k": 100}).json()["results"]
        return len([row for row in found if "kites" in row["memory"]]) == gone

    until(all_are_stored, "what was abandoned is not stored")


def test_an_add_that_needs_no_llm_after_all_does_not_queue_behind_those_that_do(
    asking: Callable[..., Server], stub: Stub
) -> None:
    server = asking(WAITING_THREADS="4", WAITING_QUEUE="2", PROVIDER_TIMEOUT="300")
    client = client_of(server)
    known = {"content": "I own a boat.", **ALICE}
    assert client.post("/api/v1/memories", json=known).json()["results"]
    named = {"Idempotency-Key": "once"}
    first = client.post("/memories", json=body_of("I own a kite."), headers=named)
    stub.tell(do="hold")
    calls = Calls()
    for number in range(4):
        calls.start(client, "POST", "/memories", json=body_of(f"I own {number} bicycles."))
    stub.wait_for(4)
    system = {"messages": [{"role": "system", "content": "Be brief."}], **ALICE}
    answers = [
        client.post("/memories", json=system),
        client.post("/api/v1/memories", json=known),
        client.post("/memories", json=body_of("I own a kite."), headers=named),
    ]
    # What needs one waits, and nothing of it is done twice or lost.
    calls.start(client, "POST", "/memories", json=body_of("I own 4 bicycles."))
    assert {answer.status_code for answer in answers} == {200}
    assert answers[0].json()["results"] == []
    assert answers[1].json()["deduplicated"] is True
    assert answers[2].json() == first.json()
    assert calls.answers == [], "they came too late to tell"
    stub.tell(do="heal")
    assert calls.statuses() == [200] * 5
    found = client.get("/memories", params={**ALICE, "top_k": 100}).json()["results"]
    assert len([row for row in found if "bicycles" in row["memory"]]) == 5
