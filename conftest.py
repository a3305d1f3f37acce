"""What every test can ask for: people, keys, a running engine, and a client."""

import copy
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.conf import settings
from django.db import connections
from django.test import Client
from django.utils import timezone

import operations.strangers
from accounts.models import Account, InstanceState, Membership, Project, Role
from accounts.tests.signing import sign_in
from apikeys import failures
from apikeys.services import create_api_key
from core import notes
from core.http import strangers
from core.principal import Principal, Scope
from memories import runtime
from memories.adding import claims
from memories.engine.engine import Engine
from memories.index.edge import EdgeIndex
from memories.index.indexer import Indexer
from memories.tests.provider import Provider
from memories.tests.qdrant_server import QdrantServer
from memories.tests.spare_index import SpareIndex, quick_folder

pytest_plugins = ["mem0dash.tests.browser"]


def _has_one_form(item: pytest.Item) -> bool:
    """What a browser looks at is a server of its own, which has its own database and index."""
    return any(item.get_closest_marker(mark) for mark in ("one_form", "browser"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The second run, on PostgreSQL and the index server, leaves those out."""
    if os.environ.get("TEST_DATABASE") != "postgresql":
        return
    left_out = [item for item in items if _has_one_form(item)]
    items[:] = [item for item in items if not _has_one_form(item)]
    config.hook.pytest_deselected(items=left_out)


class WordEmbedder:
    """A stand-in for the model: texts that share words are near each other. 64 dimensions."""

    model_key = "test/words-1"
    dims = 64

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.error: Exception | None = None

    def embed(self, texts: Sequence[str]) -> Any:
        self.batches.append(list(texts))
        if self.error:
            raise self.error
        return np.stack([self._vector(text) for text in texts]) if texts else np.zeros((0, 64))

    def _vector(self, text: str) -> Any:
        vector = np.zeros(self.dims, np.float32)
        for word in text.casefold().split():
            vector[hashlib.md5(word.strip(".,?!").encode()).digest()[0] % self.dims] += 1
        return vector / (np.linalg.norm(vector) or 1)


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings_parallel_suffix: None) -> None:
    """SQLite on disk, for threads need connections of their own; each worker has its own file."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    for database in settings.DATABASES.values():
        if database["ENGINE"].endswith("sqlite3"):
            database["TEST"]["NAME"] = str(settings.DATA_DIR / f"test-{worker}.sqlite3")


@pytest.fixture(scope="session", autouse=True)
def _cheap_passwords() -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture(autouse=True)
def _not_alone() -> None:
    """A test that takes over as the only process does not do so for those after it."""
    claims._alone.clear()


@pytest.fixture(autouse=True)
def _nobody_waits() -> None:
    """An address that failed too often in one test does not have to wait in the next one."""
    failures.waiting.clear()
    strangers.lines.clear()
    operations.strangers.rows.clear()


@pytest.fixture
def gathering(db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Notes gather, as in a running server; nobody but the test writes them."""
    monkeypatch.setattr(notes, "are_kept", lambda: True)
    operations.strangers._named.clear()
    yield
    for kind in notes._all:
        kind.clear()


@pytest.fixture
def dispatcher_db(transactional_db: None) -> Iterator[None]:
    """The database for what works in the dispatcher's threads, which keep no connection to it: one
    that is in use cannot be removed."""
    chosen = connections.settings["default"]
    kept, chosen["CONN_MAX_AGE"] = chosen["CONN_MAX_AGE"], 0
    yield
    chosen["CONN_MAX_AGE"] = kept


@pytest.fixture
def embedder() -> WordEmbedder:
    return WordEmbedder()


@contextmanager
def _running(embedder: WordEmbedder, indexer: Indexer) -> Iterator[runtime.Runtime]:
    running = runtime.Runtime(Engine(embedder), indexer)
    runtime.install(running)
    yield running
    runtime.install(None)


@pytest.fixture(scope="session")
def index_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the indexes are of all tests of this process."""
    with quick_folder(tmp_path_factory.mktemp("quick")) as folder:
        yield folder


@pytest.fixture(scope="session")
def spare_index(index_folder: Path) -> Iterator[SpareIndex]:
    spare = SpareIndex(index_folder)
    yield spare
    spare.close()


@pytest.fixture
def embedded_engine(
    db: None, embedder: WordEmbedder, spare_index: SpareIndex
) -> Iterator[runtime.Runtime]:
    """A running engine with the index in this process."""
    with (
        spare_index.indexer(embedder.model_key, embedder.dims) as indexer,
        _running(embedder, indexer) as running,
    ):
        yield running


@pytest.fixture
def engine_in_folder(db: None, embedder: WordEmbedder, tmp_path: Path) -> Iterator[runtime.Runtime]:
    """The same, with its index in `tmp_path / "index"`: for tests that look at its files."""
    root = tmp_path / "index"
    root.mkdir()
    indexer = Indexer(root, embedder.model_key, embedder.dims, open_index=EdgeIndex)
    with _running(embedder, indexer) as running:
        yield running
    indexer.index.close()


@pytest.fixture(scope="session")
def qdrant(index_folder: Path) -> Iterator[QdrantServer]:
    """A test server that answers as Qdrant does; see there."""
    server = QdrantServer(index_folder / "qdrant", api_key=secrets.token_hex(8)).start()
    yield server
    server.kill9()


@pytest.fixture(scope="session")
def _all_collections(qdrant: QdrantServer) -> Iterator[Any]:
    from memories.index.qdrant import Collections, Server

    made = Collections(Server(qdrant.url, qdrant.api_key))
    # A busy machine is no server that does not answer.
    made.patience.writing.seconds = made.patience.looking.seconds = 60.0
    yield made
    made.close()


@pytest.fixture
def collections(qdrant: QdrantServer, _all_collections: Any) -> Iterator[Any]:
    """Collections of this test alone on the server; the client is everybody's, for it takes long
    to make."""
    made = copy.copy(_all_collections)
    made.server = replace(made.server, collection=f"test-{secrets.token_hex(4)}")
    patience = made.patience
    yield made
    qdrant.tell()
    for line in (patience.searching, patience.writing, patience.looking):
        line.answered()
    for generation in made.generations():
        made.drop(generation)


@pytest.fixture
def shared_engine(db: None, embedder: WordEmbedder, collections: Any) -> Iterator[runtime.Runtime]:
    """A running engine with its index on the test server."""
    from memories.index import shared_indexer as shared

    # A patch of its own: tests undo theirs.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared, "YOUNG_SECONDS", 0.0)
        indexer = shared.SharedIndexer(collections, embedder.model_key, embedder.dims)
        with _running(embedder, indexer) as running:
            yield running
        indexer.index.close()


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> runtime.Runtime:
    """A running engine: real index, real database, stand-in model, no background thread.

    TEST_INDEX=qdrant gives it the index of the distributed form.
    """
    kind = {"": "embedded", "edge": "embedded", "qdrant": "shared"}[
        os.environ.get("TEST_INDEX", "")
    ]
    running: runtime.Runtime = request.getfixturevalue(f"{kind}_engine")
    return running


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A model provider over HTTP, which can be told to misbehave."""
    with Provider() as running:
        yield running


@pytest.fixture
def project(db: None) -> Project:
    return Project.objects.get(slug="default")


@pytest.fixture
def other_project(db: None) -> Project:
    return Project.objects.create(slug="other", name="Other")


@pytest.fixture
def alice(db: None) -> Account:
    """The instance owner, of a server that is set up."""
    account = Account(email="alice@example.org", name="Alice", is_owner=True)
    account.set_password("correct horse battery")
    account.save()
    now = timezone.now()
    InstanceState.objects.update(owner_created_at=now, setup_completed_at=now)
    return account


@pytest.fixture
def signed_in(alice: Account) -> Client:
    """Alice's client of the pages."""
    return sign_in(alice)


@pytest.fixture
def bob(project: Project) -> Account:
    """A member of project Default."""
    account = Account.objects.create(email="bob@example.org", name="Bob")
    Membership.objects.create(project=project, account=account, role=Role.MEMBER)
    return account


@pytest.fixture
def charlie(other_project: Project) -> Account:
    """A stranger: admin of another project."""
    account = Account.objects.create(email="charlie@example.org", name="Charlie")
    Membership.objects.create(project=other_project, account=account, role=Role.ADMIN)
    return account


MakeKey = Callable[..., str]


@pytest.fixture
def key(alice: Account, project: Project) -> MakeKey:
    """`key("read", "write", owner=…, project=…, …)` makes a key; Alice's in Default otherwise."""

    def make(*scopes: str, owner: Account = alice, project: Project = project, **rest: Any) -> str:
        chosen = [Scope(scope) for scope in scopes] or None
        return create_api_key(owner=owner, project=project, label="test", scopes=chosen, **rest)[1]

    return make


class Api:
    """A JSON client with one key."""

    def __init__(self, client: Any, key: str | None = None) -> None:
        self.client = client
        self.headers = {"X-API-Key": key} if key else {}

    def __call__(self, method: str, path: str, body: Any = None, **rest: Any) -> Any:
        headers = {**self.headers, **rest.pop("headers", {})}
        call = getattr(self.client, method.lower())
        if body is not None:
            rest |= {"data": body, "content_type": "application/json"}
        return call(path, headers=headers, **rest)

    def get(self, path: str, **rest: Any) -> Any:
        return self("GET", path, **rest)

    def post(self, path: str, body: Any, **rest: Any) -> Any:
        return self("POST", path, body, **rest)

    def put(self, path: str, body: Any, **rest: Any) -> Any:
        return self("PUT", path, body, **rest)

    def delete(self, path: str, **rest: Any) -> Any:
        return self("DELETE", path, **rest)

    def add(self, text: str, user_id: str = "alice", **fields: Any) -> str:
        """Stores one memory; its id."""
        body = {"messages": [{"role": "user", "content": text}], "user_id": user_id, **fields}
        answer = self.post("/memories", body)
        assert answer.status_code == 200, answer.content
        return str(answer.json()["results"][0]["id"])

    def search(self, query: str, user_id: str = "alice", **fields: Any) -> list[dict[str, Any]]:
        answer = self.post("/search", {"query": query, "user_id": user_id, **fields})
        assert answer.status_code == 200, answer.content
        return list(answer.json()["results"])


@pytest.fixture
def api(engine: runtime.Runtime, client: Any, key: MakeKey) -> Api:
    """The client of Alice, with every right."""
    return Api(client, key())


@pytest.fixture
def as_key(client: Any) -> Callable[[str | None], Api]:
    return lambda key: Api(client, key)


@pytest.fixture
def owner(alice: Account, project: Project) -> Principal:
    """Alice as services see her."""
    from accounts.queries import project_view

    return Principal(
        project=project_view(project),
        scopes=frozenset(Scope),
        via="api_key",
        account_id=alice.id,
        is_owner=True,
        request_id="test",
    )
