"""Apps that are described by a document of their own, and apps that sign (private_key_jwt)."""

import base64
import hmac
import json
import socket
import time
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from django.test import Client
from django.utils import timezone
from oauth2_provider.exceptions import FatalClientError

from accounts import throttle
from accounts.models import Account, Attempt, Project
from core.http.waiting import IncomingRequest, ProviderWait
from oauth import documents, limits
from oauth.assertions import JWT_BEARER
from oauth.documents import find_application
from oauth.models import AccessToken, Application
from oauth.tests.documents import (
    CHATGPT,
    CHATGPT_ID,
    CHATGPT_KEYS,
    CLAUDE_CODE,
    CLAUDE_CODE_ID,
    VS_CODE,
    VS_CODE_ID,
    Signer,
    Web,
)
from oauth.tests.flow import App, make_app
from oauth.views.endpoints import may_fetch_document

pytestmark = pytest.mark.django_db
HERE = "192.0.2.1"


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Web:
    web = Web()
    monkeypatch.setattr(documents, "SafeMetadataFetcher", lambda: web)
    return web


@pytest.fixture(scope="session")
def signer() -> Signer:
    return Signer()


@pytest.fixture
def chatgpt(client: Client, web: Web, signer: Signer) -> App:
    web.put(CHATGPT)
    web.pages[CHATGPT_KEYS] = signer.jwks
    return App(client, CHATGPT_ID, callback=CHATGPT["redirect_uris"][0])


def find(client_id: str) -> Application | None:
    return find_application(client_id, address=HERE)


def age() -> None:
    Application.objects.update(cimd_expires_at=timezone.now() - timedelta(seconds=1))


# --- Documents -----------------------------------------------------------------------------------
def test_vs_code_is_known_by_its_document(
    client: Client, web: Web, bob: Account, project: Project
) -> None:
    web.put(VS_CODE)
    app = App(client, VS_CODE_ID, callback="http://127.0.0.1:49152/")
    app.connect(bob, project)
    app.refresh()
    assert web.fetched == [VS_CODE_ID]
    row = Application.objects.get()
    assert (row.name, row.registration_source, row.client_type, row.published_at) == (
        "Visual Studio Code",
        "cimd",
        "public",
        "vscode.dev",
    )


def test_claude_code_comes_back_to_any_port_of_its_machine(
    client: Client, web: Web, bob: Account, project: Project
) -> None:
    web.put(CLAUDE_CODE)
    app = App(client, CLAUDE_CODE_ID, callback="http://localhost:53682/callback")
    app.connect(bob, project)
    with pytest.raises(FatalClientError):
        app.validate(redirect_uri="http://localhost:53682/other")
    with pytest.raises(FatalClientError):
        app.validate(redirect_uri="http://10.0.0.7:53682/callback")


def test_a_document_is_fetched_again_when_it_is_due(web: Web) -> None:
    web.put(VS_CODE)
    find(VS_CODE_ID)
    web.put(VS_CODE, client_name="VS Code")
    assert find(VS_CODE_ID).name == "Visual Studio Code"
    age()
    assert find(VS_CODE_ID).name == "VS Code"
    # One that cannot be had, or is wrong by now, changes nothing.
    for broken in (..., {"client_id": "https://evil.example/"}, RuntimeError("reset")):
        limits_free()
        age()
        web.pages.pop(VS_CODE_ID)
        if broken is not ...:
            web.pages[VS_CODE_ID] = broken
        assert find(VS_CODE_ID).name == "VS Code"
        web.put(VS_CODE)


def limits_free() -> None:
    Attempt.objects.all().delete()


@pytest.mark.parametrize(
    "changes",
    [
        {"client_id": "https://evil.example/client.json"},
        {"client_id": ...},
        {"client_name": ...},
        {"client_name": "<img onerror=alert(1)>"},
        {"redirect_uris": ["javascript:alert(1)", "http://evil.example/"]},
        {"redirect_uris": ...},
        {"grant_types": ["client_credentials"]},
        {"client_secret": "known to all"},
        {"client_secret_expires_at": 0},
        {"token_endpoint_auth_method": "client_secret_post"},
        {"token_endpoint_auth_method": "private_key_jwt"},
        {"token_endpoint_auth_method": "private_key_jwt", "jwks_uri": "http://vscode.dev/keys"},
    ],
)
def test_a_document_that_does_not_hold_makes_no_client(web: Web, changes: dict[str, Any]) -> None:
    web.put(VS_CODE)
    web.pages[VS_CODE_ID] = {
        key: value for key, value in (VS_CODE | changes).items() if value is not ...
    }
    assert find(VS_CODE_ID) is None
    assert not Application.objects.exists()


