"""Adds through real HTTP to a provider that misbehaves: each ends in a clear outcome."""

import json
import time
from collections.abc import Callable
from itertools import cycle
from typing import Any

import numpy as np
import pytest
from django.test import Client

from accounts.models import Project
from memories import runtime
from memories.adding import service as adding
from memories.adding.extraction import LANGUAGE
from memories.engine import clients
from memories.models import AddInput, IngestClaim, Memory, MemoryVector, Revision, SessionMessage
from memories.tests.provider import Provider
from memories.tests.providing import (
    KEY,
    SENTENCES,
    assert_failed,
    at_once,
    be_impatient,
    do_not_sleep,
    llm_at,
    nothing_is_stored,
    use_embedder,
    use_llm,
)

pytestmark = pytest.mark.one_form

TURNS = [{"role": "user", "content": "I live in Lisbon. I only eat vegan food."}]
FACTS = ["I live in Lisbon.", "I only eat vegan food."]

Break = Callable[[Provider], Any]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    return do_not_sleep(monkeypatch)


@pytest.fixture
def extracting(
    engine: runtime.Runtime,
    provider: Provider,
    settings: Any,
    pauses: list[float],
    request: pytest.FixtureRequest,
) -> runtime.Runtime:
    """The engine with the stub's LLM and embedder; with little patience where something hangs."""
    if "hangs" in request.node.name or "never_ends" in request.node.name:
        be_impatient(settings)
    use_llm(engine, provider)
    use_embedder(engine, provider)
    return engine


@pytest.fixture
def post(api: Any, extracting: runtime.Runtime) -> Callable[..., Any]:
    """POST /memories of the two facts."""

    def send(messages: Any = TURNS, **fields: Any) -> Any:
        headers = fields.pop("headers", {})
        body = {"messages": messages, "user_id": "ann", **fields}
        return api.post("/memories", body, headers=headers)

    return send


def texts() -> list[str]:
    return list(Memory.objects.order_by("created_at", "seq").values_list("text", flat=True))


def asked(provider: Provider, nth: int = -1) -> str:
    """What the LLM was asked, without the instructions that are the same for all."""
    return str(provider.chat.requests[nth].body["messages"][-1]["content"])


# --- What goes well ------------------------------------------------------------------------------
def test_facts_are_extracted_stored_and_found(post, api, provider):
    answer = post(metadata={"source": "chat"})
    assert answer.status_code == 200
    assert answer["X-Mem0dash-Stored"] == "extracted"
    results = answer.json()["results"]
    assert [list(row) for row in results] == [["id", "memory", "event"]] * 2
    assert [row["memory"] for row in results] == texts() == FACTS
    assert {row.source for row in Memory.objects.all()} == {"chat"}
    assert MemoryVector.objects.count() == Revision.objects.count() == 2
    assert provider.chat.count == 1
    [hit, *_] = api.search("Lisbon", user_id="ann")
    assert hit["memory"] == FACTS[0]
    kept = AddInput.objects.get()
    assert (kept.outcome, kept.results) == ("stored", results)


def test_the_prompt_of_a_call_wins_over_the_instructions_of_the_project(post, provider, project):
    Project.objects.filter(id=project.id).update(instructions="Only what concerns work.")
    post()
    assert "Only what concerns work." in asked(provider)
    post(prompt="Only what concerns food.")
    assert "Only what concerns food." in asked(provider)
    assert "work" not in asked(provider).rpartition("Custom Instructions")[2]


@pytest.mark.parametrize(
    "said",
    [
        "Ich wohne in München und esse kein Fleisch.",
        "我住在里斯本，只吃素食。",
        "أعيش في لشبونة ولا آكل اللحم.",
        "Я живу в Лиссабоне 🌻.",
    ],
    ids=["German", "Chinese", "Arabic", "Russian"],
)
@pytest.mark.parametrize("prompt", [None, "Only what lasts."])
def test_what_was_said_stays_in_its_language(post, provider, said, prompt):
    answer = post([{"role": "user", "content": said}], prompt=prompt)
    assert LANGUAGE in asked(provider)
    assert said in asked(provider)
    assert [row["memory"] for row in answer.json()["results"]] == texts() == [said]
    assert said in answer.content.decode()


