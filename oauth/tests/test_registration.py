"""Apps register themselves: what is taken, what is left out, and how many."""

import base64
import json
import threading
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from oauth2_provider.exceptions import FatalClientError

from accounts import throttle
from accounts.models import Account, Attempt, Project
from jobs import claims, schedules
from jobs.models import Schedule
from jobs.runner import run_job
from oauth import limits, pruning
from oauth.models import AccessToken, AppGrant, Application, AuthorizationCode, RefreshToken
from oauth.tests.flow import CALLBACK, make_app, register

pytestmark = pytest.mark.django_db

VS_CODE = {
    "client_name": "Visual Studio Code",
    "client_uri": "https://code.visualstudio.com",
    "grant_types": [
        "authorization_code",
        "refresh_token",
        "urn:ietf:params:oauth:grant-type:device_code",
    ],
    "response_types": ["code"],
    "redirect_uris": [
        "https://insiders.vscode.dev/redirect",
        "https://vscode.dev/redirect",
        "http://127.0.0.1/",
        "http://127.0.0.1:33418/",
    ],
    "scope": "memory:read memory:write",
    "token_endpoint_auth_method": "none",
    "application_type": "native",
}
CURSOR = {
    "client_name": "Cursor",
    "redirect_uris": [
        "cursor://anysphere.cursor-mcp/oauth/callback",
        "https://www.cursor.com/agents/mcp/oauth/callback",
        "http://localhost:8787/callback",
        "javascript:alert(1)",
    ],
}
CLAUDE_CODE = {"client_name": "Claude Code", "redirect_uris": ["http://localhost:53682/callback"]}


def test_a_public_client_is_registered_as_rfc_7591_says(client: Client) -> None:
    answer = register(client, application_type="native", client_uri="https://app.example/")
    issued = answer.pop("client_id_issued_at")
    assert abs(issued - timezone.now().timestamp()) < 60
    client_id = answer.pop("client_id")
    assert len(client_id) == 32
    assert answer == {
        "client_name": "Notes",
        "client_uri": "https://app.example/",
        "redirect_uris": [CALLBACK],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
        "application_type": "native",
        "scope": "memory:read memory:write memory:review",
    }
    row = Application.objects.get(client_id=client_id)
    assert (row.client_type, row.registration_source) == ("public", "dcr")
    assert row.registered_from == "127.0.0.1"


def test_an_answer_holds_no_null(client: Client) -> None:
    answer = register(client, client_name=..., client_uri=None, logo_uri="https://x.example/a.png")
    assert None not in answer.values()
    assert not {"client_name", "client_uri", "logo_uri", "registration_access_token"} & set(answer)


@pytest.mark.parametrize("method", ["client_secret_post", "client_secret_basic", ...])
def test_a_client_with_a_secret_gets_it_once(
    client: Client, method: Any, bob: Account, project: Project
) -> None:
    answer = register(client, token_endpoint_auth_method=method)
    assert answer["client_secret_expires_at"] == 0
    expected = "client_secret_basic" if method is ... else method
    assert answer["token_endpoint_auth_method"] == expected
    row = Application.objects.get(client_id=answer["client_id"])
    assert answer["client_secret"] not in json.dumps(Application.objects.values()[0], default=str)
    assert row.client_type == "confidential"
    app = make_app(client, token_endpoint_auth_method=method)
    secret, app.secret = app.secret, ""
    code = app.consent(bob, project)
    assert app.exchange(code, status=401)["error"] == "invalid_client"
    for wrong in ("", "wrong", row.client_secret):
        assert app.exchange(code, status=401, client_secret=wrong)["error"] == "invalid_client"
    app.secret = secret
    app.exchange(code)
    app.secret = ""
    assert app.refresh(status=401)["error"] == "invalid_client"
    app.refresh(client_secret=secret)


def test_a_secret_is_taken_in_the_header_as_well(
    client: Client, bob: Account, project: Project
) -> None:
    app = make_app(client, token_endpoint_auth_method="client_secret_basic")
    secret, app.secret = app.secret, ""
    code = app.consent(bob, project)

    def basic(secret: str) -> dict[str, str]:
        pair = base64.b64encode(f"{app.client_id}:{secret}".encode()).decode()
        return {"Authorization": f"Basic {pair}"}

    assert app.exchange(code, status=401, headers=basic("wrong"))["error"] == "invalid_client"
    app.exchange(code, headers=basic(secret))


