"""Adds: one at a time per content, all or nothing, and no failure loses what was sent."""

import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from django.db import connection
from django.utils import timezone

from core.errors import (
    ConflictError,
    EngineError,
    IndexUnavailableError,
    NotFoundError,
    ProviderError,
)
from memories.adding import claims
from memories.adding import idempotency as ingest
from memories.adding.idempotency import AddRequest
from memories.backfill import vectors
from memories.editing import service as services
from memories.engine.engine import Engine
from memories.models import AddInput, IngestClaim, Memory, MemoryVector, Revision
from memories.search.service import search_memories
from memories.tests.actions import add, meant, said, settled


def at_once(work, arguments) -> list:
    """What `work` answers or raises for each argument, all started together."""

    def run(argument):
        try:
            return work(argument)
        except EngineError as error:
            return error
        finally:
            connection.close()

    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(run, arguments))


@pytest.fixture
def slow(embedder, monkeypatch):
    """Makes the embedder take its time, so that requests meet."""
    embed = embedder.embed

    def sleep_then_embed(texts):
        time.sleep(0.4)
        return embed(texts)

    monkeypatch.setattr(embedder, "embed", sleep_then_embed)
    return embedder


@pytest.fixture
def without_embedder(engine, monkeypatch):
    """The same index, and no model to make vectors with."""
    with_embedder = engine.engine
    engine.engine = Engine(None)
    return lambda: setattr(engine, "engine", with_embedder)


# --- One at a time per content -------------------------------------------------------------------
def test_identical_adds_at_once_store_once_and_get_the_same_answer(
    transactional_db, owner, engine, slow
):
    answers = at_once(lambda _: add(owner, "green tea", "black tea"), range(8))
    assert Memory.objects.count() == 2
    assert len(slow.batches) == 1
    assert all(answer == answers[0] for answer in answers)
    assert set(answers[0]) == set(Memory.objects.values_list("id", flat=True))
    assert AddInput.objects.get().outcome == AddInput.Outcome.STORED
    assert not IngestClaim.objects.exists()
    assert Revision.objects.count() == 2


def test_different_adds_at_once_are_all_stored(transactional_db, owner, engine, embedder):
    answers = at_once(lambda n: add(owner, f"tea number {n}", user_id=f"u{n % 3}"), range(12))
    assert len({id_ for [id_] in answers}) == Memory.objects.count() == 12
    assert engine.index.count() == 12
    assert len(embedder.batches) == 12


def test_identical_adds_that_fail_fail_for_all_of_them(transactional_db, owner, engine, slow):
    slow.error = RuntimeError("no model")
    answers = at_once(lambda _: add(owner, "green tea"), range(4))
    assert all(isinstance(answer, EngineError) for answer in answers)
    assert not Memory.objects.exists()
    assert not IngestClaim.objects.exists()


@pytest.mark.django_db
def test_the_same_content_one_after_the_other_is_stored_twice(owner, engine):
    assert add(owner, "green tea") != add(owner, "green tea")
    assert Memory.objects.count() == 2


def test_only_the_whole_request_makes_two_adds_the_same(owner):
    def digest(messages=("tea",), principal=owner, **options):
        given = [{"role": "user", "content": text} for text in messages]
        return AddRequest(given, {"infer": False, **options}).digest(principal)

    same = digest()
    assert same == digest()
    other_project = replace(owner, project=replace(owner.project, id=uuid.uuid4()))
    for other in (
        digest(("Tea",)),
        digest(("tea", "tea")),
        digest(infer=True),
        digest(entities={"user_id": "a"}),
        digest(metadata={"k": 1}),
        digest(principal=other_project),
        digest(principal=replace(owner, scopes=frozenset(["write"]))),
    ):
        assert other != same
    # Who asks does not matter, as long as they may do the same.
    assert digest(principal=replace(owner, account_id=uuid.uuid4(), request_id="x")) == same


# --- Leases --------------------------------------------------------------------------------------
def left_behind(owner, lease: timedelta) -> AddInput:
    """An add of "green tea" whose process has died."""
    request = AddRequest([{"role": "user", "content": "green tea"}], {"n": 1})
    now = timezone.now()
    kept = AddInput.objects.create(
        project_id=owner.project.id,
        messages=request.messages,
        options=dict(request.options),
        created_at=now - timedelta(hours=1),
    )
    IngestClaim.objects.create(digest=request.digest(owner), input=kept, lease_until=now + lease)
    return kept


def run(owner, work=lambda: None):
    request = AddRequest([{"role": "user", "content": "green tea"}], {"n": 1})
    with ingest.once(request, owner) as claim:
        if claim.answer is not None:
            return claim.answer
        work()
        claim.finish([{"id": "new"}])
    return [{"id": "new"}]


