"""What the proofs share: servers that end whatever happens, a database, and what is missing."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from prove.postgres import HOW_TO_GET, Cluster, binaries
from prove.server import Server

MakeServer = Callable[..., Server]


def need(available: object, what: str) -> None:
    """Ends the proof when something it stands on is missing: skipped here, failed in CI."""
    if available:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


def need_program(name: str, package: str) -> str:
    """The path of a system program."""
    found = shutil.which(name)
    need(found, f"{name} is not installed: apt-get install {package}")
    return str(found)


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[MakeServer]:
    """Makes servers below tmp_path; those that still run in the end are killed."""
    made: list[Server] = []

    def make(
        name: str = "data",
        environment: Mapping[str, str] | None = None,
        *,
        wrapper: Sequence[str] = (),
    ) -> Server:
        server = Server(tmp_path / name, environment, wrapper=wrapper)
        made.append(server)
        return server

    yield make
    for server in made:
        server.kill9()


@pytest.fixture
def server(make_server: MakeServer) -> Server:
    """A running server with an owner and a first key."""
    made = make_server()
    made.start()
    made.bootstrap()
    return made


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server for all proofs of a module, which has to end cleanly after them."""
    made = Server(tmp_path_factory.mktemp("shared") / "data")
    try:
        made.start()
        made.bootstrap()
        yield made
        made.stop()
    finally:
        made.kill9()


@pytest.fixture
def empty_server(shared_server: Server) -> Iterator[Server]:
    """The shared server, without any memory."""
    yield shared_server
    client = shared_server.client()
    for row in client.listed():
        client.delete(row["id"])
    client.close()


@pytest.fixture(scope="session")
def model() -> str:
    """The folder of a prepared embedding model, which finding by meaning needs."""
    folder = os.environ.get("MEM0DASH_MODEL_DIR", "")
    need(
        folder and (Path(folder) / "manifest.json").exists(),
        "no embedding model is prepared: run `make embedder`, or these proofs by `make prove`",
    )
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A PostgreSQL cluster for the proofs alone."""
    need(binaries(), HOW_TO_GET)
    cluster = Cluster()
    yield cluster
    cluster.remove()
