"""Search and lists of the memserv dialect: modes, recency, provenance, pages."""

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote

import pytest
from django.utils import timezone

from memories.models import Memory
from memories.search.ranking import Candidate, Ranked, with_recency
from memories.tests.memserv import Memserv


@pytest.fixture
def rest(engine: Any, client: Any, key: Any, settings: Any) -> Memserv:
    settings.MEM0_DEFAULT_USER_ID = "me"
    return Memserv(client, key())


def changed(id_: str, days_ago: float) -> None:
    Memory.objects.filter(id=id_).update(updated_at=timezone.now() - timedelta(days=days_ago))


def test_a_found_memory_has_the_shape_of_a_memory_and_its_score(rest: Memserv) -> None:
    id_ = rest.add("green tea", metadata={"source": "user", "colour": "green"}, agent_id="bot")
    [one] = rest.search("green tea")
    assert one["id"] == id_ and one["metadata"] == {"source": "user", "colour": "green"}
    assert (one["user_id"], one["agent_id"]) == ("me", "bot")
    assert one.keys() >= {"memory", "hash", "score", "created_at", "updated_at"}
    assert "rerank_score" not in one


def test_ten_are_found_unless_told_otherwise(rest: Memserv) -> None:
    for n in range(12):
        rest.add(f"tea number {n}")
    assert len(rest.search("tea number")) == 10
    assert len(rest.search("tea number", limit=12)) == 12
    assert len(rest.search("tea", mode="keyword")) == 10


def test_recency_alone_turns_the_order_round(rest: Memserv) -> None:
    best, newest = rest.add("deploy target CapRover"), rest.add("deploy")
    changed(best, 300)
    query = "deploy target CapRover"
    assert [one["id"] for one in rest.search(query)] == [best, newest]
    found = rest.search(query, recency_weight=1)
    assert [one["id"] for one in found] == [newest, best]
    assert found[0]["rerank_score"] == pytest.approx(1, abs=1e-3)
    assert found[1]["rerank_score"] == pytest.approx(0.5 ** (300 / 30), abs=1e-4)
    # The score itself stays what it was; a long half-life makes age nearly nothing.
    assert found[1]["score"] > found[0]["score"]
    slow = rest.search(query, recency_weight=0.4, recency_half_life_days=1e6)
    assert [one["id"] for one in slow] == [best, newest]
    assert [one["rerank_score"] for one in slow] == pytest.approx([1.0, 0.4], abs=1e-3)


def test_recency_counts_before_the_best_are_taken(rest: Memserv) -> None:
    best, newest = rest.add("deploy target CapRover"), rest.add("deploy")
    changed(best, 300)
    [one] = rest.search("deploy target CapRover", recency_weight=1, limit=1)
    assert one["id"] == newest


def test_of_a_lone_answer_there_is_nothing_to_order(rest: Memserv) -> None:
    rest.add("tea")
    [one] = rest.search("tea", recency_weight=0.5)
    assert "rerank_score" not in one


def test_the_blend_is_that_of_mem0_server() -> None:
    now = datetime(2026, 11, 20, tzinfo=UTC)

    def blend(totals: list[float], ages: list[float], weight: float) -> list[float]:
        from uuid import UUID

        ids = [UUID(int=n) for n in range(len(totals))]
        ranked = [
            Ranked(Candidate(id_, "", now), total, total, ())
            for id_, total in zip(ids, totals, strict=True)
        ]
        at = {i: now - timedelta(days=age) for i, age in zip(ids, ages, strict=True)}
        found = with_recency(ranked, at, now, weight=weight, half_life_days=30)
        return [round(score, 4) for _, score in found]

    assert blend([0.9, 0.5, 0.1], [30, 0, 60], 0.5) == [0.75, 0.75, 0.125]
    # All alike: what is left is age.
    assert blend([0.4, 0.4], [0, 30], 0.5) == [1.0, 0.75]
    assert blend([0.4, 0.4], [-5, 0], 1) == [1.0, 1.0]  # from the future is as new as can be


