"""The published description of accounts, keys and the request log holds what they take and give."""

from typing import Any

import pytest

pytestmark = pytest.mark.one_form

PUBLIC = {"/auth/setup-status", "/auth/register", "/auth/login", "/auth/refresh"}
ROUTES = {
    ("/auth/setup-status", "get"): "200",
    ("/auth/register", "post"): "200",
    ("/auth/login", "post"): "200",
    ("/auth/refresh", "post"): "200",
    ("/auth/me", "get"): "200",
    ("/auth/me", "patch"): "200",
    ("/auth/change-password", "post"): "200",
    ("/auth/onboarding-complete", "post"): "200",
    ("/api-keys", "get"): "200",
    ("/api-keys", "post"): "201",
    ("/api-keys/{key_id}", "delete"): "200",
    ("/requests", "get"): "200",
}


@pytest.fixture
def document(client: Any, db: None) -> dict[str, Any]:
    return dict(client.get("/openapi.json").json())


@pytest.mark.parametrize(("path", "method"), ROUTES)
def test_each_route_stands_there_with_its_answer_and_body(
    document: dict[str, Any], path: str, method: str
) -> None:
    operation = document["paths"][path][method]
    success = operation["responses"][ROUTES[path, method]]
    assert success["content"]["application/json"]["schema"]["type"] in {"object", "array"}
    assert "401" in operation["responses"]
    if method in {"post", "patch"}:
        [name] = operation["requestBody"]["content"]["application/json"]["schema"].values()
        assert name.rsplit("/")[-1] in document["components"]["schemas"]
    open_to_all = path in PUBLIC
    assert bool(operation.get("security")) != open_to_all


def test_the_setup_token_and_the_limit_are_parameters(document: dict[str, Any]) -> None:
    [token] = document["paths"]["/auth/register"]["post"]["parameters"]
    assert (token["name"], token["in"], token.get("required", False)) == (
        "X-Setup-Token",
        "header",
        False,
    )
    [limit] = document["paths"]["/requests"]["get"]["parameters"]
    assert (limit["name"], limit["in"]) == ("limit", "query")
    assert (limit["schema"]["minimum"], limit["schema"]["maximum"]) == (1, 200)


def test_what_a_route_refuses_stands_there_in_the_shape_it_has(document: dict[str, Any]) -> None:
    limited = document["paths"]["/auth/login"]["post"]["responses"]["429"]
    assert limited["content"]["application/json"]["schema"]["required"] == ["error"]
    for path, method in (("/memories", "post"), ("/memories/{memory_id}", "put")):
        conflict = document["paths"][path][method]["responses"]["409"]
        assert conflict["content"]["application/json"]["schema"]["required"] == ["detail"]
    # A project that the caller has not.
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            public = path in PUBLIC or path == "/healthz"
            assert public or "404" in operation["responses"], f"{method} {path}"


def test_without_a_public_url_the_document_names_no_server(document: dict[str, Any]) -> None:
    assert not document.get("servers")


def test_bodies_say_what_they_are(document: dict[str, Any]) -> None:
    configure = document["paths"]["/configure"]["post"]["requestBody"]["content"]
    assert list(configure) == ["application/json"]
    assert configure["application/json"]["schema"]["type"] == "object"
    login = document["components"]["schemas"]["LoginRequest"]["properties"]
    assert (login["email"]["type"], login["email"]["format"]) == ("string", "email")
