"""Filters and metadata of every odd kind: refused with a sentence, or meant exactly as they say."""

import json
from typing import Any

import pytest

ALICE = {"user_id": "alice"}
ODD_KEYS = [
    "a.b",
    'a"b',
    "a'b",
    "a\\b",
    "$.a",
    "a[0]",
    "__",
    "a__contains",
    "",
    " ",
    "😀",
    "ключ",
    "a\u200bb",
    "a\nb",
    "%s",
    "%(a)s",
    "?",
    "a=1",
    'a="b"',
    "{}",
    "null",
    "0",
    "*",
    "x" * 1000,
    "id",
    "hash_",
    "score",
    "'; DROP TABLE memories_memory; --",
    "created",
    "and",
]


@pytest.fixture
def search(api: Any) -> Any:
    """`search(filters)` asks for "tea" of Alice with these filters as well; the raw answer."""
    api.client.raise_request_exception = False

    def ask(filters: Any) -> Any:
        body = {"query": "tea", "filters": {"AND": [ALICE, filters]}, "threshold": 0}
        return api.post("/search", json.dumps(body))

    return ask


def texts(answer: Any) -> set[str]:
    assert answer.status_code == 200, answer.content
    return {memory["memory"] for memory in answer.json()["results"]}


def test_filters_that_mean_nothing_are_400_with_a_sentence(api: Any, search: Any) -> None:
    api.add("tea")
    wrong: list[Any] = [
        None,
        [],
        "alice",
        5,
        True,
        {"AND": []},
        {"OR": []},
        {"NOT": []},
        {"AND": None},
        {"OR": "alice"},
        {"NOT": 5},
        {"AND": [None]},
        {"AND": [[]]},
        {"OR": ["alice"]},
        {"n": {}},
        {"n": {"unknown": 1}},
        {"n": {"eq": 1, "unknown": 1}},
        {"n": {"eq": {}}},
        {"n": {"eq": []}},
        {"n": {"eq": {"a": 1}}},
        {"n": {"in": "abc"}},
        {"n": {"in": 5}},
        {"n": {"in": None}},
        {"n": {"nin": {}}},
        {"n": {"in": [[1]]}},
        {"n": {"in": [{"a": 1}]}},
        {"n": [{"a": 1}]},
        {"n": {"gt": None}},
        {"n": {"lt": True}},
        {"n": {"gte": []}},
        {"n": {"gt": {}}},
        {"n": {"contains": []}},
        {"n": {"contains": {}}},
        {"n": {"icontains": 5}},
        {"n": {"icontains": None}},
        {"user_id": 5},
        {"user_id": True},
        {"user_id": ["alice", 5]},
        {"user_id": {"in": [None]}},
        {"user_id": {"gt": 5}},
        {"run_id": {"contains": 5}},
        {"text": 5},
        {"actor_id": 1.5},
        {"created_at": 5},
        {"created_at": "yesterday"},
        {"created_at": ""},
        {"created_at": {"contains": "2026-01-01"}},
        {"updated_at": {"in": ["2026-01-01", "x"]}},
        {"expires_at": "2026-02-30"},
        {"expiration_date": 5},
        {"expiration_date": "soon"},
        {"categories": 5},
        {"categories": {"contains": []}},
    ]
    for filters in wrong:
        answer = search(filters)
        assert answer.status_code == 400, (filters, answer.content)
        assert isinstance(answer.json()["detail"], str) and answer.json()["detail"], filters
    assert texts(search({"n": {"nin": [1]}})) == {"tea"}


def nested(levels: int) -> dict[str, Any]:
    node: dict[str, Any] = {"n": 1}
    for _ in range(levels):
        node = {"AND": [node]}
    return node


def test_filters_nest_to_a_limit_and_not_beyond(api: Any, search: Any) -> None:
    api.add("tea", metadata={"n": 1})
    assert texts(search(nested(10))) == {"tea"}
    for levels in (17, 25):
        answer = search(nested(levels))
        assert answer.status_code == 400
        assert "nested deeper" in answer.json()["detail"]
    for levels in (40, 100):
        assert search(nested(levels)).status_code in {400, 422}


def test_filters_have_room_for_many_conditions_and_a_limit(api: Any, search: Any) -> None:
    api.add("tea", metadata={"n": 150})
    assert texts(search({"OR": [{"n": n} for n in range(199)]})) == {"tea"}
    assert texts(search({"AND": [{"n": {"ne": n}} for n in range(140)]})) == {"tea"}
    for logic in ("AND", "OR", "NOT"):
        for count in (250, 20_000):
            answer = search({logic: [{"n": n} for n in range(count)]})
            assert answer.status_code == 400
            assert "more than" in answer.json()["detail"]
    many = {f"key{n}": n for n in range(250)}
    assert search(many).status_code == 400


def test_a_long_list_of_values_is_searched_or_refused(api: Any, search: Any) -> None:
    api.add("tea", metadata={"n": 1, "tag": "t1"}, run_id="r1")
    for field, letter, count in (
        ("run_id", "r", 100),
        ("tag", "t", 100),
        ("run_id", "r", 1_500),
        ("tag", "t", 1_500),
        ("run_id", "r", 300_000),
    ):
        for operator, expected in (("in", {"tea"}), ("nin", set())):
            answer = search({field: {operator: [f"{letter}{n}" for n in range(count)]}})
            assert answer.status_code in {200, 400}, (field, operator, count, answer.content)
            if answer.status_code == 200:
                assert texts(answer) == expected, (field, operator, count)
            else:
                assert count > 100