def test_word_for_word_never_asks_the_llm(post, provider):
    provider.chat.fail(500)
    answer = post(infer=False)
    assert (answer.status_code, answer["X-Mem0dash-Stored"]) == (200, "verbatim")
    assert texts() == [TURNS[0]["content"]]
    assert provider.chat.count == 0


def test_only_what_the_system_says_is_nothing_to_ask_about(post, provider):
    answer = post([{"role": "system", "content": "You are kind."}])
    assert (answer.status_code, answer.json()) == (200, {"results": []})
    assert len(provider.requests) == 0


def test_a_procedural_memory_keeps_the_summary_for_its_agent(post, provider):
    assert post(memory_type="procedural_memory").status_code == 400
    assert provider.chat.count == 0
    answer = post(memory_type="procedural_memory", agent_id="crawler", prompt="Summarise it.")
    [row] = answer.json()["results"]
    assert row["memory"].startswith("## Summary of the agent's execution history\n")
    assert TURNS[0]["content"] in row["memory"]
    stored = Memory.objects.get()
    assert (stored.text, stored.memory_type) == (row["memory"], "procedural_memory")
    assert (stored.agent_id, stored.user_id) == ("crawler", "ann")
    assert provider.chat.requests[-1].body["messages"][0]["content"] == "Summarise it."


@pytest.mark.parametrize("said", ["", None, "<think>Hm.</think>", "```\n\n```"])
def test_an_empty_procedural_memory_is_a_failure(post, provider, said):
    provider.chat.answer(said)
    answer = post(memory_type="procedural_memory", agent_id="crawler")
    assert_failed(answer, "provider_bad_reply")
    assert nothing_is_stored()


def test_identical_adds_at_once_are_one_call_and_one_answer(
    transactional_db, owner, extracting, provider, key
):
    provider.chat.slow(0.5)
    token = key()

    def send(_: int) -> Any:
        body = {"messages": TURNS, "user_id": "ann"}
        headers = {"X-API-Key": token}
        return Client().post("/memories", body, content_type="application/json", headers=headers)

    answers = at_once(send, range(8))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert [row["memory"] for row in answers[0].json()["results"]] == FACTS
    assert provider.chat.count == 1
    assert Memory.objects.count() == Revision.objects.count() == 2
    assert AddInput.objects.get().outcome == "stored"
    assert not IngestClaim.objects.exists()


def test_identical_adds_at_once_fail_alike(transactional_db, owner, extracting, provider):
    provider.chat.slow(0.5)
    provider.chat.fail(401)
    add = lambda _: adding.add_memories(owner, messages=TURNS, entities={"user_id": "ann"})  # noqa: E731
    errors = at_once(add, range(4))
    assert {error.code for error in errors} == {"provider_auth_failed"}
    assert provider.chat.count == 1
    assert nothing_is_stored()


# --- Replies -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('<think>Is {this} {"memory": []}?</think>\n', ""),
        ("The user says {much}.</think>", ""),
        ("Here are the memories:\n```json\n", "\n```\nAnything else?"),
        ('<think>{"memory": [</think>Sure! Here:\n```\n', "\n```\nBye {x}."),
        ('In the form {"memory": []}, as you wish: ', ""),
        ("\ufeff \n", "\n\n"),
    ],
)
def test_thoughts_prose_and_fences_around_the_answer_are_no_harm(post, provider, before, after):
    provider.chat.dress(before, after)
    assert [row["memory"] for row in post().json()["results"]] == texts() == FACTS
    assert provider.chat.count == 1


def test_an_empty_list_is_nothing_to_remember(post, provider):
    provider.chat.empty_list()
    answer = post()
    assert (answer.status_code, answer.json()) == (200, {"results": []})
    kept = AddInput.objects.get()
    assert (kept.outcome, kept.reason, kept.code, kept.results) == ("nothing", "", "", [])
    assert kept.messages == TURNS
    assert not Memory.objects.exists()
    assert provider.chat.count == 1


def test_blank_memories_are_none(post, provider):
    provider.chat.answer_memories("", "  \n", "Likes tea")
    assert [row["memory"] for row in post().json()["results"]] == texts() == ["Likes tea"]


