"""The consent page: what it says, what its answers give, and what it never does by itself."""

import re
from typing import Any

import pytest
from django.test import Client

from accounts.models import Account, Membership, Project, Role
from accounts.services import reset_password
from accounts.tests.signing import sign_in
from core.principal import Scope
from oauth import service
from oauth.models import AuthorizationCode
from oauth.tests.asking import (
    REDIRECT,
    Page,
    address,
    connect,
    exchange,
    open_page,
    register,
    told,
)

pytestmark = pytest.mark.one_form

ISSUER = "http://testserver"
ALL = "memory:read memory:write memory:review"


@pytest.fixture
def app(client: Client, db: None) -> str:
    return register(client)


@pytest.fixture(autouse=True)
def _set_up(alice: Account) -> None:
    """Nobody is sent to set-up."""


def holds(token: str) -> Any:
    """Who calls with this access token; None for nobody."""
    return service.principal_of(token, request_id="test", client="test")


def test_the_page_says_who_asks_for_what_and_where_it_goes(signed_in: Client, app: str) -> None:
    page = open_page(signed_in, app)
    assert page.answer.status_code == 200
    assert "“ Claude Code ” asks for access" in page.text
    assert "The app chose this name. We can’t verify it." in page.text
    assert "Redirects to app.example" in page.text
    assert "Alice alice@example.org Use another account" in page.text
    assert "Project Default" in page.text
    assert page.scopes() == {"read": True, "write": True}
    assert re.findall(r"<button[^>]*>(Deny|Allow)<", page.html) == ["Deny", "Allow"]


def test_allowing_gives_a_code_for_what_was_ticked_in_the_project(
    signed_in: Client, app: str, alice: Account, project: Project
) -> None:
    page = open_page(signed_in, app)
    answer = told(page.send(grant=["read"]))
    assert set(answer) == {"code", "state", "iss"}
    assert (answer["state"], answer["iss"]) == ("s-4711", ISSUER)
    tokens = exchange(Client(), app, answer["code"])
    assert tokens["scope"] == "memory:read"
    principal = holds(tokens["access_token"])
    assert principal.account_id == alice.id
    assert principal.project.id == project.id
    assert principal.scopes == {Scope.READ}


def test_denying_gives_nothing_and_says_so_to_the_app(signed_in: Client, app: str) -> None:
    answer = told(open_page(signed_in, app).send("deny", grant=[]))
    assert answer["error"] == "access_denied"
    assert (answer["state"], answer["iss"]) == ("s-4711", ISSUER)
    assert not AuthorizationCode.objects.exists()


def test_pressing_enter_or_no_button_at_all_denies(signed_in: Client, app: str) -> None:
    page = open_page(signed_in, app)
    assert page.html.index('value="deny"') < page.html.index('value="allow"')
    assert told(page.send(""))["error"] == "access_denied"


def test_somebody_signed_out_signs_in_first_and_comes_back(client: Client, app: str) -> None:
    answer = client.get(address(app))
    assert answer.status_code == 302
    assert answer["Location"].startswith("/login?next=/oauth/authorize%3Fclient_id%3D")
    answer = client.post(address(app), {"decision": "allow"})
    assert (answer.status_code, answer["Location"]) == (302, "/login")
    assert not AuthorizationCode.objects.exists()


def test_another_account_signs_in_and_comes_back_to_the_request(
    signed_in: Client, app: str
) -> None:
    page = open_page(signed_in, app)
    assert 'form="other-account"' in page.html
    answer = signed_in.post("/logout", {"next": page.url})
    assert answer.status_code == 302
    assert answer["Location"].startswith("/login?next=/oauth/authorize%3Fclient_id%3D")
    assert signed_in.get(page.url).status_code == 302


