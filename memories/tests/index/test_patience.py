"""An index server that does not answer: it is waited for briefly, and for a while not at all."""

import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from django.db import connection
from qdrant_client.http.exceptions import ResponseHandlingException

from core.errors import IndexUnavailableError
from memories.browse import detail
from memories.filters import EVERYTHING
from memories.index.patience import FAILURES, PAUSE_SECONDS, CallLine, CallLines
from memories.index.qdrant import Collections, Server
from memories.search import service as search
from memories.search.service import search_memories
from memories.tests.actions import add, pending

pytestmark = pytest.mark.one_form


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def failing(line: CallLine) -> None:
    for _ in range(FAILURES):
        line.record_silence()


# --- The breaker ---------------------------------------------------------------------------------
def test_it_opens_after_several_failures_in_a_row_and_not_before(clock):
    line = CallLine(1.0, clock)
    for _ in range(3):
        for _ in range(FAILURES - 1):
            line.record_silence()
        assert line.admit() is False
        line.record_answer()
    failing(line)
    with pytest.raises(IndexUnavailableError) as refused:
        line.admit()
    assert refused.value.retry_after == PAUSE_SECONDS


def test_after_the_pause_one_call_tries_and_the_others_do_not_wait_for_it(clock):
    line = CallLine(1.0, clock)
    failing(line)
    clock.now += PAUSE_SECONDS
    assert line.admit() is True
    for _ in range(3):
        with pytest.raises(IndexUnavailableError):
            line.admit()
    line.record_silence()
    line.record_try()
    with pytest.raises(IndexUnavailableError):
        line.admit()
    clock.now += PAUSE_SECONDS
    assert line.admit() is True
    line.record_answer()
    line.record_try()
    assert line.admit() is False


@pytest.mark.parametrize(
    ("error", "seconds", "counts"),
    [
        (httpx.ReadTimeout("slow"), 2.0, True),
        (httpx.ConnectTimeout("slow"), 2.0, True),
        (httpx.RemoteProtocolError("broke off at last"), 2.0, True),
        # It costs nobody any time, and is over as soon as the server is up again.
        (httpx.ConnectError("refused"), 0.0, False),
        (httpx.RemoteProtocolError("broke off"), 0.0, False),
    ],
)
def test_what_took_its_time_and_gave_no_answer_counts(clock, error, seconds, counts):
    patience = CallLines(10.0)
    patience.searching.clock = clock

    def send(request):
        clock.now += seconds
        raise ResponseHandlingException(error)

    for _ in range(FAILURES):
        with patience.on(patience.searching), pytest.raises(ResponseHandlingException):
            patience.send(httpx.Request("GET", "http://index"), send)
    if counts:
        with pytest.raises(IndexUnavailableError), patience.on(patience.searching):
            raise AssertionError("not reached")
    else:
        with patience.on(patience.searching):
            pass


def test_all_that_one_caller_asks_has_the_time_of_one(clock):
    patience = CallLines(10.0)
    patience.writing.clock = clock
    given = []

    def send(request):
        given.append(request.extensions["timeout"]["read"])
        clock.now += 0.75
        return httpx.Response(200)

    request = httpx.Request("GET", "http://index")
    with patience.on(patience.writing):
        patience.send(request, send)
        # A search within a write has no more time than the write.
        with patience.on(patience.searching):
            patience.send(request, send)
        with pytest.raises(IndexUnavailableError):
            patience.send(request, send)
    assert given[0] == pytest.approx(patience.writing.seconds)
    assert given[1] == pytest.approx(given[0] - 0.75)
    # What is slow as a whole has answered all the same.
    with patience.on(patience.writing):
        pass


def test_no_call_is_given_more_than_the_setting_says():
    patience = CallLines(1)
    lines = (patience.searching, patience.writing, patience.looking)
    assert [line.seconds for line in lines] == [1, 1, 1]
    assert CallLines(60).writing.seconds + CallLines(60).looking.seconds < 2.5


# --- A server that accepts and never answers -----------------------------------------------------
@pytest.fixture
def engine(shared_engine):
    return shared_engine


@pytest.fixture
def silent(engine, collections, qdrant, monkeypatch):
    """Calls the tests with what reached the server; nobody waits long."""
    for line in (collections.patience.searching, collections.patience.writing):
        monkeypatch.setattr(line, "seconds", 0.2)
    monkeypatch.setattr(collections.patience.looking, "seconds", 0.2)
    monkeypatch.setattr("memories.index.patience._SLOW_SECONDS", 0.1)
    client = collections._client.http.client
    send, calls = client.send_inner, []

    def noted(request):
        calls.append(request.url.path)
        return send(request)

    monkeypatch.setattr(client, "send_inner", noted)
    qdrant.tell(hang=60, times=200)
    return calls


def test_searches_are_refused_at_once_when_several_had_no_answer(owner, silent):
    for _ in range(FAILURES):
        with pytest.raises(IndexUnavailableError):
            search_memories(owner, "green tea")
    asked = len(silent)
    for _ in range(5):
        with pytest.raises(IndexUnavailableError) as refused:
            search_memories(owner, "green tea")
        assert refused.value.retry_after
    assert len(silent) == asked