@pytest.mark.parametrize(
    "client_id",
    [
        "",
        None,
        "unknown",
        "http://vscode.dev/oauth/client-metadata.json",
        "https://",
        "https://[::1",
        "https://a.example/" + "x" * 300,
        "https://a.example/\0",
        "https://a.example/\n",
    ],
)
def test_such_an_id_is_no_documents_address(web: Web, client_id: Any) -> None:
    assert find(client_id) is None
    assert web.fetched == []


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.7", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("::1", "fd00::1", "fe80::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"),
    ],
)
def test_a_document_is_not_fetched_from_inside(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """By the library's own fetcher: the name resolves, and nobody connects."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    found = [(family, socket.SOCK_STREAM, 6, "", (address, 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **rest: found)

    def connect(*args: Any, **rest: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", connect)
    assert find("https://app.example/client.json") is None


def test_documents_can_be_switched_off(
    client: Client, web: Web, settings: Any, bob: Account, project: Project
) -> None:
    web.put(VS_CODE)
    app = App(client, VS_CODE_ID, callback="http://127.0.0.1:49152/")
    app.connect(bob, project)
    settings.OAUTH_CLIENT_DOCUMENTS = False
    told = client.get("/.well-known/oauth-authorization-server").json()
    assert told["client_id_metadata_document_supported"] is False
    with pytest.raises(FatalClientError):
        app.validate()
    assert app.refresh(status=401)["error"] == "invalid_client"


def test_the_operator_says_whose_documents_count(web: Web, settings: Any) -> None:
    settings.OAUTH_CLIENT_DOCUMENT_HOSTS = ["claude.ai", ".openai.com"]
    for document in (VS_CODE, CLAUDE_CODE):
        web.put(document)
    web.put(CLAUDE_CODE | {"client_id": "https://auth.openai.com/c.json"})
    web.put(CLAUDE_CODE | {"client_id": "https://claude.ai.evil.example/c.json"})
    assert find(CLAUDE_CODE_ID) is not None
    assert find("https://auth.openai.com/c.json") is not None
    assert find(VS_CODE_ID) is None
    assert find("https://claude.ai.evil.example/c.json") is None
    assert web.fetched == [CLAUDE_CODE_ID, "https://auth.openai.com/c.json"]


def test_strangers_do_not_make_this_server_fetch_without_end(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(10):
        assert find(VS_CODE_ID) is None
    assert len(web.fetched) == limits.DOCUMENT.most
    monkeypatch.setattr(limits, "DOCUMENTS_HERE", throttle.Limit("here", 5, 60, 60))
    for number in range(10):
        find_application(f"https://a.example/{number}", address="192.0.2.9")
    assert len(web.fetched) == limits.DOCUMENT.most + 5
    monkeypatch.setattr(limits, "DOCUMENTS", throttle.Limit("all", 5, 60, 60))
    for number in range(10):
        find_application(f"https://b.example/{number}", address=f"192.0.2.{number + 10}")
    assert len(web.fetched) == limits.DOCUMENT.most + 10


def test_a_request_that_may_fetch_waits_in_a_thread_for_that() -> None:
    def waits(query: bytes = b"", body: bytes = b"") -> ProviderWait:
        return may_fetch_document(IncomingRequest("POST", query, body))

    assert waits() is waits(b"client_id=abc") is waits(body=b"client_id=abc") is ProviderWait.NOBODY
    assert waits(b"client_id=https%3A%2F%2Fa.example%2Fc") is ProviderWait.PROVIDERS
    assert waits(body=b"client_id=https%3A%2F%2Fa.example%2Fc") is ProviderWait.PROVIDERS


# --- private_key_jwt -----------------------------------------------------------------------------
def signed(assertion: str, **more: Any) -> dict[str, Any]:
    return {"client_assertion_type": JWT_BEARER, "client_assertion": assertion, **more}


def test_chatgpt_signs_for_its_tokens(
    chatgpt: App, signer: Signer, bob: Account, project: Project, web: Web
) -> None:
    code = chatgpt.consent(bob, project)
    chatgpt.exchange(code, **signed(signer.sign()))
    # Without a client_id the assertion says whose it is.
    chatgpt.refresh(**signed(signer.sign(), client_id=...))
    chatgpt.refresh(**signed(signer.sign(aud="http://testserver")))
    chatgpt.post(
        200, "/oauth/revoke", token=chatgpt.tokens["refresh_token"], **signed(signer.sign())
    )
    assert not AccessToken.objects.exists()
    assert web.fetched == [CHATGPT_ID, CHATGPT_KEYS]


def test_it_has_to_sign_each_time(
    chatgpt: App, signer: Signer, bob: Account, project: Project
) -> None:
    code = chatgpt.consent(bob, project)
    assert chatgpt.exchange(code, 401)["error"] == "invalid_client"
    assert chatgpt.exchange(code, 401, client_secret="")["error"] == "invalid_client"
    chatgpt.exchange(code, **signed(signer.sign()))
    assert chatgpt.refresh(status=401)["error"] == "invalid_client"
    token = chatgpt.tokens["refresh_token"]
    chatgpt.post(401, "/oauth/revoke", token=token)
    chatgpt.refresh(**signed(signer.sign()))


def hmac_with_the_public_key(signer: Signer) -> str:
    """Signed by hand: the library makes no such token."""
    pem = signer.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    header = json.dumps({"alg": "HS256", "typ": "JWT", "kid": signer.kid}).encode()
    signed_part = f"{_base64(header)}.{signer.sign().split('.')[1]}"
    mac = hmac.digest(pem, signed_part.encode(), "sha256")
    return f"{signed_part}.{_base64(mac)}"


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


BAD: dict[str, Any] = {
    "another key": lambda s: Signer().sign(),
    "an unknown key": lambda s: s.sign(headers={"kid": "k2"}),
    "no algorithm": lambda s: jwt.encode(
        jwt.decode(s.sign(), options={"verify_signature": False}), None, "none"
    ),
    "the public key as a secret": hmac_with_the_public_key,
    "another audience": lambda s: s.sign(aud="https://evil.example/oauth/token"),
    "no audience": lambda s: s.sign(aud=...),
    "another issuer": lambda s: s.sign(iss="https://evil.example/"),
    "another subject": lambda s: s.sign(sub=VS_CODE_ID),
    "no end": lambda s: s.sign(exp=...),
    "an end that is over": lambda s: s.sign(exp=int(time.time()) - 120),
    "an end that is far": lambda s: s.sign(exp=int(time.time()) + 7200),
    "not yet": lambda s: s.sign(nbf=int(time.time()) + 600),
    "no token": lambda s: "x.y.z",
    "too long": lambda s: s.sign(x="x" * 10_000),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_assertion_is_no_client(
    chatgpt: App, signer: Signer, bob: Account, project: Project, case: str
) -> None:
    code = chatgpt.consent(bob, project)
    answer = chatgpt.exchange(code, 401, **signed(BAD[case](signer)))
    assert answer["error"] == "invalid_client"
    wrong_type = {"client_assertion": signer.sign(), "client_assertion_type": "other"}
    assert chatgpt.exchange(code, 401, **wrong_type)["error"] == "invalid_client"
    chatgpt.exchange(code, **signed(signer.sign()))


@pytest.mark.parametrize("jti", ["j1", ...])
def test_an_assertion_is_good_once(
    chatgpt: App, signer: Signer, bob: Account, project: Project, jti: Any
) -> None:
    assertion = signer.sign(jti=jti)
    chatgpt.exchange(chatgpt.consent(bob, project), **signed(assertion))
    assert chatgpt.refresh(status=401, **signed(assertion))["error"] == "invalid_client"
    chatgpt.refresh(**signed(signer.sign()))


def test_a_new_key_is_fetched_and_an_unknown_one_not_for_ever(
    chatgpt: App, signer: Signer, bob: Account, project: Project, web: Web
) -> None:
    chatgpt.exchange(chatgpt.consent(bob, project), **signed(signer.sign()))
    newer = Signer("k2")
    web.pages[CHATGPT_KEYS] = newer.jwks
    chatgpt.refresh(**signed(newer.sign()))
    assert web.fetched.count(CHATGPT_KEYS) == 2
    for _ in range(5):
        chatgpt.refresh(status=401, **signed(newer.sign(headers={"kid": "k3"})))
    assert web.fetched.count(CHATGPT_KEYS) <= limits.DOCUMENT.most


def test_a_client_that_also_takes_none_may_sign_or_not(
    chatgpt: App, signer: Signer, bob: Account, project: Project, web: Web
) -> None:
    web.put(CHATGPT, token_endpoint_auth_methods_supported=["private_key_jwt", "none"])
    chatgpt.exchange(chatgpt.consent(bob, project))
    chatgpt.refresh(**signed(signer.sign()))
    wrong = signer.sign(aud="https://evil.example/")
    assert chatgpt.refresh(status=401, **signed(wrong))["error"] == "invalid_client"


def test_an_app_may_register_its_keys(
    client: Client, signer: Signer, bob: Account, project: Project
) -> None:
    app = make_app(client, token_endpoint_auth_method="private_key_jwt", jwks=signer.jwks)
    assert app.secret == ""
    code = app.consent(bob, project)
    assert app.exchange(code, 401)["error"] == "invalid_client"
    app.exchange(code, **signed(signer.sign(app.client_id)))


def test_one_client_does_not_sign_for_another(
    chatgpt: App, client: Client, signer: Signer, bob: Account, project: Project
) -> None:
    other = make_app(client)
    code = other.consent(bob, project)
    answer = other.exchange(code, 401, **signed(signer.sign()))
    assert answer["error"] == "invalid_client"
