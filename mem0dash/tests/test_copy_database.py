"""Everything moves to another database and back, whole or not at all."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import psycopg
import pytest
from django.core.management import call_command
from django.db import connections

from accounts.audit import AuditAction
from accounts.models import Account, AuditEntry, InstanceState, Project
from apikeys.models import ApiKey
from jobs.models import Lease
from mem0dash.management import copying
from mem0dash.management.copying import CopyError
from memories.index.edge import EdgeIndex
from memories.models import AddInput, Memory, MemoryTokens, MemoryVector, Revision
from memories.models.server import IndexState
from prove.postgres import HOW_TO_GET, Cluster, binaries

pytestmark = pytest.mark.one_form

ROOT = Path(__file__).resolve().parent.parent.parent
THEN = datetime(2024, 2, 29, 23, 59, 59, 123456, tzinfo=UTC)
ODD: dict[str, Any] = {
    "z": [1, 2.5, -0.0, 1e22, True, None, {"ü": "𝄞 \u200f\\"}],
    "a": {"b": 12345678901234567890, "": ""},
    "key": {"$encrypted": "gAAAAAB", "ends": "7Kq"},
}


@pytest.fixture(autouse=True)
def _databases(django_db_blocker: Any) -> Iterator[None]:
    """These tests bring databases of their own, and leave the usual one alone."""
    with django_db_blocker.unblock():
        yield
        for alias in set(connections.settings) - {"default"}:
            _closed(alias)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if binaries() is None:
        if os.environ.get("CI") == "true":
            pytest.fail(HOW_TO_GET)
        pytest.skip(HOW_TO_GET)
    made = Cluster()
    yield made
    made.remove()


@pytest.fixture
def postgres(cluster: Cluster) -> str:
    """The URL of an empty PostgreSQL database."""
    return cluster.create_database(f"copy_{uuid4().hex[:8]}")


def _sqlite(path: Path) -> str:
    return f"sqlite:///{path}"


def _migrated(alias: str, url: str) -> None:
    copying.register(alias, url)
    call_command("migrate", database=alias, interactive=False, verbosity=0)


def _closed(alias: str) -> None:
    """Lets go of the database; what its journal holds is in the file then."""
    connections[alias].close()
    del connections.settings[alias]
    del connections[alias]


@pytest.fixture(scope="module")
def empty_file(tmp_path_factory: pytest.TempPathFactory, django_db_blocker: Any) -> Path:
    """A SQLite database with all tables, to be copied."""
    made = tmp_path_factory.mktemp("empty") / "empty.sqlite3"
    with django_db_blocker.unblock():
        _migrated("empty", _sqlite(made))
        _closed("empty")
    return made


@pytest.fixture(scope="module")
def filled_file(empty_file: Path, django_db_blocker: Any) -> Path:
    """The same with rows in all tables."""
    made = Path(shutil.copy(empty_file, empty_file.with_name("filled.sqlite3")))
    with django_db_blocker.unblock():
        copying.register("filled", _sqlite(made))
        fill("filled")
        _closed("filled")
    return made


@pytest.fixture
def filled(tmp_path: Path, filled_file: Path) -> str:
    """The URL of a SQLite database with all tables filled, known as "a"."""
    url = _sqlite(Path(shutil.copy(filled_file, tmp_path / "a.sqlite3")))
    copying.register("a", url)
    return url


@pytest.fixture
def target(tmp_path: Path, empty_file: Path) -> str:
    """The URL of a SQLite database with all tables, known as "b"."""
    url = _sqlite(Path(shutil.copy(empty_file, tmp_path / "b.sqlite3")))
    copying.register("b", url)
    return url


def _value(field: Any, number: int) -> Any:
    """Something for a column, other than its default."""
    kind = field.get_internal_type()
    if field.choices:
        return field.choices[-1][0]
    if kind in {"CharField", "TextField", "SlugField", "EmailField"}:
        return f"{field.name} {number} ü𝄞"[: field.max_length]
    made = {
        "UUIDField": uuid4(),
        "JSONField": ODD,
        "BooleanField": True,
        "DateTimeField": THEN + timedelta(microseconds=number),
        "DateField": date(2030, 1, 31),
        "FloatField": 0.1,
        "BinaryField": bytes(range(256)),
    }
    return made[kind] if kind in made else 3 + number


def fill(alias: str) -> None:
    """Two rows and more in every table, every column with a value."""
    InstanceState.objects.using(alias).all().delete()
    made: dict[type, list[Any]] = {Project: list(Project.objects.using(alias))}
    for model in [*copying.models_in_order(), Lease]:
        alone = model in {InstanceState, IndexState}
        for number in range(1 if alone else 2):
            values: dict[str, Any] = {}
            for field in model._meta.concrete_fields:
                if field.is_relation:
                    values[field.name] = made[field.related_model][-number]
                elif field.get_internal_type() not in {"BigAutoField", "AutoField"}:
                    values[field.name] = _value(field, number)
            if alone:
                values[model._meta.pk.name] = 1 if model is InstanceState else "default"
            if model._meta.label == "memories.Reembedding" and number:
                values["state"] = "cancelled"
            row = model(**values)
            row.save_base(raw=True, force_insert=True, using=alias)
            made.setdefault(model, []).append(row)


def contents(alias: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row as the models give it, without the help of the code under test; but for what a copy
    tells of itself."""
    return {
        model._meta.label: sorted(
            (
                tuple(bytes(v) if isinstance(v, memoryview) else v for v in row)
                for row in _rows(model, alias).values_list()
            ),
            key=str,
        )
        for model in copying.models_in_order()
    }


