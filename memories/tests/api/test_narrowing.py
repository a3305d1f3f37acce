"""Whatever name a client writes, however it is spelt: never more is deleted or shown than asked."""

import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any, Final
from urllib.parse import urlencode

import pytest

from memories.models import Memory
from memories.tests.memserv import Memserv

pytestmark = pytest.mark.one_form

IDS: Final = {"user_id": "alice", "agent_id": "helper", "app_id": "garden", "run_id": "monday"}
# What narrows somewhere, and is no id: where a route does not know it, it has to say so.
OTHERS: Final = {
    "filters": '{"agent_id": "helper"}',
    "metadata": '{"k": 1}',
    "categories": "food",
    "source": "nowhere",
    "confidence": "high",
    "review_status": "approved",
    "top_k": "1",
    "limit": "1",
    "page": "1000",
    "page_size": "1",
    "offset": "1000",
    "start_date": "2999-01-01",
    "created_at": "2999-01-01",
    "threshold": "1",
}
CAMEL: Final = {name: name.title().replace("_", "") for name in (*IDS, *OTHERS)}


def misspelt(name: str) -> Iterator[str]:
    """The name with a letter too few, one too many, two swapped; in other cases and families. The
    names of ids with each of these at every letter, the others with one of them at each."""
    for at in range(len(name)):
        wrong = (
            name[:at] + name[at + 1 :],
            name[:at] + "x" + name[at:],
            name[:at] + name[at : at + 2][::-1] + name[at + 2 :],
        )
        yield from wrong if name in IDS else wrong[at % 3 : at % 3 + 1]
    camel = CAMEL[name]
    yield from (camel, camel[0].lower() + camel[1:], name.upper(), name.title(), f"{name}s")
    yield from (name.replace("_", "-"), name.replace("_", ""), f"{name}[]", f" {name}")


def spellings(*names: str) -> Iterator[tuple[str, str]]:
    """(how it is written, what is meant), each once, the right spelling first."""
    seen = set()
    for meant in names:
        for written in (meant, *misspelt(meant)):
            # A short word with a letter less is no word any more.
            if written not in seen and len(written) >= 4:
                seen.add(written)
                yield written, meant


@pytest.fixture
def crowd(api: Any, settings: Any) -> Any:
    """Memories of every combination of two users, agents, apps and runs."""
    for number in range(16):
        ids = [
            value if number >> bit & 1 else f"other-{value}"
            for bit, value in enumerate(IDS.values())
        ]
        api.add(f"tea {number}", **dict(zip(IDS, ids, strict=True)))
    return api


def fits(memory: Memory, asked: dict[str, str]) -> bool:
    return all(getattr(memory, name) == value for name, value in asked.items() if name in IDS)


def deleted() -> list[Memory]:
    return list(Memory.objects.exclude(deleted_at=None))


def too_much(
    spelled: list[tuple[str, str]], base: dict[str, str], send: Callable[[dict[str, str]], Any]
) -> list[str]:
    """The names with which `send` deleted what was not asked for, or did as if it had understood
    them."""
    wrong = []
    for written, meant in spelled:
        value = (IDS | OTHERS)[meant]
        answer = send({**base, written: value})
        asked = {**base, meant: value}
        gone = deleted()
        understood = meant in IDS and written == meant
        if answer.status_code == 200 and (
            not understood or not all(fits(row, asked) for row in gone)
        ):
            wrong.append(f"{written}: {len(gone)} deleted")
        elif answer.status_code != 200 and gone:
            wrong.append(f"{written}: {answer.status_code}, and {len(gone)} deleted")
        assert answer.status_code < 500, written
        Memory.objects.update(deleted_at=None)
    return wrong


@pytest.mark.parametrize("base", [{"user_id": "alice"}, {}], ids=["of a user", "of nobody"])
def test_a_delete_takes_what_every_name_in_it_asks_for_or_nothing(crowd: Any, base: Any) -> None:
    def send(query: dict[str, str]) -> Any:
        return crowd.delete(f"/memories?{urlencode(query)}")

    assert too_much(list(spellings(*IDS, *OTHERS)), base, send) == []


