"""What all memory routes of the OSS dialect share: headers, refusals and the shapes of errors."""

import re
from typing import Any

import pytest

pytestmark = pytest.mark.one_form

NO_CREDENTIAL = "Authentication required. Provide a Bearer token or X-API-Key header."
REQUEST_ID = re.compile(r"[0-9a-f]{8}")
HOLA = {"messages": [{"role": "user", "content": "hola"}], "user_id": "alice"}
ROUTES = [
    ("POST", "/memories", HOLA),
    ("GET", "/memories?user_id=alice", None),
    ("DELETE", "/memories?user_id=alice", None),
    ("GET", "/memories/some-id", None),
    ("PUT", "/memories/some-id", {"text": "hola"}),
    ("DELETE", "/memories/some-id", None),
    ("GET", "/memories/some-id/history", None),
    ("POST", "/search", {"query": "hola", "user_id": "alice"}),
    ("GET", "/entities", None),
    ("DELETE", "/entities/user/alice", None),
]


def test_without_a_credential_every_route_asks_for_one(as_key: Any, db: None) -> None:
    for method, path, body in ROUTES:
        answer = as_key(None)(method, path, body)
        assert answer.status_code == 401, path
        assert answer.json() == {"detail": NO_CREDENTIAL}
        assert answer["WWW-Authenticate"] == "Bearer"


def test_an_unknown_key_is_refused_without_a_challenge(as_key: Any, db: None) -> None:
    for method, path, body in ROUTES:
        answer = as_key("m0sk_" + "x" * 43)(method, path, body)
        assert answer.status_code == 401, path
        assert answer.json() == {"detail": "Invalid API key."}
        assert "WWW-Authenticate" not in answer


def test_a_bearer_that_is_no_key_is_an_invalid_token(client: Any, db: None) -> None:
    for token in ("eyJhbGciOi.eyJzdWIi.c2ln", "nonsense", ""):
        answer = client.get("/entities", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 401
        assert answer.json() == {"detail": "Invalid or expired token."}
        assert "WWW-Authenticate" not in answer


def test_an_authorization_of_another_scheme_counts_as_none(client: Any, db: None) -> None:
    answer = client.get("/entities", headers={"Authorization": "Basic YTpi"})
    assert answer.status_code == 401
    assert answer.json() == {"detail": NO_CREDENTIAL}


def test_routes_of_the_admin_refuse_everybody_else_in_the_words_of_the_original(
    as_key: Any, key: Any
) -> None:
    api = as_key(key("read", "write", "review"))
    for path in ("/memories?user_id=alice", "/entities/user/alice"):
        answer = api.delete(path)
        assert (answer.status_code, answer.json()) == (403, {"detail": "Admin role required."})
    answer = api.get("/memories")
    assert answer.status_code == 403
    assert answer.json() == {"detail": "Admin role required to list all memories."}


def test_every_answer_carries_a_request_id(api: Any, as_key: Any) -> None:
    for method, path, body in ROUTES:
        assert REQUEST_ID.fullmatch(api(method, path, body)["X-Request-ID"]), (method, path)
    anonymous = as_key(None)
    for path in ("/memories", "/nowhere", "/", "/healthz"):
        assert REQUEST_ID.fullmatch(anonymous.get(path)["X-Request-ID"]), path


def test_two_requests_never_share_a_request_id(client: Any, db: None) -> None:
    assert len({client.get("/entities")["X-Request-ID"] for _ in range(20)}) == 20


@pytest.mark.parametrize("sent", ["abc", "0f3d", "trace-1.2_3", "A" * 64])
def test_a_sane_request_id_of_the_caller_is_kept(client: Any, db: None, sent: str) -> None:
    assert client.get("/entities", headers={"X-Request-ID": sent})["X-Request-ID"] == sent


@pytest.mark.parametrize("sent", ["", " ", "a b", "A" * 65, "<script>", "a\tb", "é", '"}'])
def test_any_other_request_id_is_replaced(client: Any, db: None, sent: str) -> None:
    answer = client.get("/entities", headers={"X-Request-ID": sent})
    assert REQUEST_ID.fullmatch(answer["X-Request-ID"])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PATCH", "/memories"),
        ("PUT", "/memories"),
        ("POST", "/memories/some-id"),
        ("PATCH", "/memories/some-id"),
        ("DELETE", "/memories/some-id/history"),
        ("POST", "/memories/some-id/history"),
        ("GET", "/search"),
        ("DELETE", "/search"),
        ("POST", "/entities"),
        ("GET", "/entities/user/alice"),
    ],
)
def test_a_wrong_method_is_405_in_json(as_key: Any, key: Any, method: str, path: str) -> None:
    api = as_key(key())
    answer = api(method, path, {} if method in {"POST", "PUT", "PATCH"} else None)
    assert answer.status_code == 405
    assert answer.json() == {"detail": "Method Not Allowed"}


