"""What all routes of the memserv dialect share: the token, refusals, the shapes of errors."""

from typing import Any

import pytest
from django.db import OperationalError

from core.errors import IndexUnavailableError, ProviderError
from memories import queries
from memories.models import Memory
from memories.search import service as search
from memories.tests.memserv import Memserv

MISSING = "00000000-0000-4000-8000-000000000000"
ROUTES = [
    ("POST", "", {"content": "hola"}),
    ("GET", "", None),
    ("POST", "/search", {"query": "hola"}),
    ("POST", "/delete_bulk", {"source": "x"}),
    ("GET", f"/{MISSING}", None),
    ("PUT", f"/{MISSING}", {"content": "hola"}),
    ("DELETE", f"/{MISSING}", None),
    ("GET", f"/{MISSING}/history", None),
]


@pytest.fixture
def rest(engine: Any, client: Any, key: Any, settings: Any) -> Memserv:
    settings.MEM0_DEFAULT_USER_ID = "me"
    return Memserv(client, key())


@pytest.mark.parametrize("token", [None, "m0sk_" + "x" * 43, "nonsense", "a.b.c", ""])
def test_without_the_right_token_every_route_says_the_same(
    db: None, client: Any, token: str | None, settings: Any
) -> None:
    settings.RATE_LIMIT_AUTH_FAILURES = 0
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    for method, path, body in ROUTES:
        answer = Memserv(client, None, **headers)(method, path, body)
        assert answer.status_code == 401, path
        assert answer.json() == {"detail": "Invalid or missing bearer token"}
        assert answer["WWW-Authenticate"] == "Bearer"
        assert answer["Cache-Control"] == "no-store"


def test_a_key_holds_by_each_of_its_schemes(rest: Memserv, client: Any, key: Any) -> None:
    made = key()
    for headers in ({"X-API-Key": made}, {"Authorization": f"Token {made}"}):
        assert Memserv(client, None, **headers)("GET").status_code == 200


def test_the_static_token_of_mem0_server_is_an_admin_in_default(
    rest: Memserv, client: Any, settings: Any, other_project: Any
) -> None:
    id_ = rest.add("tea")
    settings.MEM0_API_KEY, settings.ADMIN_API_KEY = "f" * 64, "a" * 64
    for token in ("f" * 64, "a" * 64):
        assert Memserv(client, token).listed() == ["tea"]
        elsewhere = Memserv(client, token)("GET", f"/{id_}", **{"X-Project": "other"})
        assert elsewhere.status_code == 404
    assert Memserv(client, "f" * 63)("GET").status_code == 401


@pytest.mark.parametrize("id_", [MISSING, "nonsense", "search", "%00", "../memories"])
def test_a_missing_memory_is_404_by_whatever_id(rest: Memserv, id_: str) -> None:
    for method, body in (("GET", None), ("PUT", {"content": "x"}), ("DELETE", None)):
        if id_ == "search":
            continue
        answer = rest(method, f"/{id_}", body)
        assert answer.status_code == 404, (method, answer.content)
        assert answer.json()["detail"] in {"Memory not found", "Not Found"}
    if "/" not in id_ and id_ != "search":
        assert rest.ok("GET", f"/{id_}/history") == {"history": []}


