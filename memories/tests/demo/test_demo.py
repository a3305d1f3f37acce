"""Sample data: it looks like real use, it is marked, and it goes again without a trace."""

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from accounts.queries import operator_of
from core.errors import ConflictError, EngineError, PermissionDeniedError, ProviderError
from core.principal import Scope
from jobs import leases
from memories import queries, runtime
from memories.background import retention
from memories.demo import service as demo
from memories.demo.rows import sample_adds
from memories.editing import service as services
from memories.management.commands import demo as command_module
from memories.models import (
    AddInput,
    Confidence,
    IngestClaim,
    Memory,
    MemoryVector,
    ReviewStatus,
    Revision,
    SessionMessage,
    adds,
)
from memories.models.server import INDEX_BUILD, IndexState
from memories.tests.actions import add, pending, said, settled
from memories.tests.providing import use_embedder

TABLES = (Memory, MemoryVector, Revision, AddInput, IngestClaim, SessionMessage)


def command(*arguments: str) -> str:
    out = StringIO()
    call_command("demo", *arguments, stdout=out)
    return out.getvalue()


def stored() -> dict[str, int]:
    return {model.__name__: model.objects.count() for model in TABLES}


def removed(owner: Any, engine: Any) -> int:
    """Takes the sample data away, and its empty rows once the index has let go."""
    count = demo.remove_demo(owner)
    settled(engine)
    assert demo.drop_emptied(owner) == 0
    return count


def marked() -> Any:
    return [row for row in Memory.objects.exclude(text="") if row.metadata.get("demo") is True]


@pytest.fixture
def filled(owner: Any, engine: Any) -> int:
    return demo.fill_project(owner)


@pytest.fixture
def own_folder(settings: Any, tmp_path: Any, monkeypatch: Any, embedder: Any) -> None:
    """A data directory without a model of its own, and the stand-in for the embedder."""
    settings.DATA_DIR = tmp_path / "data"
    monkeypatch.setattr("memories.engine.local_embedder.load_embedder", lambda: embedder)


# --- What it is ----------------------------------------------------------------------------------
def test_the_set_shows_all_that_can_happen_to_memories(filled):
    rows, now = list(Memory.objects.all()), timezone.now()
    assert filled == len(rows) == MemoryVector.objects.count()
    assert 140 <= filled <= 170
    assert len({row.user_id for row in rows} - {""}) == 6
    assert len({row.agent_id for row in rows} - {""}) == 5
    assert len({row.app_id for row in rows} - {""}) >= 4
    assert len({row.source for row in rows} - {""}) >= 5
    assert {row.confidence for row in rows} == set(Confidence.values)
    assert {row.review_status for row in rows} == set(ReviewStatus.values)
    ends = [row.expires_at - now for row in rows if row.expires_at]
    assert any(end < timedelta() for end in ends)
    assert any(timedelta() < end < timedelta(days=7) for end in ends)
    assert any(end > timedelta(days=30) for end in ends)
    assert any(row.expiration_date and row.expiration_date < now.date() for row in rows)
    assert any(row.expiration_date and row.expiration_date > now.date() for row in rows)
    assert max(len(row.text) for row in rows) > 400
    assert {"de", "zh", "ar"} <= {row.metadata.get("language") for row in rows}


def test_everything_in_it_lies_in_the_last_ninety_days(filled):
    now = timezone.now()
    for row in Memory.objects.all():
        assert now - timedelta(days=91) < row.created_at <= row.updated_at <= now
    assert not Revision.objects.filter(at__gt=now).exists()
    assert Memory.objects.filter(created_at__gte=now - timedelta(days=1)).exists()


def test_it_is_the_same_each_time_but_for_ids_and_dates(owner, db):
    def told(now):
        adds = sample_adds(owner, now)
        return [(m.text, m.user_id, m.review_status) for one in adds for m in one.memories]

    assert told(timezone.now()) == told(timezone.now() + timedelta(days=400, hours=7))


def test_who_reviewed_it_and_when_is_known_of_what_was_reviewed(filled):
    for row in Memory.objects.all():
        reviewed = row.review_status != ReviewStatus.UNREVIEWED
        assert bool(row.reviewed_by) == (row.reviewed_at is not None) == reviewed
        assert (row.metadata.get("review_status", "unreviewed")) == row.review_status


