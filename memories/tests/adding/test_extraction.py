"""mem0's own pipeline on our store, with a stand-in for the LLM alone."""

import json
import threading

import pytest

from core.errors import ProviderError
from memories.adding import service as adding
from memories.editing import service as services
from memories.models import AddInput, Memory, MemoryVector, Revision, SessionMessage, adds
from memories.search import service as search

TURNS = [{"role": "user", "content": "I moved to Lisbon, and I only eat vegan food"}]


class Llm:
    """Answers what mem0 asks for: facts as JSON."""

    def __init__(self, *facts: str) -> None:
        self.answer = json.dumps({"memory": [{"text": f, "attributed_to": "user"} for f in facts]})
        self.calls: list = []
        self.gate = threading.Event()
        self.gate.set()

    def generate_response(self, messages, **options):
        self.calls.append(messages)
        self.gate.wait(5)
        return self.answer


@pytest.fixture
def llm(engine):
    engine.engine.llm = Llm("User lives in Lisbon", "User eats vegan food")
    return engine.engine.llm


def add(owner, **fields):
    arguments = {"messages": TURNS, "entities": {"user_id": "ann"}, **fields}
    return adding.add_memories(owner, **arguments)


def test_it_stores_what_the_llm_extracts(owner, llm):
    added = add(owner, metadata={"source": "chat"})
    assert added.stored == "extracted"
    assert [r["memory"] for r in added.results] == ["User lives in Lisbon", "User eats vegan food"]
    rows = Memory.objects.order_by("seq")
    assert [str(row.id) for row in rows] == [r["id"] for r in added.results]
    assert {row.source for row in rows} == {"chat"}
    assert {row.attributed_to for row in rows} == {"user"}
    assert MemoryVector.objects.count() == 2
    assert list(Revision.objects.values_list("event", flat=True)) == ["ADD", "ADD"]
    kept = AddInput.objects.get()
    assert (kept.outcome, kept.results) == ("stored", added.results)
    found = search.search_memories(owner, "Lisbon", top_k=1)
    assert found.hits[0].memory.text == "User lives in Lisbon"


def test_the_llm_sees_what_is_known_already_and_only_of_that_user(owner, llm):
    adding.add_memories(
        owner,
        messages=[{"role": "user", "content": "Ann moved to Lisbon"}],
        entities={"user_id": "ann"},
        infer=False,
    )
    adding.add_memories(
        owner,
        messages=[{"role": "user", "content": "Ben moved to Porto"}],
        entities={"user_id": "ben"},
        infer=False,
    )
    add(owner)
    asked = llm.calls[0][1]["content"]
    assert "Ann moved to Lisbon" in asked
    assert "Porto" not in asked


def test_the_prompt_of_a_call_reaches_the_llm(owner, llm):
    add(owner, prompt="only durable facts")
    assert "only durable facts" in llm.calls[0][1]["content"]


def test_infer_false_stores_word_for_word_without_asking_the_llm(owner, llm):
    added = add(owner, infer=False)
    assert added.stored == "verbatim"
    assert [r["memory"] for r in added.results] == [TURNS[0]["content"]]
    assert llm.calls == []


def test_earlier_messages_are_context_for_the_next_add_of_the_same_scope(owner, llm):
    add(owner)
    add(owner, messages=[{"role": "user", "content": "I changed my mind"}])
    assert TURNS[0]["content"] in llm.calls[1][1]["content"]
    for number in range(12):
        add(owner, messages=[{"role": "user", "content": f"note {number}"}])
    assert SessionMessage.objects.count() == 10


def test_a_failing_llm_is_an_error_and_the_input_is_kept(owner, llm):
    def fail(messages, **options):
        raise RuntimeError("429")

    llm.generate_response = fail
    with pytest.raises(ProviderError):
        add(owner)
    kept = AddInput.objects.get()
    assert kept.outcome == "failed"
    assert kept.messages == TURNS
    assert not Memory.objects.exists()


def test_nothing_worth_remembering_is_an_outcome_of_its_own(owner, llm):
    llm.answer = '{"memory": []}'
    assert add(owner).results == []
    assert AddInput.objects.get().outcome == "nothing"


def test_erasing_forgets_the_messages_that_extraction_remembered(owner, llm):
    add(owner)
    services.erase_memories(owner, list(Memory.objects.values_list("id", flat=True)))
    assert not SessionMessage.objects.exists()
    assert adds.message_scope("ann", "", "") == "ann\x1f\x1f"