def test_signing_out_never_leads_to_another_host(signed_in: Client) -> None:
    answer = signed_in.post("/logout", {"next": "//evil.example/x"})
    assert answer["Location"] == "/login?next=/dashboard"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"client_id": None}, "does not say which app"),
        ({"client_id": "nobody"}, "does not know the app"),
        ({"redirect_uri": "https://evil.example/callback"}, "has not registered"),
        ({"redirect_uri": f"{REDIRECT}/../x"}, "has not registered"),
        ({"redirect_uri": f"{REDIRECT}?more=1"}, "has not registered"),
        ({"redirect_uri": "https://app.example.evil.example/callback"}, "has not registered"),
        ({"redirect_uri": "javascript:alert(1)"}, "has not registered"),
        ({"redirect_uri": "nonsense"}, "is no address"),
    ],
)
def test_an_unknown_app_or_redirect_ends_on_a_page(
    signed_in: Client, app: str, changes: dict[str, str | None], sentence: str
) -> None:
    answer = signed_in.get(address(app, **changes))
    assert answer.status_code == 400
    assert "Location" not in answer
    assert sentence in answer.content.decode()
    assert b'name="decision"' not in answer.content


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"code_challenge": None}, "invalid_request", "requires PKCE"),
        ({"code_challenge_method": "plain"}, "invalid_request", "S256 is required"),
        ({"code_challenge_method": None}, "invalid_request", "S256 is required"),
        ({"code_challenge_method": "S512"}, "invalid_request", "S256 is required"),
        ({"resource": "https://other.example/mcp"}, "invalid_target", "/mcp alone"),
        ({"response_type": "token"}, "unauthorized_client", "must be code"),
        ({"response_type": None}, "invalid_request", "response_type"),
    ],
)
def test_what_else_is_wrong_is_told_to_the_app(
    signed_in: Client, app: str, changes: dict[str, str | None], error: str, sentence: str
) -> None:
    answer = told(signed_in.get(address(app, **changes)))
    assert answer["error"] == error
    assert sentence in answer["error_description"]
    assert (answer["state"], answer["iss"]) == ("s-4711", ISSUER)
    assert answer["error_description"].isascii()


def test_an_address_that_cannot_be_read_gets_a_page(signed_in: Client, app: str) -> None:
    answer = signed_in.get(f"{address(app)}&state=%zz")
    assert answer.status_code == 400
    twice = signed_in.get(f"{address(app)}&redirect_uri=https://evil.example/")
    assert (twice.status_code, "Location" in twice) == (400, False)


@pytest.mark.parametrize("more", ["approval_prompt=auto", "prompt=none", "prompt=create"])
def test_access_is_never_given_in_silence(signed_in: Client, app: str, more: str) -> None:
    connect(signed_in, app)
    answer = signed_in.get(f"{address(app)}&{more}")
    assert answer.status_code == 200
    assert "asks for access" in answer.content.decode()
    assert not AuthorizationCode.objects.exists()


def test_a_page_counts_only_in_the_session_that_opened_it(
    signed_in: Client, bob: Account, app: str
) -> None:
    browser, hers = sign_in(bob), open_page(signed_in, app)
    # The same link, in his browser, asks him: what he gives is his.
    his = open_page(browser, app)
    assert "bob@example.org" in his.text
    answer = hers.send(client=browser)
    assert answer.status_code == 409
    assert "No access was given" in answer.content.decode()
    assert not AuthorizationCode.objects.exists()
    assert "code" in told(his.send())
    assert AuthorizationCode.objects.get().user == bob


def test_a_page_from_before_a_new_sign_in_counts_no_more(
    signed_in: Client, alice: Account, bob: Account, app: str
) -> None:
    page = open_page(signed_in, app)
    signed_in.force_login(bob)
    answer = page.send()
    assert answer.status_code == 409
    assert not AuthorizationCode.objects.exists()
    signed_in.force_login(alice)
    page = open_page(signed_in, app)
    reset_password(email=alice.email, password="another long passphrase")
    assert page.send().status_code == 302
    assert not AuthorizationCode.objects.exists()


def test_an_answer_counts_only_for_the_request_that_was_shown(
    signed_in: Client, client: Client, app: str, settings: Any
) -> None:
    settings.RATE_LIMIT_CONSENT_FAILURES = 0
    other = register(client, "Other", REDIRECT)
    page = open_page(signed_in, app)
    for url in (address(other), address(app, scope=ALL), address(app, state="x")):
        answer = signed_in.post(url, {"ticket": page.ticket(), "decision": "allow"})
        assert answer.status_code == 409
    for ticket in ("", "nonsense", page.ticket()[:-2]):
        assert page.send(ticket=ticket).status_code == 409
    assert not AuthorizationCode.objects.exists()


