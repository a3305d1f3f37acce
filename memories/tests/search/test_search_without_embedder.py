"""While the embedder is away, words answer, and the answer says so; adds keep their input."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from memories import runtime
from memories.engine import engine as engine_module
from memories.engine import remote
from memories.models import AddInput, Memory
from memories.tests.provider import Provider
from memories.tests.providing import (
    SENTENCES,
    assert_failed,
    at_once,
    be_impatient,
    do_not_sleep,
    use_embedder,
)

Break = Callable[[Provider], Any]
OUTAGES: dict[str, tuple[Break, str]] = {
    "500": (lambda p: p.embeddings.fail(500), "provider_unavailable"),
    "stopped": (lambda p: p.stop(), "provider_unavailable"),
    "reset": (lambda p: p.embeddings.reset(), "provider_unavailable"),
    "hangs": (lambda p: p.embeddings.hang(), "provider_timeout"),
    "429": (lambda p: p.embeddings.fail(429, retry_after=90), "provider_rate_limited"),
    "401": (lambda p: p.embeddings.fail(401), "provider_auth_failed"),
    "unknown model": (lambda p: p.embeddings.missing_model(), "provider_bad_request"),
    "nan": (lambda p: p.embeddings.not_a_number(), "provider_bad_reply"),
    "fewer dimensions": (lambda p: p.embeddings.wrong_dims(7), "provider_bad_reply"),
    "web page": (lambda p: p.embeddings.answer_raw("<html>"), "provider_bad_reply"),
}


@pytest.fixture
def searching(
    api: Any,
    engine: runtime.Runtime,
    provider: Provider,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """The client, with the stub's embedder behind it and two memories."""
    be_impatient(settings)
    do_not_sleep(monkeypatch)
    use_embedder(engine, provider)
    api.add("I drink green tea")
    api.add("I play the piano")
    return api


