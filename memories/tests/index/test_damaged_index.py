"""Files of the index that are emptied, overwritten or gone; panics; a full disk: words answer, the
damaged index is set aside and built again, and a sound one is never thrown away."""

import os
import shutil
import subprocess
from io import StringIO
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from django.core.management import CommandError, call_command

from core import disk
from core.disk import MB, FreeSpace
from core.errors import DiskFullError, IndexDamagedError, IndexInUseError, IndexUnavailableError
from memories import runtime
from memories.editing import service as services
from memories.filters import EVERYTHING
from memories.index import folder
from memories.index.base import Point
from memories.index.closed import ClosedIndex
from memories.index.edge import EdgeIndex
from memories.index.indexer import Indexer
from memories.index.opening import open_indexer
from memories.models.server import IndexState
from memories.search.service import search_memories
from memories.tests.actions import add, pending, said, settled

pytestmark = pytest.mark.one_form


@pytest.fixture
def engine(engine_in_folder):
    return engine_in_folder


@pytest.fixture
def root(tmp_path):
    return tmp_path / "index"


@pytest.fixture
def restarted(engine, embedder, root):
    """`restarted()` opens the index again, as a start does."""

    def open_again() -> runtime.Runtime:
        engine.indexer = Indexer(root, embedder.model_key, embedder.dims, open_index=EdgeIndex)
        return engine

    yield open_again
    engine.indexer.index.close()


class PanicException(BaseException):
    """As pyo3's: no `except Exception` catches it."""


class Panicking:
    def __getattr__(self, name):
        def panic(*args, **options):
            raise PanicException("index out of bounds: the len is 0 but the index is 0")

        return panic


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(os.urandom(min(path.stat().st_size, 4096)))


def missing(path: Path) -> None:
    path.unlink()


HARMS = [emptied, overwritten, missing]


def answers(owner, query: str) -> list[UUID]:
    return [hit.memory.id for hit in search_memories(owner, query).hits]


def set_aside(root: Path) -> list[str]:
    return [f.name for f in root.iterdir() if f.name.startswith("damaged-")]


def made(path: Path) -> list[Path]:
    """A closed index in `path`, and its files."""
    index = EdgeIndex(path, 4)
    points = [
        Point(UUID(int=n + 1), 1, f"green tea {n}", np.eye(4, dtype=np.float32)[n % 4], {})
        for n in range(20)
    ]
    index.upsert(points)
    index.close()
    return sorted(f for f in path.rglob("*") if f.is_file() and f.name != "left.json")


# --- Every file, every harm ----------------------------------------------------------------------
def test_every_file_that_is_not_as_it_was_left_is_noticed(tmp_path):
    path = tmp_path / "000001"
    files = made(path)
    note = (path / "left.json").read_bytes()
    assert len(files) > 50
    for file in files:
        for harm in HARMS:
            kept = file.with_name(f"{file.name}.kept")
            file.rename(kept)
            with file.open("wb") as copy:  # of the same size
                copy.truncate(kept.stat().st_size)
            harm(file)
            in_order, damage = folder.compare_with_record(path)
            if harm is emptied and not kept.stat().st_size:
                continue
            assert in_order and file.name in damage, (file, harm)
            file.unlink(missing_ok=True)
            kept.rename(file)
            (path / "left.json").write_bytes(note)
    assert folder.compare_with_record(path) == (True, "")
    assert folder.compare_with_record(path) == (False, "")  # it is open now


@pytest.mark.parametrize("harm", HARMS, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    "name",
    ["edge_config.json", "segment.json", "status.dat", "page_0.dat", "tracker.dat", "first-index"],
)
def test_after_a_crash_a_harmed_index_opens_or_is_damaged_and_nothing_else(tmp_path, name, harm):
    path = tmp_path / "000001"
    for file in [f for f in made(path) if f.name == name]:
        harm(file)
    (path / "left.json").unlink()
    try:
        index = EdgeIndex(path, 4)
    except IndexDamagedError:
        return
    for ask in (
        lambda: index.count(),
        lambda: index.search(np.eye(4, dtype=np.float32)[0], limit=5, where=EVERYTHING),
        lambda: said(index, "tea"),
        lambda: index.close(),
    ):
        try:
            ask()
        except IndexUnavailableError:
            index.abandon()
            return


def test_a_copy_with_its_times_is_as_it_was_left(tmp_path):
    made(tmp_path / "000001")
    subprocess.run(
        ["cp", "-a", "--sparse=always", tmp_path / "000001", tmp_path / "000002"], check=True
    )
    index = EdgeIndex(tmp_path / "000002", 4)
    assert (index.count(), index.was_left_in_order) == (20, True)
    index.close()


