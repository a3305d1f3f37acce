"""Late interaction is on or off: by the environment, by the instance owner, and at once."""

import threading
from dataclasses import replace
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from core.errors import ConflictError, PermissionDeniedError
from core.principal import Scope
from jobs.models import Lease
from memories import runtime
from memories.backfill import token_states as token_work
from memories.background.upkeep import Upkeep
from memories.editing import service as services
from memories.engine import configuration, local_model
from memories.engine.configuration import ChangedMeanwhileError
from memories.models import Memory, MemoryTokens
from memories.models.server import EngineConfig, IndexState
from memories.providers import late_interaction, reembedding
from memories.providers import service as providers
from memories.providers.late_interaction import LateInteractionStatus
from memories.tests.actions import add
from memories.tests.providing import llm_at
from memories.tests.token_words import (
    LOADER,
    Loader,
    WordReader,
    kept,
    right,
    with_provider,
    with_reader,
)


@pytest.fixture(autouse=True)
def _environment(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.PROVIDER_ENVIRONMENT = {}
    settings.LATE_INTERACTION = True
    settings.EMBEDDER_LOADER = LOADER
    Loader.begin()
    monkeypatch.setattr("memories.background.upkeep.close_old_connections", lambda: None)


@pytest.fixture
def reader(engine: runtime.Runtime) -> WordReader:
    return with_reader(engine, WordReader())


def on() -> bool:
    return configuration.current_configuration().late_interaction


# --- The environment -----------------------------------------------------------------------------
def test_it_is_on_unless_the_environment_says_otherwise(owner, engine, settings):
    assert on()
    settings.LATE_INTERACTION = False
    assert not on()
    assert runtime.engine_of(configuration.current_configuration()).reader is None
    found = late_interaction.status(owner)
    assert (found.is_on, found.by_environment) == (False, True)


def test_what_was_chosen_while_running_goes_before_the_environment(owner, reader, settings):
    settings.LATE_INTERACTION = False
    late_interaction.switch(owner, True)
    assert on()
    assert not late_interaction.status(owner).by_environment
    # As the environment says: it is left to it again.
    late_interaction.switch(owner, False)
    assert late_interaction.status(owner).by_environment
    settings.LATE_INTERACTION = True
    assert on()


# --- On and off ----------------------------------------------------------------------------------
def test_off_is_at_once_keeps_what_there_is_and_on_uses_it_again(owner, engine, reader):
    [one] = add(owner, "green tea")
    index, generation = engine.indexer.index, IndexState.objects.get().generation
    late_interaction.switch(owner, False)
    assert (engine.engine.reader, engine.engine.states_key) == (None, "")
    assert engine.engine.read_query("tea")[1] is None
    assert kept(one) == right(one)
    [two] = add(owner, "black tea")
    assert kept(two) is None
    late_interaction.switch(owner, True)
    assert engine.engine.reader is engine.engine.embedder is reader
    assert engine.engine.read_query("tea")[1] is not None
    # The index is of the same model, and is not built anew.
    assert engine.indexer.index is index
    assert IndexState.objects.get().generation == generation
    Upkeep(engine)._states_round()
    assert kept(two) == right(two)


def test_while_it_is_off_nothing_is_made_and_nothing_loaded(owner, engine, provider):
    with_provider(engine, provider)
    late_interaction.switch(owner, False)
    [one] = add(owner, "green tea")
    Upkeep(engine)._states_round()
    assert (Loader.loads, kept(one)) == (0, None)
    assert engine.take_unread(10) == []


def test_while_it_is_off_a_new_text_takes_the_old_states_away(owner, engine, reader):
    one, other = add(owner, "green tea", "black tea")
    late_interaction.switch(owner, False)
    services.update_memory(owner, one, text="a walk by the river")
    assert kept(one) is None
    assert kept(other) == right(other)


def test_with_a_provider_the_model_is_loaded_behind_the_scenes_and_let_go_of(
    owner, engine, provider
):
    with_provider(engine, provider)
    late_interaction.switch(owner, False)
    assert Loader.loads == 0
    late_interaction.switch(owner, True)
    assert Loader.loads == 0  # not in the request
    assert late_interaction.status(owner).model == "loading"
    Upkeep(engine)._states_round()
    assert Loader.loads == 1
    assert late_interaction.status(owner).model == "ready"
    assert engine.engine.reader is Loader.made[0]
    late_interaction.switch(owner, False)
    assert engine.engine.reader is None


def test_the_embedder_that_becomes_the_local_one_is_the_reader_that_is_loaded(engine, provider):
    with_provider(engine, provider)
    engine.prepare_reader()
    local = replace(configuration.current_configuration(), embedder=None, dims=0)
    back = runtime.engine_of(local, engine.engine)
    assert back.embedder is back.reader is Loader.made[0]
    assert Loader.loads == 1


def test_a_passage_to_another_embedder_leaves_the_states_alone(
    owner, engine, provider, monkeypatch
):
    with_provider(engine, provider)
    [one] = add(owner, "green tea")
    engine.prepare_reader()
    token_work.make_missing(engine)
    MemoryTokens.objects.update(data=b"as it was")
    monkeypatch.setattr(WordReader, "model_key", "test/words-2")
    job = reembedding.start(owner, None)
    reembedding.work(job)
    assert reembedding.measure_progress(job) == (1, 1)
    assert kept(one) == b"as it was"
    assert reembedding.flip(engine)
    assert engine.engine.embedder is engine.engine.reader is Loader.made[0]


def test_another_process_follows(owner, engine, reader):
    runtime.install(None)  # as in a command
    late_interaction.switch(owner, False)
    assert engine.engine.reader is reader
    engine.refresh()
    assert engine.engine.reader is None
    late_interaction.switch(owner, True)
    engine.refresh()
    assert engine.engine.reader is reader


def test_who_switched_it_is_kept_and_the_same_again_is_no_change(owner, alice, reader):
    late_interaction.switch(owner, True)
    assert not EngineConfig.objects.exists()
    late_interaction.switch(owner, False)
    late_interaction.switch(owner, False)
    row = EngineConfig.objects.get()
    assert (row.account_id, row.reason) == (alice.id, "late interaction off")


def test_the_providers_stay_and_a_change_of_theirs_leaves_it_off(owner, engine, reader, provider):
    llm = llm_at(provider)
    change = {"provider": llm.provider, "config": dict(llm.config)}
    providers.configure(owner, {"llm": change})
    late_interaction.switch(owner, False)
    assert configuration.current_configuration().llm == llm
    assert engine.engine.llm is not None
    providers.configure(owner, {"llm": {"config": {"temperature": 0.5}}})
    assert not on()
    assert engine.engine.reader is None


def test_a_change_by_others_at_the_same_time_is_waited_out(owner, engine, reader, monkeypatch):
    save, calls = configuration.save, []

    def busy(*args: Any, **kwargs: Any) -> Any:
        calls.append(True)
        if len(calls) <= failing:
            raise ChangedMeanwhileError("The configuration was changed by someone else.")
        return save(*args, **kwargs)

    monkeypatch.setattr(configuration, "save", busy)
    failing = 2
    late_interaction.switch(owner, False)
    assert not on()
    assert engine.engine.reader is None
    calls.clear()
    failing = 1000
    with pytest.raises(ConflictError):
        late_interaction.switch(owner, True)
    assert not on()
    assert engine.engine.reader is None
    assert len(calls) == providers.CHANGE_ATTEMPTS


# --- Who may -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "lacks",
    [
        {"is_owner": False},
        {"scopes": frozenset({Scope.READ, Scope.WRITE, Scope.REVIEW})},
        {"scopes": frozenset()},
        {"entity_limit": {"user_id": frozenset({"alice"})}},
    ],
    ids=["no owner", "no admin", "no scope", "limited"],
)
def test_only_the_instance_owner_sees_and_changes_it(owner, reader, lacks):
    add(owner, "green tea")
    other = replace(owner, **lacks)
    with pytest.raises(PermissionDeniedError):
        late_interaction.status(other)
    with pytest.raises(PermissionDeniedError):
        late_interaction.switch(other, False)
    assert on()
    late_interaction.switch(owner, False)
    with pytest.raises(PermissionDeniedError):
        late_interaction.drop(other)
    assert MemoryTokens.objects.count() == 1


