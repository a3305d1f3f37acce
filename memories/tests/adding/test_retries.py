"""Failed adds are tried again: by who sent them, with an Idempotency-Key, and by the operator."""

import io
import json
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from accounts.queries import operator_of, project_view
from core.errors import (
    ConflictError,
    EngineError,
    NotFoundError,
    PermissionDeniedError,
    ProviderError,
)
from core.principal import Principal, Scope
from memories import runtime
from memories.adding import claims
from memories.adding import service as adding
from memories.background import retention
from memories.editing import service as services
from memories.engine.engine import Engine
from memories.models import AddInput, IngestClaim, Memory, Revision
from memories.tests.provider_wire import facts
from memories.tests.providing import at_once

TURNS = [{"role": "user", "content": "green tea"}]


class Llm:
    """Extracts "Likes green tea" from "green tea"; or fails, or waits at its gate."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.calls = 0
        self.prompts: list[str] = []
        self.entered, self.gate = threading.Event(), threading.Event()
        self.gate.set()

    def generate_response(self, messages: Any, **options: Any) -> str:
        self.calls += 1
        self.prompts.append(messages[1]["content"])
        self.entered.set()
        self.gate.wait(10)
        if self.error:
            raise self.error
        [said] = facts(self.prompts[-1]) or ["nothing"]
        return json.dumps({"memory": [{"text": f"Likes {said}"}]})


@pytest.fixture
def llm(engine: runtime.Runtime) -> Llm:
    made = Llm()
    engine.engine.llm = made
    return made


def add(principal: Principal, content: str = "green tea", **fields: Any) -> Any:
    messages = [{"role": "user", "content": content}]
    given = {"messages": messages, "entities": {"user_id": "ann"}, **fields}
    return adding.add_memories(principal, **given)


def failing(llm: Llm, principal: Principal, content: str = "green tea", **fields: Any) -> AddInput:
    """A failed add."""
    llm.error = ProviderError("It is away.", code="provider_unavailable", cause="HTTP 500: gone")
    with pytest.raises(ProviderError):
        add(principal, content, **fields)
    llm.error = None
    return AddInput.objects.latest("created_at")


def outcomes() -> list[str]:
    return list(AddInput.objects.order_by("created_at").values_list("outcome", flat=True))


# --- By the operator -----------------------------------------------------------------------------
def test_a_failed_add_is_stored_under_its_own_input(owner, llm):
    kept = failing(llm, owner, metadata={"k": 1}, prompt="Only drinks.")
    added = adding.retry_add(owner, kept.id)
    assert [row["memory"] for row in added.results] == ["Likes green tea"]
    assert added.stored == "extracted"
    assert "Only drinks." in llm.prompts[-1]
    again = AddInput.objects.get()
    assert (again.id, again.outcome, again.results) == (kept.id, "stored", added.results)
    assert (again.reason, again.code, again.cause) == ("", "", "")
    assert again.created_at == kept.created_at
    memory = Memory.objects.get()
    assert (memory.batch_id, memory.metadata, memory.user_id) == (kept.id, {"k": 1}, "ann")
    assert Revision.objects.count() == 1
    assert not IngestClaim.objects.exists()


def test_what_fails_again_stays_failed_with_the_new_reason(owner, llm):
    kept = failing(llm, owner)
    assert (kept.reason, kept.cause) == ("It is away.", "HTTP 500: gone")
    llm.error = ProviderError("Too many.", code="provider_rate_limited", cause="HTTP 429: busy")
    with pytest.raises(ProviderError, match="Too many"):
        adding.retry_add(owner, kept.id)
    again = AddInput.objects.get()
    assert (again.outcome, again.reason) == ("failed", "Too many.")
    assert (again.code, again.cause) == ("provider_rate_limited", "HTTP 429: busy")
    assert again.messages == TURNS
    assert not Memory.objects.exists()
    assert not IngestClaim.objects.exists()
    llm.error = None
    assert len(adding.retry_add(owner, kept.id).results) == 1


def test_what_was_to_be_word_for_word_is_so_again(owner, llm, embedder):
    embedder.error = ProviderError("It is away.", code="provider_timeout")
    with pytest.raises(EngineError):
        add(owner, infer=False)
    embedder.error = None
    added = adding.retry_add(owner, AddInput.objects.get().id)
    assert added.stored == "verbatim"
    assert Memory.objects.get().text == "green tea"
    assert llm.calls == 0


def test_what_an_llm_was_to_extract_is_not_stored_word_for_word_without_one(owner, engine, llm):
    kept = failing(llm, owner)
    engine.engine.llm = None
    with pytest.raises(ConflictError, match="No LLM is configured"):
        adding.retry_add(owner, kept.id)
    assert outcomes() == ["failed"]
    assert not Memory.objects.exists()


def test_two_attempts_at_once_store_once(transactional_db, owner, llm):
    kept = failing(llm, owner)
    llm.gate.clear()
    threading.Timer(0.5, llm.gate.set).start()
    answers = at_once(lambda _: adding.retry_add(owner, kept.id), range(4))
    assert sum(isinstance(answer, adding.AddResult) for answer in answers) == 1
    assert sum(isinstance(answer, ConflictError) for answer in answers) == 3
    assert llm.calls == 2
    assert Memory.objects.count() == 1
    assert outcomes() == ["stored"]


def test_who_sends_the_same_while_it_is_tried_again_gets_its_answer(transactional_db, owner, llm):
    member = replace(owner, scopes=frozenset({Scope.READ, Scope.WRITE}))
    kept = failing(llm, member)
    llm.gate.clear()
    llm.entered.clear()

    def either(number: int) -> Any:
        if number == 0:
            return adding.retry_add(owner, kept.id).results
        assert llm.entered.wait(10)
        threading.Timer(0.3, llm.gate.set).start()
        return add(member).results

    first, second = at_once(either, range(2))
    assert first == second
    assert Memory.objects.count() == 1


def test_what_was_sent_again_with_success_is_not_tried_again(owner, llm):
    kept = failing(llm, owner)
    other = failing(llm, owner, "black tea")
    assert [one.id for one in adding.failed_adds(owner)] == [kept.id, other.id]
    add(owner)
    assert [one.id for one in adding.failed_adds(owner)] == [other.id]
    with pytest.raises(ConflictError, match="identical"):
        adding.retry_add(owner, kept.id)
    assert Memory.objects.count() == 1
    kept.refresh_from_db()
    assert kept.outcome == "failed"


def test_what_failed_three_times_is_stored_once(owner, llm, command):
    for _ in range(3):
        failing(llm, owner)
    out, well = command()
    assert well
    assert "1 of 1 adds went well." in out
    assert Memory.objects.count() == 1
    assert adding.failed_adds(owner) == []


def test_what_was_stored_before_it_was_sent_once_more_and_failed_is_tried_again(owner, llm):
    add(owner)
    kept = failing(llm, owner)
    assert [one.id for one in adding.failed_adds(owner)] == [kept.id]
    assert adding.retry_add(owner, kept.id).results == []  # mem0 knows it from the first time
    assert outcomes() == ["stored", "nothing"]


def test_only_failed_adds_can_be_tried_again(owner, llm):
    add(owner)
    done = AddInput.objects.get()
    with pytest.raises(ConflictError, match="has not failed"):
        adding.retry_add(owner, done.id)
    AddInput.objects.update(outcome=AddInput.Outcome.RUNNING)
    with pytest.raises(ConflictError, match="has not failed"):
        adding.retry_add(owner, done.id)


def test_an_erased_input_cannot_be_tried_again(owner, llm):
    kept = failing(llm, owner)
    [row] = add(owner, infer=False).results  # the same words, so that erasing it forgets them
    services.erase_memories(owner, [row["id"]])
    kept.refresh_from_db()
    assert kept.messages == []
    assert adding.failed_adds(owner) == []
    with pytest.raises(ConflictError, match="erased"):
        adding.retry_add(owner, kept.id)


def test_the_input_of_another_project_is_no_input(owner, llm, other_project):
    kept = failing(llm, owner)
    stranger = replace(owner, project=project_view(other_project))
    for attempt in (stranger, operator_of("other")):
        with pytest.raises(NotFoundError):
            adding.retry_add(attempt, kept.id)
        with pytest.raises(NotFoundError):
            adding.retry_add(attempt, uuid.uuid4())
        assert adding.failed_adds(attempt) == []


def test_trying_again_needs_scope_admin(owner, llm):
    kept = failing(llm, owner)
    member = replace(owner, scopes=frozenset(Scope) - {Scope.ADMIN})
    with pytest.raises(PermissionDeniedError):
        adding.retry_add(member, kept.id)
    with pytest.raises(PermissionDeniedError):
        adding.failed_adds(member)


def test_another_attempt_may_do_no_more_than_who_sent_it(owner, llm):
    writer = replace(owner, scopes=frozenset({Scope.READ, Scope.WRITE}))
    kept = failing(llm, writer, metadata={"review_status": "approved"})
    adding.retry_add(operator_of("default"), kept.id)
    assert Memory.objects.get().review_status == "unreviewed"
    reviewer = replace(owner, scopes=frozenset({Scope.WRITE, Scope.REVIEW}))
    kept = failing(llm, reviewer, "black tea", metadata={"review_status": "approved"})
    adding.retry_add(operator_of("default"), kept.id)
    assert Memory.objects.get(batch_id=kept.id).review_status == "approved"


def test_inputs_are_purged_after_their_time_but_not_while_they_are_tried_again(owner, llm):
    kept = failing(llm, owner)
    AddInput.objects.update(created_at=timezone.now() - timedelta(days=40))
    answer = llm.generate_response

    def purge_meanwhile(messages: Any, **options: Any) -> str:
        retention.purge_all()
        claims.end_expired(of_all_times=True)
        return answer(messages, **options)

    llm.generate_response = purge_meanwhile  # type: ignore[method-assign]
    assert len(adding.retry_add(owner, kept.id).results) == 1
    retention.purge_all()
    assert not AddInput.objects.exists()


# --- By command ----------------------------------------------------------------------------------
@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, engine: runtime.Runtime) -> Iterator[Any]:
    """`retry_adds` with the engine of the test; its output, and whether all went well."""
    monkeypatch.setattr(runtime, "engine_of", lambda wanted, former=None: engine.engine)

    def run(*arguments: str) -> tuple[str, bool]:
        out = io.StringIO()
        try:
            call_command("retry_adds", *arguments, stdout=out, stderr=out)
        except CommandError as error:
            return f"{out.getvalue()}{error}", False
        finally:
            runtime.install(engine)
        return out.getvalue(), True

    yield run


def test_the_command_tries_all_that_failed(owner, llm, command):
    kept = [failing(llm, owner, content) for content in ("green tea", "black tea")]
    out, well = command()
    assert well
    assert out.splitlines() == [
        f"{kept[0].id}: 1 memories",
        f"{kept[1].id}: 1 memories",
        "2 of 2 adds went well.",
    ]
    assert command() == ("0 of 0 adds went well.\n", True)


def test_the_command_lists_what_failed_and_why_without_trying(owner, llm, command):
    kept = failing(llm, owner)
    out, well = command("--list")
    assert well
    when = f"{kept.created_at:%Y-%m-%d %H:%M}"
    assert out == f"{kept.id}  {when}  It is away. HTTP 500: gone\n1 failed adds.\n"
    assert llm.calls == 1


def test_the_command_tries_the_named_ones_alone(owner, llm, command):
    one, two = (failing(llm, owner, content) for content in ("green tea", "black tea"))
    assert command("--id", str(two.id))[1]
    one.refresh_from_db()
    two.refresh_from_db()
    assert (one.outcome, two.outcome) == ("failed", "stored")
    out, well = command("--id", str(two.id), "--id", str(one.id))
    assert not well
    assert "has not failed" in out
    assert "1 of 2 adds went well." in out


def test_the_command_says_what_failed_again_and_ends_as_failed(owner, llm, command):
    kept = failing(llm, owner)
    llm.error = ProviderError("Too many.", code="provider_rate_limited", cause="HTTP 429: busy")
    out, well = command()
    assert not well
    assert f"{kept.id}: Too many. HTTP 429: busy" in out
    assert "0 of 1 adds went well." in out


def test_the_command_knows_no_add_of_another_project(owner, llm, command, other_project):
    kept = failing(llm, owner)
    out, well = command("--project", "other", "--id", str(kept.id))
    assert not well
    assert f"There is no add {kept.id}." in out
    assert outcomes() == ["failed"]
    assert command("--project", "nowhere")[1] is False


def test_a_server_that_is_alone_leaves_the_adds_of_a_command_in_peace(owner, llm):
    kept = failing(llm, owner)
    claims.take_over()
    answer = llm.generate_response

    def look_after_claims(messages: Any, **options: Any) -> str:
        claims._active.clear()  # as the serving process sees it: somebody else's
        assert claims.abandon_claims() == 0
        return answer(messages, **options)

    llm.generate_response = look_after_claims  # type: ignore[method-assign]
    assert len(adding.retry_add(owner, kept.id).results) == 1
    assert outcomes() == ["stored"]


def test_what_a_killed_command_left_running_fails_once_its_claim_runs_out(owner, llm):
    kept = failing(llm, owner)
    claims.take_over()
    AddInput.objects.update(outcome=AddInput.Outcome.RUNNING)
    until = timezone.now() + timedelta(seconds=60)
    claim = IngestClaim.objects.create(digest=kept.digest, input=kept, lease_until=until)
    assert claims.abandon_claims() == 0
    IngestClaim.objects.update(lease_until=timezone.now())
    assert claims.abandon_claims() == 1
    assert not IngestClaim.objects.filter(digest=claim.digest).exists()
    assert len(adding.retry_add(owner, kept.id).results) == 1


# --- With an Idempotency-Key ---------------------------------------------------------------------
@pytest.fixture
def post(api: Any) -> Any:
    def send(key: str, content: str = "green tea", **fields: Any) -> Any:
        body = {"messages": [{"role": "user", "content": content}], "user_id": "ann", **fields}
        return api.post("/memories", body, headers={"Idempotency-Key": key})

    return send


def test_the_same_request_with_the_same_key_gets_the_first_answer(post, llm):
    first = post("k1")
    assert first.status_code == 200
    for key in ("k1", " k1 "):
        again = post(key)
        assert (again.status_code, again.content) == (200, first.content)
    assert Memory.objects.count() == llm.calls == 1
    assert outcomes() == ["stored"]
    assert post("k2").json() == {"results": []}  # another key is another request; mem0 knows it
    assert post("").status_code == 200
    assert llm.calls == 3


def test_nothing_to_remember_is_an_answer_that_is_kept_too(post, llm):
    llm.generate_response = lambda messages, **options: '{"memory": []}'  # type: ignore[method-assign]
    assert post("k1").json() == {"results": []}
    del llm.generate_response
    assert post("k1").json() == {"results": []}
    assert outcomes() == ["nothing"]


def test_another_request_with_the_same_key_is_refused(post, llm):
    post("k1")
    for other in (post("k1", "black tea"), post("k1", infer=False), post("k1", metadata={"a": 1})):
        assert other.status_code == 409
        assert other.json() == {"detail": "This Idempotency-Key was used for a different request."}
    assert Memory.objects.count() == 1
    assert outcomes() == ["stored"]


def test_after_a_failure_the_key_tries_again(post, llm):
    llm.error = ProviderError("It is away.", code="provider_unavailable")
    assert post("k1").status_code == 502
    assert post("k1").status_code == 502
    llm.error = None
    answer = post("k1")
    assert answer.status_code == 200
    assert post("k1").content == answer.content
    assert Memory.objects.count() == 1
    assert outcomes() == ["failed", "failed", "stored"]
    assert AddInput.objects.filter(idempotency_key="k1").count() == 1


def test_a_key_is_answered_with_what_the_operator_made_good(post, owner, llm):
    llm.error = ProviderError("It is away.", code="provider_unavailable")
    post("k1")
    llm.error = None
    results = adding.retry_add(owner, AddInput.objects.get().id).results
    assert post("k1").json() == {"results": results}
    assert Memory.objects.count() == 1


@pytest.mark.parametrize("length", [255, 256, 5_000])
def test_a_key_has_a_limited_length(post, llm, length):
    answer = post("k" * length)
    if length == 255:
        assert answer.status_code == 200
        assert post("k" * length).content == answer.content
    else:
        assert answer.status_code == 400
        assert answer.json() == {"detail": "An Idempotency-Key has at most 255 characters."}
        assert not AddInput.objects.exists()


def test_a_key_of_another_project_is_another_key(post, key, as_key, llm, charlie, other_project):
    first = post("k1")
    stranger = as_key(key("read", "write", owner=charlie, project=other_project))
    body = {"messages": [{"role": "user", "content": "black tea"}], "user_id": "ann"}
    other = stranger.post("/memories", body, headers={"Idempotency-Key": "k1"})
    assert other.status_code == 200
    assert other.content != first.content
    assert Memory.objects.count() == 2


def together(token: str, bodies: list[dict[str, Any]], keys: list[str]) -> list[Any]:
    """Posts them all at once."""

    def send(number: int) -> Any:
        headers = {"X-API-Key": token, "Idempotency-Key": keys[number]}
        client = Client(raise_request_exception=False)
        kind = "application/json"
        return client.post("/memories", bodies[number], content_type=kind, headers=headers)

    return at_once(send, range(len(bodies)))


def body_of(content: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], "user_id": "ann"}


def test_the_same_key_at_once_stores_once(transactional_db, llm, key):
    llm.gate.clear()
    threading.Timer(0.5, llm.gate.set).start()
    answers = together(key(), [body_of("green tea")] * 6, ["k1"] * 6)
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert Memory.objects.count() == llm.calls == 1
    assert outcomes() == ["stored"]


def test_two_different_requests_with_one_key_at_once_are_one_answer_and_one_refusal(
    transactional_db, llm, key
):
    llm.gate.clear()
    threading.Timer(0.5, llm.gate.set).start()
    answers = together(key(), [body_of("green tea"), body_of("black tea")], ["k1", "k1"])
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    assert Memory.objects.count() == 1


def test_the_same_request_at_once_with_different_keys_is_stored_once_and_answered_twice(
    transactional_db, llm, key
):
    llm.gate.clear()
    threading.Timer(0.5, llm.gate.set).start()
    answers = together(key(), [body_of("green tea")] * 2, ["k1", "k2"])
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert Memory.objects.count() == 1


def left_running(owner: Principal, claimed: timedelta | None) -> AddInput:
    """What a killed process leaves of an add with the key "k1"."""
    error = KeyboardInterrupt()

    class Killed(Engine):
        def embed(self, texts: Any) -> Any:
            raise error

    engine = runtime.get_runtime().engine
    runtime.get_runtime().engine = Killed(engine.embedder)
    with pytest.raises(KeyboardInterrupt):
        add(owner, infer=False, idempotency_key="k1")
    runtime.get_runtime().engine = engine
    kept = AddInput.objects.get()
    AddInput.objects.update(outcome=AddInput.Outcome.RUNNING, reason="", finished_at=None)
    if claimed is not None:
        until = timezone.now() + claimed
        IngestClaim.objects.create(digest=kept.digest, input=kept, lease_until=until)
    return kept


@pytest.mark.parametrize(
    "claimed", [None, timedelta(seconds=-1), timedelta(seconds=0.5)], ids=["none", "over", "soon"]
)
@pytest.mark.parametrize("alone", [True, False])
def test_what_a_kill_left_running_does_not_hold_its_key(owner, engine, claimed, alone):
    kept = left_running(owner, claimed)
    if alone:
        claims._alone.set()
    started = time.monotonic()
    assert len(add(owner, infer=False, idempotency_key="k1").results) == 1
    assert time.monotonic() - started < 3
    assert Memory.objects.count() == 1
    kept.refresh_from_db()
    assert (kept.outcome, kept.reason) == ("failed", claims.STOPPED)
    assert not IngestClaim.objects.exists()


def test_after_a_restart_the_key_is_free_at_once(owner, engine):
    left_running(owner, timedelta(hours=1))
    assert claims.take_over() == 1
    assert len(add(owner, infer=False, idempotency_key="k1").results) == 1
    assert outcomes() == ["failed", "stored"]


def test_who_was_too_slow_stores_nothing_when_another_has_taken_over(owner, engine, monkeypatch):
    embed = engine.engine.embed

    def overtaken(texts: Any) -> Any:
        monkeypatch.undo()
        IngestClaim.objects.update(lease_until=timezone.now())
        add(owner, infer=False)
        return embed(texts)

    monkeypatch.setattr(engine.engine, "embed", overtaken)
    with pytest.raises(ConflictError, match="took too long"):
        add(owner, infer=False)
    assert Memory.objects.count() == 1
    assert sorted(outcomes()) == ["failed", "stored"]


def test_what_is_under_way_when_the_server_ends_is_failed_and_stores_nothing_later(
    owner, engine, monkeypatch
):
    assert claims.end_all() == 0
    embed = engine.engine.embed

    def end_meanwhile(texts: Any) -> Any:
        monkeypatch.undo()
        assert claims.end_all() == 1
        return embed(texts)

    monkeypatch.setattr(engine.engine, "embed", end_meanwhile)
    with pytest.raises(ConflictError):
        add(owner, infer=False)
    kept = AddInput.objects.get()
    assert (kept.outcome, kept.reason) == ("failed", claims.STOPPED)
    assert not Memory.objects.exists()
    assert len(adding.retry_add(owner, kept.id).results) == 1
