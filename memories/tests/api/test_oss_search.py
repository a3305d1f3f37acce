"""POST /search of the OSS dialect: shape, limits, what is shown, where ids may stand, filters."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from memories import runtime
from memories.backfill import token_states as token_work
from memories.models import Memory
from memories.tests.token_words import WordReader, with_reader

NO_ID = (
    "filters must contain at least one of: user_id, agent_id, run_id. "
    "Example: filters={'user_id': 'u1'}"
)
ALICE = {"user_id": "alice"}


@pytest.fixture
def found(api: Any) -> Callable[..., set[str]]:
    """`found(filters)` searches for "tea" with these filters alone; the texts that came."""

    def search(filters: dict[str, Any], **fields: Any) -> set[str]:
        body = {"query": "tea", "filters": filters, "threshold": 0, **fields}
        answer = api.post("/search", body)
        assert answer.status_code == 200, (filters, answer.content)
        return {memory["memory"] for memory in answer.json()["results"]}

    return search


def test_a_found_memory_has_its_score_between_metadata_and_times(api: Any) -> None:
    id_ = api.add("I drink tea", agent_id="bot", run_id="r", expiration_date="2999-01-01")
    answer = api.post("/search", {"query": "tea", "filters": ALICE})
    assert answer.status_code == 200
    assert list(answer.json()) == ["results"]
    [hit] = answer.json()["results"]
    assert list(hit) == [
        "id",
        "memory",
        "hash",
        "metadata",
        "score",
        "created_at",
        "updated_at",
        "user_id",
        "agent_id",
        "run_id",
        "role",
        "expiration_date",
    ]
    assert hit["id"] == id_
    assert isinstance(hit["score"], float) and 0 < hit["score"] <= 1
    assert hit["metadata"] is None


def test_the_best_comes_first(api: Any) -> None:
    api.add("The bicycle is in the shed")
    api.add("Alice likes green tea in the morning")
    api.add("Tea")
    hits = api.search("green tea in the morning", threshold=0)
    assert hits[0]["memory"] == "Alice likes green tea in the morning"
    assert [h["score"] for h in hits] == sorted((h["score"] for h in hits), reverse=True)


def test_nothing_found_is_an_empty_list(api: Any) -> None:
    api.add("tea")
    answer = api.post("/search", {"query": "zeppelin", "filters": ALICE})
    assert (answer.status_code, answer.json()) == (200, {"results": []})


def test_twenty_are_found_unless_told_otherwise(api: Any) -> None:
    messages = [{"role": "user", "content": f"tea {n}"} for n in range(25)]
    api.post("/memories", {"messages": messages, "user_id": "alice"})
    assert len(api.search("tea")) == 20
    assert len(api.search("tea", top_k=None)) == 20
    assert len(api.search("tea", limit=3)) == 3
    assert len(api.search("tea", top_k=3)) == 3
    assert len(api.search("tea", top_k=100_000)) == 25


def test_limits_out_of_range_are_refused_in_the_words_of_the_original(api: Any) -> None:
    for fields, detail in (
        ({"top_k": -1}, "Invalid top_k: -1. Must be a non-negative integer."),
        ({"threshold": 2.0}, "Invalid threshold: 2.0. Must be between 0 and 1 (inclusive)."),
        ({"threshold": -0.5}, "Invalid threshold: -0.5. Must be between 0 and 1 (inclusive)."),
        ({"query": "  \n"}, "Invalid query: cannot be empty or whitespace-only."),
        ({"query": ""}, "Invalid query: cannot be empty or whitespace-only."),
    ):
        answer = api.post("/search", {"query": "tea", "filters": ALICE, **fields})
        assert (answer.status_code, answer.json()) == (400, {"detail": detail})
    for top_k in (100_001, 10**15):
        answer = api.post("/search", {"query": "tea", "filters": ALICE, "top_k": top_k})
        assert answer.status_code in {400, 422}


def test_the_threshold_keeps_out_what_is_less_alike(api: Any) -> None:
    api.add("tea")
    api.add("tea with some other words about trains and boats")
    assert len(api.search("tea", threshold=0)) == 2
    assert [h["memory"] for h in api.search("tea green black", threshold=0.4)] == ["tea"]
    assert api.search("tea", threshold=1.0)[0]["memory"] == "tea"


def test_explain_tells_how_the_score_came_about(api: Any) -> None:
    api.add("tea")
    assert "score_details" not in api.search("tea", explain=False)[0]
    [hit] = api.search("tea", explain=True, threshold=0.2)
    assert list(hit)[-1] == "score_details"
    details = hit["score_details"]
    assert list(details)[:7] == [
        "semantic_score",
        "bm25_score",
        "entity_boost",
        "raw_score",
        "max_possible_score",
        "final_score",
        "threshold",
    ]
    assert details["final_score"] == hit["score"]
    assert details["threshold"] == 0.2


def test_explain_tells_the_part_of_late_interaction(api: Any, engine: runtime.Runtime) -> None:
    for text in ("green tea", "tea", "coffee", "black coffee", "a boat", "the river"):
        api.add(text)
    [*_, last] = api.search("green tea", explain=True)
    assert last["score_details"]["late_score"] is None
    with_reader(engine, WordReader())
    token_work.make_missing(engine, gentle=False)
    best, *others = api.search("green tea", explain=True)
    assert best["memory"] == "green tea"
    assert best["score_details"]["late_score"] > others[-1]["score_details"]["late_score"]
    details = best["score_details"]
    terms = ("semantic_score", "bm25_score", "late_score", "neighbour_score", "session_score")
    terms += ("question_penalty", "date_score")
    assert sum(details[name] for name in terms) == pytest.approx(details["raw_score"])


def test_an_id_must_be_named_somewhere(api: Any) -> None:
    api.add("tea")
    for filters in (
        None,
        {},
        {"app": "x"},
        {"NOT": ALICE},
        {"NOT": [ALICE]},
        {"user_id": {"ne": "bob"}},
        {"user_id": {"nin": ["bob"]}},
        {"AND": [{"z": 1}, {"NOT": [{"run_id": "r"}]}]},
    ):
        answer = api.post("/search", {"query": "tea", "filters": filters})
        assert (answer.status_code, answer.json()) == (400, {"detail": NO_ID}), filters
    assert api.post("/search", {"query": "tea"}).json() == {"detail": NO_ID}


def test_an_id_that_is_null_names_nobody(api: Any) -> None:
    api.add("tea")
    for filters in ({"user_id": None}, {"user_id": None, "agent_id": None}, {"run_id": None}):
        answer = api.post("/search", {"query": "tea", "filters": filters})
        assert (answer.status_code, answer.json()) == (400, {"detail": NO_ID}), filters


def test_ids_may_stand_at_the_top_in_filters_or_nested_in_them(api: Any, found: Any) -> None:
    api.add("tea of alice", metadata={"app_id": "proj"}, agent_id="bot", run_id="r1")
    api.add("tea of alice elsewhere", metadata={"app_id": "other"})
    api.add("tea of bob", user_id="bob", metadata={"app_id": "proj"})
    both = {"tea of alice", "tea of alice elsewhere"}
    assert found({"AND": [ALICE, {"app_id": "proj"}]}) == {"tea of alice"}
    assert found({"user_id": "alice", "app_id": "proj"}) == {"tea of alice"}
    assert found({"OR": [ALICE, {"user_id": "bob"}]}) == both | {"tea of bob"}
    assert found({"AND": [{"OR": [{"AND": [ALICE]}]}]}) == both
    assert found({"user_id": {"in": ["alice", "bob"]}, "app_id": "proj"}) == {
        "tea of alice",
        "tea of bob",
    }
    assert found({"user_id": ["alice"]}) == both
    assert found({"agent_id": "bot"}) == found({"run_id": "r1"}) == {"tea of alice"}
    assert found({"user_id": "*", "app_id": "proj"}) == {"tea of alice", "tea of bob"}
    assert found({"app_id": "other"}, user_id="alice") == {"tea of alice elsewhere"}
    assert found({"user_id": "bob"}, agent_id="bot") == set()
    api_top = api.post("/search", {"query": "tea", "agent_id": "bot"}).json()["results"]
    assert [m["memory"] for m in api_top] == ["tea of alice"]


def test_the_default_user_of_the_project_is_searched_where_nobody_is_named(
    api: Any, found: Any, project: Any
) -> None:
    api.add("tea of the house", user_id="house", metadata={"z": 1})
    api.add("tea of alice", metadata={"z": 1})
    project.default_user_id = "house"
    project.save()
    assert found({}) == found({"z": 1}) == {"tea of the house"}
    assert found(ALICE) == {"tea of alice"}


def test_what_expired_is_hidden_unless_asked_for(api: Any, found: Any) -> None:
    yesterday = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
    api.add("tea expired", expiration_date=yesterday)
    api.add("tea today", expiration_date=datetime.now(UTC).date().isoformat())
    api.add("tea expired by the minute", metadata={"expires_at": "2020-01-01T00:00:00Z"})
    assert found(ALICE) == {"tea today"}
    assert len(found(ALICE, show_expired=True)) == 3
    assert found(ALICE, show_expired=None) == {"tea today"}


def test_rejected_memories_show_only_where_the_filter_names_the_status(
    api: Any, found: Any
) -> None:
    for status in ("rejected", "approved", "stale", "unreviewed"):
        api.add(f"tea {status}", metadata={"review_status": status})
    assert found(ALICE) == {"tea approved", "tea stale", "tea unreviewed"}
    assert found({**ALICE, "review_status": "rejected"}) == {"tea rejected"}
    assert found({**ALICE, "review_status": "approved"}) == {"tea approved"}
    assert len(found({**ALICE, "review_status": "*"})) == 4
    assert len(found({**ALICE, "review_status": {"in": ["rejected", "stale"]}})) == 2
    assert len(found({**ALICE, "review_status": {"ne": "approved"}})) == 3


def test_every_operator_works_on_metadata(api: Any, found: Any) -> None:
    api.add("tea one", metadata={"n": 1, "tag": "Green", "list": ["a", "b"], "yes": True})
    api.add("tea two", metadata={"n": 2.5, "tag": "black", "list": ["c"], "yes": False})
    api.add("tea text", metadata={"n": "2", "tag": "greenish", "nothing": None})
    api.add("tea bare")
    one, two, text, bare = ("tea one", "tea two", "tea text", "tea bare")
    for condition, expected in (
        ({"n": 1}, {one}),
        ({"n": 1.0}, {one}),
        ({"n": "1"}, set()),
        ({"n": {"eq": 2.5}}, {two}),
        ({"n": {"ne": 1}}, {two, text, bare}),
        ({"n": {"gt": 1}}, {two}),
        ({"n": {"gte": 1}}, {one, two}),
        ({"n": {"lt": 2.5}}, {one}),
        ({"n": {"lte": 2.5}}, {one, two}),
        ({"n": {"gt": 1, "lt": 3}}, {two}),
        ({"n": {"gt": "1"}}, {text}),
        ({"n": {"in": [1, "2"]}}, {one, text}),
        ({"n": {"in": []}}, set()),
        ({"n": [1, 2.5]}, {one, two}),
        ({"n": {"nin": [1, "2"]}}, {two, bare}),
        ({"n": {"nin": []}}, {one, two, text, bare}),
        ({"tag": {"contains": "reen"}}, {one, text}),
        ({"tag": {"contains": "green"}}, {text}),
        ({"tag": {"icontains": "GREEN"}}, {one, text}),
        ({"tag": {"lt": "a"}}, {one}),
        ({"list": {"contains": "a"}}, {one}),
        ({"list": {"contains": "d"}}, set()),
        ({"yes": True}, {one}),
        ({"yes": {"ne": True}}, {two, text, bare}),
        ({"yes": 1}, set()),
        ({"n": "*"}, {one, two, text}),
        ({"nothing": "*"}, set()),
        ({"nothing": None}, {one, two, text, bare}),
        ({"missing": "x"}, set()),
    ):
        assert found({**ALICE, **condition}) == expected, condition


def test_and_or_and_not_nest(api: Any, found: Any) -> None:
    api.add("tea one", metadata={"n": 1, "tag": "x"})
    api.add("tea two", metadata={"n": 2, "tag": "x"})
    api.add("tea three", metadata={"n": 3, "tag": "y"})
    one, two, three = ("tea one", "tea two", "tea three")
    for condition, expected in (
        ({"AND": [{"n": 1}, {"tag": "x"}]}, {one}),
        ({"AND": [{"n": 1}, {"tag": "y"}]}, set()),
        ({"OR": [{"n": 1}, {"tag": "y"}]}, {one, three}),
        ({"NOT": [{"n": 1}]}, {two, three}),
        ({"NOT": {"n": 1}}, {two, three}),
        ({"NOT": [{"n": 1}, {"tag": "y"}]}, {two}),
        ({"NOT": {"NOT": {"n": 1}}}, {one}),
        ({"OR": [{"AND": [{"n": {"lt": 3}}, {"NOT": {"n": 1}}]}, {"tag": "y"}]}, {two, three}),
        ({"tag": "x", "NOT": {"n": 2}}, {one}),
        ({"$or": [{"n": 1}, {"$and": [{"n": 3}]}], "$not": {"tag": "y"}}, {one}),
    ):
        assert found({"AND": [ALICE, condition]}) == expected, condition
        assert found({**ALICE, **condition}) == expected, condition


def test_columns_can_be_filtered_like_metadata(api: Any, found: Any) -> None:
    metadata = {"source": "cli", "confidence": "high", "created_at": "2024-05-06T07:08:09Z"}
    api.add("tea old", metadata=metadata, run_id="r1", expiration_date="2998-01-01")
    api.add("tea new")
    Memory.objects.filter(text="tea new").update(categories=["Food", "drink"])
    old, new = ({"tea old"}, {"tea new"})
    for condition, expected in (
        ({"source": "cli"}, old),
        ({"source": {"ne": "cli"}}, new),
        ({"source": "*"}, old),
        ({"confidence": {"in": ["high", "low"]}}, old),
        ({"confidence": "unknown"}, new),
        ({"run_id": {"contains": "1"}}, old),
        ({"run_id": None}, new),
        ({"created_at": {"lt": "2025-01-01T00:00:00Z"}}, old),
        ({"created_at": {"gte": "2025-01-01"}}, new),
        ({"created_at": "2024-05-06T09:08:09+02:00"}, old),
        ({"expiration_date": {"gt": "2997-12-31"}}, old),
        ({"expiration_date": None}, new),
        ({"text": {"contains": "old"}}, old),
        ({"data": {"icontains": "NEW"}}, new),
        ({"memory": "tea old"}, old),
        ({"role": "user"}, old | new),
        ({"role": "assistant"}, set()),
        ({"categories": {"contains": "Food"}}, new),
        ({"categories": {"icontains": "food"}}, new),
        ({"categories": ["drink", "sport"]}, new),
        ({"categories": "*"}, new),
        ({"categories": None}, old),
    ):
        assert found({**ALICE, **condition}) == expected, condition


def test_an_empty_string_finds_where_a_column_is_empty(api: Any, found: Any) -> None:
    api.add("tea with source", metadata={"source": "cli"})
    api.add("tea without")
    assert found({**ALICE, "source": ""}) == {"tea without"}
    assert found({**ALICE, "source": {"in": ["", "web"]}}) == {"tea without"}
    assert found({**ALICE, "source": {"ne": ""}}) == {"tea with source"}


def test_an_unknown_operator_is_400_and_names_the_known_ones(api: Any) -> None:
    for operator in ("like", "$eq", "regex", "EQ", "", "__class__"):
        answer = api.post("/search", {"query": "tea", "filters": {**ALICE, "n": {operator: 1}}})
        assert answer.status_code == 400
        assert "nin, contains, icontains" in answer.json()["detail"]


def test_what_the_embedder_cannot_do_is_an_error_and_never_an_empty_list(
    api: Any, embedder: Any
) -> None:
    api.add("tea")
    embedder.error = RuntimeError("down")
    answer = api.post("/search", {"query": "something new", "filters": ALICE})
    assert answer.status_code == 502
    assert answer.json()["code"] == "unknown"


def test_the_answer_says_what_kind_of_search_it_was(api: Any) -> None:
    api.add("tea")
    answer = api.post("/search", {"query": "tea", "filters": ALICE})
    assert answer["X-Mem0dash-Search"] == "semantic"
