"""Adds of the memserv dialect: what is stored already is not stored again."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from accounts.queries import operator_of
from memories.adding import service as adding
from memories.models import AddInput, IngestClaim, Memory
from memories.tests.memserv import Memserv


class Llm:
    """Extracts the same two facts out of everything."""

    def __init__(self) -> None:
        self.calls = 0
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None

    def generate_response(self, messages: Any, **options: Any) -> str:
        self.calls += 1
        self.gate.wait(10)
        if self.error:
            raise self.error
        facts = [f"fact {self.calls}.1", f"fact {self.calls}.2"]
        return json.dumps({"memory": [{"text": fact, "attributed_to": "user"} for fact in facts]})


@pytest.fixture
def rest(engine: Any, client: Any, key: Any, settings: Any) -> Memserv:
    settings.MEM0_DEFAULT_USER_ID = "me"
    return Memserv(client, key())


@pytest.fixture
def llm(rest: Memserv, engine: Any) -> Llm:
    engine.engine.llm = Llm()
    return engine.engine.llm


def duplicate_of(answer: dict[str, Any]) -> str:
    assert answer["results"] == [] and answer["deduplicated"] is True
    assert answer.keys() == {"results", "deduplicated", "memory_id"}
    return str(answer["memory_id"])


@pytest.mark.parametrize("again", ["I like tea", "  i LIKE\n\ttea ", "I Like Tea"])
def test_the_same_but_for_case_and_white_space_names_the_memory(rest: Memserv, again: str) -> None:
    id_ = rest.add("I like tea", agent_id="one")
    answer = rest.ok("POST", "", {"content": again, "agent_id": "two", "metadata": {"a": 1}})
    assert duplicate_of(answer) == id_
    assert Memory.objects.count() == 1
    assert AddInput.objects.count() == 1


@pytest.mark.parametrize("other", ["I like teas", "I like  te a", "tea I like", "I like tea."])
def test_anything_else_is_another_memory(rest: Memserv, other: str) -> None:
    rest.add("I like tea")
    assert rest.add(other)


def test_dedup_false_stores_it_again(rest: Memserv) -> None:
    first = rest.add("I like tea")
    assert rest.add("I like tea", dedup=False) != first
    # Of several it is the oldest that is named.
    assert duplicate_of(rest.ok("POST", "", {"content": "I like tea"})) == first


def test_another_user_may_say_the_same(rest: Memserv) -> None:
    rest.add("I like tea")
    ann = rest.add("I like tea", user_id="ann")
    body = {"content": "i like tea", "user_id": "ann"}
    assert duplicate_of(rest.ok("POST", "", body)) == ann


def test_a_conversation_is_known_as_a_whole(rest: Memserv) -> None:
    said = [{"role": "user", "content": "Tea?"}, {"role": "assistant", "content": "Green, please"}]
    first = rest.ok("POST", "", {"messages": said})["results"]
    assert [one["memory"] for one in first] == ["Tea?", "Green, please"]
    louder = [{**turn, "content": turn["content"].upper()} for turn in said]
    assert duplicate_of(rest.ok("POST", "", {"messages": louder})) == first[0]["id"]
    swapped = [{**said[0], "role": "assistant"}, {**said[1], "role": "user"}]
    for other in (swapped, said[:1], said[::-1], [*said, said[0]]):
        assert "deduplicated" not in rest.ok("POST", "", {"messages": other})


def test_content_counts_where_messages_are_there_as_well(rest: Memserv) -> None:
    body = {"content": "tea", "messages": [{"role": "user", "content": "coffee"}]}
    [one] = rest.ok("POST", "", body)["results"]
    assert one["memory"] == "tea"


def test_what_another_dialect_stored_word_for_word_is_known(rest: Memserv, api: Any) -> None:
    id_ = api.add("I like tea", "me")
    assert duplicate_of(rest.ok("POST", "", {"content": "I like tea"})) == id_
    # There an add is an add: clients that delete and add again would lose data otherwise.
    assert api.add("I like tea", "me") != id_


def test_whatever_takes_a_memory_out_of_use_makes_room(rest: Memserv, client: Any) -> None:
    first = rest.add("I like tea")
    rest.ok("DELETE", f"/{first}")
    second = rest.add("I like tea")
    rest.ok("PUT", f"/{second}", {"content": "I like coffee"})
    third = rest.add("I like tea")
    Memory.objects.filter(id=third).update(expires_at=timezone.now() - timedelta(seconds=1))
    fourth = rest.add("I like tea")
    assert len({first, second, third, fourth}) == 4
    assert duplicate_of(rest.ok("POST", "", {"content": "I like coffee"})) == second


def test_what_was_rejected_is_known_and_does_not_come_back(rest: Memserv) -> None:
    id_ = rest.add("I like tea")
    Memory.objects.filter(id=id_).update(review_status="rejected")
    assert duplicate_of(rest.ok("POST", "", {"content": "i like TEA"})) == id_
    assert rest.search("tea") == []
    # One that nobody rejected is named before it.
    other = rest.add("I like tea", dedup=False)
    assert duplicate_of(rest.ok("POST", "", {"content": "I like tea"})) == other
    rest.ok("DELETE", f"/{other}")
    Memory.objects.filter(id=id_).update(review_status="unreviewed")
    assert duplicate_of(rest.ok("POST", "", {"content": "I like tea"})) == id_
    assert len(rest.search("tea")) == 1


def test_an_extraction_is_made_once_for_the_same_words(rest: Memserv, llm: Llm) -> None:
    first = rest.ok("POST", "", {"content": "Long story about tea"})["results"]
    assert [one["memory"] for one in first] == ["fact 1.1", "fact 1.2"]
    assert duplicate_of(rest.ok("POST", "", {"content": "long STORY about tea"})) == first[0]["id"]
    assert llm.calls == 1
    # One of them gone, the other still stands for what was said.
    rest.ok("DELETE", f"/{first[0]['id']}")
    assert duplicate_of(rest.ok("POST", "", {"content": "Long story about tea"})) == first[1]["id"]
    rest.ok("DELETE", f"/{first[1]['id']}")
    assert rest.ok("POST", "", {"content": "Long story about tea"})["results"]
    assert rest.ok("POST", "", {"content": "Long story about tea", "dedup": False})["results"]
    assert llm.calls == 3


def test_a_failed_add_stands_in_nobodys_way_and_can_be_tried_again(
    rest: Memserv, llm: Llm, project: Any
) -> None:
    llm.error = RuntimeError("away")
    answer = rest("POST", "", {"content": "Long story"})
    assert (answer.status_code, answer.json()["error"]) == (502, "upstream_provider_error")
    [failed] = AddInput.objects.filter(outcome="failed")
    llm.error = None
    stored = adding.retry_add(operator_of(project.slug), failed.id)
    assert len(stored.results) == 2
    known = duplicate_of(rest.ok("POST", "", {"content": "long story"}))
    assert known == stored.results[0]["id"]
    # And one that failed before somebody else's went through is not stored twice.
    llm.error = RuntimeError("away")
    assert rest("POST", "", {"content": "Another story", "agent_id": "a"}).status_code == 502
    [failed] = AddInput.objects.filter(outcome="failed")
    llm.error = None
    rest.ok("POST", "", {"content": "another story", "agent_id": "b"})
    assert failed not in adding.failed_adds(operator_of(project.slug))


@pytest.mark.django_db(transaction=True)
def test_of_many_at_once_one_is_stored_whatever_else_they_say(rest: Memserv, llm: Llm) -> None:
    from django.test import Client

    llm.gate.clear()

    def add(n: int) -> Any:
        try:
            body = {"content": "Long story" if n % 2 else "long  STORY", "agent_id": f"agent-{n}"}
            return Memserv(Client(), None, **rest.headers)("POST", "", body)
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as pool:
        running = [pool.submit(add, n) for n in range(6)]
        while AddInput.objects.count() < 1:
            pass
        llm.gate.set()
        answers = [one.result() for one in running]
    assert {answer.status_code for answer in answers} == {200}
    assert llm.calls == 1
    assert Memory.objects.count() == 2
    assert not IngestClaim.objects.exists()
    stored = [a.json() for a in answers if "deduplicated" not in a.json()]
    [ids] = {tuple(one["id"] for one in answer["results"]) for answer in stored}
    for answer in answers:
        if "deduplicated" in answer.json():
            assert duplicate_of(answer.json()) in ids


def test_an_idempotency_key_gives_the_first_answer_again(rest: Memserv) -> None:
    named = {"Idempotency-Key": "import-1"}
    first = rest.ok("POST", "", {"content": "I like tea"}, **named)
    assert rest.ok("POST", "", {"content": "I like tea"}, **named) == first
    other = rest("POST", "", {"content": "I like coffee"}, **named)
    assert (other.status_code, other.json()["error"]) == (409, "conflict")
    # With another key it is the same text once more.
    again = rest.ok("POST", "", {"content": "I like tea"}, **{"Idempotency-Key": "import-2"})
    assert duplicate_of(again) == first["results"][0]["id"]


def test_empty_ids_of_forms_count_as_not_there(rest: Memserv) -> None:
    id_ = rest.add("tea", user_id="", agent_id="", run_id="")
    row = Memory.objects.get(id=id_)
    assert (row.user_id, row.agent_id, row.run_id) == ("me", "", "")


def test_an_expiry_beside_the_text_is_kept_as_one_in_the_metadata(rest: Memserv) -> None:
    id_ = rest.add("tea", expires_at="2031-05-06T00:00:00Z")
    row = Memory.objects.get(id=id_)
    assert row.expires_at is not None
    assert row.expires_at.year == 2031
    assert row.metadata["expires_at"] == "2031-05-06T00:00:00Z"
    for wrong in ({"expires_at": "soon"}, {"expires_at": "2031", "metadata": {"expires_at": 1}}):
        assert rest("POST", "", {"content": "coffee", **wrong}).status_code == 422


def test_a_change_keeps_the_metadata_that_it_is_given(rest: Memserv) -> None:
    id_ = rest.add("tea", metadata={"colour": "green", "cups": 1})
    body = {"content": "tea, often", "metadata": {"cups": 2}, "expires_at": 1935689600}
    rest.ok("PUT", f"/{id_}", body)
    row = Memory.objects.get(id=id_)
    assert (row.text, row.metadata["colour"], row.metadata["cups"]) == ("tea, often", "green", 2)
    assert row.expires_at is not None


@pytest.mark.parametrize("name", ["source", "confidence", "expiration_date", "meta_data", "tags"])
def test_what_nobody_would_keep_is_refused(rest: Memserv, name: str) -> None:
    id_ = rest.add("tea")
    for method, path in (("POST", ""), ("PUT", f"/{id_}")):
        answer = rest(method, path, {"content": "coffee", name: "x"})
        assert answer.status_code == 400, answer.content
        assert name in answer.json()["detail"]
    assert [row.text for row in Memory.objects.all()] == ["tea"]


def test_the_user_is_the_default_one_beside_an_agent_as_well(rest: Memserv) -> None:
    row = Memory.objects.get(id=rest.add("tea", agent_id="n8n-flow", run_id="r1"))
    assert (row.user_id, row.agent_id, row.run_id) == ("me", "n8n-flow", "r1")