def test_real_clients_register_with_what_they_really_send(client: Client) -> None:
    assert register(client, **VS_CODE)["redirect_uris"] == VS_CODE["redirect_uris"]
    # What may not be is left out, and does not spoil the rest.
    assert register(client, **CURSOR)["redirect_uris"] == CURSOR["redirect_uris"][:3]
    assert register(client, **CLAUDE_CODE)["redirect_uris"] == CLAUDE_CODE["redirect_uris"]


def test_two_registrations_of_one_app_do_no_harm(client: Client) -> None:
    first, second = register(client), register(client)
    assert first["client_id"] != second["client_id"]


@pytest.mark.parametrize(
    "uri",
    [
        "http://app.example/callback",
        "http://127.0.0.1.evil.example/",
        "http://10.0.0.7/callback",
        "javascript:alert(1)",
        "JavaScript:alert(1)",
        "java\tscript:alert(1)",
        "data:text/html,x",
        "file:///etc/passwd",
        "vbscript:x",
        "blob:https://a.example/x",
        "https://*.example/callback",
        "https://app.example/*",
        "https://user@app.example/",
        "https://user:password@app.example/",
        "https://app.example/#part",
        "https://app.example/#",
        "https://",
        "https:///callback",
        "//app.example/",
        "/callback",
        "",
        "ab:/x",
        "https://app.example:99999/",
        "https://[::1/",
        "https://app.example/ x",
        "https://app.example/\\x",
        "https://аpp.example/",
        "https://app.example/" + "x" * 512,
    ],
)
def test_no_code_goes_to_such_an_address(client: Client, uri: str) -> None:
    answer = register(client, 400, redirect_uris=[uri])
    assert answer["error"] == "invalid_redirect_uri"
    assert register(client, redirect_uris=[uri, CALLBACK])["redirect_uris"] == [CALLBACK]


@pytest.mark.parametrize(
    "uri",
    [
        "https://app.example/callback?a=b",
        "https://app.example:8443/",
        "http://127.0.0.1:1234/callback",
        "http://[::1]/callback",
        "http://localhost/callback",
        "cursor://anysphere.cursor-mcp/oauth/callback",
        "com.example.app:/callback",
        "vscode://ms-vscode.remote/callback",
    ],
)
def test_a_code_goes_to_such_an_address(client: Client, uri: str) -> None:
    assert register(client, redirect_uris=[uri])["redirect_uris"] == [uri]


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({"redirect_uris": []}, "invalid_redirect_uri"),
        ({"redirect_uris": ...}, "invalid_redirect_uri"),
        ({"redirect_uris": CALLBACK}, "invalid_redirect_uri"),
        ({"redirect_uris": [1]}, "invalid_redirect_uri"),
        ({"grant_types": ["client_credentials"]}, "invalid_client_metadata"),
        ({"grant_types": "authorization_code"}, "invalid_client_metadata"),
        ({"token_endpoint_auth_method": "tls_client_auth"}, "invalid_client_metadata"),
        ({"token_endpoint_auth_method": ["none"]}, "invalid_client_metadata"),
        ({"token_endpoint_auth_method": "private_key_jwt"}, "invalid_client_metadata"),
        ({"jwks": "x"}, "invalid_client_metadata"),
        ({"jwks": {"keys": ["x" * 17_000]}}, "invalid_client_metadata"),
        ({"jwks_uri": "http://app.example/jwks"}, "invalid_client_metadata"),
    ],
)
def test_what_cannot_be_registered_is_refused_in_words_of_rfc_7591(
    client: Client, said: dict[str, Any], error: str
) -> None:
    status = 413 if len(json.dumps(said, default=str)) > 16_384 else 400
    assert register(client, status, **said)["error"] == error
    assert not Application.objects.exists()


@pytest.mark.parametrize("body", ["", "x", "[]", "null", '{"a": NaN}', "[" * 2000, '"x"'])
def test_a_body_that_is_no_object_is_refused(client: Client, body: str) -> None:
    answer = client.post("/oauth/register", body, "application/json")
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_client_metadata")