def test_conversations_have_turns_before_and_after(filled):
    sessions = Counter(Memory.objects.exclude(session="").values_list("session", flat=True))
    assert len(sessions) >= 10
    assert min(sessions.values()) >= 2
    run = Memory.objects.filter(run_id="ledger-412").order_by("created_at", "seq")
    assert len(run) == 8
    assert {row.role for row in run} == {"user", "assistant"}
    assert len({row.session for row in run}) == 1


def test_every_memory_has_a_history_that_ends_with_what_it_says_now(owner, filled):
    edited = 0
    for row in Memory.objects.all():
        history = list(Revision.objects.filter(memory_id=row.id).order_by("at", "id"))
        assert history[0].event == "ADD"
        assert len(history) == row.rev
        texts = [history[0].new_text]
        for revision in history[1:]:
            assert revision.old_text == texts[-1]
            texts.append(revision.new_text or revision.old_text)
        assert texts[-1] == row.text
        edited += len(set(texts)) > 2
        assert (history[-1].event == "DELETE") == (row.deleted_at is not None)
    assert edited >= 3


def test_young_adds_have_their_inputs_which_are_not_purged_at_once(filled):
    inputs = AddInput.objects.all()
    assert len(inputs) > 20
    assert {kept.outcome for kept in inputs} == {AddInput.Outcome.STORED}
    batches = set(Memory.objects.values_list("batch_id", flat=True))
    assert {kept.id for kept in inputs} < batches
    before = stored()
    retention.purge_all()
    assert stored() == before


def test_what_is_in_the_bin_can_be_restored_even_with_a_short_retention(owner, engine, project):
    project.retention_days = 1
    project.save()
    demo.fill_project(operator_of("default"))
    settled(engine)
    retention.purge_all()
    deleted = list(Memory.objects.exclude(deleted_at=None).values_list("id", flat=True))
    assert len(deleted) >= 3
    assert set(services.restore_memories(owner, deleted)) == set(deleted)


def test_the_api_finds_lists_and_filters_it(api, owner):
    demo.fill_project(owner)
    hits = api.search("deadlock of two transfers", "jonas")
    assert "deadlock" in " ".join(hit["memory"] for hit in hits[:3])
    assert all(hit["metadata"]["demo"] is True for hit in hits)
    mine = api.add("My deadlock is my own", "jonas")
    query = {"query": "deadlock", "filters": {"user_id": "jonas", "demo": True}}
    found = api.post("/search", query).json()["results"]
    assert found
    assert mine not in {hit["id"] for hit in found}
    listed = api.get("/memories?user_id=mara&top_k=100").json()["results"]
    assert any("Ghent" in row["memory"] for row in listed)
    assert not any("permit" in row["memory"] for row in listed)  # it has expired
    assert not any("Iceland" in row["memory"] for row in listed)  # it was rejected
    entities = {row["id"] for row in api.get("/entities").json()}
    assert {"mara", "opencode", "porto-in-spring"} <= entities
    [edited] = [row for row in listed if "rennet" in row["memory"]]
    history = api.get(f"/memories/{edited['id']}/history").json()
    assert [entry["event"] for entry in history] == ["ADD", "UPDATE", "UPDATE"]


# --- Filling -------------------------------------------------------------------------------------
def test_a_project_with_a_memory_is_refused(owner, engine):
    add(owner, "green tea")
    before = stored()
    with pytest.raises(ConflictError, match=r"'default' holds 1 memory: sample data goes into"):
        demo.fill_project(owner)
    assert stored() == before


def test_a_project_with_something_in_the_bin_is_refused(owner, engine):
    [one] = add(owner, "green tea")
    services.delete_memory(owner, one)
    with pytest.raises(ConflictError, match="1 of them deleted, which can still be restored"):
        demo.fill_project(owner)
    services.erase_memories(owner, [one])
    assert demo.fill_project(owner) > 100


def test_memories_of_another_project_are_no_hindrance(owner, engine, other_project):
    [one] = add(owner, "green tea")
    other = operator_of("other")
    count = demo.fill_project(other)
    assert demo.remove_demo(owner) == 0
    assert len(marked()) == count
    assert removed(other, engine) == count
    assert [row.id for row in Memory.objects.all()] == [one]


def test_twice_is_refused_with_the_way_out(owner, filled):
    with pytest.raises(ConflictError, match="already; demo --remove takes it away"):
        demo.fill_project(owner)
    assert len(marked()) == filled