def test_words_find_substrings_whatever_their_case_newest_first(rest: Memserv) -> None:
    old, new = rest.add("Philips Hue bridge"), rest.add("a PHILIPS HUE lamp")
    rest.add("hue and cry")
    found = rest.search("hilips hu", mode="keyword")
    assert [one["id"] for one in found] == [new, old]
    rest.ok("PUT", f"/{old}", {"content": "Philips Hue bridge, moved"})
    assert [one["id"] for one in rest.search("philips hue", mode="keyword")] == [old, new]


@pytest.mark.parametrize("wanted", ["100%", "a_b", "back\\slash", 'quo"te', "ÜBER", "straße"])
def test_words_are_taken_to_the_letter(rest: Memserv, wanted: str) -> None:
    id_ = rest.add(f"it says {wanted} here")
    rest.add("it says 100 percent, axb, über-x here")
    assert id_ in [one["id"] for one in rest.search(wanted.lower(), mode="keyword")]
    if wanted in {"100%", "a_b"}:
        assert len(rest.search(wanted, mode="keyword")) == 1


def test_blank_words_find_nothing_and_a_blank_question_is_refused(rest: Memserv) -> None:
    rest.add("tea")
    for blank in ("", "  ", "\t"):
        assert rest.ok("POST", "/search", {"query": blank, "mode": "keyword"}) == {"results": []}
        assert rest("POST", "/search", {"query": blank}).status_code == 422


def test_what_words_find_is_flat(rest: Memserv) -> None:
    metadata = {"source": "user", "colour": {"is": "green"}, "id": "x", "memory": "y", "score": 7}
    id_ = rest.add("green tea", metadata=metadata, agent_id="bot", run_id="r")
    [one] = rest.search("tea", mode="keyword")
    assert (one["id"], one["memory"]) == (id_, "green tea")
    assert (one["source"], one["colour"], one["user_id"]) == ("user", {"is": "green"}, "me")
    assert "metadata" not in one and "content_fp" not in one


def test_words_span_what_is_named_and_no_more(rest: Memserv) -> None:
    rest.add("tea", agent_id="one", run_id="r1")
    rest.add("more tea", user_id="ann")
    assert rest.texts("tea", mode="keyword") == ["tea"]
    assert rest.texts("tea", mode="keyword", agent_id="one", run_id="r1") == ["tea"]
    assert rest.texts("tea", mode="keyword", agent_id="two") == []
    assert rest.texts("tea", mode="keyword", user_id="ann") == ["more tea"]


def test_meaning_and_lists_are_narrowed_by_agent_and_run(rest: Memserv) -> None:
    rest.add("tea one", agent_id="one", run_id="r1")
    rest.add("tea two", agent_id="two", run_id="r1")
    assert rest.texts("tea", agent_id="one") == rest.listed("agent_id=one") == ["tea one"]
    assert rest.listed("run_id=r1&agent_id=two") == ["tea two"]
    assert rest.listed("run_id=r2") == rest.texts("tea", run_id="r2") == []


@pytest.mark.parametrize("mode", ["semantic", "keyword", "list"])
def test_provenance_filters_and_expiry(rest: Memserv, mode: str) -> None:
    def add(text: str, **metadata: Any) -> None:
        rest.add(text, metadata=metadata)

    def found(**fields: Any) -> set[str]:
        if mode == "list":
            return set(rest.listed("&".join(f"{k}={v}".lower() for k, v in fields.items())))
        return set(rest.texts("tea", mode=mode, **fields))

    add("tea user", source="user", confidence="high", review_status="approved")
    add("tea import", source="import:chatgpt", confidence="0.7")
    add("tea old", source="user", expires_at="2020-01-01T00:00:00Z")
    add("tea rejected", review_status="rejected")
    assert found() == {"tea user", "tea import", "tea old"}
    assert found(source="user") == {"tea user", "tea old"}
    assert found(source="user", exclude_expired=True) == {"tea user"}
    assert found(confidence="high") == {"tea user"}
    # A value that is none of the recommended ones is metadata, and matches as such.
    assert found(confidence="0.7") == {"tea import"}
    assert found(review_status="approved") == {"tea user"}
    assert found(review_status="rejected") == {"tea rejected"}
    assert found(source="import") == set()