@pytest.mark.django_db
def test_an_expired_lease_is_taken_over(owner):
    dead = left_behind(owner, timedelta(seconds=-1))
    assert run(owner) == [{"id": "new"}]
    assert not IngestClaim.objects.exists()
    dead.refresh_from_db()
    assert dead.outcome == AddInput.Outcome.RUNNING  # its own end is not known
    assert AddInput.objects.count() == 2


@pytest.mark.django_db
def test_a_lease_that_runs_out_while_another_waits_is_taken_over(owner):
    left_behind(owner, timedelta(seconds=0.3))
    started = time.monotonic()
    assert run(owner) == [{"id": "new"}]
    assert time.monotonic() - started >= 0.25


@pytest.mark.django_db
def test_what_a_stopped_process_left_running_is_marked_as_failed(owner):
    dead = left_behind(owner, timedelta(hours=1))
    assert claims.take_over() == 1
    dead.refresh_from_db()
    assert dead.outcome == AddInput.Outcome.FAILED
    assert "stopped" in dead.reason
    assert dead.finished_at is not None
    assert dead.messages == [{"role": "user", "content": "green tea"}]
    assert not IngestClaim.objects.exists()
    assert run(owner) == [{"id": "new"}]
    assert claims.take_over() == 0


@pytest.mark.django_db
def test_an_error_of_any_kind_gives_the_claim_up_and_keeps_the_input(owner):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(owner, stop)
    kept = AddInput.objects.get()
    assert (kept.outcome, kept.reason) == (AddInput.Outcome.FAILED, "Internal error.")
    assert run(owner) == [{"id": "new"}]


# --- Failures ------------------------------------------------------------------------------------
def test_a_failing_embedder_stores_nothing_and_a_retry_stores(owner, engine, embedder):
    embedder.error = ConnectionError("secret-host refused")
    with pytest.raises(EngineError):
        add(owner, "green tea")
    kept = AddInput.objects.get()
    assert kept.outcome == AddInput.Outcome.FAILED
    assert kept.reason == "The embedding model failed."
    assert kept.messages == [{"role": "user", "content": "green tea"}]
    assert kept.options["entities"] == {"user_id": "alice"}
    assert kept.finished_at is not None
    assert not Memory.objects.exists()
    assert not Revision.objects.exists()
    assert not IngestClaim.objects.exists()
    embedder.error = None
    [one] = add(owner, "green tea")
    assert [hit.memory.id for hit in search_memories(owner, "green tea").hits] == [one]


@pytest.mark.parametrize(
    "vectors",
    [
        np.ones((1, 63)),
        np.ones((1, 65)),
        np.ones((2, 64)),
        np.ones((0, 64)),
        np.full((1, 64), np.nan),
        np.full((1, 64), np.inf),
        [[1.0] * 63 + [-np.inf]],
        [["x"] * 64],
        None,
    ],
    ids=["short", "long", "many", "none", "nan", "inf", "-inf", "words", "nothing"],
)
def test_an_unusable_vector_is_an_error_and_nothing_is_stored(
    owner, engine, embedder, monkeypatch, vectors
):
    monkeypatch.setattr(embedder, "embed", lambda texts: vectors)
    with pytest.raises(ProviderError):
        add(owner, "green tea")
    assert not Memory.objects.exists()
    assert engine.index.count() == 0
    assert AddInput.objects.get().outcome == AddInput.Outcome.FAILED


def test_a_query_that_got_an_unusable_vector_is_embedded_anew(owner, engine, embedder, monkeypatch):
    [one] = add(owner, "green tea")
    monkeypatch.setattr(embedder, "embed", lambda texts: np.full((1, 64), np.nan))
    assert search_memories(owner, "green tea").problem == "provider_bad_reply"
    monkeypatch.undo()
    assert search_memories(owner, "green tea").mode == "semantic"
    assert [hit.memory.id for hit in search_memories(owner, "green tea").hits] == [one]


def test_many_messages_are_embedded_in_one_batch(owner, engine, embedder):
    ids = add(owner, "green tea", "black tea", "white tea")
    assert [len(batch) for batch in embedder.batches] == [3]
    assert MemoryVector.objects.count() == len(ids) == 3
    stored = {v.memory_id: np.frombuffer(v.data, "<f4") for v in MemoryVector.objects.all()}
    assert all(np.linalg.norm(vector) == pytest.approx(1) for vector in stored.values())


# --- Without an embedder -------------------------------------------------------------------------
def test_without_an_embedder_adds_are_stored_and_found_by_words(owner, engine, without_embedder):
    [one] = add(owner, "green tea")
    assert not MemoryVector.objects.exists()
    found = search_memories(owner, "tea")
    assert ([hit.memory.id for hit in found.hits], found.mode) == ([one], "keyword")