# --- How far it is -------------------------------------------------------------------------------
def test_the_status_counts_live_memories_of_all_projects(owner, other_project, engine, reader):
    one, two, binned = add(owner, "green tea", "black tea", "white tea")
    Memory.objects.filter(id=two).update(project=other_project)
    services.delete_memory(owner, binned)
    size = sum(len(kept(id_) or b"") for id_ in (one, two, binned))
    assert late_interaction.status(owner) == LateInteractionStatus(
        is_on=True, by_environment=True, model="ready", made=2, live=2, kept=3, bytes=size
    )
    MemoryTokens.objects.filter(memory_id=one).delete()
    found = late_interaction.status(owner)
    assert (found.made, found.live) == (1, 2)


def test_a_model_that_was_not_prepared_is_missing(owner, engine, provider, settings, tmp_path):
    settings.MODEL_DIR = tmp_path
    assert late_interaction.status(owner).model == "missing"  # no reader, and none to load
    Loader.begin(present=False)
    with_provider(engine, provider)
    assert late_interaction.status(owner).model == "loading"
    Upkeep(engine)._states_round()
    assert late_interaction.status(owner).model == "missing"
    late_interaction.switch(owner, False)
    assert late_interaction.status(owner).model == "missing"
    (tmp_path / "manifest.json").write_text("damaged")
    assert late_interaction.status(owner).model == "missing"