def test_other_dimensions_are_damage_and_another_process_is_none(tmp_path):
    made(tmp_path / "000001")
    with pytest.raises(IndexDamagedError) as raised:
        EdgeIndex(tmp_path / "000001", 7)
    index = EdgeIndex(tmp_path / "000001", 4)
    with pytest.raises(IndexInUseError, match="in use by another mem0dash"):
        EdgeIndex(tmp_path / "000001", 4)
    index.close()
    assert raised.value.code == "vector_store_unavailable"


def test_what_kills_each_process_that_opens_it_is_damage_at_the_third_start(tmp_path):
    path = tmp_path / "000001"
    made(path)
    assert folder.record_opening(path) and folder.record_opening(path)
    with pytest.raises(IndexDamagedError):
        EdgeIndex(path, 4)


# --- Set aside and built again -------------------------------------------------------------------
@pytest.mark.parametrize("harm", HARMS, ids=lambda f: f.__name__)
def test_a_damaged_index_is_set_aside_and_built_again_while_words_answer(
    owner, engine, restarted, root, embedder, harm
):
    [one], [two] = add(owner, "green tea"), add(owner, "black coffee")
    settled(engine)
    engine.indexer.close()
    harm(root / "000001" / "edge_config.json")
    restarted()
    assert len(set_aside(root)) == 1
    found = search_memories(owner, "a cup of tea")
    assert ([hit.memory.id for hit in found.hits], found.mode) == ([one], "keyword")
    assert found.problem == "vector_store_unavailable"
    with pytest.raises(IndexUnavailableError, match="being rebuilt"):
        runtime.check_index()
    [three] = add(owner, "white tea")
    embedder.batches.clear()
    engine.tick()
    assert embedder.batches == []
    runtime.check_index()
    assert search_memories(owner, "green tea").mode == "semantic"
    assert said(engine.index, "tea coffee") == {one, two, three}


def test_a_folder_that_is_deleted_while_the_server_runs_is_noticed_and_built_again(
    owner, engine, root, restarted
):
    [one] = add(owner, "green tea")
    settled(engine)
    shutil.rmtree(root / "000001")
    engine.indexer.tend()
    with pytest.raises(IndexUnavailableError):
        runtime.check_index()
    assert answers(owner, "tea") == [one]
    engine.tick()
    assert said(engine.index, "tea") == {one}
    assert IndexState.objects.get().built_at is not None


def test_a_file_in_place_of_the_folder_is_moved_out_of_the_way(owner, engine, root, restarted):
    [one] = add(owner, "green tea")
    settled(engine)
    engine.indexer.close()
    shutil.rmtree(root)
    root.write_text("not a folder")
    restarted()
    assert answers(owner, "tea") == [one]
    engine.tick()
    assert said(engine.index, "tea") == {one}


@pytest.mark.parametrize(
    "put",
    [
        lambda path: path.write_text("x"),
        lambda path: path.symlink_to("/nowhere/at/all"),
        lambda path: path.symlink_to(path.name),
        os.mkfifo,
    ],
    ids=("a file", "a link to nowhere", "a link to itself", "a pipe"),
)
def test_a_start_gets_past_what_is_in_the_place_of_the_folder(owner, embedder, root, put):
    put(root)
    indexer = open_indexer(embedder.model_key, embedder.dims, root=root)
    try:
        assert root.is_dir() and not root.is_symlink()
        aside = [one for one in root.parent.iterdir() if one.name.startswith("index.damaged-")]
        assert len(aside) == 1
        assert indexer.problem == ""
    finally:
        indexer.close()


def test_an_index_whose_folder_cannot_be_made_stays_closed_until_it_can(owner, embedder, tmp_path):
    (tmp_path / "data").write_text("no folder")
    root = tmp_path / "data" / "index"
    indexer = open_indexer(embedder.model_key, embedder.dims, root=root)
    assert "cannot be opened" in indexer.problem
    (tmp_path / "data").unlink()
    indexer._try_at = 0.0
    indexer.tend()
    try:
        assert indexer.problem == "" and indexer.index.count() == 0
    finally:
        indexer.close()


def test_a_panic_ends_no_thread_and_leads_to_a_new_index(owner, engine, root, monkeypatch):
    [one] = add(owner, "green tea")
    settled(engine)
    monkeypatch.setattr(engine.index, "_shard", Panicking())
    assert answers(owner, "tea") == [one]
    [two] = add(owner, "black tea")
    engine.tick()
    assert said(engine.index, "tea") == {one, two}
    assert len(set_aside(root)) == 1


