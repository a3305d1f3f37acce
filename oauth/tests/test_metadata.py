"""What clients read before they sign in (RFC 8414, RFC 9728), and who may read it."""

from typing import Any

import pytest
from django.test import Client

from oauth.metadata import METHODS

pytestmark = [pytest.mark.django_db, pytest.mark.one_form]

SERVER = "/.well-known/oauth-authorization-server"
RESOURCE = "/.well-known/oauth-protected-resource"


@pytest.mark.parametrize("path", [SERVER, f"{SERVER}/mcp", f"{SERVER}/mcp/"])
def test_the_authorization_server_says_where_and_how(client: Client, path: str) -> None:
    told = client.get(path).json()
    base = "http://testserver"
    assert told["issuer"] == base
    for name, place in (
        ("authorization_endpoint", "authorize"),
        ("token_endpoint", "token"),
        ("revocation_endpoint", "revoke"),
        ("registration_endpoint", "register"),
    ):
        assert told[name] == f"{base}/oauth/{place}"
    assert told["code_challenge_methods_supported"] == ["S256"]
    assert told["grant_types_supported"] == ["authorization_code", "refresh_token"]
    assert told["response_types_supported"] == ["code"]
    assert told["token_endpoint_auth_methods_supported"] == list(METHODS)
    assert told["scopes_supported"] == ["memory:read", "memory:write", "memory:review"]
    assert told["client_id_metadata_document_supported"] is True
    assert told["authorization_response_iss_parameter_supported"] is True


@pytest.mark.parametrize("path", [RESOURCE, f"{RESOURCE}/mcp", f"{RESOURCE}/mcp/"])
def test_the_resource_names_its_server_letter_by_letter(client: Client, path: str) -> None:
    told = client.get(path).json()
    assert told["resource"] == "http://testserver/mcp"
    assert told["authorization_servers"] == [client.get(SERVER).json()["issuer"]]
    assert "offline_access" not in told["scopes_supported"]


def test_the_public_address_is_what_they_name(client: Client, settings: Any) -> None:
    settings.PUBLIC_URL = "https://memory.example.org/below"
    told = client.get(SERVER, headers={"Host": "127.0.0.1"}).json()
    assert told["issuer"] == "https://memory.example.org/below"
    assert told["token_endpoint"] == "https://memory.example.org/below/oauth/token"
    told = client.get(RESOURCE, headers={"Host": "127.0.0.1"}).json()
    assert told["resource"] == "https://memory.example.org/below/mcp"


@pytest.mark.parametrize(
    "path", [f"{RESOURCE}/other", f"{SERVER}/other", "/.well-known/openid-configuration"]
)
def test_no_other_path_is_reflected(client: Client, path: str) -> None:
    assert client.get(path).status_code == 404


OPEN = [
    SERVER,
    f"{SERVER}/mcp",
    RESOURCE,
    f"{RESOURCE}/mcp",
    "/oauth/token",
    "/oauth/register",
    "/oauth/revoke",
]


@pytest.mark.parametrize("path", OPEN)
def test_pages_of_every_origin_may_ask_without_credentials(client: Client, path: str) -> None:
    preflight = client.options(
        path,
        headers={
            "Origin": "https://inspector.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type,mcp-protocol-version",
        },
    )
    assert preflight.status_code == 204
    assert preflight.headers["Access-Control-Allow-Origin"] == "*"
    assert preflight.headers["Access-Control-Allow-Headers"] == "content-type,mcp-protocol-version"
    assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
    assert client.options(path).status_code == 204
    for answer in (
        preflight,
        client.get(path, headers={"Origin": "https://inspector.example"}),
        client.post(path, "x", "text/plain", headers={"Origin": "https://inspector.example"}),
    ):
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize(
    "path", ["/oauth/tokens", "/memories", "/.well-known/oauth-authorization-serverx"]
)
def test_other_paths_are_as_closed_as_before(client: Client, path: str) -> None:
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    assert client.options(path, headers=asked).status_code == 403
    assert "Access-Control-Allow-Origin" not in client.get(path, headers=asked).headers
