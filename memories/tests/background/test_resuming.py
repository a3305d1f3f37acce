"""Adds that a stop of the server cut off are tried again after the start, and not for ever."""

import uuid
from dataclasses import replace
from typing import Any

import pytest
from django.utils import timezone

from core.errors import ProviderError
from memories.adding import claims
from memories.adding import idempotency as ingest
from memories.adding import service as adding
from memories.background import resuming
from memories.models import AddInput, IngestClaim, Memory
from memories.tests.adding.test_retries import TURNS, Llm, add, llm

__all__ = ["llm"]


@pytest.fixture(autouse=True)
def _nothing_is_remembered() -> None:
    ingest._resumed.clear()


def cut_off(principal: Any, content: str = "green tea", **fields: Any) -> AddInput:
    """An add in the middle of which the server was killed, as the next start finds it."""
    messages = [{**TURNS[0], "content": content}]
    request = ingest.AddRequest(
        messages,
        {
            "entities": {"user_id": "ann"},
            "metadata": {},
            "expiration_date": None,
            "infer": True,
            "memory_type": None,
            "prompt": None,
            "collection": "conversational",
        },
        notes={"scopes": sorted(principal.scopes), "extracts": True, **fields},
    )
    kept, _ = ingest._claim(request, request.digest(principal), principal, uuid.uuid4())
    assert kept is not None
    claims.take_over()
    return AddInput.objects.get(pk=kept.pk)


def test_what_a_kill_cut_off_is_stored_under_its_own_input(owner: Any, llm: Llm) -> None:
    kept = cut_off(owner)
    assert (kept.outcome, kept.code, kept.reason) == ("failed", "interrupted", claims.STOPPED)
    assert resuming.resume() == 1
    assert (Memory.objects.get().batch_id, Memory.objects.get().text) == (
        kept.pk,
        "Likes green tea",
    )
    assert AddInput.objects.get().outcome == "stored"
    assert not IngestClaim.objects.exists()
    assert resuming.resume() == 0
    assert llm.calls == 1


def test_what_a_stop_cut_off_is_tried_again_as_well(owner: Any, llm: Llm) -> None:
    kept = cut_off(owner)
    AddInput.objects.update(outcome="running", code="", reason="")
    claims._active[kept.pk] = 0
    try:
        assert claims.end_all() == 1
    finally:
        claims._active.pop(kept.pk)
    assert resuming.resume() == 1
    assert Memory.objects.count() == 1


def test_what_fails_again_has_failed_with_its_reason_and_is_not_tried_again(
    owner: Any, llm: Llm
) -> None:
    cut_off(owner)
    llm.error = ProviderError("It is away.", code="provider_unavailable")
    assert resuming.resume() == 0
    kept = AddInput.objects.get()
    assert (kept.outcome, kept.reason, kept.code) == (
        "failed",
        "It is away.",
        "provider_unavailable",
    )
    llm.error = None
    assert resuming.resume() == 0
    assert llm.calls == 1
    assert len(adding.retry_add(owner, kept.pk).results) == 1


def test_what_was_sent_again_and_stored_meanwhile_is_not_stored_twice(owner: Any, llm: Llm) -> None:
    cut_off(owner)
    assert len(add(owner).results) == 1
    assert resuming.resume() == 0
    assert Memory.objects.count() == 1
    assert resuming._cut_off() == []


def test_who_sends_it_again_afterwards_gets_that_answer_once(owner: Any, llm: Llm) -> None:
    cut_off(owner)
    resuming.resume()
    [memory] = Memory.objects.all()
    again = add(owner)
    assert [row["id"] for row in again.results] == [str(memory.id)]
    assert (Memory.objects.count(), llm.calls) == (1, 1)
    add(owner)
    assert llm.calls == 2


def test_somebody_else_does_not_get_that_answer(owner: Any, llm: Llm) -> None:
    cut_off(owner)
    resuming.resume()
    other = replace(owner, scopes=owner.scopes - {next(iter(owner.scopes - {"write"}))})
    add(other)
    assert llm.calls == 2


def test_what_stops_the_server_each_time_is_given_up(owner: Any, llm: Llm) -> None:
    cut_off(owner)
    for _ in range(resuming.ATTEMPTS):
        llm.error = KeyboardInterrupt()  # type: ignore[assignment]  # as a kill: nothing is written
        with pytest.raises(KeyboardInterrupt):
            resuming.resume()
        AddInput.objects.update(outcome="running")
        claims.take_over()
    llm.error = None
    assert resuming.resume() == 0
    assert llm.calls == resuming.ATTEMPTS
    kept = AddInput.objects.get()
    assert (kept.outcome, kept.reason) == ("failed", resuming.GIVEN_UP)


def test_what_is_under_way_elsewhere_is_left_for_later(owner: Any, llm: Llm) -> None:
    kept = cut_off(owner)
    until = timezone.now() + timezone.timedelta(seconds=60)
    claim = IngestClaim.objects.create(digest=kept.digest, input=kept, lease_until=until)
    assert resuming.resume() == 0
    claim.delete()
    assert resuming.resume() == 1


def test_without_an_llm_what_was_to_be_extracted_stays_failed(
    owner: Any, engine: Any, llm: Llm
) -> None:
    cut_off(owner)
    engine.engine.llm = None
    assert resuming.resume() == 0
    assert "No LLM" in AddInput.objects.get().reason
    assert not Memory.objects.exists()