def test_what_is_written_is_stored_and_left_to_the_others_and_soon_nobody_waits_for_it(
    owner, engine, silent, qdrant, collections
):
    for number in range(FAILURES + 3):
        add(owner, f"green tea {number}")
    assert pending() == FAILURES + 3
    assert len(silent) == FAILURES
    # Writes that fail are no reason to refuse a search.
    qdrant.tell()
    assert search_memories(owner, "green tea").hits == []
    engine.indexer.drain()
    assert pending() == 0
    assert len(search_memories(owner, "green tea").hits) == FAILURES + 3


def test_health_metrics_and_pages_go_on_and_say_so(owner, client, key, silent, settings, caplog):
    settings.HEALTH_DETAILS = True
    for _ in range(FAILURES + 2):
        answer = client.get("/healthz")
        assert answer.status_code == 503
        assert answer.json()["failing"] == ["index"]
    assert len(silent) == FAILURES
    answer = client.get("/metrics", headers={"X-API-Key": key()})
    assert answer.status_code == 200
    assert "mem0dash_index_points" not in answer.content.decode()
    assert "Traceback" not in caplog.text


def test_what_is_no_more_than_welcome_on_a_page_is_left_out(owner, engine, silent, qdrant):
    qdrant.tell()
    one, two = add(owner, "green tea", "green tea leaves")
    assert [near.memory.id for near in detail.get_detail(owner, one).similar] == [two]
    qdrant.tell(hang=60, times=200)
    asked = len(silent)
    for _ in range(FAILURES + 3):
        assert detail.get_detail(owner, one).similar == []
    assert len(silent) == asked + FAILURES


def test_a_search_over_the_api_says_when_to_come_again(api, silent):
    body = {"query": "green tea", "user_id": "alice"}
    for _ in range(FAILURES + 1):
        answer = api.post("/search", body)
        assert answer.status_code == 502
        assert answer.json()["code"] == "vector_store_unavailable"
    assert int(answer.headers["Retry-After"]) > 0


# --- Ranking -------------------------------------------------------------------------------------
@pytest.mark.django_db(transaction=True)
def test_who_waits_for_the_index_keeps_nobody_from_ranking(owner, engine, monkeypatch):
    # Nobody gets an answer before all of them have asked.
    many = search.SEARCHES_AT_ONCE + 2
    together = threading.Barrier(many, timeout=60)
    named, done = search._named, []

    def waiting(*args):
        together.wait()
        return named(*args)

    monkeypatch.setattr(search, "_named", waiting)
    wanted = search._Options(5, 0.1, show_expired=False, recency=None)

    def searching() -> None:
        try:
            search._search(*engine.pair(), owner, "tea", EVERYTHING, wanted)
            done.append(True)
        finally:
            connection.close()

    threads = [threading.Thread(target=searching) for _ in range(many)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=90)
    assert len(done) == many


def test_one_search_is_one_call_of_the_index_server(owner, engine, collections, monkeypatch):
    add(owner, "green tea")
    client = collections._client.http.client
    send, calls = client.send_inner, []

    def noted(request):
        calls.append(request.url.path)
        return send(request)

    monkeypatch.setattr(client, "send_inner", noted)
    assert len(search_memories(owner, "green tea").hits) == 1
    assert len(calls) == 1


class Trickling(BaseHTTPRequestHandler):
    """Answers at once, and then a byte now and then."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        with suppress(OSError):
            while not self.server.ended.wait(0.02):
                self.wfile.write(b" ")

    def log_message(self, *args: object) -> None:
        """Nothing."""


class TricklingHead(Trickling):
    """Answers with a head that has no end."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.flush_headers()
        with suppress(OSError):
            while not self.server.ended.wait(0.02):
                self.wfile.write(b"X-Byte: 1\r\n")


@pytest.mark.parametrize("handler", [Trickling, TricklingHead])
def test_an_answer_that_trickles_in_is_waited_for_no_longer_than_one_that_does_not_come(handler):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.ended = threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    collections = Collections(Server(url=f"http://127.0.0.1:{server.server_port}", timeout=60))
    line = collections.patience.looking
    line.seconds = 0.3
    try:
        for _ in range(FAILURES):
            with pytest.raises(IndexUnavailableError), collections.patience.on(line):
                collections.generations()
        # And nobody asks for a while.
        with pytest.raises(IndexUnavailableError, match="does not answer"):
            line.admit()
    finally:
        server.ended.set()
        server.shutdown()
        server.server_close()
        collections.close()


def test_a_head_that_trickles_in_holds_background_work_no_longer_than_a_call_may_take():
    server = ThreadingHTTPServer(("127.0.0.1", 0), TricklingHead)
    server.ended = threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    collections = Collections(Server(url=f"http://127.0.0.1:{server.server_port}", timeout=1))
    try:
        with pytest.raises(IndexUnavailableError):
            collections.generations()
    finally:
        server.ended.set()
        server.shutdown()
        server.server_close()
        collections.close()