def test_what_no_database_keeps_is_taken_out_of_what_the_llm_writes(post, provider):
    provider.chat.answer(
        r'{"memory": [{"text": "Likes\u0000 tea \ud83d", "attributed_to": "\u0000"}]}'
    )
    [row] = post().json()["results"]
    assert row["memory"] == "Likes tea \ufffd"
    assert texts() == ["Likes tea \ufffd"]


def test_tags_in_the_middle_of_a_memory_are_kept(post, provider):
    said = ["Asks what <think> means", "and what </think> means", "and ```json``` too"]
    provider.chat.answer_memories(*said)
    assert [row["memory"] for row in post().json()["results"]] == texts() == said


def test_one_bad_reply_is_asked_once_more(post, provider, pauses):
    provider.chat.broken_json(times=1)
    assert [row["memory"] for row in post().json()["results"]] == FACTS
    assert provider.chat.count == 2
    assert len(pauses) == 1


# --- Failures of the LLM -------------------------------------------------------------------------
LLM_FAILURES: dict[str, tuple[Break, str, int]] = {
    "429": (lambda p: p.chat.fail(429), "provider_rate_limited", 3),
    "500": (lambda p: p.chat.fail(500), "provider_unavailable", 3),
    "503": (lambda p: p.chat.fail(503), "provider_unavailable", 3),
    "529": (lambda p: p.chat.fail(529), "provider_unavailable", 3),
    "408": (lambda p: p.chat.fail(408), "provider_timeout", 3),
    "hangs": (lambda p: p.chat.hang(), "provider_timeout", 1),
    "reset": (lambda p: p.chat.reset(), "provider_unavailable", 3),
    "stopped": (lambda p: p.stop(), "provider_unavailable", 0),
    "401": (lambda p: p.chat.fail(401), "provider_auth_failed", 1),
    "403": (lambda p: p.chat.fail(403), "provider_auth_failed", 1),
    "unknown model": (lambda p: p.chat.missing_model(), "provider_bad_request", 1),
    "402": (lambda p: p.chat.fail(402), "provider_bad_request", 1),
    "redirect": (lambda p: p.chat.redirect("http://127.0.0.1:1/"), "provider_bad_request", 1),
    "truncated": (lambda p: p.chat.truncate(), "provider_bad_reply", 2),
    "web page": (lambda p: p.chat.answer_raw("<html>Log in</html>"), "provider_bad_reply", 2),
    "other JSON": (
        lambda p: p.chat.answer_raw('{"ok": true}', content_type="application/json"),
        "provider_bad_reply",
        2,
    ),
    "no JSON": (
        lambda p: p.chat.answer_raw("[[[", content_type="application/json"),
        "provider_bad_reply",
        2,
    ),
    "broken": (lambda p: p.chat.broken_json(), "provider_bad_reply", 2),
    "empty": (lambda p: p.chat.empty_content(), "provider_bad_reply", 2),
    "null": (lambda p: p.chat.null_content(), "provider_bad_reply", 2),
    "prose": (lambda p: p.chat.answer("I remember it all!"), "provider_bad_reply", 2),
    "no list": (lambda p: p.chat.answer('{"memory": "tea"}'), "provider_bad_reply", 2),
    "deep": (lambda p: p.chat.answer("[" * 100_000), "provider_bad_reply", 2),
    "thought": (lambda p: p.chat.answer('<think>{"memory": []}'), "provider_bad_reply", 2),
}


@pytest.mark.parametrize("name", LLM_FAILURES)
def test_each_failure_of_the_llm_ends_clearly_and_keeps_the_input(
    post, provider, pauses, caplog, name
):
    break_it, code, calls = LLM_FAILURES[name]
    break_it(provider)
    answer = post(metadata={"k": 1})
    kept = assert_failed(answer, code)
    assert kept.reason == SENTENCES[code]
    assert kept.cause
    assert kept.cause not in answer.content.decode()
    assert kept.messages == TURNS
    assert kept.options["metadata"] == {"k": 1}
    assert nothing_is_stored()
    assert provider.chat.count == calls
    assert KEY not in caplog.text
    if name == "stopped":
        return
    provider.heal()
    assert [row["memory"] for row in post(metadata={"k": 1}).json()["results"]] == texts() == FACTS
    assert set(AddInput.objects.values_list("outcome", flat=True)) == {"failed", "stored"}


