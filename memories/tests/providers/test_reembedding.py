"""Changing the embedder: new vectors beside the old, one flip, and the way back."""

import threading

import numpy as np
import pytest
from django.core.management import call_command

from accounts.models import InstanceState
from core.errors import ConflictError, InvalidInputError, PermissionDeniedError, ProviderError
from jobs import leases
from memories import runtime
from memories.adding import service as adding
from memories.backfill import vectors
from memories.editing import service as services
from memories.engine import configuration
from memories.models import Memory, MemoryVector
from memories.models.server import EngineConfig, IndexState, Reembedding
from memories.providers import reembedding
from memories.search import service as search
from memories.tests.provider import Provider

OLD = "test/words-1"
NEW = "openai/text-embedding-3-small/1536"


def load_words():
    from conftest import WordEmbedder

    return WordEmbedder()


@pytest.fixture(autouse=True)
def _words(settings):
    settings.EMBEDDER_LOADER = "memories.tests.providers.test_reembedding.load_words"
    settings.PROVIDER_ATTEMPTS = 1


@pytest.fixture
def change(provider: Provider):
    config = {
        "model": "text-embedding-3-small",
        "openai_base_url": provider.url,
        "api_key": "sk-new-embedder-key",
    }
    return {"provider": "openai", "config": config}


def add(owner, *texts, user="ann"):
    found = []
    for text in texts:
        added = adding.add_memories(
            owner,
            messages=[{"role": "user", "content": text}],
            entities={"user_id": user},
            infer=False,
        )
        found += [r["id"] for r in added.results]
    return found


def found(owner, query):
    answer = search.search_memories(owner, query)
    assert answer.mode == "semantic"
    return [hit.memory.text for hit in answer.hits]


def test_search_stays_with_the_old_model_until_the_flip_and_then_uses_the_new(
    owner, engine, provider, change
):
    add(owner, "green tea", "black coffee")
    job = reembedding.start(owner, change)
    reembedding.work(job)
    assert found(owner, "green tea")[0] == "green tea"
    assert engine.engine.model_key == IndexState.objects.get().model_key == OLD
    asked = provider.embeddings.count
    assert reembedding.flip(engine)
    state = IndexState.objects.get()
    assert (state.model_key, state.dims) == (NEW, 1536)
    assert engine.engine.model_key == engine.indexer.model_key == NEW
    assert provider.embeddings.count == asked, "building the index embeds nothing"
    assert found(owner, "green tea")[0] == "green tea"
    assert provider.embeddings.count == asked + 1
    job.refresh_from_db()
    assert (job.state, reembedding.find_running()) == ("flipped", None)
    assert configuration.current_configuration().embedder.model == "text-embedding-3-small"


def test_both_vectors_are_kept_and_the_way_back_embeds_nothing_twice(
    owner, engine, embedder, provider, change
):
    add(owner, "green tea", "black coffee")
    job = reembedding.start(owner, change)
    reembedding.work(job)
    reembedding.flip(engine)
    add(owner, "white wine")
    assert MemoryVector.objects.filter(model_key=OLD).count() == 2
    back = reembedding.start_back(owner)
    reembedding.work(back)
    reembedding.flip(engine)
    assert engine.engine.model_key == OLD
    assert configuration.current_configuration().embedder is None
    assert MemoryVector.objects.filter(model_key=OLD).count() == 3
    assert found(owner, "white wine")[0] == "white wine"
    assert reembedding.drop_former(owner) == 3
    assert set(MemoryVector.objects.values_list("model_key", flat=True)) == {OLD}