FILTERS = ["user_id", "agent_id", "app_id", "run_id", "source", "confidence", "review_status"]


@pytest.mark.parametrize("mode", ["list", "semantic", "keyword"])
@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_that_is_empty_is_refused_and_shows_nothing(
    rest: Memserv, mode: str, name: str
) -> None:
    rest.add("tea")
    for empty in ("", "%20"):
        answer = (
            rest("GET", f"?{name}={empty}")
            if mode == "list"
            else rest("POST", "/search", {"query": "tea", "mode": mode, name: unquote(empty)})
        )
        assert answer.status_code == 422, answer.content
        assert f"The filter {name} is empty" in answer.content.decode()


def test_a_status_that_the_writer_may_not_set_is_metadata_alone(
    rest: Memserv, client: Any, key: Any
) -> None:
    writer = Memserv(client, key("read", "write"))
    writer.add("tea", metadata={"review_status": "approved"})
    assert rest.listed("review_status=approved") == []
    [one] = rest.ok("GET")["results"]
    assert one["metadata"]["review_status"] == "approved"


def test_every_memory_comes_once_while_others_are_added(rest: Memserv) -> None:
    ids = [rest.add(f"fact {n}") for n in range(7)]
    seen: list[str] = []
    offset, more = 0, True
    while more:
        page = rest.ok("GET", f"?limit=3&offset={offset}")
        assert page["pagination"].keys() == {"limit", "offset", "has_more"}
        seen += [one["id"] for one in page["results"]]
        more, offset = page["pagination"]["has_more"], offset + 3
        if offset == 3:
            ids += [rest.add("one more"), rest.add("and another")]
    assert seen == ids


def test_pages_end_where_nothing_is_left(rest: Memserv) -> None:
    for n in range(3):
        rest.add(f"fact {n}")
    assert rest.ok("GET", "?limit=3")["pagination"]["has_more"] is False
    assert rest.ok("GET", "?limit=2")["pagination"]["has_more"] is True
    empty = rest.ok("GET", "?offset=10000&limit=100")
    assert empty == {
        "results": [],
        "pagination": {"limit": 100, "offset": 10_000, "has_more": False},
    }
    assert rest.ok("GET")["pagination"]["limit"] == 50


def walked(rest: Memserv, limit: int, between: Any = None) -> list[str]:
    """The ids of all pages by cursor; `between` is called after each page but the last."""
    seen: list[str] = []
    query = f"?limit={limit}"
    while True:
        page = rest.ok("GET", query)
        seen += [one["id"] for one in page["results"]]
        assert page["pagination"]["has_more"] == ("next_cursor" in page)
        if "next_cursor" not in page:
            return seen
        query = f"?limit={limit}&cursor={page['next_cursor']}"
        if between:
            between(seen)


def test_by_cursor_every_memory_comes_once_while_others_come_and_go(rest: Memserv) -> None:
    ids = [rest.add(f"fact {n}") for n in range(23)]
    # Several of one instant, as those of one add are.
    at = Memory.objects.get(id=ids[4]).created_at
    Memory.objects.filter(id__in=ids[4:9]).update(created_at=at)
    ordered = [str(row.id) for row in Memory.objects.order_by("created_at", "id")]
    gone: list[str] = []
    added: list[str] = []

    def meanwhile(seen: list[str]) -> None:
        # Of those seen the first and the last, whose place the cursor is, and one still to come.
        coming = next((id_ for id_ in reversed(ordered) if id_ not in gone and id_ not in seen), "")
        for id_ in {seen[0], seen[-1], coming} - set(gone) - {""}:
            rest("DELETE", f"/{id_}")
            gone.append(id_)
        added.append(rest.add(f"one more {len(seen)}"))

    seen = walked(rest, 3, meanwhile)
    assert len(seen) == len(set(seen))
    stayed = [id_ for id_ in ordered if id_ not in gone]
    assert [id_ for id_ in seen if id_ in stayed] == stayed
    assert set(added) - set(gone) <= set(seen)