def test_a_key_that_a_provider_repeats_goes_no_further(post, provider, caplog):
    provider.api_key = "another"
    answer = post()
    kept = assert_failed(answer, "provider_auth_failed")
    assert "Incorrect API key provided: [redacted]." in kept.cause
    assert KEY not in answer.content.decode() + kept.cause + kept.reason + caplog.text
    assert all("exc_info" not in vars(r) or KEY not in str(r.exc_info) for r in caplog.records)


@pytest.mark.parametrize("as_date", [False, True])
def test_it_waits_as_long_as_the_provider_asks(post, provider, settings, pauses, as_date):
    settings.PROVIDER_DEADLINE = 60
    provider.chat.fail(429, retry_after=7, as_date=as_date, times=2)
    assert post().status_code == 200
    assert provider.chat.count == 3
    assert len(pauses) == 2
    # A date has whole seconds.
    assert all(6 <= pause <= 7 for pause in pauses) if as_date else pauses == [7, 7]


@pytest.mark.parametrize("as_date", [False, True])
def test_who_asks_to_wait_beyond_the_deadline_is_not_waited_for(
    post, provider, settings, pauses, as_date
):
    settings.PROVIDER_DEADLINE = 20
    provider.chat.fail(429, retry_after=90, as_date=as_date)
    answer = post()
    assert_failed(answer, "provider_rate_limited")
    assert int(answer["Retry-After"]) in {89, 90}
    assert pauses == []
    assert provider.chat.count == 1


def test_a_failure_that_passes_is_not_noticed(post, provider):
    provider.chat.fail(500, times=1)
    provider.chat.reset(times=1)
    assert [row["memory"] for row in post().json()["results"]] == FACTS
    assert provider.chat.count == 3


def test_an_answer_that_never_ends_is_a_timeout(post, provider):
    provider.chat.drip()
    started = time.monotonic()
    assert_failed(post(), "provider_timeout")
    assert time.monotonic() - started < 4
    assert nothing_is_stored()


def test_an_answer_without_measure_is_refused(post, provider, monkeypatch):
    monkeypatch.setattr(clients, "ANSWER_BYTES", 10_000)
    provider.chat.answer_memories("x" * 20_000)
    assert_failed(post(), "provider_bad_reply")


# --- What a model refuses ------------------------------------------------------------------------
@pytest.mark.parametrize(
    "names",
    [
        ["temperature"],
        ["response_format"],
        ["max_tokens"],
        ["top_p"],
        ["temperature", "response_format", "max_tokens", "top_p"],
    ],
    ids=", ".join,
)
def test_what_a_model_refuses_is_left_out_from_then_on(post, provider, names):
    for name in names:
        provider.chat.refuse(name)
    assert [row["memory"] for row in post().json()["results"]] == FACTS
    assert provider.chat.count == 1 + len(names)
    assert post(infer=True, user_id="ben").status_code == 200
    assert provider.chat.count == 2 + len(names)
    sent = provider.chat.requests[-1].body
    assert not set(names) & set(sent)
    assert ("max_completion_tokens" in sent) == ("max_tokens" in names)
    first = provider.chat.requests[0].body
    assert set(first) - set(sent) == set(names)


def test_what_one_of_many_adds_at_once_learns_is_no_failure_of_the_others(
    transactional_db, owner, extracting, provider
):
    provider.chat.slow(0.2)
    for name in ("temperature", "response_format", "max_tokens"):
        provider.chat.refuse(name)

    def add(number: int) -> Any:
        entities = {"user_id": f"u{number}"}
        return adding.add_memories(owner, messages=TURNS, entities=entities).results

    answers = at_once(add, range(6))
    assert [[row["memory"] for row in answer] for answer in answers] == [FACTS] * 6


def test_a_refusal_of_something_else_is_a_failure(post, provider):
    provider.chat.fail(400, message="Messages about restored temperatures are not answered.")
    kept = assert_failed(post(), "provider_bad_request")
    assert "not answered" in kept.cause
    assert provider.chat.count == 1


