"""What the tools take and answer."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import jsonschema
import pytest
from django.utils import timezone

from core.errors import (
    InvalidInputError,
    NotFoundError,
    NotUnderstoodError,
    PermissionDeniedError,
    ProviderError,
)
from core.principal import Principal
from memories.mcp.tools import TOOLS
from memories.models import Memory

Tools = Any


@pytest.fixture
def tools(engine: Any, owner: Principal) -> Tools:
    """`tools("add_memory", content=…)` calls a tool as an agent does, and checks what it answers
    against what it publishes."""
    who = replace(owner, project=replace(owner.project, default_user_id="alice"))

    def call(name: str, *, as_: Principal = who, **given: Any) -> Any:
        spec = TOOLS[name]
        answer = spec.function(as_, spec.arguments.read(name, given))
        jsonschema.validate(answer, spec.definition.output_schema)
        return answer

    call.who = who  # type: ignore[attr-defined]
    return call


def texts(answer: Any) -> list[str]:
    return [memory["memory"] for memory in answer["results"]]


# --- What they publish ---------------------------------------------------------------------------
@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_says_what_it_does_takes_and_answers(name: str) -> None:
    tool = TOOLS[name].definition
    jsonschema.Draft202012Validator.check_schema(tool.input_schema)
    jsonschema.Draft202012Validator.check_schema(tool.output_schema)
    assert tool.input_schema["type"] == tool.output_schema["type"] == "object"
    # Some clients follow no references.
    assert "$ref" not in str(tool.input_schema)
    assert tool.title
    assert 40 < len(tool.description) < 500
    hints = tool.annotations
    assert hints.read_only_hint is TOOLS[name].reads
    assert hints.destructive_hint is (name in {"update_memory", "delete_memory"})
    assert hints.idempotent_hint is (name != "add_memory")
    assert hints.open_world_hint is False


def test_nothing_deletes_more_than_one_memory() -> None:
    destroying = {n for n, spec in TOOLS.items() if spec.definition.annotations.destructive_hint}
    for name in destroying:
        assert TOOLS[name].definition.input_schema["required"] == ["memory_id"]


@pytest.mark.parametrize("name", ["search_memories", "list_memories", "get_memories"])
def test_reads_are_scoped_by_no_agent_whatever_is_sent(tools: Tools, name: str) -> None:
    tools("add_memory", content="Alice likes tea", agent_id="claude")
    assert "agent_id" not in TOOLS[name].definition.input_schema["properties"]
    query = {"query": "tea"} if name == "search_memories" else {}
    found = tools(name, **query, agent_id="cursor", enable_graph=True, whatever=1)
    assert texts(found) == ["Alice likes tea"]
    # As a filter it narrows, as everywhere.
    assert texts(tools(name, **query, filters={"agent_id": "cursor"})) == []
    assert texts(tools(name, **query, filters={"agent_id": "claude"})) == ["Alice likes tea"]


# --- Arguments -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("tool", "given"),
    [
        ("search_memories", {"query": "tea", "userId": "bob"}),
        ("search_memories", {"query": "tea", "filter": {"user_id": "bob"}}),
        ("list_memories", {"user": "x", "run-id": "r1"}),
        ("delete_memory", {"memory_id": "x", "memoryId": "y"}),
    ],
)
def test_a_name_that_is_misspelt_is_refused_with_the_right_one(
    tools: Tools, tool: str, given: dict[str, Any]
) -> None:
    with pytest.raises(NotUnderstoodError, match="Did you mean"):
        tools(tool, **given)


@pytest.mark.parametrize(
    ("tool", "given", "told"),
    [
        ("search_memories", {}, "query: Field required"),
        ("search_memories", {"query": 5}, "query: Input should be a valid string"),
        ("search_memories", {"query": "  "}, "cannot be empty"),
        ("search_memories", {"query": "x", "mode": "fuzzy"}, "'keyword', got 'fuzzy'"),
        ("search_memories", {"query": "x", "limit": 101}, "less than or equal to 100"),
        ("search_memories", {"query": "x", "threshold": 2}, "threshold"),
        ("search_memories", {"query": "x", "recency_half_life_days": 0}, "greater than 0"),
        ("search_memories", {"query": "x", "user_id": ""}, "user_id: cannot be empty"),
        ("search_memories", {"query": "x", "filters": {"user_id": {"near": 1}}}, "near"),
        ("search_memories", {"query": "x", "filters": "tea"}, "filters"),
        ("list_memories", {"limit": 0}, "greater than or equal to 1"),
        ("list_memories", {"offset": 10_001}, "less than or equal to 10000"),
        ("get_memories", {"page": 0}, "greater than or equal to 1"),
        ("get_memory", {}, "memory_id: Field required"),
        ("add_memory", {}, "content"),
        ("add_memory", {"content": "  "}, "cannot be empty"),
        ("add_memory", {"content": "a", "text": "b"}, "two names for the same"),
        ("add_memory", {"content": "a", "expiration_date": "soon"}, "expiration_date"),
        ("add_memory", {"content": "a", "metadata": [1]}, "metadata"),
        ("add_memory", {"content": "x" * 1_000_001}, "at most 1,000,000 characters"),
        ("update_memory", {"memory_id": "x"}, "Give the new text"),
        ("review_memory", {"memory_id": "x"}, "Give a `status`"),
        ("review_memory", {"memory_id": "x", "status": "deleted"}, "status"),
    ],
)
def test_what_does_not_fit_is_told_in_a_sentence(
    tools: Tools, tool: str, given: dict[str, Any], told: str
) -> None:
    with pytest.raises(InvalidInputError) as refused:
        tools(tool, **given)
    assert told in refused.value.message
    assert "pydantic" not in refused.value.message


def test_an_object_may_come_as_the_text_of_its_json(tools: Tools) -> None:
    tools("add_memory", content="Alice likes tea", metadata='{"topic": "drinks"}')
    found = tools("search_memories", query="tea", filters='{"topic": "drinks"}')
    assert found["results"][0]["metadata"] == {"topic": "drinks"}


def test_without_a_default_user_a_call_has_to_name_somebody(tools: Tools, owner: Principal) -> None:
    for name, given in (
        ("search_memories", {"query": "tea"}),
        ("list_memories", {}),
        ("add_memory", {"content": "tea"}),
    ):
        with pytest.raises(InvalidInputError, match="list_entities shows"):
            tools(name, as_=owner, **given)


# --- Adding --------------------------------------------------------------------------------------
@pytest.mark.parametrize("given", [{"content": "Alice likes tea"}, {"text": "Alice likes tea"}])
def test_a_text_is_remembered_under_either_name(tools: Tools, given: dict[str, str]) -> None:
    added = tools("add_memory", **given, agent_id="claude", run_id="", app_id=None)
    assert [row["memory"] for row in added["results"]] == ["Alice likes tea"]
    memory = Memory.objects.get()
    assert (memory.user_id, memory.agent_id, memory.run_id) == ("alice", "claude", "")


def test_a_conversation_is_remembered(tools: Tools) -> None:
    turns = [
        {"role": "user", "content": "I moved to Oslo"},
        {"role": "assistant", "content": [{"type": "text", "text": "Noted"}]},
    ]
    added = tools("add_memory", messages=turns, user_id="bob", infer=False)
    assert [row["memory"] for row in added["results"]] == ["I moved to Oslo", "Noted"]


def test_what_is_known_already_is_not_stored_twice(tools: Tools) -> None:
    [first] = tools("add_memory", content="Alice likes tea")["results"]
    again = tools("add_memory", content="alice  likes TEA")
    assert again["deduplicated"] is True
    assert again["memory_id"] == first["id"]
    assert "update that memory" in again["note"]


# --- Reading -------------------------------------------------------------------------------------
def test_a_search_finds_by_meaning_and_by_a_part_of_the_text(tools: Tools) -> None:
    tools("add_memory", content="Alice likes green tea")
    tools("add_memory", content="Bob likes coffee", user_id="bob")
    by_meaning = tools("search_memories", query="green tea", limit=5)
    assert texts(by_meaning) == ["Alice likes green tea"]
    assert by_meaning["mode"] == "semantic"
    assert 0 < by_meaning["results"][0]["score"] <= 1
    by_part = tools("search_memories", query="REEN T", mode="keyword")
    assert (texts(by_part), by_part["mode"]) == (["Alice likes green tea"], "keyword")


def test_a_search_may_prefer_what_is_recent(tools: Tools) -> None:
    tools("add_memory", content="Alice likes tea")
    tools("add_memory", content="Alice likes tea and cake")
    Memory.objects.filter(text="Alice likes tea").update(
        updated_at=timezone.now() - timedelta(days=900)
    )
    found = tools("search_memories", query="Alice likes tea", recency_weight=1)
    assert texts(found)[0] == "Alice likes tea and cake"
    assert "rerank_score" in found["results"][0]


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("search_memories", {"query": "tea"}),
        ("search_memories", {"query": "tea", "mode": "keyword"}),
        ("list_memories", {}),
        ("get_memories", {}),
    ],
)
def test_what_is_rejected_or_has_expired_is_hidden_from_agents(
    tools: Tools, name: str, given: dict[str, Any]
) -> None:
    ids = {}
    for text in ("good tea", "old tea", "wrong tea"):
        [row] = tools("add_memory", content=text)["results"]
        ids[text] = row["id"]
    tools("update_memory", memory_id=ids["old tea"], expiration_date="2020-01-31")
    tools("review_memory", memory_id=ids["wrong tea"], status="rejected")
    assert texts(tools(name, **given)) == ["good tea"]
    assert set(texts(tools(name, **given, show_expired=True))) == {"good tea", "old tea"}
    rejected = {"review_status": "rejected"}
    assert texts(tools(name, **given, filters=rejected)) == ["wrong tea"]
    # By its id a memory is there whatever its state.
    for memory in Memory.objects.all():
        assert tools("get_memory", memory_id=str(memory.id))["memory"] == memory.text


def test_lists_come_newest_first_and_in_pages(tools: Tools) -> None:
    for number in range(5):
        tools("add_memory", content=f"fact {number}")
    first = tools("list_memories", limit=2)
    assert texts(first) == ["fact 4", "fact 3"]
    assert first["pagination"] == {"limit": 2, "offset": 0, "has_more": True}
    last = tools("list_memories", limit=2, offset=4)
    assert (texts(last), last["pagination"]["has_more"]) == (["fact 0"], False)
    page = tools("get_memories", page=2, page_size=2)
    assert texts(page) == ["fact 2", "fact 1"]
    assert page["pagination"] == {"limit": 2, "offset": 2, "has_more": True}


def test_entities_are_listed_up_to_a_number(tools: Tools) -> None:
    for user in ("alice", "bob", "carol"):
        tools("add_memory", content="tea", user_id=user, app_id="kitchen")
    found = tools("list_entities")
    assert {(e["type"], e["id"], e["total_memories"]) for e in found["results"]} == {
        ("app", "kitchen", 3),
        *(("user", user, 1) for user in ("alice", "bob", "carol")),
    }
    few = tools("list_entities", limit=2)
    assert (len(few["results"]), few["has_more"]) == (2, True)


# --- Changing ------------------------------------------------------------------------------------
@pytest.fixture
def memory_id(tools: Tools) -> str:
    [row] = tools("add_memory", content="Alice likes tea", metadata={"a": 1})["results"]
    return str(row["id"])


@pytest.mark.parametrize("name", ["content", "text"])
def test_a_memory_gets_another_text_under_either_name(
    tools: Tools, memory_id: str, name: str
) -> None:
    changed = tools("update_memory", memory_id=memory_id, **{name: "Alice likes coffee"})
    assert changed["message"] == "Memory updated successfully!"
    assert changed["result"]["memory"] == "Alice likes coffee"
    events = tools("memory_history", memory_id=memory_id)["history"]
    assert [(e["event"], e["old_memory"], e["new_memory"]) for e in events] == [
        ("ADD", None, "Alice likes tea"),
        ("UPDATE", "Alice likes tea", "Alice likes coffee"),
    ]


def test_metadata_is_merged_and_an_expiry_set(tools: Tools, memory_id: str) -> None:
    changed = tools(
        "update_memory", memory_id=memory_id, metadata={"b": 2}, expiration_date="2099-01-31"
    )["result"]
    assert changed["metadata"] == {"a": 1, "b": 2}
    assert changed["expiration_date"] == "2099-01-31"
    assert changed["memory"] == "Alice likes tea"


def test_a_deleted_memory_is_gone_and_its_history_stays(tools: Tools, memory_id: str) -> None:
    deleted = tools("delete_memory", memory_id=memory_id)
    assert deleted == {"deleted": True, "memory_id": memory_id}
    for name in ("get_memory", "delete_memory"):
        with pytest.raises(NotFoundError):
            tools(name, memory_id=memory_id)
    assert tools("memory_history", memory_id=memory_id)["history"][-1]["event"] == "DELETE"


def test_a_review_sets_status_and_confidence(tools: Tools, memory_id: str) -> None:
    found = tools("review_memory", memory_id=memory_id, status="approved", confidence="high")
    assert found["result"]["review_status"] == "approved"
    assert found["result"]["confidence"] == "high"


# --- Rights --------------------------------------------------------------------------------------
def test_a_limited_caller_sees_and_writes_its_own_alone(tools: Tools, memory_id: str) -> None:
    bobs = replace(tools.who, entity_limit={"user_id": frozenset({"bob"})})
    assert texts(tools("list_memories", as_=bobs, user_id="alice")) == []
    assert tools("memory_history", as_=bobs, memory_id=memory_id) == {"history": []}
    with pytest.raises(NotFoundError):
        tools("get_memory", as_=bobs, memory_id=memory_id)
    with pytest.raises(PermissionDeniedError):
        tools("add_memory", as_=bobs, content="tea", user_id="alice")
    assert tools("add_memory", as_=bobs, content="tea", user_id="bob")["results"]


# --- Outages -------------------------------------------------------------------------------------
def test_an_outage_of_the_embedder_is_told_and_never_an_empty_list(
    tools: Tools, embedder: Any, memory_id: str
) -> None:
    embedder.error = ProviderError("Provider timed out. Retry shortly.")
    found = tools("search_memories", query="tea")
    assert (texts(found), found["mode"]) == (["Alice likes tea"], "keyword")
    assert "words alone" in found["note"]
    with pytest.raises(ProviderError):
        tools("search_memories", query="nothing of the kind")