def test_what_is_added_changed_and_deleted_meanwhile_is_right_after_the_flip(
    owner, engine, provider, change
):
    one, two = add(owner, "green tea", "black coffee", "red wine")[:2]
    job = reembedding.start(owner, change)
    reembedding.work(job)
    services.update_memory(owner, one, text="peppermint tea")
    services.delete_memory(owner, two)
    add(owner, "orange juice")
    # The next round finds what is lacking again.
    Reembedding.objects.update(embedded_at=None)
    reembedding.work(job)
    reembedding.flip(engine)
    assert found(owner, "peppermint")[0] == "peppermint tea"
    assert found(owner, "orange juice")[0] == "orange juice"
    live = Memory.objects.filter(deleted_at=None)
    assert set(live.filter(vectors__model_key=NEW)) == set(live)
    assert "black coffee" not in found(owner, "black coffee")
    services.restore_memories(owner, [Memory.objects.get(id=two).id])
    vectors.embed_missing(engine)
    assert found(owner, "black coffee")[0] == "black coffee"


def test_an_add_that_was_under_way_at_the_flip_gets_its_vector_afterwards(
    owner, engine, provider, change
):
    add(owner, "green tea")
    job = reembedding.start(owner, change)
    reembedding.work(job)
    [late] = add(owner, "black coffee")
    reembedding.flip(engine)
    assert not MemoryVector.objects.filter(memory_id=late, model_key=NEW).exists()
    assert search.search_memories(owner, "coffee").hits[0].memory.text == "black coffee"
    assert vectors.embed_missing(engine) == 1
    assert MemoryVector.objects.filter(memory_id=late, model_key=NEW).exists()


def test_it_goes_on_where_it_was_interrupted(owner, engine, provider, change, monkeypatch):
    monkeypatch.setattr(reembedding, "BATCH", 2)
    add(owner, *(f"fact number {n}" for n in range(7)))
    job = reembedding.start(owner, change)
    stop = threading.Event()

    def after_two_batches(done, total):
        assert total == 7
        if done >= 4:
            stop.set()

    reembedding.work(job, stop=stop, show=after_two_batches)
    job.refresh_from_db()
    assert job.embedded_at is None
    assert reembedding.measure_progress(job) == (4, 7)
    assert not reembedding.flip(engine)
    texts = sum(len(r.body["input"]) for r in provider.embeddings.requests)
    reembedding.work(job)
    assert reembedding.measure_progress(job) == (7, 7)
    again = sum(len(r.body["input"]) for r in provider.embeddings.requests)
    assert again - texts == 3, "what was embedded is not embedded again"


def test_a_provider_that_does_not_answer_is_asked_until_it_does(
    owner, engine, provider, change, monkeypatch
):
    monkeypatch.setattr(reembedding, "PAUSE_SECONDS", 0.01)
    add(owner, "green tea")
    job = reembedding.start(owner, change)
    provider.embeddings.fail(503, times=3)
    reembedding.work(job)
    job.refresh_from_db()
    assert job.embedded_at is not None
    assert job.problem == ""


def test_a_provider_that_refuses_ends_the_round_with_its_words(owner, engine, provider, change):
    add(owner, "green tea")
    job = reembedding.start(owner, change)
    provider.embeddings.fail(401)
    with pytest.raises(ProviderError):
        reembedding.work(job)
    job.refresh_from_db()
    assert "authentication" in job.problem
    assert job.state == "running", "once the key is right it goes on"
    assert "sk-new-embedder-key" not in job.problem


def test_vectors_of_wrong_dimensions_never_get_in(owner, engine, provider, change):
    add(owner, "green tea")
    job = reembedding.start(owner, change)
    provider.embeddings.wrong_dims(7)
    with pytest.raises(ProviderError, match="7 dimensions"):
        reembedding.work(job)
    assert not MemoryVector.objects.filter(model_key=NEW).exists()


def test_cancelling_leaves_search_alone_and_drops_what_was_made(owner, engine, provider, change):
    add(owner, "green tea")
    job = reembedding.start(owner, change)
    reembedding.work(job)
    reembedding.cancel(owner)
    assert not MemoryVector.objects.filter(model_key=NEW).exists()
    assert not reembedding.flip(engine)
    assert found(owner, "green tea") == ["green tea"]
    with pytest.raises(ConflictError):
        reembedding.cancel(owner)