def test_a_delete_by_address_takes_no_name_beside_it(crowd: Any) -> None:
    one = Memory.objects.get(text="tea 0").id
    rest = Memserv(crowd.client, crowd.headers["X-API-Key"])
    spelled = [*spellings("user_id", "filters"), ("utm_source", "source"), ("_", "source")]
    for send in (
        lambda query: crowd.delete(f"/memories/{one}?{urlencode(query)}"),
        lambda query: crowd.delete(f"/entities/user/alice?{urlencode(query)}"),
        lambda query: rest("DELETE", f"/{one}?{urlencode(query)}"),
        lambda query: crowd.delete(f"/api-keys/{one}?{urlencode(query)}"),
    ):
        for written, _ in spelled:
            answer = send({written: "x"})
            assert answer.status_code == 400, written
            assert f"“{written}”" in answer.json()["detail"]
            assert deleted() == []


def test_a_bulk_delete_takes_no_name_that_it_does_not_know(crowd: Any) -> None:
    rest = Memserv(crowd.client, crowd.headers["X-API-Key"])
    known = {"source", "confidence", "review_status"}
    base = {"user_id": "alice", "run_id": "monday", "confirm": True}

    def send(body: dict[str, str]) -> Any:
        return rest("POST", "/delete_bulk", body)

    spelled = [one for one in spellings(*IDS, *OTHERS) if one[0] not in known]
    assert too_much(spelled, base, send) == []
    assert send({**base, "dry_run": True}).status_code == 400
    twice = '{"user_id": "alice", "run_id": "tuesday", "run_id": "monday", "confirm": true}'
    answer = rest("POST", "/delete_bulk", twice)
    assert (answer.status_code, deleted()) == (400, [])
    assert "takes run_id once" in answer.json()["detail"]


def test_a_delete_that_is_not_clear_is_refused_with_the_reason(crowd: Any) -> None:
    for query, why in {
        "user_id=alice&user_id=bob": "takes user_id once",
        "user_id=alice&agent_id=": "agent_id is empty",
        "user_id=alice&agent_id=%20": "agent_id is empty",
        "user_id=": "user_id is empty",
        "user_id=alice&show_expired=true": "“show_expired”",
        "userId=alice": "Did you mean user_id?",
        "user_id=alice&utm_source=mail": "“utm_source”",
    }.items():
        answer = crowd.delete(f"/memories?{query}")
        assert answer.status_code == 400, query
        assert why in answer.json()["detail"]
    assert deleted() == []


def test_a_delete_takes_no_body(crowd: Any) -> None:
    for path in ("/memories?user_id=alice", "/memories", "/entities/user/alice"):
        for body in ({"filter": {"user_id": "bob"}}, {"user_id": "alice"}, ["x"], "x", 5, True):
            answer = crowd("DELETE", path, body)
            assert answer.status_code in {400, 422}, (path, body)
    assert deleted() == []
    assert crowd("DELETE", "/memories?user_id=alice", {}).status_code == 200


def test_a_reset_takes_no_body(crowd: Any) -> None:
    for body in ({"user_id": "alice"}, {"filters": {"app_id": "x"}}, ["x"], [], "x", 5, False):
        answer = crowd("POST", "/reset", body)
        assert answer.status_code in {400, 422}, body
    assert deleted() == []
    assert crowd("POST", "/reset", {}).status_code == 200
    assert len(deleted()) == 16


def test_every_route_understands_what_the_document_says_and_nothing_else(crowd: Any) -> None:
    document = crowd.get("/openapi.json").json()
    open_to_all = {"/healthz", "/metrics"}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            address = re.sub(r"{\w+}", "x", path).replace("/entities/x/", "/entities/user/")
            takes = [p["name"] for p in operation.get("parameters", ()) if p["in"] == "query"]
            if method not in {"get", "delete"} or path in open_to_all or "/auth/" in path:
                continue
            answer = crowd(method, f"{address}?unheard_of=x")
            assert answer.status_code == 400, (method, path)
            told = answer.json()["detail"]
            assert "does not understand “unheard_of”" in told
            assert all(name in told for name in takes), (method, path)
    query = {p["name"] for p in document["paths"]["/memories"]["delete"]["parameters"]}
    assert query == {*IDS}
    listed = {p["name"] for p in document["paths"]["/memories"]["get"]["parameters"]}
    assert listed == {*IDS, "top_k", "limit", "page", "page_size", "offset", "show_expired"}