# --- The fallback --------------------------------------------------------------------------------
@pytest.fixture
def second(extracting: runtime.Runtime, provider: Provider) -> Any:
    with Provider() as running:
        use_llm(extracting, provider, fallback=running)
        yield running


@pytest.mark.parametrize("name", ["429", "hangs", "stopped", "401", "truncated", "broken"])
def test_the_fallback_stores_what_the_first_llm_could_not(second, post, provider, name):
    use_embedder(runtime.get_runtime(), second)
    LLM_FAILURES[name][0](provider)
    assert [row["memory"] for row in post().json()["results"]] == texts() == FACTS
    assert provider.chat.count <= 1
    assert second.chat.count == 1
    assert AddInput.objects.get().outcome == "stored"


def test_the_fallback_is_left_alone_while_the_first_llm_answers(second, post, provider):
    assert post().status_code == 200
    assert (provider.chat.count, second.chat.count) == (1, 0)
    provider.chat.empty_list()
    assert post(user_id="ben").json() == {"results": []}
    assert second.chat.count == 0


def test_when_both_fail_the_add_fails_as_the_fallback_did_and_tells_of_both(second, post, provider):
    provider.chat.fail(500, message="The first is down.")
    second.chat.fail(429, retry_after=90, message="The second is busy.")
    answer = post()
    kept = assert_failed(answer, "provider_rate_limited")
    assert answer["Retry-After"] == "90"
    assert "The second is busy." in kept.cause
    assert "The first is down." in kept.cause
    assert nothing_is_stored()


def test_a_fallback_that_cannot_be_reached_is_not_taken_for_the_first(second, post, provider):
    provider.chat.fail(401)
    second.stop()
    assert_failed(post(), "provider_unavailable")


# --- Failures of the embedder --------------------------------------------------------------------
EMBEDDER_FAILURES: dict[str, tuple[Break, str]] = {
    "429": (lambda p: p.embeddings.fail(429, retry_after=90), "provider_rate_limited"),
    "500": (lambda p: p.embeddings.fail(500), "provider_unavailable"),
    "hangs": (lambda p: p.embeddings.hang(), "provider_timeout"),
    "reset": (lambda p: p.embeddings.reset(), "provider_unavailable"),
    "401": (lambda p: p.embeddings.fail(401), "provider_auth_failed"),
    "unknown model": (lambda p: p.embeddings.missing_model(), "provider_bad_request"),
    "redirect": (lambda p: p.embeddings.redirect("http://127.0.0.1:1/"), "provider_bad_request"),
    "truncated": (lambda p: p.embeddings.truncate(), "provider_bad_reply"),
    "web page": (lambda p: p.embeddings.answer_raw("<html>"), "provider_bad_reply"),
    "other JSON": (
        lambda p: p.embeddings.answer_raw('{"data": [{}]}', content_type="application/json"),
        "provider_bad_reply",
    ),
    "no base64": (
        lambda p: p.embeddings.answer_raw(
            '{"data": [{"index": 0, "embedding": "x"}]}', content_type="application/json"
        ),
        "provider_bad_reply",
    ),
    "no numbers": (
        lambda p: p.embeddings.answer_raw(
            '{"data": [{"index": 0, "embedding": [null]}]}', content_type="application/json"
        ),
        "provider_bad_reply",
    ),
    "more dimensions": (lambda p: p.embeddings.wrong_dims(65), "provider_bad_reply"),
    "fewer dimensions": (lambda p: p.embeddings.wrong_dims(7), "provider_bad_reply"),
    "nan": (lambda p: p.embeddings.not_a_number(), "provider_bad_reply"),
    "inf": (lambda p: p.embeddings.not_a_number("inf"), "provider_bad_reply"),
    "-inf": (lambda p: p.embeddings.not_a_number("-inf"), "provider_bad_reply"),
    "too few": (lambda p: p.embeddings.too_few(), "provider_bad_reply"),
}