def test_memories_of_another_project_do_not_exist(
    rest: Memserv, client: Any, key: Any, other_project: Any
) -> None:
    id_ = rest.add("cinnamon tea", metadata={"source": "x"})
    foreign = Memserv(client, key(project=other_project))
    for method, body in (("GET", None), ("PUT", {"content": "x"}), ("DELETE", None)):
        answer, missing = foreign(method, f"/{id_}", body), foreign(method, f"/{MISSING}", body)
        assert answer.status_code == missing.status_code == 404
        assert answer.json() == missing.json()
    assert foreign.ok("GET", f"/{id_}/history") == {"history": []}
    me = {"user_id": "me"}
    assert foreign.search("cinnamon tea", **me) == []
    assert foreign.search("cinnamon", mode="keyword", **me) == []
    assert foreign.listed("user_id=me") == []
    swept = foreign.ok("POST", "/delete_bulk", {"source": "x", "confirm": True, **me})
    assert (swept["matched"], swept["deleted"], swept["sample"]) == (0, 0, [])
    again = foreign.ok("POST", "", {"content": "cinnamon tea", **me})
    assert "deduplicated" not in again and again["results"]
    assert Memory.objects.get(id=id_).rev == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "type_", "loc"),
    [
        ("POST", "", {"content": 5}, "string_type", ["body", "content"]),
        ("POST", "", {"messages": 5}, "list_type", ["body", "messages"]),
        (
            "POST",
            "",
            {"messages": [{"role": "robot", "content": "x"}]},
            "literal_error",
            ["body", "messages", 0, "role"],
        ),
        ("POST", "", {"content": "x", "metadata": []}, "dict_type", ["body", "metadata"]),
        ("POST", "", {"content": "x", "dedup": "maybe"}, "bool_parsing", ["body", "dedup"]),
        ("POST", "", {"content": "x", "user_id": 5}, "string_type", ["body", "user_id"]),
        ("POST", "", [], "model_attributes_type", ["body"]),
        ("POST", "/search", {}, "missing", ["body", "query"]),
        ("POST", "/search", {"query": "x", "limit": 0}, "greater_than_equal", ["body", "limit"]),
        ("POST", "/search", {"query": "x", "limit": 101}, "less_than_equal", ["body", "limit"]),
        ("POST", "/search", {"query": "x", "mode": "fuzzy"}, "literal_error", ["body", "mode"]),
        (
            "POST",
            "/search",
            {"query": "x", "recency_weight": 1.1},
            "less_than_equal",
            ["body", "recency_weight"],
        ),
        (
            "POST",
            "/search",
            {"query": "x", "recency_half_life_days": 0},
            "greater_than",
            ["body", "recency_half_life_days"],
        ),
        ("GET", "?limit=0", None, "greater_than_equal", ["query", "limit"]),
        ("GET", "?limit=101", None, "less_than_equal", ["query", "limit"]),
        ("GET", "?limit=many", None, "int_parsing", ["query", "limit"]),
        ("GET", "?offset=-1", None, "greater_than_equal", ["query", "offset"]),
        ("GET", "?offset=10001", None, "less_than_equal", ["query", "offset"]),
        ("GET", "?exclude_expired=maybe", None, "bool_parsing", ["query", "exclude_expired"]),
        ("POST", "/delete_bulk", {"source": 1}, "string_type", ["body", "source"]),
        ("POST", "/delete_bulk", {"confirm": "maybe"}, "bool_parsing", ["body", "confirm"]),
        ("PUT", f"/{MISSING}", {}, "missing", ["body", "content"]),
        ("PUT", f"/{MISSING}", {"content": None}, "string_type", ["body", "content"]),
    ],
)
def test_what_does_not_fit_is_422_as_fastapi_says_it(
    rest: Memserv, method: str, path: str, body: Any, type_: str, loc: list[Any]
) -> None:
    answer = rest(method, path, body)
    assert answer.status_code == 422, answer.content
    first = answer.json()["detail"][0]
    assert (first["type"], first["loc"]) == (type_, loc)
    assert first.keys() >= {"type", "loc", "msg", "input"}


def test_broken_json_is_422(rest: Memserv) -> None:
    for body in ("{", '{"content": "\\u0000"}', '{"content": NaN}'):
        answer = rest("POST", "", body)
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["type"] == "json_invalid"


def test_neither_content_nor_messages_is_422_with_a_sentence(rest: Memserv) -> None:
    for body in ({}, {"messages": []}, {"content": None}, {"metadata": {"a": 1}}):
        answer = rest("POST", "", body)
        assert answer.status_code == 422
        assert answer.json() == {"detail": "Provide either 'content' or 'messages'"}


@pytest.mark.parametrize(
    "body",
    [
        {"content": " "},
        {"content": "x", "agent_id": "a b"},
        {"content": "x", "user_id": "x" * 256},
        {"messages": [{"role": "user", "content": ""}]},
    ],
)
def test_what_cannot_be_stored_is_422_with_a_sentence(rest: Memserv, body: Any) -> None:
    answer = rest("POST", "", body)
    assert answer.status_code == 422
    assert isinstance(answer.json()["detail"], str)
    assert not Memory.objects.exists()


def test_where_there_is_no_user_every_route_asks_for_one(
    rest: Memserv, settings: Any, project: Any
) -> None:
    settings.MEM0_DEFAULT_USER_ID = ""
    for method, path, body in ROUTES[:4]:
        answer = rest(method, path, body)
        assert answer.status_code == 422
        assert "user_id" in answer.json()["detail"]
    assert rest("POST", "", {"content": "x", "user_id": "ann"}).status_code == 200
    assert rest.listed("user_id=ann") == ["x"]
    # What the project itself says comes first.
    settings.MEM0_DEFAULT_USER_ID = "me"
    project.default_user_id = "ann"
    project.save()
    assert rest.listed() == ["x"]