def _rows(model: Any, alias: str) -> Any:
    rows = model._base_manager.using(alias)
    return rows.exclude(action=AuditAction.DATABASE_COPIED) if model is AuditEntry else rows


def _without_index(found: dict[str, list[tuple[Any, ...]]]) -> dict[str, list[tuple[Any, ...]]]:
    """What has to be the same: all but what is about the running index."""
    changing = {"indexed_rev", "claimed_until", "generation", "built_at", "rebuild_wanted_at"}
    for label, rows in found.items():
        if label in {"memories.Memory", "memories.IndexState"}:
            model = Memory if label.endswith("Memory") else IndexState
            keep = [f.attname not in changing for f in model._meta.concrete_fields]
            rows[:] = [tuple(v for v, k in zip(row, keep, strict=True) if k) for row in rows]
    return found


def _run(source: str, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """manage.py copy_database in a process of its own, as it is typed."""
    environment = {
        **os.environ,
        "DATABASE_URL": source,
        "MEM0DASH_DATA_DIR": str(tmp_path / "data"),
    }
    command = [sys.executable, "manage.py", "copy_database", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_everything_moves_to_postgresql_and_back(
    postgres: str, filled: str, tmp_path: Path
) -> None:
    there, back = filled, _sqlite(tmp_path / "back.sqlite3")
    before = _without_index(contents("a"))
    assert all(before.values())
    done = _run(there, tmp_path, "--to", postgres)
    assert done.returncode == 0, done.stderr
    assert "Set DATABASE_URL to the target" in done.stdout
    copying.register("two", postgres)
    assert _without_index(contents("two")) == before
    connections["two"].close()
    done = _run(back, tmp_path, "--from", postgres)
    assert done.returncode == 0, done.stderr
    copying.register("three", back)
    assert _without_index(contents("three")) == before
    # Each database knows of the copies that led to it; a source is left as it was.
    for alias, copies in {"a": 0, "two": 1, "three": 2}.items():
        found = AuditEntry.objects.using(alias).filter(action=AuditAction.DATABASE_COPIED)
        assert [row.via for row in found] == ["internal"] * copies


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_copy_can_be_worked_with(kind: str, request: Any, filled: str) -> None:
    if kind == "postgresql":
        copying.register("b", request.getfixturevalue("postgres"))
    else:
        request.getfixturevalue("target")
    copying.prepare_target("b")
    copying.copy("a", "b", lambda _: None)
    # New ids go on after the old ones.
    project = Project.objects.using("b").get(slug="default")
    made = Revision.objects.using("b").create(
        project=project, memory_id=uuid4(), event="ADD", memory_created_at=THEN, at=THEN
    )
    assert made.pk > max(Revision.objects.using("a").values_list("pk", flat=True))
    # The index is to be made: nothing in it, a generation that is nobody's.
    old, state = (IndexState.objects.using(alias).get() for alias in "ab")
    assert (state.built_at, state.rebuild_wanted_at) == (None, None)
    assert state.generation == old.generation + 1
    assert state.model_key == old.model_key
    assert set(Memory.objects.using("b").values_list("indexed_rev", "claimed_until")) == {(0, None)}
    assert not Lease.objects.using("b").exists()
    vector = MemoryVector.objects.using("b").first()
    assert vector is not None
    assert np.array_equal(np.frombuffer(vector.data, np.uint8), np.arange(256))
    # A memory brings its token states: they need not be made again.
    states = MemoryTokens.objects.using("b").values_list("memory_id", "states_key", "data")
    before = MemoryTokens.objects.using("a").values_list("memory_id", "states_key", "data")
    assert {(id_, key, bytes(data)) for id_, key, data in states} == {
        (id_, key, bytes(data)) for id_, key, data in before
    }
    assert {id_ for id_, _, _ in states} == set(
        Memory.objects.using("b").values_list("id", flat=True)
    )


def test_a_large_table_goes_in_batches(
    tmp_path: Path, empty_file: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "BATCH_ROWS", 7)
    monkeypatch.setattr(copying, "BATCH_BYTES", 2000)
    copying.register("a", _sqlite(Path(shutil.copy(empty_file, tmp_path / "a.sqlite3"))))
    project = Project.objects.using("a").get()
    rows = [
        AddInput(project=project, messages=["x" * (number * 37)], created_at=THEN)
        for number in range(60)
    ]
    AddInput.objects.using("a").bulk_create(rows)
    copying.prepare_target("b")
    sizes: list[int] = []
    inner = copying._insert

    def insert(model: Any, batch: list[Any], alias: str) -> None:
        if model is AddInput:
            sizes.append(sum(len(row.messages[0]) for row in batch))
        inner(model, batch, alias)

    monkeypatch.setattr(copying, "_insert", insert)
    copying.copy("a", "b", lambda _: None)
    assert len(sizes) > 10 and max(sizes) < 2000 + 60 * 37
    assert contents("a")["memories.AddInput"] == contents("b")["memories.AddInput"]


# --- What is refused -----------------------------------------------------------------------------
def test_a_target_with_data_is_refused_and_left_alone(filled: str, target: str) -> None:
    Account.objects.using("b").create(email="somebody@example.org")
    with pytest.raises(CopyError, match="not empty: 1 rows in accounts_account"):
        copying.prepare_target("b")
    with pytest.raises(CopyError, match="not empty"):
        copying.copy("a", "b", lambda _: None)
    assert Account.objects.using("b").count() == 1
    assert not ApiKey.objects.using("b").exists()


def test_a_database_of_something_else_is_left_alone(filled: str, tmp_path: Path) -> None:
    path = tmp_path / "foreign.sqlite3"
    with sqlite3.connect(path) as foreign:
        foreign.execute("CREATE TABLE invoices (id INTEGER)")
    copying.register("b", _sqlite(path))
    with pytest.raises(CopyError, match="something else: invoices"):
        copying.prepare_target("b")
    assert connections["b"].introspection.table_names() == ["invoices"]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_an_interrupted_copy_leaves_nothing_and_can_be_repeated(
    filled: str, kind: str, request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = _sqlite(tmp_path / "b.sqlite3")
    if kind == "postgresql":
        url = request.getfixturevalue("postgres")
    copying.register("b", url)
    copying.prepare_target("b")

    def killed(table: copying.TableDigest) -> None:
        if table.name == "memories_revision":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copying.copy("a", "b", killed)
    copying.check_empty("b")
    copying.prepare_target("b")
    copying.copy("a", "b", lambda _: None)
    assert _without_index(contents("b")) == _without_index(contents("a"))


def test_what_does_not_arrive_as_it_was_is_noticed(
    filled: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copying.prepare_target("b")
    inner = copying._insert

    def damage(model: Any, rows: list[Any], alias: str) -> None:
        if model is MemoryVector:
            rows[0].data = bytes(256)
        inner(model, rows, alias)

    monkeypatch.setattr(copying, "_insert", damage)
    with pytest.raises(CopyError, match="memories_memoryvector has not arrived as it was"):
        copying.copy("a", "b", lambda _: None)
    copying.check_empty("b")


def test_what_the_target_cannot_hold_is_named(filled: str, postgres: str) -> None:
    Project.objects.using("a").filter(slug="default").update(name="a\x00b")
    copying.register("b", postgres)
    copying.prepare_target("b")
    with pytest.raises(CopyError, match=r"accounts_project: .*NUL"):
        copying.copy("a", "b", lambda _: None)
    copying.check_empty("b")


def _psycopg(url: str) -> Any:
    """Another client of the database."""
    return psycopg.connect(url.replace("postgres://", "postgresql://"))


def test_nobody_writes_to_a_sqlite_source_meanwhile(
    filled: str, target: str, tmp_path: Path
) -> None:
    copying.prepare_target("b")
    refused: list[str] = []

    def write(table: copying.TableDigest) -> None:
        with sqlite3.connect(tmp_path / "a.sqlite3", timeout=0.05) as other:
            try:
                other.execute("DELETE FROM memories_memory")
            except sqlite3.OperationalError:
                refused.append(table.name)

    copying.copy("a", "b", write)
    assert len(refused) == len(copying.models_in_order())


def test_nobody_writes_to_a_postgresql_source_meanwhile(
    postgres: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "_LOCK_SECONDS", 1)
    _migrated("a", postgres)
    fill("a")
    copying.prepare_target("b")
    with _psycopg(postgres) as other:
        other.execute("UPDATE accounts_project SET name = 'x'")
        with pytest.raises(CopyError, match="being written to"):
            copying.copy("a", "b", lambda _: None)
    refused: list[str] = []

    def write(table: copying.TableDigest) -> None:
        with _psycopg(postgres) as other:
            other.execute("SET lock_timeout = '20ms'")
            try:
                other.execute("DELETE FROM memories_memory")
            except psycopg.errors.LockNotAvailable:
                refused.append(table.name)
                other.rollback()

    copying.copy("a", "b", write)
    assert len(refused) == len(copying.models_in_order())


def test_a_source_that_others_use_is_refused(postgres: str) -> None:
    _migrated("a", postgres)
    copying.check_source("a")
    with _psycopg(postgres):
        with pytest.raises(CopyError, match="1 other connections"):
            copying.check_source("a")
        copying.check_source("a", ignore_connections=True)


def test_a_running_server_is_noticed_by_its_index(filled: str, tmp_path: Path) -> None:
    index = EdgeIndex(tmp_path / "index" / "000001", 0)
    done = _run(filled, tmp_path, "--to", _sqlite(tmp_path / "b.sqlite3"))
    assert done.returncode == 1 and "If a server uses it, stop it" in done.stderr
    index.close()
    assert _run(filled, tmp_path, "--to", _sqlite(tmp_path / "b.sqlite3")).returncode == 0


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://root@127.0.0.1/x", "SQLite file or a PostgreSQL"),
        ("nonsense", "must look like"),
        ("sqlite://", "SQLite file or a PostgreSQL"),
        ("postgres://nobody:hidden@127.0.0.1:1/x", "target database does not answer"),
    ],
)
def test_other_urls_are_refused(filled: str, tmp_path: Path, url: str, said: str) -> None:
    done = _run(filled, tmp_path, "--to", url)
    assert done.returncode == 1 and said in done.stderr
    assert "hidden" not in done.stderr + done.stdout


def test_a_source_that_is_empty_or_missing_or_the_target_is_refused(
    filled: str, tmp_path: Path
) -> None:
    copying.register("b", _sqlite(tmp_path / "b.sqlite3"))
    with pytest.raises(CopyError, match="empty or of an earlier version"):
        copying.check_source("b")
    missing = _run(filled, tmp_path, "--from", _sqlite(tmp_path / "missing.sqlite3"))
    assert "There is no database" in missing.stderr
    same = _run(filled, tmp_path, "--to", filled)
    assert "the same database" in same.stderr


def test_every_model_of_ours_is_copied() -> None:
    """And no table of ours refers to one that is not."""
    order = copying.models_in_order()
    for at, model in enumerate(order):
        for field in model._meta.concrete_fields:
            if field.is_relation and field.related_model is not model:
                assert field.related_model in order[:at]