@pytest.mark.parametrize(
    ("path", "to"),
    [
        ("/memories/", "/memories"),
        ("/memories/?user_id=a%20b&top_k=2", "/memories?user_id=a%20b&top_k=2"),
        ("/search/", "/search"),
        ("/entities/", "/entities"),
        ("/memories/some-id/", "/memories/some-id"),
        ("/memories/some-id/history/", "/memories/some-id/history"),
        ("/configure/", "/configure"),
        ("/reset/", "/reset"),
        ("/api-keys/", "/api-keys"),
        ("/auth/login/", "/auth/login"),
        ("/requests/", "/requests"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_a_slash_at_the_end_is_sent_on_with_method_body_and_query(
    as_key: Any, db: None, path: str, to: str, method: str
) -> None:
    answer = as_key(None)(method, path, {} if method in {"POST", "PUT"} else None)
    assert (answer.status_code, answer["Location"]) == (307, to)


def test_a_slash_is_taken_off_below_the_path_of_the_public_url(client: Any, db: None) -> None:
    answer = client.post("/memories/?a=b", headers={"Host": "10.0.0.1:8000"}, SCRIPT_NAME="/mem")
    assert (answer.status_code, answer["Location"]) == (307, "/mem/memories?a=b")


@pytest.mark.parametrize(
    "path",
    [
        "/memories//",
        "/memories//history",
        "/memories/some-id/other",
        "/memories/some-id/other/",
        "/health/",
        "/nowhere",
        "/nowhere/",
        "/dashboard/memories/",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_an_unknown_path_is_404_and_never_a_redirect(
    as_key: Any, key: Any, path: str, method: str
) -> None:
    api = as_key(key())
    answer = api(method, path, {} if method == "POST" else None)
    assert answer.status_code == 404
    assert "Location" not in answer
    assert path.startswith("/dashboard") or answer.json() == {"detail": "Not Found"}


def test_the_root_sends_programs_to_the_documentation(client: Any, db: None) -> None:
    answer = client.get("/")
    assert (answer.status_code, answer["Location"]) == (307, "/docs")


@pytest.mark.parametrize(
    ("method", "path", "body", "error"),
    [
        (
            "POST",
            "/memories",
            {"user_id": "a"},
            {
                "type": "missing",
                "loc": ["body", "messages"],
                "msg": "Field required",
                "input": {"user_id": "a"},
            },
        ),
        (
            "POST",
            "/memories",
            {"messages": 5, "user_id": "a"},
            {
                "type": "list_type",
                "loc": ["body", "messages"],
                "msg": "Input should be a valid list",
                "input": 5,
            },
        ),
        (
            "POST",
            "/memories",
            {"messages": [], "user_id": 5},
            {
                "type": "string_type",
                "loc": ["body", "user_id"],
                "msg": "Input should be a valid string",
                "input": 5,
            },
        ),
        (
            "POST",
            "/memories",
            {"messages": [{"role": "user"}], "user_id": "a"},
            {
                "type": "missing",
                "loc": ["body", "messages", 0, "content"],
                "msg": "Field required",
                "input": {"role": "user"},
            },
        ),
        (
            "POST",
            "/search",
            {"user_id": "a"},
            {
                "type": "missing",
                "loc": ["body", "query"],
                "msg": "Field required",
                "input": {"user_id": "a"},
            },
        ),
        (
            "GET",
            "/memories?user_id=a&top_k=100001",
            None,
            {
                "type": "less_than_equal",
                "loc": ["query", "top_k"],
                "msg": "Input should be less than or equal to 100000",
                "input": "100001",
                "ctx": {"le": 100_000},
            },
        ),
        (
            "DELETE",
            "/entities/app/a",
            None,
            {
                "type": "literal_error",
                "loc": ["path", "entity_type"],
                "msg": "Input should be 'user', 'agent' or 'run'",
                "input": "app",
                "ctx": {"expected": "'user', 'agent' or 'run'"},
            },
        ),
    ],
)
def test_what_does_not_fit_is_422_in_the_shape_of_fastapi(
    as_key: Any, key: Any, method: str, path: str, body: Any, error: dict[str, Any]
) -> None:
    answer = as_key(key())(method, path, body)
    assert answer.status_code == 422
    assert answer.json() == {"detail": [error]}
    assert list(answer.json()["detail"][0])[:4] == ["type", "loc", "msg", "input"]


def test_every_problem_of_a_body_is_told_at_once(as_key: Any, key: Any) -> None:
    answer = as_key(key()).post(
        "/memories", {"messages": [{"role": 1}], "user_id": 5, "metadata": []}
    )
    assert answer.status_code == 422
    assert [item["loc"] for item in answer.json()["detail"]] == [
        ["body", "messages", 0, "role"],
        ["body", "messages", 0, "content"],
        ["body", "user_id"],
        ["body", "metadata"],
    ]


def test_what_is_no_json_is_422_and_names_the_decoding(client: Any, key: Any) -> None:
    answer = client.post(
        "/memories", data=b"{", content_type="application/json", headers={"X-API-Key": key()}
    )
    [error] = answer.json()["detail"]
    assert answer.status_code == 422
    assert (error["type"], error["loc"][0]) == ("json_invalid", "body")
    assert error["msg"] == "JSON decode error"
    assert error["ctx"]["error"]


def test_the_body_is_read_as_json_whatever_its_content_type_says(api: Any, client: Any) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "application/ld+json"):
        answer = client.post(
            "/search",
            data=b'{"query": "hola", "user_id": "alice"}',
            content_type=content_type,
            headers=api.headers,
        )
        assert (answer.status_code, answer.json()) == (200, {"results": []}), content_type


def test_the_answer_is_json_whatever_the_caller_says_it_accepts(as_key: Any, key: Any) -> None:
    api = as_key(key())
    for accept in ("*/*", "application/json", "text/html", "text/event-stream", "image/png", ""):
        answer = api.get("/entities", headers={"Accept": accept})
        assert (answer.status_code, answer.json()) == (200, []), accept
        assert answer["Content-Type"] == "application/json"


def test_a_failing_embedder_is_502_with_a_code_and_the_request_id(api: Any, embedder: Any) -> None:
    embedder.error = RuntimeError("the model fell over")
    for path, body in (("/memories", HOLA), ("/search", {"query": "hola", "user_id": "alice"})):
        answer = api.post(path, body)
        assert answer.status_code == 502
        assert list(answer.json()) == ["detail", "code", "request_id"]
        assert answer.json()["code"] == "unknown"
        assert answer.json()["request_id"] == answer["X-Request-ID"]
        assert "fell over" not in answer.content.decode()


def test_no_answer_of_the_api_is_kept_by_a_cache(api: Any, client: Any) -> None:
    one = api.add("green tea")
    for path in ("/memories?user_id=alice", f"/memories/{one}", "/entities", "/memories/nothing"):
        assert api.get(path)["Cache-Control"] == "no-store", path
        assert client.get(path)["Cache-Control"] == "no-store", path
