"""A proxy before the index server that delays, holds and drops: nobody waits for it longer than is
promised, and what is gone stays gone."""

import secrets
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from cryptography.fernet import Fernet

from memories.tests.qdrant_server import QdrantServer
from prove.postgres import Cluster
from prove.proxy import Proxy
from prove.server import Server
from prove.test_distributed import Worker
from prove.test_kill import PENDING, Ask, postgres_asker

pytestmark = pytest.mark.alone

# What is promised, beside what the server takes for the same while the index answers: on a busy
# machine that alone may be seconds.
PROMISED_SECONDS: Final = 2.5
SEARCHERS: Final = 16
MEMORIES: Final = 200
TIMEOUT: Final = 6


class Site:
    """A server and a worker, behind whose index a proxy stands."""

    def __init__(self, folder: Path, url: str) -> None:
        self.qdrant = QdrantServer(folder / "qdrant").start()
        self.proxy = Proxy(self.qdrant.url)
        environment = {
            "DATABASE_URL": url,
            "QDRANT_URL": self.proxy.url,
            "QDRANT_TIMEOUT": str(TIMEOUT),
            "HEALTH_DETAILS": "1",
            "METRICS_PUBLIC": "1",
            "SECRET_KEY": secrets.token_urlsafe(50),
            "JWT_SECRET": secrets.token_urlsafe(50),
            "ENCRYPTION_KEY": Fernet.generate_key().decode(),
        }
        self.web = Server(folder / "web", environment)
        self.worker = Worker(folder / "worker", environment)

    def remove(self) -> None:
        self.web.kill9()
        self.worker.kill9()
        self.proxy.kill()
        self.qdrant.kill9()


@pytest.fixture(scope="module")
def site(
    model: str, tmp_path_factory: pytest.TempPathFactory, postgres: Cluster
) -> Iterator[tuple[Site, Ask]]:
    url = postgres.create_database("slow_index")
    made = Site(tmp_path_factory.mktemp("slow"), url)
    try:
        made.web.start()
        made.web.bootstrap()
        made.worker.start()
        client = made.web.client()
        for at in range(0, MEMORIES, 50):
            client.add(*(f"note {n} about tea" for n in range(at, at + 50)), user_id="ann")
        yield made, postgres_asker(url)
    finally:
        made.remove()


def well(site: Site, ask: Ask) -> None:
    """The index answers again, and has everything."""
    site.proxy.tell(well=True)
    site.proxy.tell(release=True)
    started = time.monotonic()
    client = site.web.client()
    while ask(PENDING) or client.request("GET", "/healthz").status_code != 200:
        assert time.monotonic() - started < 90, "the index does not catch up"
        time.sleep(0.2)
    # A search of its own: it has a pause of its own.
    while client.request("POST", "/search", json=QUERY).status_code != 200:
        assert time.monotonic() - started < 90, "searches are still refused"
        time.sleep(0.2)


QUERY: Final = {"query": "tea", "filters": {"user_id": "ann"}}


def took(call: Callable[[], Any]) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started


def writes_and_looks(site: Site) -> dict[str, list[float]]:
    """Adds, changes, deletes and what monitors ask for: the seconds of each."""
    client = site.web.client()
    seconds: dict[str, list[float]] = {name: [] for name in ("add", "update", "delete", "look")}
    for number in range(6):
        text = f"sentence {number} {secrets.token_hex(4)}"
        started = time.monotonic()
        [made] = client.add(text, user_id="ben")
        seconds["add"].append(time.monotonic() - started)
        seconds["update"].append(took(lambda: client.update(made["id"], text=text + "!")))  # noqa: B023
        seconds["delete"].append(took(lambda: client.delete(made["id"])))  # noqa: B023
        for path in ("/healthz", "/metrics"):
            seconds["look"].append(took(lambda: client.request("GET", path)))  # noqa: B023
    client.close()
    return seconds