def test_20_redirect_uris_are_enough(client: Client) -> None:
    uris = [f"https://app.example/{number}" for number in range(40)]
    assert register(client, redirect_uris=uris)["redirect_uris"] == uris[:20]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("<img src=x onerror=alert(1)>Claude", "Claude"),
        ("Claude<script>alert(1)</script>", "Claude alert(1)"),
        ("<img onerror=alert(1)", ""),
        ("Clau\u202ede\u2066 \u200bCode\u0007\n", "Claude Code"),
        ("  a   b  ", "a b"),
        ("x" * 300, "x" * 100),
        ("Ã©té <3 notes", "Ã©té"),
        ("克劳德", "克劳德"),
        (7, ""),
    ],
)
def test_a_name_is_harmless_before_it_is_stored(client: Client, name: Any, shown: str) -> None:
    answer = register(client, client_name=name)
    assert answer.get("client_name", "") == shown
    assert Application.objects.get(client_id=answer["client_id"]).name == shown


# --- What the operator allows --------------------------------------------------------------------
def test_registration_can_be_switched_off(client: Client, settings: Any) -> None:
    settings.OAUTH_REGISTRATION = False
    assert register(client, 403)["error"] == "access_denied"
    told = client.get("/.well-known/oauth-authorization-server").json()
    assert "registration_endpoint" not in told


@pytest.mark.parametrize(
    ("allowed", "uri", "fits"),
    [
        (
            "https://claude.ai/api/mcp/auth_callback",
            "https://claude.ai/api/mcp/auth_callback",
            True,
        ),
        (
            "https://claude.ai/api/mcp/auth_callback",
            "https://claude.ai/api/mcp/auth_callback/",
            False,
        ),
        ("https://claude.ai/api/mcp/auth_callback", "https://claude.ai/other", False),
        ("https://chatgpt.com/connector/oauth/*", "https://chatgpt.com/connector/oauth/a1", True),
        ("https://chatgpt.com/connector/oauth/*", "https://chatgpt.com/connector/other", False),
        (
            "https://chatgpt.com/connector/oauth/*",
            "https://chatgpt.com/connector/oauth/../x",
            False,
        ),
        (
            "https://chatgpt.com/connector/oauth/*",
            "https://chatgpt.com/connector/oauth/%2e%2E/x",
            False,
        ),
        (
            "https://chatgpt.com/connector/oauth/*",
            "https://chatgpt.com/connector/oauth/..%2fx",
            False,
        ),
        (
            "https://chatgpt.com/connector/oauth/*",
            "https://chatgpt.com.evil.com/connector/oauth/a",
            False,
        ),
        (
            "https://chatgpt.com/connector/oauth/*",
            "https://chatgpt.com:8443/connector/oauth/a",
            False,
        ),
        # Without a path an entry could mean another host.
        ("https://chatgpt.com*", "https://chatgpt.com/connector", False),
        ("https://chatgpt.com*", "https://chatgpt.com.evil.com/connector", False),
        ("https://*", "https://chatgpt.com/connector", False),
        ("*", "https://chatgpt.com/connector", False),
        ("http://localhost/callback", "http://localhost:53682/callback", True),
        ("http://localhost/callback", "http://127.0.0.1:53682/callback", False),
        ("cursor://anysphere.cursor-mcp/*", "cursor://anysphere.cursor-mcp/oauth/callback", True),
    ],
)
def test_the_operators_list_has_mem0_servers_grammar(
    client: Client, settings: Any, allowed: str, uri: str, fits: bool
) -> None:
    settings.OAUTH_ALLOWED_REDIRECT_URIS = [allowed]
    answer = register(client, 201 if fits else 400, redirect_uris=[uri])
    assert fits or answer["error"] == "invalid_redirect_uri"


def test_a_rejected_address_is_logged_with_the_list(
    client: Client, settings: Any, caplog: Any
) -> None:
    settings.OAUTH_ALLOWED_REDIRECT_URIS = ["https://claude.ai/api/mcp/auth_callback"]
    with caplog.at_level("WARNING"):
        register(client, 400, redirect_uris=["https://app.example/\nforged"])
    [line] = [one for one in caplog.records if one.name == "oauth.metadata"]
    assert line.levelname == "WARNING"
    assert line.rejected == ["https://app.example/\nforged"]
    assert line.allowed == ["https://claude.ai/api/mcp/auth_callback"]


def test_a_list_counts_for_what_is_registered_already(
    client: Client, settings: Any, bob: Account, project: Project
) -> None:
    app = make_app(client)
    settings.OAUTH_ALLOWED_REDIRECT_URIS = ["https://claude.ai/api/mcp/auth_callback"]
    with pytest.raises(FatalClientError):
        app.consent(bob, project)