def test_an_app_narrows_a_delete(crowd: Any) -> None:
    assert crowd.delete("/memories?user_id=alice&app_id=garden").status_code == 200
    assert len(deleted()) == 4
    assert all(fits(row, {"user_id": "alice", "app_id": "garden"}) for row in deleted())
    assert crowd.delete("/memories?app_id=garden").status_code == 200
    assert len(deleted()) == 8


# --- Lists and searches --------------------------------------------------------------------------
def shows_more(
    spelled: list[tuple[str, str]],
    base: dict[str, Any],
    send: Callable[[dict[str, Any]], Any],
    known: set[str],
) -> list[str]:
    """The names with which `send` shows what was not asked for, or did as if it had understood
    them."""
    wrong = []
    rows = {str(row.id): row for row in Memory.objects.all()}
    for written, meant in spelled:
        value = (IDS | OTHERS)[meant]
        answer = send({**base, written: value})
        assert answer.status_code < 500, written
        if answer.status_code != 200:
            continue
        shown = [rows[one["id"]] for one in answer.json()["results"]]
        if written not in known:
            wrong.append(f"{written}: understood?")
        elif (
            not all(fits(row, {**base, meant: value}) for row in shown)
            or (meant in {"top_k", "limit", "page_size"} and len(shown) > 1)
            or (meant in {"page", "offset", "source"} and shown)
        ):
            wrong.append(f"{written}: {len(shown)} shown")
    return wrong


@pytest.mark.parametrize("base", [{"user_id": "alice"}, {}], ids=["of a user", "of everybody"])
def test_a_list_shows_what_every_name_asks_for_or_nothing(crowd: Any, base: Any) -> None:
    def send(query: dict[str, Any]) -> Any:
        return crowd.get(f"/memories?{urlencode(query)}")

    known = {*IDS, "top_k", "limit", "page", "page_size", "offset"}
    assert shows_more(list(spellings(*IDS, *OTHERS)), base, send, known) == []


def test_a_list_of_memserv_shows_what_every_name_asks_for_or_nothing(crowd: Any) -> None:
    rest = Memserv(crowd.client, crowd.headers["X-API-Key"])

    def send(query: dict[str, Any]) -> Any:
        return rest("GET", f"?{urlencode(query)}")

    known = {*IDS, "limit", "offset", "source", "confidence", "review_status"}
    spelled = list(spellings(*IDS, *OTHERS))
    assert shows_more(spelled, {"user_id": "alice"}, send, known) == []


def test_a_search_shows_what_every_name_asks_for_or_nothing(crowd: Any) -> None:
    def send(body: dict[str, Any]) -> Any:
        number = {name: int(v) for name, v in body.items() if str(v).isdigit()}
        return crowd.post("/search", {"query": "tea", "threshold": 0, **body, **number})

    known = {*IDS, "top_k", "limit", "threshold"}
    spelled = [one for one in spellings(*IDS, *OTHERS) if one[0] != "filters"]
    assert shows_more(spelled, {"user_id": "alice"}, send, known) == []


def test_a_search_of_memserv_shows_what_every_name_asks_for_or_nothing(crowd: Any) -> None:
    rest = Memserv(crowd.client, crowd.headers["X-API-Key"])

    def send(body: dict[str, Any]) -> Any:
        number = {name: int(v) for name, v in body.items() if str(v).isdigit()}
        return rest("POST", "/search", {"query": "tea", **body, **number})

    known = {*IDS, "limit", "source", "confidence", "review_status"}
    spelled = list(spellings(*IDS, *OTHERS))
    assert shows_more(spelled, {"user_id": "alice"}, send, known) == []