def test_without_an_embedder_it_is_found_by_words(api, owner, engine):
    engine.engine.embedder = None
    demo.fill_project(owner)
    assert not MemoryVector.objects.exists()
    assert "deadlock" in api.search("deadlock", "jonas")[0]["memory"]


def test_nothing_is_filled_where_the_embedder_fails(owner, engine, embedder):
    embedder.error = ConnectionError("away")
    with pytest.raises(EngineError):
        demo.fill_project(owner)
    assert not any(stored().values())


def test_a_providers_embedder_makes_the_vectors_or_says_why_not(owner, engine, provider):
    use_embedder(engine, provider)
    provider.embeddings.fail(401, times=1)
    with pytest.raises(ProviderError) as failure:
        demo.fill_project(owner)
    assert failure.value.code == "provider_auth_failed"
    assert not any(stored().values())
    count = demo.fill_project(owner)
    assert MemoryVector.objects.count() == count


def test_an_interrupted_filling_leaves_nothing_to_remove(owner, engine, monkeypatch):
    made = []

    def interrupted(memory, *rest):
        made.append(memory)
        if len(made) == 100:
            assert Memory.objects.count() > 100
            raise KeyboardInterrupt
        return MemoryVector(memory=memory, model_key="m", dims=0, data=b"")

    monkeypatch.setattr("memories.storage.rows.vector_row", interrupted)
    with pytest.raises(KeyboardInterrupt):
        demo.fill_project(owner)
    monkeypatch.undo()
    assert not any(stored().values())
    assert demo.remove_demo(owner) == 0
    assert demo.fill_project(owner) > 100


def test_while_the_shared_index_is_built_anew_nothing_is_filled_or_removed(
    owner, filled, other_project
):
    before = stored()
    leases.acquire(INDEX_BUILD, holder="another")
    with pytest.raises(ConflictError, match="being built anew"):
        demo.remove_demo(owner)
    with pytest.raises(ConflictError, match="being built anew"):
        demo.fill_project(operator_of("other"))
    assert stored() == before


@pytest.mark.parametrize("act", [demo.fill_project, demo.remove_demo, demo.drop_emptied])
def test_who_is_no_admin_may_not(owner, engine, act):
    reader = replace(owner, scopes=frozenset({Scope.READ, Scope.WRITE, Scope.REVIEW}))
    with pytest.raises(PermissionDeniedError):
        act(reader)


# --- Removing ------------------------------------------------------------------------------------
def test_removing_leaves_nothing_in_any_table_or_in_the_index(owner, engine, filled):
    settled(engine)
    assert said(engine.index, "deadlock")
    assert removed(owner, engine) == filled
    assert not any(stored().values())
    assert engine.index.count() == 0


def test_before_the_index_has_let_go_only_empty_rows_are_left(owner, engine, filled):
    settled(engine)
    engine.apply = lambda memories: None  # as in a command, beside the process that has the index
    demo.remove_demo(owner)
    assert demo.drop_emptied(owner) == filled
    assert stored() == dict.fromkeys(stored(), 0) | {"Memory": filled}
    rows = Memory.objects.values("text", "text_fold", "source", "agent_id", "metadata", "session")
    assert {str(row) for row in rows} == {str(dict(rows[0]))}
    assert queries.ids_deleted_since(owner, timezone.now() - timedelta(days=365)) == []
    assert demo.fill_project(owner) == filled
    settled(engine)
    assert demo.drop_emptied(owner) == 0
    assert engine.index.count() == Memory.objects.filter(deleted_at=None).count()


def test_what_the_command_left_is_purged_by_the_server(owner, engine, filled):
    SessionMessage.objects.create(
        project_id=owner.project.id, scope=adds.message_scope("mara", "", ""), content="mine"
    )
    demo.remove_demo(owner)
    settled(engine)
    assert retention.purge_all() == filled
    assert not Memory.objects.exists()
    assert SessionMessage.objects.count() == 1


def test_what_a_user_added_meanwhile_stays(owner, engine, filled):
    [own] = add(owner, "Mara has a piano", user_id="mara")
    [same] = add(owner, "Works as a product designer at Nordlys Studio.", user_id="mara")
    metadata = {"demo": True}
    [named] = add(owner, "A demo of my own", user_id="mara", metadata=metadata)
    before = list(Revision.objects.filter(memory_id__in=[own, same, named]).order_by("id").values())
    assert removed(owner, engine) == filled
    assert {row.id for row in Memory.objects.all()} == {own, same, named}
    assert list(Revision.objects.order_by("id").values()) == before
    assert AddInput.objects.count() == MemoryVector.objects.count() == 3
    assert {row.messages[0]["content"] for row in AddInput.objects.all()} == {
        row.text for row in Memory.objects.all()
    }
    assert said(engine.index, "piano") == {own}


