"""Ten thousand handshakes, ten thousand registrations: neither memory nor tables grow with them."""

import http.client
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest

from prove.connected_apps import REDIRECT, REVISION, headers, message
from prove.server import Server
from prove.test_bounds import GROWTH, resident

pytestmark = pytest.mark.alone

CALLS: Final = 10_000
CLIENTS: Final = 8
# Before these many calls the server still fills its caches and pools.
WARM: Final = 500
# oauth.limits: of all addresses together, in an hour.
REGISTRATIONS: Final = 600


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server behind a proxy, which says from which address each call comes."""
    made = Server(tmp_path_factory.mktemp("flood") / "data", {"TRUSTED_PROXIES": "127.0.0.1"})
    try:
        made.start()
        made.bootstrap()
        yield made
    finally:
        made.kill9()


def rows(server: Server) -> Counter[str]:
    """How many rows each table has."""
    with sqlite3.connect(f"file:{server.data_dir}/mem0dash.sqlite3?mode=ro", uri=True) as database:
        found = database.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '%fts%'"
        )
        return Counter(
            {
                name: database.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
                for (name,) in found.fetchall()
            }
        )


def flood(server: Server, path: str, sent: Callable[[int], Mapping[str, str]], body: Any) -> Any:
    """Posts the body over and over from several connections; how often each status came."""
    data = json.dumps(body).encode()

    def post(first: int, calls: int) -> Counter[int]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        statuses: Counter[int] = Counter()
        for number in range(first, first + calls):
            given = {"Content-Type": "application/json", **sent(number)}
            connection.request("POST", path, data, given)
            answer = connection.getresponse()
            answer.read()
            statuses[answer.status] += 1
        connection.close()
        return statuses

    def all_of(calls: int, start: int) -> Counter[int]:
        each = calls // CLIENTS
        with ThreadPoolExecutor(CLIENTS) as pool:
            parts = [pool.submit(post, start + n * each, each) for n in range(CLIENTS)]
            return sum((part.result() for part in parts), Counter())

    warm = all_of(WARM, 0)
    before = resident(server)
    found = warm + all_of(CALLS, WARM)
    grown = resident(server) - before
    print(f"{path}: {dict(found)}, {grown / 1024:.1f} MiB more")
    assert grown < GROWTH
    return found


def test_handshakes_leave_nothing_behind(server: Server) -> None:
    hello = message(
        "initialize",
        protocolVersion=REVISION,
        capabilities={},
        clientInfo={"name": "flood", "version": "1"},
    )
    before = rows(server)
    statuses = flood(server, "/mcp", lambda _: headers(server.key), hello)
    print(rows(server) - before)
    assert set(statuses) == {200}


def test_registrations_of_strangers_are_bounded_wherever_they_come_from(server: Server) -> None:
    said = {"client_name": "flood", "redirect_uris": [REDIRECT]}
    before = rows(server)

    def sent(number: int) -> dict[str, str]:
        return {"X-Forwarded-For": f"203.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"}

    statuses = flood(server, "/oauth/register", sent, said)
    grown = rows(server) - before
    print(grown)
    assert set(statuses) == {201, 429}
    assert grown["oauth_application"] == statuses[201] <= REGISTRATIONS