def test_an_index_that_is_damaged_again_and_again_is_not_built_without_a_pause(
    owner, engine, root, monkeypatch
):
    add(owner, "green tea")
    settled(engine)
    for _ in range(2):
        monkeypatch.setattr(engine.indexer.index, "_shard", Panicking())
        with pytest.raises(IndexUnavailableError):
            engine.indexer.index.count()
        engine.indexer.tend()
    assert not engine.indexer.rebuild_wanted()
    assert len(set_aside(root)) == 1  # the latest alone is kept
    engine.indexer._heal_at = 0.0
    assert engine.indexer.rebuild_wanted()


def test_what_a_crash_took_from_the_index_is_found_and_repaired(owner, engine, restarted):
    ids = add(owner, "green tea", "black tea")
    settled(engine)
    engine.index.delete([ids[0]])
    engine.index.flush()
    engine.index.abandon()  # no note of an orderly end
    restarted()
    engine.tick()
    assert said(engine.index, "tea") == set(ids)


# --- A full disk ---------------------------------------------------------------------------------
@pytest.fixture
def room(monkeypatch):
    """`room(n)` leaves so many MB on the disk."""

    def leave(megabytes: float) -> None:
        monkeypatch.setattr(
            disk, "room_of", lambda path: FreeSpace(path, int(megabytes * MB), disk.LEAST_FLOOR)
        )

    return leave


def test_on_a_full_disk_adds_are_refused_in_every_dialect_and_deletes_go_on(
    owner, engine, api, room
):
    one, two = add(owner, "green tea", "black tea")
    settled(engine)
    room(0.4)
    message = {"messages": [{"role": "user", "content": "more tea"}], "user_id": "alice"}
    for method, path, body in (
        ("POST", "/memories", message),
        ("POST", "/api/v1/memories", {"content": "more tea", "user_id": "alice"}),
        ("PUT", f"/memories/{one}", {"text": "changed"}),
    ):
        answer = api(method, path, body)
        assert answer.status_code == 507, (path, answer.content)
        assert "0.4 MB are free" in answer.content.decode()
    assert api.get("/healthz").json()["failing"] == ["disk"]
    assert answers(owner, "tea") == [one, two] or set(answers(owner, "tea")) == {one, two}
    services.delete_memory(owner, one)
    assert answers(owner, "tea") == [two]
    assert pending() == 1  # the index hears of it later
    with pytest.raises(IndexUnavailableError):
        engine.indexer.drain()
    room(1000)
    engine.tick()
    engine.indexer.settle()
    assert (said(engine.index, "tea"), pending()) == ({two}, 0)
    assert api.post("/memories", message).status_code == 200
    assert api.get("/healthz").status_code == 200


def test_a_start_on_a_full_disk_serves_by_words_and_keeps_the_index(
    owner, engine, restarted, root, room
):
    [one] = add(owner, "green tea")
    settled(engine)
    engine.indexer.close()
    room(0.4)
    restarted()
    assert isinstance(engine.indexer.index, ClosedIndex)
    assert answers(owner, "tea") == [one]
    with pytest.raises(IndexUnavailableError, match=r"0\.4 MB are free"):
        runtime.check_index()
    engine.tick()
    room(1000)
    engine.indexer._try_at = 0.0
    engine.tick()
    assert said(engine.index, "tea") == {one}
    assert set_aside(root) == []


def test_an_index_is_not_built_where_a_second_one_does_not_fit(owner, engine, room):
    add(owner, "green tea")
    room(7)
    with pytest.raises(DiskFullError):
        engine.indexer.rebuild()
    assert not engine.indexer.is_building


# --- Commands ------------------------------------------------------------------------------------
def test_the_commands_say_whether_a_server_has_the_index(
    owner, engine, settings, tmp_path, monkeypatch, embedder
):
    settings.DATA_DIR = tmp_path
    monkeypatch.setattr("memories.engine.local_embedder.load_embedder", lambda: embedder)
    add(owner, "green tea")
    settled(engine)
    with pytest.raises(CommandError, match="stop the server and run check_index"):
        call_command("check_index", stdout=StringIO())
    engine.indexer.close()
    (tmp_path / "index" / "000001" / "edge_config.json").write_bytes(b"")
    out = StringIO()
    call_command("rebuild_index", stdout=out)
    assert "holds 1 memories" in out.getvalue()
    assert "running" not in out.getvalue()
    call_command("check_index", stdout=out)
    assert "are the same" in out.getvalue()