def test_a_cursor_reaches_what_no_offset_does(rest: Memserv, monkeypatch: Any) -> None:
    """The largest offset is 10,000; made smaller here, for so many memories take their time."""
    ids = [rest.add(f"fact {n}") for n in range(12)]
    assert rest("GET", "?offset=10001").status_code == 422
    page = rest.ok("GET", "?limit=5&offset=5")
    rest_of_it = rest.ok("GET", f"?limit=5&cursor={page['next_cursor']}")
    assert [one["id"] for one in rest_of_it["results"]] == ids[10:]
    assert walked(rest, 1) == walked(rest, 100) == ids


def test_a_cursor_keeps_to_the_filters_and_to_what_its_caller_may_see(
    rest: Memserv, client: Any, key: Any, other_project: Any
) -> None:
    ids = [rest.add(f"fact {n}", agent_id="a" if n % 2 else "b") for n in range(8)]
    page = rest.ok("GET", "?limit=1&agent_id=a")
    found = rest.ok("GET", f"?agent_id=a&cursor={page['next_cursor']}")
    assert [one["id"] for one in found["results"]] == ids[3::2]
    for stranger in (
        Memserv(client, key(project=other_project)),
        Memserv(client, key(entity_limit={"user_id": ["zoe"]})),
    ):
        answer = stranger("GET", f"?user_id=me&cursor={page['next_cursor']}")
        assert answer.json()["results"] == []


@pytest.mark.parametrize(
    "query",
    ["cursor=nonsense", "cursor=1-2", "cursor=%00", "cursor=9999999999999999999-" + "a" * 32],
)
def test_a_cursor_that_is_none_is_told(rest: Memserv, query: str) -> None:
    assert rest("GET", f"?{query}").status_code in {400, 422}
    assert rest.ok("GET", "?cursor=")["results"] == []


def test_a_cursor_and_an_offset_are_one_too_many(rest: Memserv) -> None:
    for n in range(2):
        rest.add(f"fact {n}")
    cursor = rest.ok("GET", "?limit=1")["next_cursor"]
    answer = rest("GET", f"?offset=1&cursor={cursor}")
    assert (answer.status_code, answer.json()["detail"]) == (
        422,
        "Send either a cursor or an offset.",
    )
    assert rest("GET", f"?offset=0&cursor={cursor}").status_code == 200


def test_expired_ones_are_dropped_after_the_page_is_cut(rest: Memserv) -> None:
    rest.add("old", metadata={"expires_at": "2020-01-01T00:00:00Z"})
    rest.add("new")
    first = rest.ok("GET", "?limit=1&exclude_expired=true")
    assert (first["results"], first["pagination"]["has_more"]) == ([], True)
    assert [one["memory"] for one in first["results"]] == []
    second = rest.ok("GET", "?limit=1&offset=1&exclude_expired=true")
    assert [one["memory"] for one in second["results"]] == ["new"]


def test_a_list_takes_the_same_number_of_statements_however_long(
    rest: Memserv, django_assert_max_num_queries: Any
) -> None:
    for n in range(5):
        rest.add(f"fact {n}")
    with django_assert_max_num_queries(2):
        rest.ok("GET", "?limit=1")
    with django_assert_max_num_queries(2):
        assert len(rest.ok("GET", "?limit=100")["results"]) == 5


def test_the_answer_says_what_kind_of_search_it_was(rest: Memserv, embedder: Any) -> None:
    from core.errors import ProviderError

    rest.add("tea")
    answer = rest("POST", "/search", {"query": "tea", "mode": "keyword"})
    assert answer["X-Mem0dash-Search"] == "keyword"
    assert rest("POST", "/search", {"query": "tea"})["X-Mem0dash-Search"] == "semantic"
    embedder.error = ProviderError("away", code="provider_timeout")
    by_words = rest("POST", "/search", {"query": "tea and"})
    assert (by_words.status_code, by_words["X-Mem0dash-Search"]) == (200, "keyword")
    assert by_words["X-Mem0dash-Problem"] == "provider_timeout"
    assert rest("POST", "/search", {"query": "zebra"}).status_code == 502