def search(api: Any, query: str) -> Any:
    return api.post("/search", {"query": query, "user_id": "alice"})


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets seconds go by, for the engine."""
    ahead = [0.0]
    real = time.monotonic

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return real() + ahead[0]

    monkeypatch.setattr(engine_module, "time", Clock)

    def wait(seconds: float) -> None:
        ahead[0] += seconds

    return wait


@pytest.mark.parametrize("name", OUTAGES)
def test_words_answer_and_the_headers_say_so(searching, provider, name):
    answer = search(searching, "green things")
    assert answer["X-Mem0dash-Search"] == "semantic"
    assert "X-Mem0dash-Problem" not in answer
    break_it, code = OUTAGES[name]
    break_it(provider)
    answer = search(searching, "which tea")
    assert answer.status_code == 200
    assert [hit["memory"] for hit in answer.json()["results"]] == ["I drink green tea"]
    assert answer["X-Mem0dash-Search"] == "keyword"
    assert answer["X-Mem0dash-Problem"] == code


@pytest.mark.parametrize("name", OUTAGES)
def test_where_words_find_nothing_the_outage_is_the_answer(searching, provider, name):
    break_it, code = OUTAGES[name]
    break_it(provider)
    answer = search(searching, "hiking")
    assert answer.status_code == 502
    body = answer.json()
    assert list(body) == ["detail", "code", "request_id"]
    assert body["code"] == code
    assert body["detail"] == SENTENCES[code] or "dimensions" in body["detail"] or name == "nan"
    assert body["request_id"] == answer["X-Request-ID"]
    assert search(searching, "mountain walks").status_code == 502


def test_nothing_found_while_the_embedder_answers_is_an_empty_list(searching):
    answer = search(searching, "zzz")
    assert (answer.status_code, answer["X-Mem0dash-Search"]) == (200, "semantic")


def test_a_query_that_was_asked_before_is_answered_by_meaning(searching, provider):
    search(searching, "which tea")
    provider.stop()
    answer = search(searching, "which tea")
    assert answer["X-Mem0dash-Search"] == "semantic"


@pytest.mark.parametrize("name", ["500", "hangs", "429"])
def test_searches_do_not_wait_for_an_embedder_that_was_away_a_moment_ago(searching, provider, name):
    OUTAGES[name][0](provider)
    search(searching, "which tea")
    calls = provider.embeddings.count
    started = time.monotonic()
    for query in ("tea", "green tea", "any tea"):
        assert search(searching, query)["X-Mem0dash-Problem"] == OUTAGES[name][1]
    assert provider.embeddings.count == calls
    assert time.monotonic() - started < 0.5


def test_after_the_rest_one_search_looks_whether_the_embedder_is_back(searching, provider, later):
    provider.embeddings.fail(500)
    search(searching, "which tea")
    calls = provider.embeddings.count
    later(engine_module.REST_SECONDS + 1)
    for query in ("tea", "green tea"):
        assert search(searching, query)["X-Mem0dash-Search"] == "keyword"
    assert provider.embeddings.count == calls + remote.QUERY_ATTEMPTS  # the first one only
    provider.heal()
    assert search(searching, "any tea")["X-Mem0dash-Search"] == "keyword"
    later(engine_module.REST_SECONDS + 1)
    assert search(searching, "any tea")["X-Mem0dash-Search"] == "semantic"
    assert search(searching, "some tea")["X-Mem0dash-Search"] == "semantic"


def test_an_add_that_goes_well_ends_the_rest(searching, provider):
    provider.embeddings.fail(500)
    assert search(searching, "which tea")["X-Mem0dash-Search"] == "keyword"
    provider.heal()
    searching.add("I drink black tea")
    assert search(searching, "what tea")["X-Mem0dash-Search"] == "semantic"


def test_a_refused_key_is_no_absence_and_the_next_search_asks_again(searching, provider):
    provider.embeddings.fail(401, times=1)
    assert search(searching, "which tea")["X-Mem0dash-Problem"] == "provider_auth_failed"
    assert search(searching, "what tea")["X-Mem0dash-Search"] == "semantic"


def test_a_search_does_not_wait_as_long_as_the_provider_asks(
    searching, provider, settings, monkeypatch
):
    pauses = do_not_sleep(monkeypatch)
    settings.PROVIDER_EMBED_TIMEOUT = 60
    provider.embeddings.fail(429, retry_after=30)
    assert search(searching, "which tea")["X-Mem0dash-Search"] == "keyword"
    assert pauses == []


def test_many_searches_at_once_all_get_an_answer(transactional_db, searching, provider):
    provider.embeddings.hang()
    started = time.monotonic()
    answers = at_once(lambda n: search(searching, f"tea {n}"), range(8))
    assert time.monotonic() - started < 5
    assert {answer["X-Mem0dash-Search"] for answer in answers} == {"keyword"}


@pytest.mark.parametrize("name", ["500", "hangs", "429", "401"])
def test_adds_fail_with_the_code_and_keep_their_input(searching, provider, name):
    break_it, code = OUTAGES[name]
    break_it(provider)
    search(searching, "which tea")  # adds do not rest
    before = provider.embeddings.count
    body = {"messages": [{"role": "user", "content": "I like chess"}], "user_id": "alice"}
    kept = assert_failed(searching.post("/memories", body), code)
    assert provider.embeddings.count > before
    assert kept.messages == body["messages"]
    assert Memory.objects.count() == 2
    provider.heal()
    assert searching.post("/memories", body).status_code == 200
    assert AddInput.objects.filter(outcome="failed").count() == 1


def test_a_change_of_text_fails_with_the_code_and_changes_nothing(searching, provider):
    one = Memory.objects.earliest("created_at")
    provider.embeddings.fail(500)
    answer = searching.put(f"/memories/{one.id}", {"text": "I drink coffee"})
    assert (answer.status_code, answer.json()["code"]) == (502, "provider_unavailable")
    one.refresh_from_db()
    assert one.text == "I drink green tea"
    assert searching.put(f"/memories/{one.id}", {"metadata": {"k": 1}}).status_code == 200