def test_a_page_that_was_open_too_long_counts_no_more(
    signed_in: Client, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = open_page(signed_in, app)
    monkeypatch.setattr("oauth.consent.OPEN_SECONDS", -1)
    assert page.send().status_code == 409
    assert not AuthorizationCode.objects.exists()


def test_answers_that_count_for_nothing_are_limited(
    signed_in: Client, app: str, settings: Any
) -> None:
    settings.RATE_LIMIT_CONSENT_FAILURES = 3
    page = open_page(signed_in, app)
    codes = [page.send(ticket="nonsense").status_code for _ in range(5)]
    assert codes == [409, 409, 409, 429, 429]
    assert int(page.send(ticket="nonsense")["Retry-After"]) > 0
    # Whoever has the page gets through.
    assert "code" in told(page.send())


def test_a_form_without_its_token_gives_nothing(alice: Account, app: str) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(alice)
    assert open_page(strict, app).send().status_code == 403
    assert not AuthorizationCode.objects.exists()


def test_other_parameters_in_the_form_change_nothing(signed_in: Client, app: str) -> None:
    page = open_page(signed_in, app)
    answer = page.send(redirect_uri="https://evil.example/", scope=ALL, client_id="nobody")
    assert "evil.example" not in answer.get("Location", "")
    assert not AuthorizationCode.objects.exists()


def test_a_member_is_offered_what_the_role_has(bob: Account, app: str) -> None:
    page = open_page(sign_in(bob), app, scope=ALL)
    assert page.scopes() == {"read": True, "write": True}
    assert page.send(grant=["read", "review"]).status_code == 422
    assert page.send(grant=["admin"]).status_code == 422
    assert not AuthorizationCode.objects.exists()
    page = open_page(sign_in(bob, Role.REVIEWER), app, scope=ALL)
    assert set(page.scopes()) == {"read", "write", "review"}


def test_nobody_gives_what_the_app_did_not_ask_for(signed_in: Client, app: str) -> None:
    page = open_page(signed_in, app, scope="memory:read")
    assert page.scopes() == {"read": True}
    assert page.send(grant=["read", "write"]).status_code == 422
    assert not AuthorizationCode.objects.exists()


def test_reviewing_is_ticked_only_once_the_app_is_connected(signed_in: Client, app: str) -> None:
    page = open_page(signed_in, app, scope=ALL)
    assert page.scopes() == {"read": True, "write": True, "review": False}
    connect(signed_in, app, scope=ALL)
    # Then it asks because a call needs it.
    assert open_page(signed_in, app, scope=ALL).scopes()["review"] is True
    other = register(Client(), "Other")
    assert open_page(signed_in, other, scope="memory:review").scopes() == {"review": True}


def test_without_a_permission_there_is_nothing_to_allow(signed_in: Client, app: str) -> None:
    page = open_page(signed_in, app)
    answer = page.send(grant=[])
    assert answer.status_code == 422
    assert "Choose at least one permission" in answer.content.decode()
    # What was shown again can be answered.
    again = Page(answer, signed_in, page.url)
    assert "code" in told(again.send(grant=["read"]))


def test_the_project_is_chosen_among_ones_own(
    bob: Account, app: str, project: Project, other_project: Project, charlie: Account
) -> None:
    his = sign_in(bob)
    page = open_page(his, app)
    assert page.projects() == []
    assert page.send(project=str(other_project.id)).status_code == 422
    assert page.send(project="nonsense").status_code == 422
    assert not AuthorizationCode.objects.exists()
    Membership.objects.create(project=other_project, account=bob, role=Role.REVIEWER)
    page = open_page(his, app, scope=ALL)
    assert page.projects() == ["Default", "Other"]
    assert "Only in Other" in page.text
    # The role of one project says nothing about the other.
    refused = page.send(project=str(project.id), grant=["read", "review"])
    assert refused.status_code == 422
    assert "Your role in Default does not have: Review memories." in refused.content.decode()
    code = told(page.send(project=str(other_project.id), grant=["read", "review"]))["code"]
    principal = holds(exchange(Client(), app, code)["access_token"])
    assert principal.project.id == other_project.id
    assert principal.scopes == {Scope.READ, Scope.REVIEW}


def test_a_member_of_no_project_gives_nothing(bob: Account, app: str) -> None:
    his = sign_in(bob)
    page = open_page(his, app)
    Membership.objects.all().delete()
    assert page.send().status_code == 403
    assert open_page(his, app).answer.status_code == 403
    assert not AuthorizationCode.objects.exists()


def test_a_role_that_was_taken_meanwhile_gives_nothing(bob: Account, app: str) -> None:
    page = open_page(sign_in(bob, Role.REVIEWER), app, scope=ALL)
    Membership.objects.update(role=Role.MEMBER)
    assert page.send(grant=["review"]).status_code == 422
    assert not AuthorizationCode.objects.exists()


HOSTILE = '<img src=x onerror="alert(1)">'


def test_a_name_with_markup_or_direction_marks_is_only_text(
    signed_in: Client, client: Client
) -> None:
    page = open_page(signed_in, register(client, f"{HOSTILE} Claude"))
    assert "<img" not in page.html
    assert "onerror" not in page.html
    page = open_page(signed_in, register(client, "\u202eedoC\u2066 ”. Known to this server. “"))
    assert not re.search("[\u200b-\u200f\u202a-\u202e\u2066-\u2069]", page.html)
    assert "<bdi>" in page.html
    heading = re.search(r"<h1.*?</h1>", page.html, re.DOTALL)
    assert heading is not None
    assert (heading[0].count("“"), heading[0].count("”")) == (1, 1)


@pytest.mark.parametrize(
    ("registered", "asked", "host", "warned"),
    [
        ("http://localhost:1/cb", "http://localhost:52771/cb", "localhost:52771", True),
        ("http://127.0.0.1/cb", "http://127.0.0.1:8000/cb", "127.0.0.1:8000", True),
        ("cursor://anysphere.cursor-mcp/cb", None, "cursor:", True),
        ("https://claude.ai/api/mcp/auth_callback", None, "claude.ai", False),
    ],
)
def test_the_page_says_where_access_goes_and_warns_of_this_computer(
    signed_in: Client, client: Client, registered: str, asked: str | None, host: str, warned: bool
) -> None:
    app = register(client, "App", registered)
    page = open_page(signed_in, app, redirect_uri=asked or registered)
    assert f"<dd><b>{host}</b>" in page.html
    assert ("Any program on your computer" in page.text) is warned
    assert "code" in told(page.send(), asked or registered)


def test_the_page_is_kept_nowhere_framed_nowhere_and_sends_its_form(
    signed_in: Client, app: str
) -> None:
    page = open_page(signed_in, app)
    for answer in (page.answer, page.send(), page.send("deny"), signed_in.get(address("nobody"))):
        policy = answer["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in policy
        assert "script-src 'self'" in policy
        assert answer["X-Frame-Options"] == "DENY"
        assert answer["Cache-Control"] == "no-store"
        assert answer["Referrer-Policy"] in {"no-referrer", "same-origin"}
        # Chrome would refuse the redirect that answers the form.
        assert "form-action" not in policy or answer.status_code == 400
    assert page.send()["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize("method", ["put", "delete", "patch", "options"])
def test_no_other_method_is_answered(signed_in: Client, app: str, method: str) -> None:
    assert getattr(signed_in, method)(address(app)).status_code == 405


def test_without_sign_in_nothing_can_be_given(
    client: Client, alice: Account, app: str, settings: Any
) -> None:
    settings.AUTH_DISABLED = True
    answer = client.get(address(app))
    assert answer.status_code == 409
    assert "AUTH_DISABLED" in answer.content.decode()


def test_consent_is_an_entry_of_the_audit(signed_in: Client, app: str) -> None:
    connect(signed_in, app)
    found = signed_in.get("/dashboard/activity").content.decode()
    assert "Alice gave the app ‘Claude Code’ access" in found