@pytest.mark.parametrize(
    ("name", "infer"), list(zip(EMBEDDER_FAILURES, cycle([True, False]), strict=False))
)
def test_each_failure_of_the_embedder_ends_clearly_and_keeps_the_input(post, provider, name, infer):
    break_it, code = EMBEDDER_FAILURES[name]
    break_it(provider)
    kept = assert_failed(post(infer=infer), code)
    assert kept.messages == TURNS
    assert nothing_is_stored()
    provider.heal()
    answer = post(infer=infer)
    assert answer.status_code == 200
    assert texts() == (FACTS if infer else [TURNS[0]["content"]])
    assert MemoryVector.objects.count() == len(texts())


@pytest.mark.parametrize(
    "name", ["429", "500", "hangs", "401", "unknown model", "truncated", "too few"]
)
def test_when_the_facts_cannot_be_embedded_none_is_stored(post, provider, name):
    EMBEDDER_FAILURES[name][0](provider)
    for fault in provider.embeddings._faults:
        fault.applies = lambda body: FACTS[0] in body["input"]
    answer = post()
    assert provider.chat.count == 1
    assert_failed(answer, EMBEDDER_FAILURES[name][1])
    assert nothing_is_stored()


def test_wrong_dimensions_are_told_in_numbers(post, provider):
    provider.embeddings.wrong_dims(7)
    kept = assert_failed(post(), "provider_bad_reply")
    assert kept.reason == "The embedder answered with 7 dimensions where 64 are stored."


def test_vectors_in_another_order_belong_to_their_texts(post, provider):
    provider.embeddings.shuffle()
    post([{"role": "user", "content": f"Fact {n} is number {n}."} for n in range(9)])
    for row in MemoryVector.objects.select_related("memory"):
        wanted = provider.vector(row.memory.text)
        assert np.allclose(np.frombuffer(row.data, "<f4"), wanted, atol=1e-6)


def test_vectors_without_an_index_are_in_the_order_of_the_texts(post, provider):
    data = [{"embedding": provider.vector(text).tolist()} for text in FACTS]
    raw = provider.embeddings.answer_raw(
        json.dumps({"data": data}), content_type="application/json"
    )
    raw.applies = lambda body: len(body["input"]) == 2
    assert post().status_code == 200
    assert MemoryVector.objects.count() == 2


@pytest.mark.parametrize("config", [{}, {"embedding_dims": 64}])
def test_what_an_embedder_refuses_is_left_out_from_then_on(post, extracting, provider, config):
    use_embedder(extracting, provider, **config)
    provider.embeddings.refuse("encoding_format", value="base64")
    provider.embeddings.refuse("dimensions")
    assert post().status_code == 200
    before = provider.embeddings.count
    assert post(user_id="ben").status_code == 200
    sent = [request.body for request in list(provider.embeddings.requests)[before:]]
    assert len(sent) == 2
    assert all(body["encoding_format"] == "float" and "dimensions" not in body for body in sent)


def test_many_adds_at_once_learn_together_what_an_embedder_refuses(
    transactional_db, owner, extracting, provider
):
    use_embedder(extracting, provider, embedding_dims=64)
    provider.embeddings.slow(0.2)
    provider.embeddings.refuse("encoding_format", value="base64")
    provider.embeddings.refuse("dimensions")

    def add(number: int) -> Any:
        entities = {"user_id": f"u{number}"}
        return adding.add_memories(owner, messages=TURNS, entities=entities, infer=False).results

    assert all(len(answer) == 1 for answer in at_once(add, range(6)))


def test_a_text_that_is_too_long_is_embedded_by_its_beginning_and_others_whole(post, provider):
    def limit(letters: int) -> None:
        too_long = provider.embeddings.fail(400, message="This has too many tokens.")
        too_long.applies = lambda body: max(map(len, body["input"])) > letters

    limit(6_000)
    long = "很长的故事" * 3_000
    post([{"role": "user", "content": long}], infer=False)
    assert texts() == [long]
    assert MemoryVector.objects.count() == 1
    provider.heal()
    other = "a story " * 2_000
    post([{"role": "user", "content": other}], infer=False)
    assert provider.embeddings.requests[-1].body["input"] == [other]


def test_a_long_text_that_an_embedder_refuses_for_another_reason_changes_nothing(post, provider):
    provider.embeddings.missing_model()
    long = "a story " * 2_000
    assert_failed(post([{"role": "user", "content": long}], infer=False), "provider_bad_request")
    provider.heal()
    assert post([{"role": "user", "content": long}], infer=False).status_code == 200
    assert provider.embeddings.requests[-1].body["input"] == [long]


