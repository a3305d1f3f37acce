"""Bodies as they come over the wire: too large, in chunks, cut off; against a real server."""

import asyncio
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.conf import settings

from core import limits
from core.http import bodies
from mem0dash.asgi import application
from prove.server import Server

pytestmark = pytest.mark.one_form

KEY = "an-admin-key-for-the-tests"
HEADERS = {"X-API-Key": KEY}
LIMIT = settings.MAX_BODY_BYTES


def empty_database() -> str:
    """A database of its own on the PostgreSQL of this run; SQLite makes one by itself."""
    import psycopg

    url = os.environ["DATABASE_URL"]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS body_limits")
        connection.execute("CREATE DATABASE body_limits")
    return url.rsplit("/", 1)[0] + "/body_limits"


@pytest.fixture(scope="module")
def server(tmp_path_factory: Any) -> Iterator[Server]:
    environment = {"ADMIN_API_KEY": KEY, "LOG_LEVEL": "INFO"}
    if "DATABASE_URL" in os.environ:
        environment["DATABASE_URL"] = empty_database()
    running = Server(Path(tmp_path_factory.mktemp("server")) / "data", environment)
    running.start()
    yield running
    running.kill9()


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers=HEADERS, timeout=60, trust_env=False) as client:
        yield client
        assert client.get("/healthz").status_code == 200


def add_of(size: int, user_id: str) -> bytes:
    """The JSON of an add that is exactly `size` bytes long."""
    body = {"messages": [{"role": "user", "content": ""}], "user_id": user_id}
    body["messages"][0]["content"] = "x" * (size - len(json.dumps(body)))  # type: ignore[index]
    return json.dumps(body).encode()


def listed(http: httpx.Client, user_id: str) -> list[dict[str, Any]]:
    answer = http.get("/memories", params={"user_id": user_id})
    assert answer.status_code == 200
    return list(answer.json()["results"])


def test_a_body_beyond_the_limit_is_413_in_json_and_nothing_is_stored(http: httpx.Client) -> None:
    for method, path in (("POST", "/memories"), ("POST", "/search"), ("PUT", "/memories/x")):
        for size in (LIMIT + 1, 10 * 1024 * 1024):
            answer = http.request(method, path, content=add_of(size, "large"))
            assert answer.status_code == 413, (method, path, size)
            assert answer.json() == {"detail": "The request body is larger than 8 MiB."}
    assert listed(http, "large") == []


