"""Whatever a client sends, the answer is a clear 4xx in JSON, and nothing is stored or lost."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from memories.models import AddInput, Memory, Revision

pytestmark = pytest.mark.one_form

WRONG = {
    "number": 5,
    "float": 1.5,
    "true": True,
    "list": ["alice"],
    "object": {"a": 1},
    "huge": 10**18,
}
TEXT_FIELDS = (
    "user_id",
    "agent_id",
    "run_id",
    "app_id",
    "expiration_date",
    "memory_type",
    "prompt",
)
NO_JSON = {
    "a brace": b"{",
    "text": b"hola",
    "single quotes": b"{'query': 'tea'}",
    "two documents": b"{}{}",
    "a trailing comma": b'{"a": 1,}',
    "a comment": b'{"a": 1} // hola',
    "NaN": b'{"query": NaN}',
    "Infinity": b'{"query": Infinity}',
    "1e400": b'{"query": 1e400}',
    "invalid UTF-8": b'{"query": "\xff\xfe"}',
    "UTF-16": '{"query": "tea"}'.encode("utf-16"),
    "a raw NUL": b'{"query": "a\x00b"}',
    "an escaped NUL": b'{"query": "a\\u0000b"}',
    "a NUL in a key": b'{"quer\\u0000y": "tea"}',
    "a lone high surrogate": b'{"query": "\\ud800"}',
    "a lone low surrogate": b'{"query": "a\\udfffb"}',
    "swapped surrogates": b'{"query": "\\udc00\\ud800"}',
    "100 levels": b"[" * 100 + b"]" * 100,
    "100 levels of objects": b'{"a":' * 100 + b"1" + b"}" * 100,
    "2000 levels": b"[" * 2000 + b"]" * 2000,
    "2000 open levels": b"[" * 2000,
    "a NUL below 990 levels": b"[" * 990 + b'"\\u0000"' + b"]" * 990,
    "a raw control character": b'{"query": "a\x01b"}',
    "a number of 10000 digits and a half": b'{"query": ' + b"9" * 10_000 + b"e999}",
}
NOT_AN_OBJECT = {
    "nothing": b"",
    "white space": b"  \n ",
    "null": b"null",
    "a list": b"[]",
    "a list of objects": b'[{"query": "tea", "user_id": "alice"}]',
    "a string": b'"tea"',
    "a number": b"5",
    "zero": b"0",
    "false": b"false",
    "true": b"true",
}


class Raw:
    """Sends bodies as they are, and keeps count of what is stored."""

    def __init__(self, api: Any) -> None:
        self.api = api
        api.client.raise_request_exception = False
        self.id = api.add("I drink tea", metadata={"z": 1})
        self.before = self.state()

    def state(self) -> list[Any]:
        return [
            list(Memory.objects.order_by("id").values()),
            Revision.objects.count(),
            AddInput.objects.filter(outcome="running").count(),
        ]

    def send(self, method: str, path: str, body: bytes) -> Any:
        call = getattr(self.api.client, method.lower())
        content_type = "application/json"
        return call(path, data=body, content_type=content_type, headers=self.api.headers)

    def routes(self) -> list[tuple[str, str]]:
        return [("POST", "/memories"), ("POST", "/search"), ("PUT", f"/memories/{self.id}")]

    def problem(self, method: str, path: str, body: bytes) -> str:
        """Empty if the answer is 4xx with a message in the dialect's shape and nothing changed."""
        answer = self.send(method, path, body)
        if answer.status_code not in {400, 404, 422}:
            return f"{method} {path}: {answer.status_code} {answer.content[:200]!r}"
        detail = answer.json()["detail"]
        if answer.status_code == 422:
            sound = detail and all({"type", "loc", "msg", "input"} <= e.keys() for e in detail)
        else:
            sound = isinstance(detail, str) and detail
        if not sound:
            return f"{method} {path}: {answer.content[:200]!r}"
        return "" if self.state() == self.before else f"{method} {path}: something was stored"

    def refuses(self, method: str, path: str, body: bytes | dict[str, Any], what: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        assert (what, self.problem(method, path, data)) == (what, "")

    def not_refused(self, bodies: dict[str, bytes]) -> dict[str, str]:
        """Which of the bodies some route does not refuse, and how it answers instead."""
        return {
            what: problem
            for what, body in bodies.items()
            for route in self.routes()
            if (problem := self.problem(*route, body))
        }


@pytest.fixture
def raw(api: Any) -> Iterator[Raw]:
    sender = Raw(api)
    yield sender
    assert [m["id"] for m in api.search("I drink tea")] == [sender.id]


def test_what_is_no_sound_json_is_refused(raw: Raw) -> None:
    assert raw.not_refused(NO_JSON) == {}


def test_a_body_that_is_no_object_is_refused(raw: Raw) -> None:
    assert raw.not_refused(NOT_AN_OBJECT) == {}


def test_a_wrong_type_in_any_field_of_an_add_is_refused(raw: Raw) -> None:
    good = {"messages": [{"role": "user", "content": "hola"}], "user_id": "bob"}
    for what, value in WRONG.items():
        for field in TEXT_FIELDS:
            raw.refuses("POST", "/memories", {**good, field: value}, f"{field}: {what}")
        for field in ("role", "content", "name"):
            if (field, what) == ("content", "list"):
                continue  # parts, of which some clients write those with text as plain texts
            message = {**good["messages"][0], field: value}  # type: ignore[dict-item]
            raw.refuses("POST", "/memories", {**good, "messages": [message]}, f"{field}: {what}")
        if what != "object":
            raw.refuses("POST", "/memories", {**good, "metadata": value}, f"metadata: {what}")
    for value in (None, {}, {"role": "user"}, 5, [[]], [None], [5]):
        raw.refuses("POST", "/memories", {**good, "messages": value}, f"messages: {value}")
    for content in (None, [{"type": "image_url", "image_url": {}}], [5], 5):
        messages = [{"role": "user", "content": content}]
        raw.refuses("POST", "/memories", {**good, "messages": messages}, f"content: {content}")
    for value in ("perhaps", 5, [], {}):
        raw.refuses("POST", "/memories", {**good, "infer": value}, f"infer: {value}")


def test_a_wrong_type_in_any_field_of_a_search_is_refused(raw: Raw) -> None:
    good = {"query": "tea", "user_id": "alice"}
    for what, value in WRONG.items():
        for field in ("query", "user_id", "agent_id", "run_id"):
            raw.refuses("POST", "/search", {**good, field: value}, f"{field}: {what}")
        if what != "object":
            raw.refuses("POST", "/search", {**good, "filters": value}, f"filters: {what}")
    for field, values in (
        ("query", (None,)),
        ("filters", ("user_id", "{}")),
        ("top_k", ("many", 1.5, [], {}, [5], -1, 10**18, -(10**18), 10**30)),
        ("threshold", ("high", [], {}, "nan", "inf", 1e300, -1)),
        ("explain", ("perhaps", 5, [], {})),
        ("show_expired", ("perhaps", 5, [], {})),
    ):
        for value in values:
            raw.refuses("POST", "/search", {**good, field: value}, f"{field}: {value}")


def test_a_wrong_type_in_any_field_of_an_update_is_refused(raw: Raw) -> None:
    path = f"/memories/{raw.id}"
    for what, value in WRONG.items():
        for field in ("text", "expiration_date"):
            raw.refuses("PUT", path, {field: value}, f"{field}: {what}")
        if what != "object":
            raw.refuses("PUT", path, {"metadata": value}, f"metadata: {what}")
    raw.refuses("PUT", path, {"metadata": "z"}, "metadata: text")
    raw.refuses("PUT", path, {"text": "coffee", "metadata": []}, "a good field beside a bad one")


def test_ids_that_cannot_be_are_refused_wherever_they_stand(raw: Raw) -> None:
    ids = ["", " ", "\n", "a b", "a\tb", "a\u2028b", "x" * 256, "x" * 300, "x" * 100_000]
    message = {"role": "user", "content": "hola"}
    for name in ("user_id", "agent_id", "run_id"):
        for value in ids:
            what = f"{name}: {value[:20]!r}"
            raw.refuses("POST", "/memories", {"messages": [message], name: value}, what)
            raw.refuses("POST", "/search", {"query": "tea", name: value}, what)
            raw.refuses("POST", "/search", {"query": "tea", "filters": {name: value}}, what)
            nested = {"OR": [{name: {"in": ["alice", value]}}]}
            raw.refuses("POST", "/search", {"query": "tea", "filters": nested}, what)
    raw.refuses("POST", "/memories", {"messages": [message], "app_id": "a b"}, "app_id")


def test_the_longest_id_and_odd_but_sound_ones_are_kept_as_they_are(api: Any) -> None:
    odd = [
        "x" * 255,
        "a/b",
        "a%b",
        "*",
        "ü@例え.jp",
        "';DROP--",
        "😀",
        "../..",
        "null",
        "a\u200bb",
    ]
    for user in odd:
        id_ = api.add("tea", user_id=user)
        assert api.get(f"/memories/{id_}").json()["user_id"] == user
        listed = api.get("/memories", data={"user_id": user}).json()["results"]
        assert [m["id"] for m in listed] == [id_], user
        assert [m["id"] for m in api.search("tea", user_id=user)] == [id_], user
    assert {e["id"] for e in api.get("/entities").json()} == set(odd)


def test_nul_in_a_query_string_is_refused(raw: Raw) -> None:
    for name in ("user_id", "agent_id", "run_id", "top_k", "show_expired"):
        raw.refuses("GET", f"/memories?{name}=a%00b", b"", f"GET {name}")
        raw.refuses("DELETE", f"/memories?user_id=alice&{name}=a%00b", b"", f"DELETE {name}")


def test_nul_in_a_path_finds_nothing_and_breaks_nothing(raw: Raw) -> None:
    api = raw.api
    for part in ("a%00b", "%00", f"{raw.id}%00"):
        assert api.get(f"/memories/{part}").json() is None
        assert api.get(f"/memories/{part}/history").json() == []
        assert api.put(f"/memories/{part}", {"text": "x"}).status_code == 404
        assert api.delete(f"/memories/{part}").status_code == 404
        for kind in ("user", "agent", "run"):
            answer = api.delete(f"/entities/{kind}/{part}")
            assert answer.status_code in {200, 400, 404}, answer.content
        assert api.get(f"/nowhere/{part}").status_code == 404
    assert raw.state() == raw.before


def test_bytes_that_are_no_utf8_break_neither_path_nor_query(raw: Raw) -> None:
    api = raw.api
    for part in ("%ff", "%ed%a0%80", "%c0%80", "%"):
        assert api.get(f"/memories/{part}").json() is None
        assert api.get(f"/memories?user_id={part}").json() == {"results": []}
        assert api.delete(f"/memories/{part}").status_code == 404
        assert api.delete(f"/entities/user/{part}").status_code < 500
    assert raw.state() == raw.before


def test_another_spelling_of_an_id_is_that_memory_or_none(raw: Raw) -> None:
    id_ = raw.id
    spellings = [id_.upper(), f"{{{id_}}}", f"urn:uuid:{id_}", id_.replace("-", "")]
    spellings += [
        f" {id_}",
        f"{id_} ",
        f"{id_}0",
        id_[:-1],
        f"-{id_}",
        "٠" * 32,
        "0" * 32,
        "0x" * 16,
    ]
    spellings += ["00000000-0000-0000-0000-000000000000", "x" * 5000, "..", "*", "%25"]
    for spelling in spellings:
        answer = raw.api.get(f"/memories/{spelling}")
        assert answer.status_code == 200, spelling
        assert answer.json() is None or answer.json()["id"] == id_
        assert raw.api.get(f"/memories/{spelling}/history").status_code == 200
        unknown = spelling.replace(id_[-4:], "0000").replace(id_[-4:].upper(), "0000")
        if id_[:8] not in unknown.lower():
            assert raw.api.delete(f"/memories/{unknown}").status_code == 404
    assert raw.state() == raw.before


def test_times_beyond_the_calendar_do_no_harm(raw: Raw) -> None:
    """Each is refused or kept as plain metadata; the memory and its neighbours stay readable."""
    for name in ("expires_at", "created_at", "reviewed_at"):
        for value in (
            "9999-12-31T23:59:59-12:00",
            "0001-01-01T00:00:00+12:00",
            "9999-12-31T23:59:59.999999Z",
            "0001-01-01",
            "10000-01-01T00:00:00Z",
        ):
            metadata = {name: value, "review_status": "approved"}
            body = {
                "messages": [{"role": "user", "content": f"{name} {value}"}],
                "user_id": "bob",
                "metadata": metadata,
            }
            answer = raw.send("POST", "/memories", json.dumps(body).encode())
            assert answer.status_code in {200, 400}, (name, value, answer.content)
            update = json.dumps({"metadata": metadata}).encode()
            answer = raw.send("PUT", f"/memories/{raw.id}", update)
            assert answer.status_code in {200, 400}, (name, value, answer.content)
            for path in ("/memories?user_id=bob&show_expired=true", "/memories", "/entities"):
                assert raw.api.get(path).status_code == 200, (name, value, path)
    raw.api.put(f"/memories/{raw.id}", {"metadata": {"expires_at": "2999-01-01T00:00:00Z"}})


def test_huge_numbers_in_metadata_can_be_read_back(raw: Raw) -> None:
    """JSON knows no largest number, the databases and the encoder do."""
    for number in (2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**30, 1e20, 1e308):
        body = {
            "messages": [{"role": "user", "content": f"number {number}"}],
            "user_id": "bob",
            "metadata": {"n": number},
        }
        answer = raw.send("POST", "/memories", json.dumps(body).encode())
        assert answer.status_code in {200, 400, 422}, (number, answer.content)
        listed = raw.send("GET", "/memories?user_id=bob&top_k=1", b"")
        assert listed.status_code == 200, number
        if answer.status_code == 200:
            shown = listed.json()["results"][0]["metadata"]["n"]
            assert shown == pytest.approx(number, rel=1e-15)


def test_a_refused_body_is_not_echoed_at_full_length(raw: Raw) -> None:
    body = json.dumps({"messages": [["x" * 100_000]], "user_id": "alice"}).encode()
    assert len(raw.send("POST", "/memories", body).content) < 2000