# --- Failures of our own -------------------------------------------------------------------------
def test_an_index_that_is_away_is_no_reason_to_lose_an_add(post, extracting, monkeypatch):
    post([{"role": "user", "content": "I keep bees."}])
    extracting.index.close()
    assert [row["memory"] for row in post().json()["results"]] == FACTS
    assert len(texts()) == 3


def test_what_was_stored_is_acknowledged_though_remembering_the_messages_fails(
    post, provider, monkeypatch
):
    from memories.engine.mem0_adapter import HistoryAdapter

    def fail(*args: Any) -> None:
        raise RuntimeError("full")

    monkeypatch.setattr(HistoryAdapter, "save_messages", fail)
    assert [row["memory"] for row in post().json()["results"]] == FACTS
    assert AddInput.objects.get().outcome == "stored"
    assert not SessionMessage.objects.exists()
    assert [hit.text for hit in Memory.objects.filter(deleted_at=None).order_by("seq")] == FACTS


def test_an_llm_that_cannot_be_set_up_is_a_failure_and_never_verbatim(post, extracting):
    from memories.engine.opening import BrokenLlm

    extracting.engine.llm = BrokenLlm("OpenAI cannot be set up.")
    assert_failed(post(), "provider_bad_request")
    assert nothing_is_stored()


def test_no_connection_is_kept_while_a_model_is_waited_for(
    transactional_db, owner, extracting, settings, monkeypatch
):
    from django.db import connection

    from memories.engine.remote import RemoteEmbedder, RemoteLlm

    if connection.vendor != "postgresql":
        pytest.skip("only PostgreSQL has a pool")
    settings.DATABASE_POOL_SIZE = 4
    open_at: list[bool] = []
    for class_, name in ((RemoteLlm, "_ask"), (RemoteEmbedder, "_embed_batch")):
        inner = getattr(class_, name)

        def watched(*args: Any, inner: Any = inner) -> Any:
            open_at.append(connection.connection is not None)
            return inner(*args)

        monkeypatch.setattr(class_, name, watched)
    adding.add_memories(owner, messages=TURNS, entities={"user_id": "ann"})
    assert open_at == [False] * 3


def test_other_dialects_than_openai_end_as_clearly(engine, provider, settings, pauses, api):
    from memories.engine.catalogue import ProviderChoice
    from memories.engine.opening import open_llm

    be_impatient(settings)
    for name, address in (
        ("anthropic", "anthropic_base_url"),
        ("ollama", "ollama_base_url"),
        ("gemini", "gemini_base_url"),
    ):
        config = {"model": "stub-chat", "api_key": KEY, address: provider.origin}
        if name == "ollama":
            del config["api_key"]
        engine.engine.llm = open_llm(ProviderChoice(name, config), None)
        body = {"messages": TURNS, "user_id": name}
        for break_it, code in (
            (lambda: provider.chat.fail(401), "provider_auth_failed"),
            (lambda: provider.chat.fail(429, retry_after=90), "provider_rate_limited"),
            (lambda: provider.chat.fail(500), "provider_unavailable"),
            (lambda: provider.chat.hang(), "provider_timeout"),
            (lambda: provider.chat.reset(), "provider_unavailable"),
            (lambda: provider.chat.truncate(), "provider_bad_reply"),
            (lambda: provider.chat.empty_content(), "provider_bad_reply"),
            (lambda: provider.chat.broken_json(), "provider_bad_reply"),
        ):
            break_it()
            answer = api.post("/memories", body)
            assert answer.status_code == 502, (name, code, answer.content)
            assert answer.json()["code"] == code, (
                name,
                code,
                AddInput.objects.latest("created_at").cause,
            )
            if code == "provider_rate_limited":
                assert answer["Retry-After"] == "90", name
            provider.heal()
        answer = api.post("/memories", body)
        assert [row["memory"] for row in answer.json()["results"]] == FACTS, name


def test_a_stub_llm_choice_shows_no_key(provider):
    assert KEY not in repr(llm_at(provider))