def test_a_chunked_body_beyond_the_limit_is_413_as_well(http: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(160):
            yield b"x" * 65536

    answer = http.post("/memories", content=chunks())
    assert answer.status_code == 413
    assert answer.json() == {"detail": "The request body is larger than 8 MiB."}


def test_a_413_carries_the_headers_of_every_other_answer(http: httpx.Client) -> None:
    answer = http.post("/memories", content=b" " * (LIMIT + 1))
    assert answer.status_code == 413
    usual = http.get("/memories")
    for name in ("X-Request-ID", "X-Content-Type-Options", "Content-Security-Policy"):
        assert name in usual.headers
        assert name in answer.headers, name


def test_a_body_of_almost_the_limit_is_no_problem(http: httpx.Client) -> None:
    answer = http.post("/search", content=b'{"query": "' + b"x" * (LIMIT - 100) + b'"}')
    assert answer.status_code == 400
    answer = http.post("/memories", content=add_of(1_000_000, "nearly"))
    assert answer.status_code == 200
    assert len(listed(http, "nearly")[0]["memory"]) > 999_000


def test_a_chunked_body_without_a_length_is_read_whole(http: httpx.Client) -> None:
    body = json.dumps(
        {"messages": [{"role": "user", "content": "tëa " * 50_000}], "user_id": "chunks"}
    ).encode()

    def chunks() -> Iterator[bytes]:
        for at in range(0, len(body), 7001):
            yield body[at : at + 7001]

    answer = http.post("/memories", content=chunks())
    assert answer.status_code == 200, answer.text
    assert [m["memory"] for m in listed(http, "chunks")] == ["tëa " * 50_000]


def raw_request(server: Server, data: bytes, *, close: bool = False) -> bytes:
    """Sends bytes as they are; what came back within five seconds, or until the end."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(data)
        if close:
            return b""
        received = b""
        try:
            while block := connection.recv(65536):
                received += block
        except TimeoutError:
            pass
        return received


def test_a_body_that_is_cut_off_stores_nothing(server: Server, http: httpx.Client) -> None:
    body = add_of(1000, "cut")
    head = b"POST /memories HTTP/1.1\r\nHost: localhost\r\nX-API-Key: " + KEY.encode()
    head += b"\r\nContent-Length: 1000\r\n\r\n"
    for length in (0, 1, 500, 999):
        raw_request(server, head + body[:length], close=True)
    assert listed(http, "cut") == []
    errors = server.logged("error", "critical")
    assert errors == []


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: -5",
        b"Content-Length: abc",
        b"Content-Length: 5\r\nContent-Length: 50",
        b"Transfer-Encoding: nonsense",
        b"Host: evil.example",
        b"X-API-Key: a\x00b",
        b"Content-Length: 99999999999999999999",
        b"no colon",
    ],
)
def test_a_malformed_head_is_4xx_and_the_server_lives_on(
    server: Server, http: httpx.Client, head: bytes
) -> None:
    request = b"POST /memories HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + head
    answer = raw_request(server, request + b"\r\n\r\n{}")
    assert answer.startswith(b"HTTP/1.1 4"), answer[:300]


def test_an_address_with_raw_bytes_is_no_error_of_the_server(
    server: Server, http: httpx.Client
) -> None:
    for address in (b"/memories?user_id=\xff", b"/\xff", b"/healthz?\xc3\xa9", b"//", b"*"):
        head = b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        answer = raw_request(server, b"GET " + address + head)
        assert answer[:12] < b"HTTP/1.1 500", (address, answer[:200])
    assert server.logged("error", "critical") == []


def test_paths_with_any_byte_are_answered(http: httpx.Client) -> None:
    for part in ("%00", "%ff", "a%00b", "%0d%0aX: y", "%f0%9f%98%80", "a" * 8000):
        answer = http.get(f"/memories/{part}")
        assert (answer.status_code, answer.content) == (200, b"null"), part
        assert http.get(f"/memories/{part}/history").json() == []
        assert http.delete(f"/memories/{part}").status_code == 404
        assert http.delete(f"/entities/user/{part}").status_code < 500, part


KEYED = (b"x-api-key", KEY.encode())


def drive(
    messages: list[dict[str, Any]], headers: list[tuple[bytes, bytes]], path: str = "/memories"
) -> Any:
    """Runs the application on these messages; what it sent, and how many it left unread."""
    sent: list[dict[str, Any]] = []
    waiting = list(messages)

    async def receive() -> dict[str, Any]:
        return waiting.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost"), *headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }
    asyncio.run(application(scope, receive, send))
    return sent, len(waiting)


MEBIBYTE = {"type": "http.request", "body": b"x" * 1024 * 1024, "more_body": True}
CHUNKED = (b"transfer-encoding", b"chunked")


def test_of_who_brings_no_credential_no_body_is_read_where_one_is_needed() -> None:
    for headers in ([(b"content-length", b"8000000")], [(b"content-length", b"10")], [CHUNKED]):
        sent, unread = drive([MEBIBYTE] * 5, headers)
        assert (sent[0]["status"], unread) == (401, 5), headers


def test_where_nothing_stands_no_body_is_read() -> None:
    for path in ("/nowhere", "/static/none.css", "/memories/x/y/z"):
        sent, unread = drive([MEBIBYTE] * 5, [CHUNKED, KEYED], path)
        assert (sent[0]["status"], unread) == (404, 5), path


@pytest.mark.parametrize(
    "path", ["/auth/login", "/login", "/setup/administrator", "/dashboard/theme"]
)
def test_what_is_open_to_all_reads_small_bodies_alone(path: str) -> None:
    declared = [(b"content-length", str(limits.OPEN_BODY_BYTES + 1).encode())]
    sent, unread = drive([MEBIBYTE] * 5, declared, path)
    assert (sent[0]["status"], unread) == (413, 5)
    sent, unread = drive([MEBIBYTE] * 5, [CHUNKED], path)
    assert (sent[0]["status"], unread) == (413, 4)


def test_a_body_that_is_too_large_is_read_to_its_end_and_thrown_away() -> None:
    end = {**MEBIBYTE, "more_body": False}
    for headers in ([(b"content-length", b"10485760"), KEYED], [CHUNKED, KEYED]):
        sent, unread = drive([*[MEBIBYTE] * 9, end], headers)
        assert (sent[0]["status"], unread) == (413, 0)
        assert (b"connection", b"close") not in sent[0]["headers"]


def test_a_body_without_an_end_is_not_read_for_ever() -> None:
    sent, unread = drive([MEBIBYTE] * 100, [CHUNKED, KEYED])
    assert sent[0]["status"] == 413
    assert unread >= 100 - limits.DRAIN_BYTES // 1024 // 1024
    assert (b"connection", b"close") in sent[0]["headers"]


def test_who_asks_before_sending_too_much_is_told_not_to() -> None:
    headers = [(b"content-length", b"10485760"), (b"expect", b"100-continue"), KEYED]
    sent, unread = drive([MEBIBYTE] * 10, headers)
    assert (sent[0]["status"], unread) == (413, 10)
    assert (b"connection", b"close") in sent[0]["headers"]


def test_who_asks_before_sending_without_a_credential_ends_there() -> None:
    headers = [(b"content-length", b"10"), (b"expect", b"100-continue")]
    sent, unread = drive([MEBIBYTE], headers)
    assert (sent[0]["status"], unread) == (401, 1)
    assert (b"connection", b"close") in sent[0]["headers"]


def test_a_caller_that_hangs_up_gets_no_answer() -> None:
    block = {"type": "http.request", "body": b'{"messages"', "more_body": True}
    headers = [(b"content-length", b"500"), KEYED]
    sent, _ = drive([block, {"type": "http.disconnect"}], headers)
    assert sent == []


def test_more_large_bodies_than_there_is_room_for_are_503(monkeypatch: Any) -> None:
    monkeypatch.setattr(settings, "MAX_BODIES_BYTES", 1024 * 1024)
    sent, unread = drive([MEBIBYTE] * 5, [CHUNKED, KEYED])
    assert (sent[0]["status"], unread) == (503, 3)
    assert (b"retry-after", b"5") in sent[0]["headers"]
    assert json.loads(sent[1]["body"])["code"] == "busy"
    assert bodies.room.held == 0