def test_what_was_edited_restored_deleted_or_erased_meanwhile_goes_too(owner, engine, filled):
    one, two, three, four = Memory.objects.filter(deleted_at=None).order_by("created_at")[:4]
    [*in_bin] = Memory.objects.exclude(deleted_at=None).values_list("id", flat=True)
    services.update_memory(owner, one.id, text="all new", metadata={"demo": False})
    services.delete_memory(owner, two.id)
    services.erase_memories(owner, [three.id])
    services.update_memory(owner, four.id, metadata={"demo": "no"})
    services.restore_memories(owner, in_bin[:1])
    assert removed(owner, engine) == filled
    assert not any(stored().values())


def test_the_history_of_what_was_purged_meanwhile_goes_too(owner, engine, filled):
    settled(engine)
    Memory.objects.exclude(deleted_at=None).update(deleted_at=timezone.now() - timedelta(days=31))
    purged = retention.purge_all()
    assert purged >= 3
    assert removed(owner, engine) == filled - purged
    assert not any(stored().values())


def test_after_removing_it_can_be_filled_again(owner, engine, filled):
    removed(owner, engine)
    assert demo.fill_project(owner) == filled
    assert len(marked()) == filled


# --- The command ---------------------------------------------------------------------------------
def test_the_command_fills_and_removes_before_the_first_start_of_a_server(db, own_folder):
    assert "sample memories are in project 'default'" in command()
    count = Memory.objects.count()
    assert MemoryVector.objects.count() == count == len(marked())
    with pytest.raises(CommandError, match="already"):
        command()
    assert command("--remove") == f"{count:,} sample memories are removed for good.\n"
    assert not any(stored().values())
    assert command("--remove") == "There is no sample data in project 'default'.\n"
    assert "sample memories are in" in command()


def test_the_command_brings_the_index_of_a_stopped_server_after_it(db, own_folder):
    command()
    running = runtime.open_runtime()
    running.tick()
    running.close()
    assert "are removed for good" in command("--remove")
    assert not any(stored().values())
    again = runtime.open_runtime()
    assert again.index.count() == 0
    again.close()


def test_a_running_server_brings_its_index_after_the_command(db, own_folder, monkeypatch):
    running = runtime.open_runtime()

    def turn_of_the_server(seconds):
        running.indexer.drain()
        running.indexer.settle()

    monkeypatch.setattr(command_module.time, "sleep", turn_of_the_server)
    try:
        command()
        turn_of_the_server(0)
        count = Memory.objects.filter(deleted_at=None).count()
        assert running.index.count() == count
        told = command("--remove")
        assert "removed for good" in told
        assert "has not let go" not in told
        assert not any(stored().values())
        assert running.index.count() == 0
        # Its files have not suffered from the command that tried to open them.
        command()
        turn_of_the_server(0)
        assert running.index.count() == count
        # An index server that is slow for a moment gets what is left at the next turn.
        for _ in range(20):
            if pending():
                turn_of_the_server(0)
        assert pending() == 0
    finally:
        running.close()


def test_the_command_says_what_a_server_that_hangs_has_yet_to_do(db, own_folder, monkeypatch):
    monkeypatch.setattr(command_module.time, "sleep", lambda seconds: None)
    running = runtime.open_runtime()
    try:
        command()
        running.indexer.drain()
        count = Memory.objects.count()
        assert f"has not let go of {count:,} yet" in command("--remove")
        assert set(Memory.objects.values_list("text", flat=True)) == {""}
    finally:
        running.close()


@pytest.mark.parametrize("arguments", [(), ("--remove",)])
def test_a_project_that_is_not_there_is_told(db, own_folder, arguments):
    with pytest.raises(CommandError, match="no project 'nowhere'"):
        command("--project", "nowhere", *arguments)
    assert not IndexState.objects.exists()


def test_the_command_says_what_the_embedder_said(db, own_folder, embedder):
    embedder.error = ConnectionError("away")
    with pytest.raises(CommandError, match="The embedding model failed"):
        command()
    assert not any(stored().values())
