"""Whatever strangers do with their connections, the server stays small and answers the others."""

import contextlib
import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import httpx
import pytest

from prove.conftest import need_program
from prove.server import Server

pytestmark = pytest.mark.alone

# As short as a test can be patient; whoever needs longer on a busy machine is given it.
CLIENT_SECONDS: Final = 3
GROWTH: Final = 60 * 1024
PATIENCE: Final = 40.0


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server that is as impatient with its clients as it can be."""
    made = Server(
        tmp_path_factory.mktemp("bounds") / "data",
        {"CLIENT_SECONDS": str(CLIENT_SECONDS), "THREADS": "4", "MAX_CONNECTIONS": "900"},
    )
    try:
        made.start()
        made.bootstrap()
        yield made
    finally:
        made.kill9()


def resident(server: Server) -> int:
    """The server's memory in kB."""
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0])


def connections(server: Server) -> int:
    """How many connections the server has: it may hold a few of ours for a moment."""
    assert server.process is not None
    table = Path(f"/proc/{server.process.pid}/net/tcp").read_text().splitlines()[1:]
    wanted = f":{server.port:04X}"
    return sum(1 for row in table if row.split()[1].endswith(wanted) and row.split()[3] == "01")


def opened(server: Server, data: bytes) -> socket.socket:
    """A connection that sends this and nothing more."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
    connection.sendall(data)
    return connection


def read_to_the_end(connection: socket.socket) -> bytes:
    """All that comes until the server ends the connection; AssertionError where it does not."""
    received = b""
    try:
        while block := connection.recv(65536):
            received += block
    except TimeoutError:
        raise AssertionError(f"open after {PATIENCE:.0f} s: {received[:200]!r}") from None
    except ConnectionError:
        pass
    connection.close()
    return received


class Others:
    """Somebody else, who asks all along; `slowest` is the longest that one answer took."""

    def __init__(self, server: Server) -> None:
        self.server, self.slowest, self.answers = server, 0.0, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> "Others":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            headers = {"X-API-Key": self.server.key}
            url = f"{self.server.url}/memories?user_id=alice"
            answer = httpx.get(url, headers=headers, timeout=PATIENCE, trust_env=False)
            assert answer.status_code == 200
            self.slowest = max(self.slowest, time.monotonic() - started)
            self.answers += 1
            self._stop.wait(0.05)


def test_bodies_without_a_key_are_refused_unread_and_take_no_memory(bounded: Server) -> None:
    before = resident(bounded)
    head = (
        b"POST /memories HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 8388608\r\n\r\n"
    )
    body = b"x" * 7_800_000

    def send(_: int) -> bytes:
        connection = opened(bounded, head)
        answer = connection.recv(65536)
        try:
            connection.sendall(body)
        except OSError:
            return answer
        return answer + read_to_the_end(connection)

    with Others(bounded) as others, ThreadPoolExecutor(60) as pool:
        answers = list(pool.map(send, range(60)))
    assert all(answer.startswith(b"HTTP/1.1 401 ") for answer in answers)
    assert others.answers
    assert others.slowest < 10.0
    assert resident(bounded) - before < GROWTH


def test_heads_that_never_end_are_ended(bounded: Server) -> None:
    before = resident(bounded)
    with Others(bounded) as others:
        held = [opened(bounded, b"POST /memories HTTP/1.1\r\nHost: loc") for _ in range(800)]
        answers = [read_to_the_end(connection) for connection in held]
    assert {answer[:13] for answer in answers} == {b"HTTP/1.1 408 "}
    assert others.answers
    assert others.slowest < 10.0
    assert resident(bounded) - before < GROWTH


def test_more_connections_than_there_may_be_keep_nobody_out(bounded: Server) -> None:
    held = [opened(bounded, b"GET /healthz HTTP/1.1\r\nHo") for _ in range(1200)]
    with Others(bounded) as others:
        for connection in held:
            read_to_the_end(connection)
    assert others.answers
    assert others.slowest < 10.0


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 200_000, 431),
        (b"GET /" + b"x" * 200_000, 431),
        (b"GET /healthz HTTP/1.1\r\n" + b"X-A: b\r\n" * 30_000, 431),
        (b"", None),
        (b"G", 408),
    ],
    ids=["a header", "an address", "many headers", "nothing", "one byte"],
)
def test_a_head_has_bounds(bounded: Server, sent: bytes, status: int | None) -> None:
    connection = socket.create_connection(("127.0.0.1", bounded.port), timeout=PATIENCE)
    with contextlib.suppress(ConnectionError):
        connection.sendall(sent)
    answer = read_to_the_end(connection)
    if status is None:
        assert answer == b""
    elif answer:  # an end that comes while we still send may take the answer away
        assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert httpx.get(f"{bounded.url}/healthz", trust_env=False).status_code == 200


def test_a_form_that_stops_in_the_middle_is_ended(bounded: Server) -> None:
    head = b"POST /auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{"
    answer = read_to_the_end(opened(bounded, head))
    assert answer.startswith(b"HTTP/1.1 408 "), answer


def test_a_slow_line_with_a_key_may_take_longer_as_long_as_it_sends(bounded: Server) -> None:
    text = "slow " * 120_000
    body = json.dumps(
        {"messages": [{"role": "user", "content": text}], "user_id": "slow", "infer": False}
    ).encode()
    head = (
        f"POST /memories HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {bounded.key}\r\n"
        f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    connection = opened(bounded, head)
    started, pieces = time.monotonic(), 12
    size = len(body) // pieces + 1
    for at in range(0, len(body), size):
        connection.sendall(body[at : at + size])
        time.sleep(2 * CLIENT_SECONDS / pieces)  # the slow line
    assert time.monotonic() - started > CLIENT_SECONDS
    assert read_to_the_end(connection).startswith(b"HTTP/1.1 200 ")


def test_who_does_not_read_holds_no_thread_and_is_ended(bounded: Server) -> None:
    page = httpx.get(f"{bounded.url}/docs", trust_env=False).text
    bundle = re.findall(r"/static/[^\"']*swagger-ui-bundle[^\"']*\.js", page)[0]
    held = []
    for _ in range(30):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(PATIENCE)
        connection.connect(("127.0.0.1", bounded.port))
        connection.sendall(f"GET {bundle} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        held.append(connection)
    with Others(bounded) as others:
        deadline = time.monotonic() + PATIENCE
        while connections(bounded) > 4:
            assert time.monotonic() < deadline, "connections that nobody reads are held"
            time.sleep(0.1)
    assert others.slowest < 10.0
    for connection in held:
        connection.close()


# --- A body that is too large ---------------------------------------------------------------------
_FETCH: Final = """
const [url, key, chunked] = process.argv.slice(1);
const messages = [{role: "user", content: "x".repeat(8600000)}];
const body = JSON.stringify({messages, user_id: "u"});
const pieces = function* () {
  const encoder = new TextEncoder();
  for (let i = 0; i < body.length; i += 65536) yield encoder.encode(body.slice(i, i + 65536));
};
const headers = {"X-API-Key": key, "Content-Type": "application/json"};
const sent = chunked ? ReadableStream.from(pieces()) : body;
const options = {method: "POST", duplex: "half", headers, body: sent};
const answer = await fetch(url + "/memories", options);
console.log(answer.status, await answer.text());
"""


@pytest.mark.parametrize("chunked", ["", "yes"])
def test_fetch_of_node_sees_that_its_body_is_too_large(bounded: Server, chunked: str) -> None:
    node = need_program("node", "nodejs")
    command = [node, "--input-type=module", "-e", _FETCH, bounded.url, bounded.key, chunked]
    for _ in range(3):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.stdout.startswith("413 "), done.stdout + done.stderr
        assert json.loads(done.stdout[4:]) == {"detail": "The request body is larger than 8 MiB."}


def test_curl_asks_first_and_sends_nothing_that_is_too_large(
    bounded: Server, tmp_path: Path
) -> None:
    curl = need_program("curl", "curl")
    large = tmp_path / "large.json"
    large.write_bytes(b" " * 8_600_000)
    command = [curl, "-sS", "-w", "%{http_code} %{size_upload}", "-o", "/dev/null", "--data-binary"]
    command += [f"@{large}", "-H", "Expect: 100-continue", "-H", f"X-API-Key: {bounded.key}"]
    done = subprocess.run(
        [*command, f"{bounded.url}/memories"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "413 0"