def test_while_it_is_off_the_status_says_whether_the_model_could_be_used(owner, reader):
    add(owner, "green tea")
    late_interaction.switch(owner, False)
    found = late_interaction.status(owner)
    assert (found.is_on, found.model, found.made, found.live) == (False, "ready", 1, 1)


# --- Removal -------------------------------------------------------------------------------------
def test_what_is_kept_goes_when_it_is_off_and_nothing_else(owner, reader, monkeypatch):
    monkeypatch.setattr(token_work, "_DROPPED_AT_ONCE", 2)
    ids = add(owner, "a", "b", "c", "d", "e")
    services.delete_memory(owner, ids[0])
    MemoryTokens.objects.filter(memory_id=ids[1]).update(states_key="of a former model")
    memories = list(Memory.objects.order_by("id").values())
    with pytest.raises(ConflictError, match="switch it off"):
        late_interaction.drop(owner)
    assert MemoryTokens.objects.count() == 5
    late_interaction.switch(owner, False)
    assert late_interaction.drop(owner) == 5
    assert not MemoryTokens.objects.exists()
    assert late_interaction.status(owner).bytes == 0
    assert list(Memory.objects.order_by("id").values()) == memories
    assert late_interaction.drop(owner) == 0


def test_removal_ends_when_somebody_switches_it_on(owner, reader, monkeypatch):
    add(owner, "a", "b", "c", "d")
    late_interaction.switch(owner, False)
    drop_some = token_work.drop_some

    def and_on() -> int:
        count = drop_some()
        late_interaction.switch(owner, True)
        return count

    monkeypatch.setattr(token_work, "_DROPPED_AT_ONCE", 2)
    monkeypatch.setattr(token_work, "drop_some", and_on)
    with pytest.raises(ConflictError):
        late_interaction.drop(owner)
    assert MemoryTokens.objects.count() == 2


