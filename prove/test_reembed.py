"""Ten thousand memories from the local model to a provider's, killed twice on the way, while
searches go on; and back."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from prove.environment import ROOT, clean_environment
from prove.server import Client, Server

COUNT = 10_000
DIMS = 1536
KEY = "sk-proof-of-reembedding-7Kq"
MODEL = f"openai/text-embedding-3-small/{DIMS}"
GIVE_UP_SECONDS = 300
WORDS = ["tea", "coffee", "wine", "bread", "cheese", "train", "garden", "piano", "yarn", "rose"]

FILL = """
import itertools
from accounts.queries import operator_of
from memories.adding import service as adding
from memories import runtime
opened = runtime.open_runtime()
runtime.install(opened)
operator = operator_of("default")
words = {words!r}
for at in range(0, {count}, 500):
    messages = [
        {{"role": "user", "content": f"note {{n}}: the {{words[n % 10]}} of house {{n // 10}}"}}
        for n in range(at, at + 500)
    ]
    adding.add_memories(operator, messages=messages, entities={{"user_id": "ann"}}, infer=False)
opened.close()
"""


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[str]:
    """A model provider in its own process; its URL."""
    log = tmp_path / "provider.log"
    with log.open("wb") as out:
        command = [sys.executable, "-m", "memories.tests.provider", "--dims", str(DIMS)]
        # Long enough to be killed in the middle.
        command += ["--embed-seconds", "0.1"]
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=out,
            text=True,
        )
    assert process.stdout is not None
    yield process.stdout.readline().split()[-1]
    process.kill()
    process.wait()


class Searcher:
    """Searches all along, and keeps what the answers were."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.answers = 0
        self.empty = 0
        self.wrong: list[str] = []
        self.seconds: list[float] = []
        self._stop = threading.Event()
        self._may_fail = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Searcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def while_it_is_down(self) -> None:
        self._may_fail.set()

    def while_it_is_up(self) -> None:
        self._may_fail.clear()

    def _run(self) -> None:
        client: Client = self.server.client()
        number = 0
        while not self._stop.is_set():
            number = (number + 37) % COUNT
            word = WORDS[number % 10]
            query = f"the {word} of house {number // 10}"
            body = {"query": query, "filters": {"user_id": "ann"}, "top_k": 5}
            started = time.perf_counter()
            try:
                answer = client.request("POST", "/search", json=body)
            except httpx.HTTPError as error:
                if not self._may_fail.is_set():
                    self.wrong.append(repr(error))
                time.sleep(0.1)
                continue
            if answer.status_code != 200:
                if not self._may_fail.is_set():
                    self.wrong.append(answer.text)
                continue
            self.seconds.append(time.perf_counter() - started)
            self.answers += 1
            self.empty += not answer.json()["results"]
            time.sleep(0.02)


def status(server: Server) -> str:
    return server.manage("reembed", "--status")


def wait_for(what: str, server: Server, check: Any) -> None:
    until = time.monotonic() + GIVE_UP_SECONDS
    while time.monotonic() < until:
        if check():
            return
        time.sleep(0.5)
    raise AssertionError(f"{what} did not come: {status(server)}")


def made(server: Server) -> int:
    """How many memories have their new vector."""
    script = (
        "from memories.models import MemoryVector\n"
        f"print(MemoryVector.objects.filter(model_key={MODEL!r}).count())"
    )
    return int(server.manage("shell", "--verbosity", "0", "--command", script).split()[-1])


def flips(server: Server) -> list[str]:
    return [e["model"] for e in server.logged("info") if "new embedder" in e["message"]]


def test_ten_thousand_memories_change_their_embedder_under_kills(
    model: str, server: Server, provider: str, tmp_path: Path
) -> None:
    server.stop()
    server.manage("shell", "--verbosity", "0", "--command", FILL.format(count=COUNT, words=WORDS))
    server.start()
    key = tmp_path / "key"
    key.write_text(KEY)
    command = [sys.executable, "manage.py", "reembed", "--provider", "openai"]
    command += ["--model", "text-embedding-3-small", "--base-url", provider]
    command += ["--api-key-file", str(key)]
    with Searcher(server) as searcher:
        process = subprocess.Popen(
            command, cwd=ROOT, env=server.environment, stdout=subprocess.DEVNULL
        )
        wait_for("a third", server, lambda: made(server) > COUNT // 4)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        at_first_kill = made(server)
        assert "running" in status(server)
        # The server goes on with it by itself.
        wait_for("the server's part", server, lambda: made(server) > at_first_kill + COUNT // 10)
        searcher.while_it_is_down()
        server.kill9()
        at_second_kill = made(server)
        assert at_first_kill < at_second_kill < COUNT
        server.start()
        searcher.while_it_is_up()
        wait_for("the flip", server, lambda: "flipped" in status(server))
        # A search that was begun before has ended; from here on the new model answers.
        asked = count(provider)
        time.sleep(1)
        assert count(provider) > asked
    assert made(server) == COUNT
    assert flips(server) == [MODEL], "it flips once"
    assert searcher.wrong == []
    assert searcher.empty == 0
    assert searcher.answers > 100
    ordered = sorted(searcher.seconds)
    print(
        f"{searcher.answers} searches, p50 {1000 * ordered[len(ordered) // 2]:.0f} ms, "
        f"p95 {1000 * ordered[int(len(ordered) * 0.95)]:.0f} ms, slowest {ordered[-1]:.2f} s"
    )
    back(server, provider)
    nowhere(server, tmp_path)


def back(server: Server, provider: str) -> None:
    """The way back costs nothing: the former vectors are still there."""
    asked = count(provider)
    server.manage("reembed", "--back")
    assert "flipped" in status(server)
    assert count(provider) <= asked + 1
    hits = server.client().search("the tea of house 7", user_id="ann")
    assert "tea of house" in hits[0]["memory"]


def nowhere(server: Server, folder: Path) -> None:
    """The provider's key is in no file but the one that it was read from."""
    server.stop()
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "key":
            assert KEY.encode() not in path.read_bytes(), f"the provider's key is in {path}"


def control(provider: str, order: bytes) -> Any:
    answer = httpx.post(provider.removesuffix("/v1") + "/_control", content=order, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.json()


def count(provider: str) -> int:
    """How many embedding calls there were."""
    return int(control(provider, b"{}")["embeddings"]["count"])