@pytest.mark.parametrize(
    ("error", "status", "code", "detail"),
    [
        (
            ProviderError("It said: sk-secret", code="provider_auth_failed"),
            502,
            "upstream_provider_error",
            "An upstream model provider (LLM or embedder) failed; check provider keys and status.",
        ),
        (
            IndexUnavailableError("qdrant:6333 is away"),
            503,
            "backend_unavailable",
            "The vector store is unreachable or returned an error; try again later.",
        ),
        (
            OperationalError("could not connect to 10.0.0.1"),
            503,
            "backend_unavailable",
            "The memory database is unreachable; try again later.",
        ),
        (
            RuntimeError("a secret of the internals"),
            500,
            "internal_error",
            "Internal server error.",
        ),
    ],
)
def test_failures_have_one_stable_shape_and_no_internals(
    rest: Memserv, monkeypatch: Any, error: Exception, status: int, code: str, detail: str
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    monkeypatch.setattr(search, "search_memories", fail)
    monkeypatch.setattr(queries, "page", fail)
    for method, path, body in (("POST", "/search", {"query": "tea"}), ("GET", "", None)):
        answer = rest(method, path, body, **{"X-Request-Id": "abc123def456"})
        assert answer.status_code == status
        assert answer.json() == {"detail": detail, "error": code, "request_id": "abc123def456"}
        assert answer["X-Request-ID"] == "abc123def456"
        if code == "upstream_provider_error":
            assert answer["X-Mem0dash-Problem"] == "provider_auth_failed"


def test_the_request_id_is_made_where_none_came(rest: Memserv, monkeypatch: Any) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise IndexUnavailableError("away")

    monkeypatch.setattr(search, "search_memories", fail)
    answer = rest("POST", "/search", {"query": "tea"})
    assert answer.json()["request_id"] == answer["X-Request-ID"] != ""


def test_a_lacking_right_is_403_in_the_same_shape(client: Any, engine: Any, key: Any) -> None:
    answer = Memserv(client, key("read"))("POST", "", {"content": "x", "user_id": "me"})
    assert answer.status_code == 403
    assert answer.json().keys() == {"detail", "error", "request_id"}
    assert answer.json()["error"] == "permission_denied"


def test_a_limited_key_reaches_its_own_users_alone(rest: Memserv, client: Any, key: Any) -> None:
    mine = rest.add("mine", metadata={"source": "x"})
    limited = Memserv(client, key(entity_limit={"user_id": ["ann"]}))
    assert limited("GET", f"/{mine}").status_code == 404
    assert limited.listed() == []
    assert limited("POST", "", {"content": "x"}).status_code == 403
    swept = limited.ok("POST", "/delete_bulk", {"source": "x", "confirm": True})
    assert swept["matched"] == 0


@pytest.mark.parametrize(
    ("path", "to"),
    [
        ("/", "/api/v1/memories"),
        ("/?limit=2&offset=3", "/api/v1/memories?limit=2&offset=3"),
        ("/search/", "/api/v1/memories/search"),
        (f"/{MISSING}/", f"/api/v1/memories/{MISSING}"),
        (f"/{MISSING}/history/", f"/api/v1/memories/{MISSING}/history"),
        ("//evil.example/", "/api/v1/memories//evil.example"),
    ],
)
def test_a_slash_at_the_end_is_sent_on_with_method_and_body(
    client: Any, db: None, path: str, to: str
) -> None:
    for method in ("GET", "POST"):
        answer = Memserv(client, None)(method, path)
        assert (answer.status_code, answer["Location"]) == (307, to)


def test_a_wrong_method_is_405(rest: Memserv) -> None:
    for method, path in (
        ("PATCH", ""),
        ("DELETE", ""),
        ("GET", "/search"),
        ("POST", f"/{MISSING}"),
    ):
        assert rest(method, path).status_code == 405


def test_the_published_description_holds_every_route(client: Any, db: None) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    base = "/api/v1/memories"
    served = {
        base: {"get", "post"},
        f"{base}/search": {"post"},
        f"{base}/delete_bulk": {"post"},
        f"{base}/{{memory_id}}": {"get", "put", "delete"},
        f"{base}/{{memory_id}}/history": {"get"},
    }
    assert {p: set(paths[p]) for p in paths if p.startswith(base)} == served
    for path, methods in served.items():
        for method in methods:
            operation = paths[path][method]
            assert {"200", "401", "422", "429", "502", "503"} <= operation["responses"].keys()
            assert operation["security"]
    limit = next(p for p in paths[base]["get"]["parameters"] if p["name"] == "limit")["schema"]
    assert (limit["minimum"], limit["maximum"], limit["default"]) == (1, 100, 50)


NASTY = [
    *("\udcff", "\0", "x" * 300, "a\u202eb", "💥" * 50, "%00", "' OR 1=1 --", "*", "null"),
    *(10**400, -1, 1.5, True, [], {}, [["x"]], {"$ne": 1}, None),
]


@pytest.mark.parametrize("value", NASTY, ids=lambda value: repr(value)[:12])
def test_whatever_is_sent_is_never_a_failure_of_the_server(rest: Memserv, value: Any) -> None:
    for name in ("user_id", "agent_id", "run_id", "source", "confidence", "review_status"):
        for path, body in (
            ("", {"content": "tea"}),
            ("/search", {"query": "tea"}),
            ("/search", {"query": "tea", "mode": "keyword"}),
            ("/delete_bulk", {"source": "x"}),
        ):
            answer = rest("POST", path, {**body, name: value})
            assert answer.status_code in {200, 400, 422}, (path, name, answer.content)
        answer = rest.client.get(
            "/api/v1/memories", {name: str(value).encode(errors="replace")}, headers=rest.headers
        )
        assert answer.status_code in {200, 422}, (name, answer.content)
    for name in ("content", "metadata", "messages", "dedup"):
        status = rest("POST", "", {"content": "tea", name: value}).status_code
        assert status in {200, 422}, name
    for name in ("query", "limit", "mode", "recency_weight", "recency_half_life_days"):
        status = rest("POST", "/search", {"query": "tea", name: value}).status_code
        assert status in {200, 422}, name