@pytest.mark.parametrize("how", [{"hold": ""}, {"delay": 5}, {"drop": True}], ids=str)
def test_nobody_who_writes_or_looks_waits_longer_than_promised(
    site: tuple[Site, Ask], how: dict[str, Any]
) -> None:
    running, ask = site
    well(running, ask)
    usual = writes_and_looks(running)
    running.proxy.tell(**how)
    busy = [threading.Thread(target=search, args=(running,)) for _ in range(24)]
    for thread in busy:
        thread.start()
    disturbed = writes_and_looks(running)
    for name, seconds in disturbed.items():
        # The machine's own slowness is not the index's.
        assert max(seconds) < PROMISED_SECONDS + max(usual[name]), (name, seconds)
    for thread in busy:
        thread.join(timeout=120)
    well(running, ask)


def search(site: Site) -> float:
    client = site.web.client(timeout=120)
    started = time.monotonic()
    answer = client.request("POST", "/search", json=QUERY)
    assert answer.status_code in {200, 502}, answer.text
    client.close()
    return time.monotonic() - started


def test_searchers_do_not_queue_for_an_index_that_never_answers(site: tuple[Site, Ask]) -> None:
    running, ask = site
    well(running, ask)
    usual = search(running)
    running.proxy.tell(hold="")
    with ThreadPoolExecutor(24) as threads:
        waited = list(threads.map(lambda _: search(running), range(24)))
    # One time-out for those who were first; who comes later does not wait for it once more.
    assert max(waited) < 2 * TIMEOUT + usual + 2
    again = [search(running) for _ in range(5)]
    assert statistics.median(again) < 1 + usual
    well(running, ask)


def test_searchers_do_not_wait_for_each_others_calls(site: tuple[Site, Ask]) -> None:
    running, ask = site
    well(running, ask)

    def rate(delay: float) -> float:
        running.proxy.tell(delay=delay, well=True)
        until = time.monotonic() + 5

        def many(_: int) -> int:
            count, client = 0, running.web.client()
            while time.monotonic() < until:
                assert client.request("POST", "/search", json=QUERY).status_code == 200
                count += 1
            client.close()
            return count

        with ThreadPoolExecutor(SEARCHERS) as threads:
            return sum(threads.map(many, range(SEARCHERS))) / 5

    rate(0)  # what is loaded first
    quick, delayed, far = rate(0), rate(0.03), rate(0.3)
    print(f"searches a second: {quick:.0f}, at +30 ms {delayed:.0f}, at +300 ms {far:.0f}")
    assert delayed > 0.5 * quick
    # With a turn of two, and two calls a search, it would be 3 a second.
    assert far > min(20, 0.5 * quick)


def test_a_write_that_was_held_does_not_bring_back_what_was_erased(site: tuple[Site, Ask]) -> None:
    running, ask = site
    well(running, ask)
    client = running.web.client()
    points = running.qdrant.url
    text = f"the secret of {secrets.token_hex(6)}"
    running.proxy.tell(hold="PUT /collections")
    [made] = client.add(text, user_id="eve")
    client.delete(made["id"])
    assert running.proxy.tell() >= 1
    # Past the proxy: what is deleted reaches the index before what was held.
    running.proxy.tell(well=True)
    started = time.monotonic()
    while ask(PENDING):
        assert time.monotonic() - started < 60
        time.sleep(0.2)
    running.proxy.tell(release=True)
    while running.proxy.tell():
        assert time.monotonic() - started < 60
        time.sleep(0.1)
    assert stored(points, made["id"]) in (None, {"rev", "gone"})
    assert "are the same" in running.web.manage("check_index")


def stored(url: str, memory_id: str) -> set[str] | None:
    """What the index server holds beside the id: the names of its fields and vectors."""

    names = httpx.get(f"{url}/collections", trust_env=False).json()["result"]["collections"]
    found: set[str] | None = None
    for name in names:
        body = {"ids": [memory_id], "with_payload": True, "with_vector": True}
        path = f"{url}/collections/{name['name']}/points"
        for point in httpx.post(path, json=body, trust_env=False).json()["result"]:
            found = (found or set()) | set(point["payload"]) | set(point.get("vector") or {})
    return found
