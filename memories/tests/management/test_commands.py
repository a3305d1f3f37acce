"""The operators' commands, as they are typed."""

from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from core.errors import ConflictError
from memories import runtime
from memories.engine.engine import Engine
from memories.index.edge import EdgeIndex
from memories.models import Memory, MemoryVector, Revision
from memories.models.server import IndexState


def command(name: str, *arguments: str, **options: Any) -> str:
    out = StringIO()
    call_command(name, *arguments, stdout=out, **options)
    return out.getvalue()


@pytest.fixture
def back(engine: runtime.Runtime) -> Any:
    """Installs the engine again: a command leaves the process without one."""

    def again() -> None:
        runtime.install(engine)
        engine.tick()

    return again


def test_deleted_memories_are_restored_by_id(api: Any, back: Any) -> None:
    one, two = api.add("green tea"), api.add("black tea")
    api.delete(f"/memories/{one}")
    assert command("restore_memories", one) == "1 memories are restored.\n"
    back()
    assert {hit["id"] for hit in api.search("tea")} == {one, two}


def test_everything_deleted_lately_is_restored_after_a_dry_run(api: Any, back: Any) -> None:
    ids = [api.add(f"tea {number}") for number in range(3)]
    for id_ in ids:
        api.delete(f"/memories/{id_}")
    assert "3 memories would be" in command("restore_memories", "--hours", "1", "--dry-run")
    assert not Memory.objects.filter(deleted_at=None).exists()
    assert "3 memories are" in command("restore_memories", "--hours", "1")
    back()
    assert len(api.search("tea")) == 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "Name ids, or --hours"),
        (["7e0f2c1e-0000-4000-8000-000000000000"], "cannot be restored"),
        (["no-id"], "not found"),
        (["--hours", "1", "--project", "nowhere"], "no project"),
    ],
)
def test_what_cannot_be_restored_is_told(db: None, arguments: list[str], told: str) -> None:
    with pytest.raises(CommandError, match=told):
        command("restore_memories", *arguments)


def test_all_of_an_entity_is_erased_after_its_number_was_typed(
    api: Any, back: Any, monkeypatch: Any
) -> None:
    one, two = api.add("green tea", "ann"), api.add("black tea", "ann")
    kept = api.add("white tea", "ben")
    api.delete(f"/memories/{one}")
    monkeypatch.setattr("builtins.input", lambda: "3")
    with pytest.raises(CommandError, match="Nothing was erased"):
        command("erase_memories", "--user-id", "ann")
    monkeypatch.setattr("builtins.input", lambda: "2")
    assert "2 memories are erased" in command("erase_memories", "--user-id", "ann")
    back()
    assert [str(row.id) for row in Memory.objects.filter(deleted_at=None)] == [kept]
    texts = Revision.objects.filter(memory_id__in=[one, two]).values_list("old_text", "new_text")
    assert set(texts) == {(None, None)}
    assert [hit["id"] for hit in api.search("tea", "ben")] == [kept]


@pytest.mark.parametrize("arguments", [[], ["x", "--user-id", "ann"]])
def test_what_to_erase_has_to_be_named_in_one_way(db: None, arguments: list[str]) -> None:
    with pytest.raises(CommandError, match="Name ids, or an entity"):
        command("erase_memories", *arguments)


@pytest.fixture
def own_folder(settings: Any, tmp_path: Any, monkeypatch: Any, embedder: Any) -> None:
    """A data directory without a model of its own, and the stand-in for the embedder."""
    settings.DATA_DIR = tmp_path / "data"
    monkeypatch.setattr("memories.engine.local_embedder.load_embedder", lambda: embedder)


def test_an_index_is_rebuilt_while_no_server_runs(
    api: Any, own_folder: None, embedder: Any
) -> None:
    api.add("green tea")
    embedder.batches.clear()
    assert "holds 1 memories" in command("rebuild_index")
    assert embedder.batches == []
    state = IndexState.objects.get()
    assert state.built_at is not None and state.built_at > state.rebuild_wanted_at


def test_another_embedder_is_refused_while_there_are_memories(api: Any, embedder: Any) -> None:
    api.add("green tea")
    runtime.check_model(Engine(embedder))
    runtime.check_model(Engine(None))
    embedder.model_key, embedder.dims = "other/model-2", 8
    with pytest.raises(ConflictError, match=r"1 stored .* test/words-1 \(64 .*other/model-2"):
        runtime.check_model(Engine(embedder))
    MemoryVector.objects.all().delete()
    runtime.check_model(Engine(embedder))


def test_a_second_process_on_the_same_folder_is_told(
    own_folder: None, settings: Any, db: None
) -> None:
    running = runtime.open_runtime()
    try:
        folder = settings.DATA_DIR / "index" / "000001"
        with pytest.raises(runtime.IndexUnavailableError, match="another mem0dash"):
            EdgeIndex(folder, 64)
        with pytest.raises(runtime.IndexUnavailableError):
            runtime.open_runtime()
    finally:
        running.close()
    assert IndexState.objects.get().built_at <= timezone.now()


def test_an_empty_name_is_no_wider_one(api: Any) -> None:
    api.add("green tea", "ann")
    for arguments in (["--user-id", "ann", "--agent-id", ""], ["--user-id", " "]):
        with pytest.raises(CommandError, match="is empty"):
            command("erase_memories", *arguments, "--yes")
    for hours in ("0", "-1", "nan", "inf", "1e300"):
        with pytest.raises(CommandError, match="--hours must be above 0"):
            command("restore_memories", "--hours", hours)
    assert Memory.objects.filter(deleted_at=None).count() == 1
