"""What one request may ask: each bound is told with its figure, in every dialect."""

from typing import Any

import pytest

from core import limits
from memories.models import AddInput, Memory

pytestmark = pytest.mark.one_form

TURN = {"role": "user", "content": "tea"}
LONG_QUERY = "x" * (limits.QUERY_LETTERS + 1)
LONG_TEXT = "x" * (limits.TEXT_LETTERS + 1)
LONG_VALUE = "x" * (limits.VALUE_LETTERS + 1)
MANY_KEYS = {f"k{number}": 1 for number in range(limits.METADATA_KEYS + 1)}
SPREAD_KEYS = {f"k{n}": {f"l{m}": 1 for m in range(40)} for n in range(40)}
LONG_METADATA = {"note": "x" * (limits.METADATA_LETTERS + 1)}
LONG_KEY = {"x" * (limits.METADATA_LETTERS + 1): 1}
LONG_LIST = {"list": [1] * limits.METADATA_LETTERS}


def deep(levels: int) -> dict[str, Any]:
    made: dict[str, Any] = {"end": 1}
    for _ in range(levels - 1):
        made = {"in": made}
    return made


def add_of(**fields: Any) -> dict[str, Any]:
    return {"messages": [TURN], "user_id": "ann", **fields}


METADATA = [MANY_KEYS, SPREAD_KEYS, LONG_METADATA, LONG_KEY, LONG_LIST, deep(30)]
OSS = [
    ("POST", "/memories", add_of(messages=[TURN] * (limits.MESSAGES + 1)), "1,000 messages"),
    ("POST", "/memories", add_of(messages=[{**TURN, "content": LONG_TEXT}]), "1,000,000"),
    ("POST", "/memories", add_of(prompt="x" * (limits.PROMPT_LETTERS + 1)), "100,000"),
    *(("POST", "/memories", add_of(metadata=metadata), "at most") for metadata in METADATA),
    ("PUT", "/memories/{id}", {"text": LONG_TEXT}, "1,000,000"),
    *(("PUT", "/memories/{id}", {"metadata": metadata}, "at most") for metadata in METADATA),
    ("POST", "/search", {"query": LONG_QUERY, "user_id": "ann"}, "4,000"),
    ("POST", "/search", {"query": "x" * 7_000_000, "user_id": "ann"}, "4,000"),
    ("POST", "/search", {"query": "tea", "filters": {"user_id": "a", "k": LONG_VALUE}}, "4,000"),
    ("POST", "/search", {"query": "tea", "filters": {"user_id": "a", LONG_VALUE: 1}}, "4,000"),
    (
        "POST",
        "/search",
        {"query": "tea", "filters": {"user_id": "a", "k": {"icontains": LONG_VALUE}}},
        "4,000",
    ),
    ("POST", "/search", {"query": "tea", "user_id": "ann", "top_k": 100_001}, "100000"),
]
MEMSERV = [
    ("POST", "/memories", {"messages": [TURN] * (limits.MESSAGES + 1)}, "1,000 messages"),
    ("POST", "/memories", {"content": LONG_TEXT}, "1,000,000"),
    *(("POST", "/memories", {"content": "a", "metadata": given}, "at most") for given in METADATA),
    ("PUT", "/memories/{id}", {"content": LONG_TEXT}, "1,000,000"),
    ("POST", "/memories/search", {"query": LONG_QUERY}, "4,000"),
    ("POST", "/memories/search", {"query": LONG_QUERY, "mode": "keyword"}, "4,000"),
    ("POST", "/memories/search", {"query": "tea", "source": LONG_VALUE}, "4,000"),
    ("GET", f"/memories?source={LONG_VALUE}", None, "4,000"),
    ("POST", "/memories/delete_bulk", {"source": LONG_VALUE}, "4,000"),
]


@pytest.mark.parametrize(("method", "path", "body", "figure"), OSS, ids=range(len(OSS)))
def test_more_than_one_request_may_ask_is_400_with_the_figure(
    api: Any, method: str, path: str, body: Any, figure: str
) -> None:
    memory_id = api.add("I drink tea", user_id="ann")
    answer = api(method, path.format(id=memory_id), body)
    assert answer.status_code == 400, answer.content[:300]
    assert figure in answer.json()["detail"]
    assert len(answer.content) < 1000
    assert [memory.text for memory in Memory.objects.all()] == ["I drink tea"]
    assert AddInput.objects.count() == 1


@pytest.mark.parametrize(("method", "path", "body", "figure"), MEMSERV, ids=range(len(MEMSERV)))
def test_mem0_servers_dialect_has_the_same_bounds(
    api: Any, method: str, path: str, body: Any, figure: str
) -> None:
    memory_id = api.add("I drink tea", user_id="ann")
    # A change is about the one memory of its address, and takes no other name.
    owner = {} if method == "PUT" else {"user_id": "ann"}
    sent = None if body is None else {**owner, **body}
    path, _, query = path.partition("?")
    if method == "GET":
        query = f"user_id=ann&{query}"
    answer = api(method, f"/api/v1{path.format(id=memory_id)}?{query}", sent)
    assert answer.status_code == 422, answer.content[:300]
    assert figure in answer.json()["detail"]
    assert [memory.text for memory in Memory.objects.all()] == ["I drink tea"]


def test_metadata_that_grow_with_each_change_have_the_same_bounds(api: Any) -> None:
    memory_id = api.add("I drink tea")
    for half in range(2):
        keys = {f"{half}-{number}": 1 for number in range(limits.METADATA_KEYS // 2)}
        assert api.put(f"/memories/{memory_id}", {"metadata": keys}).status_code == 200
    answer = api.put(f"/memories/{memory_id}", {"metadata": {"one more": 1}})
    assert answer.status_code == 400
    assert len(Memory.objects.get().metadata) == limits.METADATA_KEYS


def test_what_stands_at_a_bound_is_taken(api: Any) -> None:
    metadata = {f"k{number}": "v" * 10 for number in range(limits.METADATA_KEYS)}
    assert api.add("x" * 500_000, metadata=metadata)
    assert api.add("tea", metadata=deep(limits.METADATA_DEPTH))
    assert api.search("x" * limits.QUERY_LETTERS) is not None


def test_a_page_says_that_a_search_text_is_too_long(api: Any, alice: Any, client: Any) -> None:
    client.force_login(alice)
    for path in ("/dashboard/memories", "/dashboard/entities", "/dashboard/activity"):
        answer = client.get(path, {"q": LONG_QUERY})
        assert answer.status_code in {200, 400, 422}
        assert len(answer.content) < 200_000


def test_a_list_of_entities_ends_and_says_so(api: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(limits, "ENTITIES", 3)
    for user in ("a", "b", "c"):
        api.add("tea", user_id=user)
    whole = api.get("/entities")
    assert len(whole.json()) == 3
    assert "X-Mem0dash-Cut" not in whole.headers
    api.add("tea", user_id="d", run_id="r")
    cut = api.get("/entities")
    assert len(cut.json()) == 3
    assert cut.headers["X-Mem0dash-Cut"] == "3"