def test_a_flip_that_fails_changes_nothing(owner, engine, provider, change, monkeypatch):
    add(owner, "green tea")
    job = reembedding.start(owner, change)
    reembedding.work(job)
    monkeypatch.setattr(configuration, "save", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        reembedding.flip(engine)
    monkeypatch.undo()
    assert engine.engine.model_key == engine.indexer.model_key == OLD
    assert IndexState.objects.get().model_key == OLD
    assert reembedding.find_running() == job
    assert found(owner, "green tea") == ["green tea"]
    assert not EngineConfig.objects.exists()
    assert reembedding.flip(engine)


def test_another_passage_meanwhile_is_refused_and_so_is_one_that_changes_nothing(
    owner, engine, provider, change
):
    add(owner, "green tea")
    with pytest.raises(ConflictError, match="already"):
        reembedding.start(owner, None)
    reembedding.start(owner, change)
    with pytest.raises(ConflictError, match="already"):
        reembedding.start(owner, change)


def test_two_processes_never_embed_at_once(owner, engine, provider, change):
    add(owner, "green tea")
    job = reembedding.start(owner, change)
    assert leases.acquire(reembedding.LEASE, holder="somebody else:1:x")
    asked = provider.embeddings.count
    with pytest.raises(ConflictError):
        reembedding.work(job)
    assert provider.embeddings.count == asked


def test_the_new_embedder_has_to_be_usable_before_anything_begins(owner, engine, provider, change):
    provider.embeddings.fail(500)
    with pytest.raises(ProviderError):
        reembedding.start(owner, change)
    provider.heal()
    with pytest.raises(InvalidInputError):
        reembedding.start(owner, {"provider": "anthropic"})
    assert not Reembedding.objects.exists()


def test_only_the_instance_owner_may(owner, engine, change):
    from dataclasses import replace

    other = replace(owner, is_owner=False)
    for attempt in (
        lambda: reembedding.start(other, change),
        lambda: reembedding.start_back(other),
        lambda: reembedding.cancel(other),
        lambda: reembedding.drop_former(other),
    ):
        with pytest.raises(PermissionDeniedError):
            attempt()


def test_there_is_no_way_back_without_a_former_embedder(owner, engine):
    with pytest.raises(ConflictError, match="no former"):
        reembedding.start_back(owner)


def test_no_secret_is_stored_in_the_clear(owner, engine, provider, change):
    add(owner, "green tea")
    job = reembedding.start(owner, change)
    reembedding.work(job)
    reembedding.flip(engine)
    kept = [*Reembedding.objects.values_list("config", "former_config")]
    kept += [*EngineConfig.objects.values_list("config", flat=True)]
    assert "sk-new-embedder-key" not in str(kept)
    assert configuration.current_configuration().embedder.config["api_key"] == "sk-new-embedder-key"


def test_the_command_does_it_all_while_no_server_runs(
    owner, engine, provider, tmp_path, settings, capsys
):
    InstanceState.objects.update(encryption_check="")
    add(owner, "green tea", "black coffee")
    engine.indexer.settle()
    engine.indexer.index.close()
    settings.DATA_DIR = tmp_path / "own"
    key = tmp_path / "key"
    key.write_text("sk-new-embedder-key\n")
    runtime.install(None)
    call_command(
        "reembed",
        provider="openai",
        model="text-embedding-3-small",
        base_url=provider.url,
        api_key_file=str(key),
    )
    said = capsys.readouterr().out
    assert "2 of 2" in said
    assert f"{OLD} → {NEW} (flipped)" in said
    assert IndexState.objects.get().model_key == NEW
    opened = runtime.open_runtime()
    try:
        assert opened.engine.model_key == NEW
        runtime.install(opened)
        assert found(owner, "green tea")[0] == "green tea"
    finally:
        runtime.install(engine)
        opened.close()
    vector = MemoryVector.objects.filter(model_key=NEW).first()
    assert len(np.frombuffer(vector.data, "<f4")) == 1536