def test_missing_vectors_are_made_later(owner, engine, embedder, without_embedder):
    ids = [id_ for n in range(40) for id_ in add(owner, f"tea number {n}")]
    services.delete_memory(owner, ids.pop())
    settled(engine)
    without_embedder()
    assert vectors.embed_missing(engine) == 39
    assert [len(batch) for batch in embedder.batches] == [32, 7]
    assert set(meant(engine.index, embedder, "tea")) == set(ids)
    assert set(MemoryVector.objects.values_list("memory_id", flat=True)) == set(ids)
    assert vectors.embed_missing(engine) == 0
    assert said(engine.index, "tea") == set(ids)


def test_a_text_that_changes_while_its_vector_is_made_keeps_the_newer_vector(
    owner, engine, embedder, without_embedder, monkeypatch
):
    [one] = add(owner, "green tea")
    without_embedder()
    embed = embedder.embed

    def change_meanwhile(texts):
        monkeypatch.undo()
        services.update_memory(owner, one, text="cold coffee")
        return embed(texts)

    monkeypatch.setattr(embedder, "embed", change_meanwhile)
    vectors.embed_missing(engine)
    vector = np.frombuffer(MemoryVector.objects.get().data, "<f4")
    assert np.allclose(vector, engine.engine.embed(["cold coffee"])[0])
    assert meant(engine.index, embedder, "cold coffee") == [one]


def test_metadata_that_changes_while_the_vector_is_made_leaves_no_gap(
    owner, engine, embedder, without_embedder, monkeypatch
):
    [one] = add(owner, "green tea")
    without_embedder()
    embed = embedder.embed

    def change_meanwhile(texts):
        monkeypatch.undo()
        services.update_memory(owner, one, metadata={"k": 1})
        return embed(texts)

    monkeypatch.setattr(embedder, "embed", change_meanwhile)
    vectors.embed_missing(engine)
    assert MemoryVector.objects.get().memory_id == one


def test_a_vector_that_the_index_did_not_take_is_brought_to_it_later(
    owner, engine, embedder, without_embedder, monkeypatch
):
    [one] = add(owner, "green tea")
    settled(engine)
    without_embedder()

    def fail(points):
        raise IndexUnavailableError("The disk is full.")

    monkeypatch.setattr(engine.index, "upsert", fail)
    vectors.embed_missing(engine)
    monkeypatch.undo()
    settled(engine)
    assert meant(engine.index, embedder, "green tea") == [one]


# --- Updates -------------------------------------------------------------------------------------
def test_a_new_text_is_embedded_once_and_other_changes_not_at_all(owner, engine, embedder):
    [one] = add(owner, "green tea")
    embedder.batches.clear()
    services.update_memory(owner, one, metadata={"k": 1})
    services.update_memory(owner, one, expiration_date=timezone.now().date())
    services.update_memory(owner, one, text="green tea")
    assert embedder.batches == []
    services.update_memory(owner, one, text="cold coffee", metadata={"k": 2})
    assert [len(batch) for batch in embedder.batches] == [1]
    assert meant(engine.index, embedder, "cold coffee") == [one]
    assert MemoryVector.objects.count() == 1


def test_an_update_whose_embedding_fails_changes_nothing(owner, engine, embedder):
    [one] = add(owner, "green tea")
    before = Memory.objects.values().get(id=one)
    vector = bytes(MemoryVector.objects.get().data)
    embedder.error = ConnectionError()
    with pytest.raises(EngineError):
        services.update_memory(owner, one, text="cold coffee", metadata={"k": 1})
    assert Memory.objects.values().get(id=one) == before
    assert bytes(MemoryVector.objects.get().data) == vector
    assert Revision.objects.filter(memory_id=one).count() == 1


def test_an_update_of_what_is_deleted_meanwhile_finds_nothing(owner, engine, embedder, monkeypatch):
    [one] = add(owner, "green tea")
    embed = embedder.embed

    def delete_meanwhile(texts):
        monkeypatch.undo()
        services.delete_memory(owner, one)
        return embed(texts)

    monkeypatch.setattr(embedder, "embed", delete_meanwhile)
    with pytest.raises(NotFoundError):
        services.update_memory(owner, one, text="cold coffee")
    row = Memory.objects.get(id=one)
    assert (row.text, row.deleted_at is not None) == ("green tea", True)
    assert engine.index.count() == 0


def test_a_text_that_is_changed_meanwhile_never_loses_its_vector(
    owner, engine, embedder, monkeypatch
):
    [one] = add(owner, "green tea")
    find = services.queries.find

    def find_then_change(principal, memory_id):
        monkeypatch.undo()
        row = find(principal, memory_id)
        services.update_memory(owner, one, text="cold coffee")
        return row

    monkeypatch.setattr(services.queries, "find", find_then_change)
    with suppress(ConflictError):
        services.update_memory(owner, one, text="green tea")  # as it is, when it is looked at
    engine.tick()
    assert meant(engine.index, embedder, Memory.objects.get(id=one).text) == [one]
