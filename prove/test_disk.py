"""A full and a read-only disk, and index files that are emptied, overwritten or missing, on real
file systems: nothing acknowledged is lost, reads and deletes go on, and a restart comes up."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from prove.conftest import MakeServer
from prove.filesystem import FileSystem, mounted
from prove.server import Client, Server, tail

SECONDS: Final = 30.0
ALICE: Final[dict[str, Any]] = {"user_id": "alice"}


@pytest.fixture
def file_system(tmp_path: Path) -> Iterator[FileSystem]:
    with mounted(tmp_path) as made:
        yield made


@pytest.fixture
def on_disk(model: str, make_server: MakeServer, file_system: FileSystem) -> Iterator[Server]:
    """A server whose data are on a file system of their own."""
    server = make_server("disk/data")
    server.log = file_system.path.parent / "server.log"  # the log is on another disk
    server.start()
    server.bootstrap()
    yield server
    server.kill9()


def wait_for(what: str, happened: Callable[[], bool], server: Server) -> None:
    deadline = time.monotonic() + SECONDS
    while not happened():
        assert server.process is not None and server.process.poll() is None, tail(server.log)
        assert time.monotonic() < deadline, (
            f"{what}: not within {SECONDS:.0f} s\n{tail(server.log)}"
        )
        time.sleep(0.1)


def start_unwell(server: Server) -> None:
    """Starts a server that has something to complain of: it answers, and need not be well."""
    server.launch()

    def answers() -> bool:
        try:
            return httpx.get(f"{server.url}/healthz", timeout=5, trust_env=False).status_code > 0
        except httpx.TransportError:
            return False

    wait_for("an answer", answers, server)


def health(client: Client) -> list[str]:
    return list(client.request("GET", "/healthz").json().get("failing", []))


def add(client: Client, text: str) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": text}], "infer": False, **ALICE}
    return client.request("POST", "/memories", json=body)


def found(client: Client, query: str) -> set[str]:
    return {row["id"] for row in client.search(query, top_k=100, **ALICE)}


def test_a_full_disk_stops_adds_alone_and_all_is_well_again_when_there_is_room(
    on_disk: Server, file_system: FileSystem
) -> None:
    client = on_disk.client()
    ids = [client.add(f"I keep bees in hive number {n}", **ALICE)[0]["id"] for n in range(40)]
    file_system.fill(left=400_000)
    for n in range(30):
        answer = add(client, f"written on a full disk {n}")
        assert answer.status_code == 507, answer.text
        assert (answer.json()["code"], "MB are free" in answer.text) == ("disk_full", True)
    wait_for("health says so", lambda: "disk" in health(client), on_disk)
    assert {row["id"] for row in client.listed(**ALICE, top_k=1000)} == set(ids)
    assert ids[0] in found(client, "bees in hive number 0")
    update = client.request("PUT", f"/memories/{ids[0]}", json={"text": "changed"})
    assert update.status_code == 507
    for deleted in ids[:10]:
        client.delete(deleted)
    left = set(ids[10:])
    assert not found(client, "bees in hive") & set(ids[:10])
    # A restart in the middle, and one without any warning.
    on_disk.stop()
    start_unwell(on_disk)
    client = on_disk.client()
    assert {row["id"] for row in client.listed(**ALICE, top_k=1000)} == left
    assert found(client, "bees hive") <= left and found(client, "bees hive")
    assert add(client, "still full").status_code == 507
    client.delete(ids[10])
    on_disk.kill9()
    start_unwell(on_disk)
    client = on_disk.client()
    left.discard(ids[10])
    assert {row["id"] for row in client.listed(**ALICE, top_k=1000)} == left
    file_system.give_back()
    wait_for("health", lambda: not health(client), on_disk)
    [new] = client.add("bees again", **ALICE)
    wait_for("all is found", lambda: {new["id"]} <= found(client, "bees again"), on_disk)
    assert {row["id"] for row in client.listed(**ALICE, top_k=1000)} == left | {new["id"]}
    on_disk.stop()
    compared = on_disk.index_on_disk("compare")
    assert not compared.get("missing") and not compared.get("ghosts"), compared


def test_a_disk_that_fills_up_under_load_ends_no_process(
    on_disk: Server, file_system: FileSystem
) -> None:
    client = on_disk.client()
    kept, refused = [], 0
    for n in range(3000):
        answer = add(client, f"note {n}: " + "the bees " * 200)
        if answer.status_code == 200:
            kept.append(answer.json()["results"][0]["id"])
            if len(kept) == 60:
                file_system.fill(left=20_000_000)
        else:
            assert answer.status_code == 507, answer.text
            refused += 1
            if refused > 20:
                break
    assert refused and kept
    assert {row["id"] for row in client.listed(**ALICE, top_k=1000)} >= set(kept[-5:])
    on_disk.stop()


def test_a_read_only_disk_is_said_and_reading_goes_on(
    on_disk: Server, file_system: FileSystem
) -> None:
    client = on_disk.client()
    [kept] = client.add("I keep bees behind the house", **ALICE)
    on_disk.stop()
    file_system.remount("ro")
    try:
        start_unwell(on_disk)
        client = on_disk.client()
        assert client.get(kept["id"]) is not None
        assert [row["id"] for row in client.listed(**ALICE, top_k=1000)] == [kept["id"]]
        assert found(client, "bees") == {kept["id"]}
        assert add(client, "no").status_code in {507, 502}
        assert "disk" in health(client)
        on_disk.kill9()
    finally:
        file_system.remount("rw")
    on_disk.start()
    client = on_disk.client()
    client.add("more bees", **ALICE)
    assert len(found(client, "bees")) == 2


def generations(server: Server) -> list[Path]:
    return [f for f in (server.data_dir / "index").iterdir() if f.name.isdigit()]


def generation(server: Server) -> Path:
    [folder] = generations(server)
    return folder


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(os.urandom(min(path.stat().st_size, 65_536)))


def missing(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("harm", "name", "killed"),
    [
        (emptied, "edge_config.json", True),
        (overwritten, "page_0.dat", False),
        (missing, "mutable_id_tracker.mappings", False),
    ],
)
def test_harmed_index_files_are_set_aside_and_built_again(
    harm: Callable[[Path], None], name: str, killed: bool, model: str, make_server: MakeServer
) -> None:
    server = make_server()
    server.start()
    server.bootstrap()
    client = server.client()
    ids = {client.add(f"I keep bees in hive {n}", **ALICE)[0]["id"] for n in range(5)}
    if killed:
        server.kill9()
    else:
        server.stop()
    files = [f for f in generation(server).rglob(name) if f.is_file()]
    assert files
    for file in files:
        harm(file)
    start_unwell(server)
    client = server.client()
    assert found(client, "bees") == ids  # by words, or from the new index
    wait_for("health", lambda: not health(client), server)
    assert found(client, "bees") == ids
    [said] = [line for line in server.logged("error") if "damaged" in line["message"]]
    assert said["aside"]
    # And its folder is deleted while it runs, once the former one is gone.
    wait_for("one generation", lambda: len(generations(server)) == 1, server)
    shutil.rmtree(generation(server))
    wait_for("a new index", lambda: bool(generations(server)) and not health(client), server)
    assert found(client, "bees") == ids
    server.stop()