def test_what_stands_beside_filters_narrows_them(crowd: Any) -> None:
    body = {"query": "tea", "threshold": 0, "filters": {"user_id": "alice"}}
    found = crowd.post("/search", {**body, "app_id": "garden", "run_id": "monday"}).json()
    rows = Memory.objects.filter(id__in=[one["id"] for one in found["results"]])
    assert len(rows) == 2
    assert all(fits(row, {"user_id": "alice", "app_id": "garden"}) for row in rows)


def test_lists_that_nothing_narrows_refuse_every_name(crowd: Any) -> None:
    one = Memory.objects.get(text="tea 0").id
    for path in ("/entities", f"/memories/{one}/history", f"/memories/{one}", "/requests"):
        for name in ("user_id", "page", "type", "anything"):
            assert crowd.get(f"{path}?{name}=x").status_code == 400, (path, name)


def test_what_narrows_nothing_is_passed_over(crowd: Any) -> None:
    for query in ("utm_source=mail", "_=17", "output_format=v1.1&version=v2", "rerank=true"):
        assert len(crowd.get(f"/memories?user_id=alice&{query}").json()["results"]) == 8
        assert crowd.get(f"/healthz?{query}&anything=x").status_code == 200
        body = {"query": "tea", "user_id": "alice", "threshold": 0}
        extra = dict(pair.split("=") for pair in query.split("&"))
        assert len(crowd.post("/search", {**body, **extra, "mood": "calm"}).json()["results"]) == 8


# --- Ids that are empty, and pages ---------------------------------------------------------------
def test_an_empty_id_of_a_plugin_counts_as_absent(crowd: Any) -> None:
    body = {"messages": "likes tea", "user_id": "zoe", "agent_id": "", "run_id": "", "app_id": None}
    [one] = crowd.post("/memories", body).json()["results"]
    row = Memory.objects.get(id=one["id"])
    assert (row.user_id, row.agent_id, row.run_id, row.app_id) == ("zoe", "", "", "")
    assert len(crowd.get("/memories?user_id=zoe&agent_id=").json()["results"]) == 1
    assert len(crowd.search("tea", "zoe", agent_id="", run_id="", app_id="")) == 1


def test_ids_that_are_all_empty_name_nobody(crowd: Any) -> None:
    answer = crowd.get("/memories?user_id=&agent_id=")
    assert (answer.status_code, answer.json()) == (
        400,
        {"detail": "At least one identifier is required."},
    )
    for path, body in (
        ("/memories", {"messages": "tea", "user_id": "", "agent_id": ""}),
        ("/search", {"query": "tea", "user_id": ""}),
        ("/search", {"query": "tea", "filters": {"user_id": ""}}),
        ("/memories", {"messages": "tea", "user_id": "  "}),
    ):
        assert crowd.post(path, body).status_code == 400, body


def test_a_client_that_pages_gets_every_memory_once_and_ends(crowd: Any) -> None:
    for user, size in itertools.product(("user_id=alice&", ""), ("page_size", "limit", "top_k")):
        whole = [one["id"] for one in crowd.get(f"/memories?{user}").json()["results"]]
        seen: list[str] = []
        for page in range(1, 9):
            answer = crowd.get(f"/memories?{user}page={page}&{size}=3")
            if not answer.json()["results"]:
                break
            seen += [one["id"] for one in answer.json()["results"]]
        assert seen == whole, (user, size)
        assert page == len(whole) // 3 + 2


def test_an_offset_leaves_out_the_newest(crowd: Any) -> None:
    whole = crowd.get("/memories?user_id=alice").json()["results"]
    for query, shown in (
        ("offset=3&limit=2", whole[3:5]),
        ("limit=1", whole[:1]),
        ("offset=100", []),
        ("page_size=2", whole[:2]),
        ("page=2&page_size=2&limit=2", whole[2:4]),
    ):
        assert crowd.get(f"/memories?user_id=alice&{query}").json()["results"] == shown, query
    for query in ("page=0", "page=x", "offset=-1", "page_size=0"):
        assert crowd.get(f"/memories?user_id=alice&{query}").status_code == 422, query
    for query in ("page=1&offset=1", "limit=1&top_k=2", "page_size=1&limit=2"):
        assert crowd.get(f"/memories?user_id=alice&{query}").status_code == 400, query
