"""Codes and tokens: who gets them, for what, and when they are over."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from oauth2_provider.exceptions import OAuthToolkitError

from accounts.models import Account, AuditEntry, Membership, Project, Role
from core.principal import Principal, Scope
from oauth.models import AccessToken, AppGrant, AuthorizationCode, RefreshToken
from oauth.service import connected_apps, principal_of, revoke_app
from oauth.tests.flow import CALLBACK, App, make_app
from oauth.validator import OVERLAP_SECONDS


@pytest.fixture
def app(client: Client, db: None) -> App:
    return make_app(client)


def caller(token: str) -> Principal | None:
    return principal_of(token, request_id="r1", client="test/1")


def holds(token: str) -> bool:
    return caller(token) is not None


def test_a_consent_gives_tokens_for_one_project_and_its_scopes(
    app: App, bob: Account, project: Project
) -> None:
    tokens = app.connect(bob, project)
    assert tokens["token_type"] == "Bearer"
    assert tokens["expires_in"] == 3600
    assert tokens["scope"] == "memory:read memory:write"
    principal = caller(tokens["access_token"])
    assert principal is not None
    assert (principal.via, principal.account_id, principal.project.id, principal.app) == (
        "oauth",
        bob.id,
        project.id,
        app.client_id,
    )
    assert principal.scopes == {Scope.READ, Scope.WRITE}
    assert (principal.request_id, principal.client, principal.is_owner) == ("r1", "test/1", False)
    assert (principal.key_id, principal.key_prefix) == (None, "")


def test_tokens_look_like_ours_and_are_stored_as_digests(
    app: App, bob: Account, project: Project
) -> None:
    tokens = app.connect(bob, project)
    assert tokens["access_token"].startswith("m0at_")
    assert tokens["refresh_token"].startswith("m0rt_")
    for model in (AccessToken, RefreshToken):
        [row] = model.objects.values()
        assert row["token"] == ""
        assert not {tokens["access_token"], tokens["refresh_token"]} & {
            str(v) for v in row.values()
        }
    assert not AuthorizationCode.objects.exists()


@pytest.mark.parametrize("token", ["", "x", "m0at_", "m0at_" + "x" * 42, "m0rt_" + "x" * 43, "é"])
def test_what_cannot_be_a_token_needs_no_query(
    token: str, db: None, django_assert_num_queries: Any
) -> None:
    with django_assert_num_queries(0):
        assert caller(token) is None


def test_a_token_costs_one_query(
    app: App, bob: Account, project: Project, django_assert_num_queries: Any
) -> None:
    token = app.connect(bob, project)["access_token"]
    assert holds(token)  # its first use is written
    with django_assert_num_queries(1):
        assert holds(token)


def test_an_unknown_token_opens_nothing(db: None) -> None:
    assert not holds("m0at_" + "x" * 43)


# --- Scopes --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        ("read", "memory:read"),
        ("read write", "memory:read memory:write"),
        ("review memory:read read", "memory:read memory:review"),
        ("openid offline_access memory:write", "memory:write"),
        ("openid", "memory:read memory:write"),
        ("", "memory:read memory:write"),
        (..., "memory:read memory:write"),
    ],
)
def test_scopes_have_aliases_and_unknown_ones_are_left_out(
    app: App, alice: Account, project: Project, asked: Any, granted: str
) -> None:
    assert app.connect(alice, project, scope=asked)["scope"] == granted


def test_an_app_never_gets_more_than_its_person_may_do_now(
    app: App, bob: Account, project: Project
) -> None:
    Membership.objects.update(role=Role.REVIEWER)
    token = app.connect(bob, project, scope="memory:read memory:review")["access_token"]
    principal = caller(token)
    assert principal is not None and principal.scopes == {Scope.READ, Scope.REVIEW}
    # As a change of role does that by itself, with the epoch: here the role alone is lower.
    Membership.objects.update(role=Role.MEMBER)
    principal = caller(token)
    assert principal is not None and principal.scopes == {Scope.READ}


def test_administrators_rights_are_no_apps(app: App, alice: Account, project: Project) -> None:
    granted = app.connect(alice, project, scope="admin memory:admin memory:read")
    assert granted["scope"] == "memory:read"


def test_a_stranger_to_the_project_grants_nothing_in_it(
    app: App, charlie: Account, project: Project
) -> None:
    with pytest.raises(OAuthToolkitError) as caught:
        app.consent(charlie, project)
    assert caught.value.oauthlib_error.error == "access_denied"
    assert not AppGrant.objects.exists()


def test_a_refresh_may_ask_for_less_and_never_for_more(
    app: App, alice: Account, project: Project
) -> None:
    app.connect(alice, project)
    less = app.refresh(scope="memory:read")
    assert less["scope"] == "memory:read"
    principal = caller(less["access_token"])
    assert principal is not None and principal.scopes == {Scope.READ}
    # The grant is as it was: the next one has all of it again.
    assert app.refresh()["scope"] == "memory:read memory:write"
    assert app.refresh(scope="memory:read memory:review")["scope"] == "memory:read"
    assert app.refresh(scope="memory:review", status=400)["error"] == "invalid_scope"


# --- What ends a token ---------------------------------------------------------------------------
def deactivate(bob: Account) -> None:
    Account.objects.filter(pk=bob.pk).update(is_active=False)


def new_epoch(bob: Account) -> None:
    Account.objects.filter(pk=bob.pk).update(session_epoch=bob.session_epoch + 1)


def leave(bob: Account) -> None:
    Membership.objects.filter(account=bob).delete()


@pytest.mark.parametrize("end", [deactivate, new_epoch, leave])
def test_an_account_that_changes_ends_its_tokens_at_once(
    app: App, bob: Account, project: Project, end: Any
) -> None:
    code, tokens = app.consent(bob, project), app.connect(bob, project)
    assert holds(tokens["access_token"])
    end(bob)
    assert not holds(tokens["access_token"])
    assert app.refresh(status=400)["error"] == "invalid_grant"
    assert app.exchange(code, status=400)["error"] == "invalid_grant"


def test_an_access_token_ends_with_its_time(app: App, bob: Account, project: Project) -> None:
    token = app.connect(bob, project)["access_token"]
    AccessToken.objects.update(expires=timezone.now())
    assert not holds(token)


def test_a_token_for_another_address_is_refused(
    app: App, bob: Account, project: Project, settings: Any
) -> None:
    tokens = app.connect(bob, project)
    settings.PUBLIC_URL = "https://elsewhere.example"
    assert not holds(tokens["access_token"])
    assert app.refresh(status=400)["error"] == "invalid_grant"


def test_a_revoked_app_is_out_at_once(
    app: App, bob: Account, project: Project, owner: Principal
) -> None:
    tokens = app.connect(bob, project)
    [listed] = connected_apps(owner)
    revoke_app(owner, listed.id)
    assert not holds(tokens["access_token"])
    assert app.refresh(status=400)["error"] == "invalid_grant"
    assert connected_apps(owner) == []


# --- Codes ---------------------------------------------------------------------------------------
def test_a_code_is_good_for_one_exchange(app: App, bob: Account, project: Project) -> None:
    code = app.consent(bob, project)
    app.exchange(code)
    assert app.exchange(code, status=400)["error"] == "invalid_grant"


def test_a_code_is_its_clients_alone(
    app: App, bob: Account, project: Project, client: Client
) -> None:
    code, other = app.consent(bob, project), make_app(client)
    other.verifier = app.verifier
    assert other.exchange(code, status=400)["error"] == "invalid_grant"
    app.exchange(code)


def test_a_code_ends_with_its_time(app: App, bob: Account, project: Project) -> None:
    code = app.consent(bob, project)
    AuthorizationCode.objects.update(expires=timezone.now())
    assert app.exchange(code, status=400)["error"] == "invalid_grant"


@pytest.mark.parametrize("verifier", ["x" * 43, "", ...])
def test_without_the_right_verifier_a_code_is_worth_nothing(
    app: App, bob: Account, project: Project, verifier: Any
) -> None:
    code = app.consent(bob, project)
    answer = app.exchange(code, status=400, code_verifier=verifier)
    assert answer["error"] in {"invalid_grant", "invalid_request"}
    assert not AccessToken.objects.exists()


@pytest.mark.parametrize("uri", ["https://app.example/other", "https://evil.example/"])
def test_a_code_is_exchanged_with_the_redirect_uri_it_was_sent_to(
    app: App, bob: Account, project: Project, uri: Any
) -> None:
    code = app.consent(bob, project)
    answer = app.exchange(code, status=400, redirect_uri=uri)
    assert answer["error"] in {"invalid_request", "invalid_grant"}


@pytest.mark.parametrize(
    "resource", ["http://testserver/mcp", "http://testserver/mcp/", "http://testserver"]
)
def test_a_client_may_name_this_servers_own_resource(
    app: App, bob: Account, project: Project, resource: str
) -> None:
    code = app.consent(bob, project, resource=[resource])
    assert holds(app.exchange(code, resource=resource)["access_token"])
    assert holds(app.refresh(resource=resource)["access_token"])
    assert AccessToken.objects.latest("id").resource == ["http://testserver/mcp"]


@pytest.mark.parametrize("resource", ["https://evil.example/mcp", "http://testserver/mcp/x", "x"])
def test_tokens_for_another_resource_are_not_issued(
    app: App, bob: Account, project: Project, resource: str
) -> None:
    code = app.consent(bob, project)
    assert app.exchange(code, status=400, resource=resource)["error"] == "invalid_target"
    both = ["http://testserver/mcp", resource]
    assert app.exchange(code, status=400, resource=both)["error"] == "invalid_target"
    app.exchange(code)
    assert app.refresh(status=400, resource=resource)["error"] == "invalid_target"


@pytest.mark.parametrize(
    "grant",
    [
        "password",
        "client_credentials",
        "implicit",
        "",
        "urn:ietf:params:oauth:grant-type:device_code",
    ],
)
def test_other_grants_give_nothing(app: App, alice: Account, grant: str) -> None:
    app.post(400, grant_type=grant, username=alice.email, password="correct horse battery")
    assert not AccessToken.objects.exists()


# --- Refreshing ----------------------------------------------------------------------------------
def age_exchanges(seconds: float) -> None:
    """As if so many more seconds had passed since tokens were exchanged."""
    for row in RefreshToken.objects.exclude(revoked=None):
        RefreshToken.objects.filter(pk=row.pk).update(
            revoked=row.revoked - timedelta(seconds=seconds)
        )


def test_a_refresh_gives_new_tokens_and_lets_calls_under_way_end(
    app: App, bob: Account, project: Project
) -> None:
    first = app.connect(bob, project)
    second = app.refresh()
    assert second["refresh_token"] != first["refresh_token"]
    assert holds(second["access_token"]) and holds(first["access_token"])
    left = AccessToken.objects.order_by("id")[0].expires - timezone.now()
    assert left <= timedelta(seconds=OVERLAP_SECONDS)


def test_a_refresh_whose_answer_was_lost_is_repeated(
    app: App, bob: Account, project: Project
) -> None:
    first = app.connect(bob, project)
    lost, again = app.refresh(first["refresh_token"]), app.refresh(first["refresh_token"])
    assert holds(lost["access_token"]) and holds(again["access_token"])
    app.refresh(lost["refresh_token"])
    app.refresh(again["refresh_token"])


def test_a_late_replay_ends_everything_of_the_grant_and_is_recorded(
    app: App, bob: Account, project: Project
) -> None:
    other = app.connect(bob, project)
    first = app.connect(bob, project)
    second = app.refresh()
    age_exchanges(OVERLAP_SECONDS)
    assert app.refresh(first["refresh_token"], status=400)["error"] == "invalid_grant"
    assert not holds(first["access_token"]) and not holds(second["access_token"])
    assert app.refresh(second["refresh_token"], status=400)["error"] == "invalid_grant"
    # Another consent for the same app is another family.
    assert holds(other["access_token"])
    entry = AuditEntry.objects.get(action="app.replayed")
    assert (entry.account_id, entry.target_label, entry.via) == (bob.id, "Notes", "oauth")
    # A third time leaves nothing.
    app.refresh(first["refresh_token"], status=400)
    assert AuditEntry.objects.filter(action="app.replayed").count() == 1


def test_a_refresh_token_that_was_not_used_for_long_is_over(
    app: App, bob: Account, project: Project
) -> None:
    app.connect(bob, project)
    RefreshToken.objects.update(created=timezone.now() - timedelta(days=61))
    assert app.refresh(status=400)["error"] == "invalid_grant"


def test_a_refresh_token_is_its_clients_alone(
    app: App, bob: Account, project: Project, client: Client
) -> None:
    token = app.connect(bob, project)["refresh_token"]
    other = make_app(client)
    assert other.refresh(token, status=400)["error"] == "invalid_grant"
    app.refresh(token)


# --- Revoking (RFC 7009) -------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
@pytest.mark.parametrize("hint", ["access_token", "refresh_token", "other", ...])
def test_a_client_gives_its_access_back(
    app: App, bob: Account, project: Project, kind: str, hint: Any
) -> None:
    tokens = app.connect(bob, project)
    app.post(200, "/oauth/revoke", token=tokens[kind], token_type_hint=hint)
    assert not holds(tokens["access_token"])
    app.refresh(status=400)
    entry = AuditEntry.objects.get(action="app.revoked")
    assert (entry.account_id, entry.target_label) == (bob.id, "Notes")


def test_an_access_token_from_before_a_refresh_ends_alone(
    app: App, bob: Account, project: Project
) -> None:
    first, second = app.connect(bob, project), app.refresh()
    app.post(200, "/oauth/revoke", token=first["access_token"])
    assert not holds(first["access_token"])
    assert holds(second["access_token"])


def test_revoking_tells_nothing_about_tokens_of_others(
    app: App, bob: Account, project: Project, client: Client
) -> None:
    tokens, other = app.connect(bob, project), make_app(client)
    for token in (tokens["access_token"], tokens["refresh_token"], "m0at_unknown", "é"):
        assert other.post(200, "/oauth/revoke", token=token).content == b""
    assert holds(tokens["access_token"])
    app.post(400, "/oauth/revoke")
    app.post(401, "/oauth/revoke", token=tokens["access_token"], client_id="nobody")


# --- Requests that cannot be read ----------------------------------------------------------------
UNREADABLE = [
    {"code": "a\0b"},
    {"refresh_token": "a\0b", "grant_type": "refresh_token"},
    {"token": "a\0b"},
    {"client_id": "a\0b"},
    {"client_id": ["a", "b"]},
    {"scope": "\0"},
]


@pytest.mark.parametrize("fields", UNREADABLE)
@pytest.mark.parametrize("path", ["/oauth/token", "/oauth/revoke"])
def test_what_no_database_can_look_for_is_refused(
    app: App, path: str, fields: dict[str, Any]
) -> None:
    sent = {"grant_type": "authorization_code", "code": "x", "redirect_uri": CALLBACK}
    sent |= {"code_verifier": app.verifier, "token": "x"} | fields
    assert app.post(400, path, **sent).json()["error"] == "invalid_request"


@pytest.mark.parametrize("code", ["x" * 5000, b"\xff\xfe", "ü"])
def test_a_code_that_is_none_is_a_wrong_one(app: App, code: Any) -> None:
    assert app.exchange(code, status=400)["error"] == "invalid_grant"


def test_parameters_are_read_from_a_form_alone(app: App, client: Client) -> None:
    for answer in (
        client.post("/oauth/token", {"grant_type": "refresh_token"}, "application/json"),
        client.post("/oauth/token", {"grant_type": "refresh_token"}),
        client.post(
            "/oauth/token?grant_type=refresh_token%zz", "a=b", "application/x-www-form-urlencoded"
        ),
        client.post("/oauth/token"),
    ):
        assert answer.status_code == 400, answer.content
        assert answer.json()["error"] == "invalid_request"
        assert answer.headers["Cache-Control"] == "no-store"
    assert client.get("/oauth/token").status_code == 405