# --- How many ------------------------------------------------------------------------------------
def test_one_address_registers_so_many_apps_an_hour(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REGISTER_HERE", throttle.Limit("here", 3, 3600, 60))
    for _ in range(3):
        register(client)
    answer = client.post("/oauth/register", "{}", "application/json")
    assert answer.status_code == 429
    assert answer.json()["error"] == "temporarily_unavailable"
    assert 0 < int(answer.headers["Retry-After"]) <= 3600
    elsewhere = Client(REMOTE_ADDR="192.0.2.7")
    register(elsewhere)


def test_many_addresses_register_so_many_apps_an_hour(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REGISTER", throttle.Limit("all", 3, 3600, 60))
    statuses = [
        Client(REMOTE_ADDR=f"192.0.2.{number}")
        .post("/oauth/register", json.dumps(CLAUDE_CODE), "application/json")
        .status_code
        for number in range(10)
    ]
    assert statuses == [201] * 3 + [429] * 7
    assert Application.objects.count() == 3


def test_the_tables_stay_small_however_many_register(
    client: Client, bob: Account, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour has room for so many, a day for 24 times that, and then they go."""
    monkeypatch.setattr(limits, "REGISTER", throttle.Limit("all", 30, 3600, 60))
    used = make_app(client)
    used.connect(bob, project)
    for number in range(100):
        elsewhere = Client(REMOTE_ADDR=f"192.0.2.{number}")
        elsewhere.post("/oauth/register", json.dumps(CLAUDE_CODE), "application/json")
    assert Application.objects.count() == 30
    assert Attempt.objects.count() <= 110
    assert pruning.prune() == 0
    Application.objects.update(updated=timezone.now() - timedelta(hours=25))
    assert pruning.prune() == 29
    # One that somebody allowed stays.
    assert [row.client_id for row in Application.objects.all()] == [used.client_id]
    assert used.refresh()["token_type"] == "Bearer"


# --- Pruning -------------------------------------------------------------------------------------
def test_what_is_over_is_removed_and_what_holds_stays(
    client: Client, bob: Account, alice: Account, project: Project
) -> None:
    app = make_app(client)
    app.consent(bob, project)  # never exchanged
    gone = app.connect(bob, project)
    app.tokens = gone
    for _ in range(3):
        app.refresh()
    kept = app.connect(alice, project)
    assert pruning.prune() == 0
    long_ago = timezone.now() - timedelta(days=61)
    hers = RefreshToken.objects.filter(user=alice)
    RefreshToken.objects.exclude(pk__in=hers).update(created=long_ago)
    AccessToken.objects.exclude(user=alice).update(expires=long_ago)
    AuthorizationCode.objects.update(expires=long_ago)
    pruning.prune()
    assert [grant.account_id for grant in AppGrant.objects.all()] == [alice.id]
    assert not AuthorizationCode.objects.exists()
    assert (AccessToken.objects.count(), RefreshToken.objects.count()) == (1, 1)
    app.refresh(kept["refresh_token"])


def test_grants_of_people_who_changed_their_password_are_removed(
    client: Client, bob: Account, alice: Account, project: Project
) -> None:
    app = make_app(client)
    app.connect(bob, project)
    app.connect(alice, project)
    Account.objects.filter(pk=bob.pk).update(session_epoch=1)
    pruning.prune()
    assert [grant.account_id for grant in AppGrant.objects.all()] == [alice.id]


def test_the_server_prunes_by_itself_every_hour(client: Client) -> None:
    register(client)
    long_ago = timezone.now() - timedelta(hours=25)
    Application.objects.update(updated=long_ago)
    schedules.ensure()
    Schedule.objects.filter(kind=pruning.PRUNING.name).update(next_run_at=long_ago)
    schedules.fire_due()
    job = claims.claim([pruning.PRUNING.name], claims.ProjectRotation())
    assert job is not None
    run_job(job, threading.Event())
    job.refresh_from_db()
    assert (job.state, job.result) == ("succeeded", "1 row removed")
    assert not Application.objects.exists()


def test_a_forgotten_client_is_told_to_register_again(
    client: Client, bob: Account, project: Project
) -> None:
    app = make_app(client)
    Application.objects.all().delete()
    assert app.refresh("m0rt_x", status=401)["error"] == "invalid_client"
