"""Three thousand memories of before get their token states behind the scenes: killed on the way,
while searches go on; and then by a provider's embedder, switched off and on."""

import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from prove.conftest import MakeServer
from prove.environment import ROOT, clean_environment
from prove.server import Server

pytestmark = pytest.mark.alone

COUNT = 3000
GIVE_UP_SECONDS = 60.0
WORDS = ["tea", "coffee", "wine", "bread", "cheese", "train", "garden", "piano", "yarn", "rose"]
# Of so many letters that reading them takes a while.
TEXT = "note {n}: the {word} of house {house}, which I saw on my walk along the river on a fine day"

FILL = """
from accounts.queries import operator_of
from memories.adding import service as adding
from memories import runtime
opened = runtime.open_runtime()
runtime.install(opened)
words = {words!r}
for at in range(0, {count}, 500):
    messages = [
        {{"role": "user", "content": {text!r}.format(n=n, word=words[n % 10], house=n // 10)}}
        for n in range(at, at + 500)
    ]
    adding.add_memories(
        operator_of("default"), messages=messages, entities={{"user_id": "ann"}}, infer=False
    )
opened.close()
"""

# Reads every memory once more, and compares.
COMPARE = """
from memories.engine.opening import open_reader
from memories.models import MemoryTokens
from memories.storage.rows import text_to_embed
from memories.readings import pack_states
reader = open_reader()
rows = list(MemoryTokens.objects.select_related("memory"))
found = reader.read([text_to_embed(row.memory) for row in rows])
same = [bytes(row.data) == pack_states(one.tokens) for row, one in zip(rows, found)]
print(len(rows), sum(same))
"""


class Searcher:
    """Searches all along, and keeps what the answers were."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.answers = 0
        self.wrong: list[str] = []
        self.seconds: list[float] = []
        self.may_fail = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Searcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        client = self._server.client()
        number = 0
        while not self._stop.is_set():
            number = (number + 37) % COUNT
            query = f"the {WORDS[number % 10]} of house {number // 10}"
            body = {"query": query, "filters": {"user_id": "ann"}, "top_k": 5}
            started = time.perf_counter()
            try:
                answer = client.request("POST", "/search", json=body)
                if answer.status_code != 200 or not answer.json()["results"]:
                    raise ValueError(answer.text)
            except (httpx.HTTPError, ValueError) as error:
                if not self.may_fail.is_set():
                    self.wrong.append(repr(error))
                time.sleep(0.05)
                continue
            self.seconds.append(time.perf_counter() - started)
            self.answers += 1
            time.sleep(0.02)


def made(server: Server) -> int:
    """How many memories have token states."""
    file = f"file:{server.data_dir / 'mem0dash.sqlite3'}?mode=ro"
    with contextlib.closing(sqlite3.connect(file, uri=True, timeout=10)) as database:
        return int(database.execute("SELECT count(*) FROM memories_memorytokens").fetchone()[0])


def wait_for(what: str, check: Callable[[], bool], seconds: float = GIVE_UP_SECONDS) -> float:
    """The seconds it took."""
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        if check():
            return time.monotonic() - started
        time.sleep(0.01)
    raise AssertionError(f"{what} did not come within {seconds:.0f} s")


def shell(server: Server, script: str) -> str:
    return server.manage("shell", "--verbosity", "0", "--command", script)


def test_older_memories_get_their_token_states_under_kills(
    model: str, make_server: MakeServer
) -> None:
    server = make_server()
    server.start()
    server.bootstrap()
    server.stop()
    on = dict(server.environment)
    server.environment["LATE_INTERACTION"] = "false"
    shell(server, FILL.format(count=COUNT, words=WORDS, text=TEXT))
    assert made(server) == 0, "there were to be none while it is off"
    server.environment.clear()
    server.environment.update(on)
    server.start()
    with Searcher(server) as searcher:
        before = 0
        for _ in range(2):
            wait_for("the next part", lambda: made(server) >= before + COUNT // 5)  # noqa: B023
            searcher.may_fail.set()
            server.kill9()
            kept = made(server)
            assert before < kept < COUNT, "it was to be killed in the middle"
            before = kept
            server.start()
            searcher.may_fail.clear()
        seconds = wait_for("the end", lambda: made(server) == COUNT)
        rate = (COUNT - before) / max(seconds, 0.001)
    assert searcher.wrong == []
    assert searcher.answers > 50
    ordered = sorted(searcher.seconds)
    print(
        f"the last {COUNT - before} at {rate:.0f} a second; {searcher.answers} searches, p50 "
        f"{1000 * ordered[len(ordered) // 2]:.0f} ms, p95 "
        f"{1000 * ordered[int(len(ordered) * 0.95)]:.0f} ms, slowest {ordered[-1]:.2f} s"
    )
    assert shell(server, COMPARE).split()[-2:] == [str(COUNT), str(COUNT)]
    told = server.manage("token_states")
    assert f"{COUNT:,} of {COUNT:,} memories have token states" in told


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[str]:
    """A model provider in its own process; its URL."""
    with (tmp_path / "provider.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "memories.tests.provider", "--dims", "256"],
            cwd=ROOT,
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdout is not None
    yield process.stdout.readline().split()[-1]
    process.kill()
    process.wait()


def test_with_a_providers_embedder_they_follow_within_two_seconds_and_can_be_switched_off(
    model: str, make_server: MakeServer, provider: str
) -> None:
    environment = {
        "MEM0_EMBED_PROVIDER": "openai",
        "MEM0_EMBED_MODEL": "stub-embed",
        "OPENAI_API_KEY": "sk-proof-of-token-states",
        "OPENAI_BASE_URL": provider,
        "MEM0_LLM_PROVIDER": "none",
        "MEM0DASH_MODEL_DIR": os.environ["MEM0DASH_MODEL_DIR"],
    }
    server = make_server("remote", environment)
    server.start()
    server.bootstrap()
    client = server.client()
    waits: list[float] = []
    for number in range(5):
        client.add(f"note {number}: I drink oat milk in the morning", user_id="ann")
        waits.append(wait_for("the states", lambda: made(server) == number + 1))  # noqa: B023
    print(f"states came after {', '.join(f'{seconds:.2f}' for seconds in waits)} s")
    assert max(waits[1:]) < 2.5  # the first one waits for the model as well
    server.manage("token_states", "--off")
    time.sleep(3)  # the server looks every second
    client.add("an added one while it is off", user_id="ann")
    time.sleep(2.5)
    assert made(server) == 5
    assert "Removed the token states of 5 memories" in server.manage("token_states", "--drop")
    assert client.search("oat milk", user_id="ann"), "search is by the vectors alone"
    server.manage("token_states", "--on")
    wait_for("all states", lambda: made(server) == 6)
    assert client.search("oat milk", user_id="ann")
    answered: list[dict[str, Any]] = server.logged("error")
    assert answered == []
    client.close()
    server.stop()