def test_empty_filters_count_like_any_other(api: Any, search: Any) -> None:
    """Each costs time, and a body has room for a million of them."""
    api.add("tea")
    assert texts(search({})) == texts(search({"AND": [{}, {}]})) == {"tea"}
    assert texts(search({"NOT": {}})) == set()
    for filters in ({"OR": [{"NOT": {}}] * 5_000}, {"AND": [{"AND": [{}] * 50}] * 100}):
        assert search(filters).status_code == 400


def test_huge_numbers_in_a_filter_are_compared_or_refused(api: Any, search: Any) -> None:
    api.add("tea", metadata={"n": 2**64 - 1, "list": [2**64 - 1]})
    for number in (2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**30, 1e308, -1e308):
        for operator in ("eq", "ne", "gt", "gte", "lt", "lte"):
            answer = search({"n": {operator: number}})
            assert answer.status_code in {200, 400}, (operator, number, answer.content)
        for condition in (
            {"list": {"contains": number}},
            {"n": [number]},
            {"n": {"nin": [number]}},
        ):
            answer = search(condition)
            assert answer.status_code in {200, 400}, (condition, answer.content)


def test_times_at_the_ends_of_the_calendar_are_compared_or_refused(api: Any, search: Any) -> None:
    api.add("tea")
    for value in (
        "9999-12-31T23:59:59-12:00",
        "0001-01-01T00:00:00+12:00",
        "0001-01-01",
        "9999-12-31T23:59:59.999999Z",
    ):
        for operator in ("eq", "gt", "lte", "in"):
            operand = [value] if operator == "in" else value
            for field in ("created_at", "expires_at"):
                answer = search({field: {operator: operand}})
                assert answer.status_code in {200, 400}, (field, operator, value)


def test_metadata_under_any_key_is_kept_and_found_by_it(api: Any, search: Any) -> None:
    for key in ODD_KEYS:
        api.add(f"tea {key}", metadata={key: "me", "plain": 1})
    api.add("tea without any")
    listed = api.get("/memories?user_id=alice&top_k=100").json()["results"]
    stored = {next(k for k in m["metadata"] if k != "plain") for m in listed if m["metadata"]}
    assert stored == set(ODD_KEYS)
    for key in ODD_KEYS:
        # Bare equality is answered by the index, the others by SQL.
        for operand in ("me", {"eq": "me"}, {"contains": "m"}, {"gte": "me"}, ["me", "you"], "*"):
            assert texts(search({key: operand})) == {f"tea {key}"}, (key, operand)
        assert texts(search({key: "you"})) == set()
        assert f"tea {key}" not in texts(search({key: {"ne": "me"}}))


def test_metadata_of_any_value_is_found_by_exactly_that_value(api: Any, search: Any) -> None:
    values = ["", " ", "*", "null", "true", "1", 1, True, False, 0, 1.5, "1.5", '"', "\\", "%", "_"]
    values += ["x" * 4000, "😀", "ﷺ", "a\u0301", "á", "\u202eabc", -1, 1e-7, "İ", "ß", "'"]
    for number, value in enumerate(values):
        api.add(f"tea {number}", metadata={"v": value})
    for number, value in enumerate(values):
        assert texts(search({"v": {"eq": value}})) == {f"tea {number}"}, value
        assert texts(search({"v": {"in": [value]}})) == {f"tea {number}"}, value
        assert f"tea {number}" not in texts(search({"v": {"nin": [value]}})), value


def test_percent_and_underscore_are_no_wildcards(api: Any, search: Any) -> None:
    api.add("tea 100% sure", metadata={"tag": "50%_off"})
    api.add("tea for all", metadata={"tag": "plain"})
    for operator in ("contains", "icontains"):
        assert texts(search({"tag": {operator: "%"}})) == {"tea 100% sure"}
        assert texts(search({"tag": {operator: "%_o"}})) == {"tea 100% sure"}
        assert texts(search({"tag": {operator: "5_%"}})) == set()
        assert texts(search({"text": {operator: "0% s"}})) == {"tea 100% sure"}


@pytest.mark.parametrize(
    "text",
    [
        "tea " * 25_000,
        "tea " + "x" * 100_000,
        "שלום tea مرحبا",
        "tea \u202egnp.exe\u202c and \u2066more\u2069",
        "te\u200ba tea zero\u200dwidth\ufeff",
        "tea e\u0301 é \u212b Å",
        "tea\r\nwith\tcontrol \x01\x7f\x85\u2028\u2029 characters",
        '<img src=x onerror="alert(1)"> tea',
        "</script><script>tea</script>",
        "=cmd|' /C calc'!A0 tea",
        "{{ tea }} {% tea %} ${tea}",
        "'; DROP TABLE memories_memory; -- tea",
        "👩‍👩‍👧‍👦 tea 🇩🇪",
        "\ufffe\uffff tea \U0010ffff",
        "  tea with space around  \n",
    ],
)
def test_every_text_is_kept_byte_for_byte_and_served_as_inert_json(api: Any, text: str) -> None:
    id_ = api.add(text, metadata={"note": text})
    answers = [
        api.get(f"/memories/{id_}"),
        api.get("/memories?user_id=alice"),
        api.post("/search", {"query": "tea", "filters": ALICE, "threshold": 0}),
        api.get(f"/memories/{id_}/history"),
    ]
    for answer in answers:
        assert answer["Content-Type"] == "application/json"
        assert answer["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in answer["Content-Security-Policy"]
    one, listed, found, history = (answer.json() for answer in answers)
    assert one["memory"] == listed["results"][0]["memory"] == text
    assert found["results"][0]["memory"] == history[0]["new_memory"] == text
    assert one["metadata"] == {"note": text}