# --- The command ---------------------------------------------------------------------------------
@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a model on disk, of which the stand-in has the key."""
    from memories.engine import token_reader

    monkeypatch.setattr(late_interaction, "find_prepared_model", lambda folder: True)
    monkeypatch.setattr(token_reader, "STATES_KEY", WordReader.states_key)


def command(*arguments: str) -> str:
    out = StringIO()
    call_command("token_states", *arguments, stdout=out)
    return out.getvalue()


@pytest.fixture
def three(owner: Any, reader: WordReader) -> list[Any]:
    """Three memories of before; no server runs."""
    ids = add(owner, "green tea", "black tea", "white tea")
    MemoryTokens.objects.all().delete()
    runtime.install(None)
    return ids


def test_the_command_says_how_it_is_and_makes_what_is_missing(three, prepared):
    told = command()
    assert "is on, as the environment says" in told
    assert "The model is ready." in told
    assert "0 of 3 memories have token states; 0.0 MB are kept." in told
    told = command("--make")
    assert "3 of 3\n" in told
    assert "3 of 3 memories" in told
    assert all(kept(id_) == right(id_) for id_ in three)
    assert Loader.loads == 1
    assert "3 of 3 memories" in command("--make")


def test_the_command_switches_and_removes(three, prepared):
    command("--make")
    with pytest.raises(CommandError, match="Late interaction is on"):
        command("--drop")
    assert "is off, as was chosen while running" in command("--off")
    with pytest.raises(CommandError, match="is off: switch it on"):
        command("--make")
    assert MemoryTokens.objects.count() == 3
    assert "Removed the token states of 3 memories." in command("--drop")
    assert not MemoryTokens.objects.exists()
    assert "is on, as the environment says" in command("--on")


def test_the_command_says_that_there_is_no_model(three, settings, tmp_path):
    settings.MODEL_DIR = tmp_path
    Loader.begin(present=False)
    with pytest.raises(CommandError, match="prepare_embedder"):
        command("--make")
    assert "is not prepared" in command()


@pytest.mark.parametrize("damage", [local_model.WeightsError("the model is damaged")])
def test_the_command_says_that_the_model_is_damaged(three, settings, monkeypatch, damage):
    def load() -> None:
        raise damage

    monkeypatch.setattr(Loader, "load", load)
    with pytest.raises(CommandError, match="damaged"):
        command("--make")


def test_the_command_refuses_two_things_at_once(db):
    with pytest.raises(CommandError, match="not allowed with"):
        command("--on", "--off")


def test_the_command_waits_for_a_server_that_is_at_it(three, prepared, monkeypatch):
    monkeypatch.setattr("memories.management.commands.token_states.WATCH_SECONDS", 0.01)
    until = timezone.now() + timedelta(seconds=30)
    lease = Lease.objects.create(name=token_work.LEASE, holder="another", until=until)
    seen: list[int] = []
    progress = token_work.measure_progress

    def watched(states_key: str) -> tuple[int, int]:
        seen.append(MemoryTokens.objects.count())
        if len(seen) == 3:  # the server is gone
            Lease.objects.filter(pk=lease.pk).update(until=timezone.now() - timedelta(seconds=1))
        return progress(states_key)

    monkeypatch.setattr(token_work, "measure_progress", watched)
    command("--make")
    assert seen[:3] == [0, 0, 0]
    assert all(kept(id_) == right(id_) for id_ in three)


def test_the_command_ends_when_it_is_switched_off_meanwhile(owner, three, prepared, monkeypatch):
    monkeypatch.setattr(token_work, "BATCH", 1)
    switched = threading.Event()

    def off(self: WordReader, texts: Any) -> Any:
        late_interaction.switch(owner, False)
        switched.set()
        return read(self, texts)

    read = WordReader.read
    monkeypatch.setattr(WordReader, "read", off)
    with pytest.raises(CommandError, match="is off"):
        command("--make")
    assert switched.is_set()
    # What was read by then is not kept: it may just be being removed.
    assert MemoryTokens.objects.count() == 0
