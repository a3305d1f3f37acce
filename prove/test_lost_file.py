"""The database file goes away under a running server: no acknowledged write is lost."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from prove.server import Client, Server


def deleted(file: Path) -> None:
    file.unlink()


def replaced(file: Path) -> None:
    copy = Path(shutil.copy(file, file.with_name("restored")))
    copy.rename(file)


@pytest.mark.parametrize("lose", [deleted, replaced])
def test_writes_are_refused_health_tells_and_reads_go_on(
    lose: Callable[[Path], None], server: Server
) -> None:
    client = Client(server.url, server.key)
    [first] = client.add("Ann keeps bees.", user_id="ann")
    # Threads that have the file open go on reading it.
    assert client.listed(user_id="ann")
    lose(server.data_dir / "mem0dash.sqlite3")
    refused = client.request(
        "POST",
        "/memories",
        json={
            "messages": [{"role": "user", "content": "Bob sings."}],
            "user_id": "bob",
            "infer": False,
        },
    )
    assert refused.status_code == 503, refused.text
    assert refused.json()["code"] == "datastore_lost"
    assert "deleted, moved, replaced or emptied" in refused.json()["detail"]
    assert refused.headers["Retry-After"]
    assert client.request("DELETE", f"/memories/{first['id']}").status_code == 503
    assert [found["memory"] for found in client.listed(user_id="ann")] == ["Ann keeps bees."]
    health = client.request("GET", "/healthz")
    assert health.status_code == 503
    [part] = [one for one in health.json()["parts"] if one["name"] == "database"]
    assert part["state"] == "lost"
    client.close()


def test_a_file_that_comes_back_is_written_again(server: Server) -> None:
    client = Client(server.url, server.key)
    file = server.data_dir / "mem0dash.sqlite3"
    client.add("Ann keeps bees.", user_id="ann")
    aside = file.rename(file.with_name("aside"))
    assert client.request("GET", "/healthz").status_code == 503
    aside.rename(file)
    client.add("Ann keeps hens.", user_id="ann")
    until = time.monotonic() + 30
    while client.request("GET", "/healthz").status_code != 200:
        assert time.monotonic() < until, "health does not recover"
        time.sleep(0.1)
    client.close()
