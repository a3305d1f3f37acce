"""Who may take which step when: the owner, one after the other, until set-up is over."""

import re
from typing import Any

import pytest
from django.db.models import F
from django.test import Client
from django.urls import set_script_prefix

from accounts import setup
from accounts.models import Account
from accounts.services import complete_setup, set_active
from accounts.tests.signing import sign_in
from apikeys.models import ApiKey
from core.http.middleware import CONTENT_SECURITY_POLICY
from mem0dash.tests.test_secrets import dump
from memories.engine import configuration
from setup_wizard.models import Progress
from setup_wizard.tests.wizard import (
    KEY,
    LATER,
    NO_PROVIDER,
    PROVIDER_KEY,
    go_to,
    llm_at,
    make_key,
    save,
    text_of,
)

pytestmark = pytest.mark.one_form

PASSWORD = "correct horse battery"
PATHS = ("/setup", "/setup/administrator", *(f"/setup/{name}" for name in LATER), "/setup/finish")
# Forms that would be taken, were it the time for them.
FORMS: dict[str, dict[str, str]] = {
    "/setup": {"name": "Eve", "email": "eve@example.org", "password": PASSWORD},
    "/setup/administrator": {"name": "Eve", "email": "eve@example.org"},
    "/setup/provider": NO_PROVIDER,
    "/setup/key": KEY,
    "/setup/use-case": {"action": "skip"},
    "/setup/test": {"message": "I like tea", "question": "What do I like?"},
    "/setup/finish": {},
}
METHODS = ("get", "head", "post", "put", "patch", "delete", "options")


def send(client: Client, path: str) -> Any:
    return client.post(path, FORMS[path])


def state() -> str:
    """All that set-up writes; the mere row of its progress is nothing yet."""
    rows = re.sub(r"setup_wizard_progress .*'provider_chosen_at': None.*\n?", "", dump())
    kept = ("accounts_", "apikeys_", "memories_", "setup_wizard_")
    return "\n".join(
        row
        for row in rows.split("\n")
        if row.startswith(kept) and not row.startswith("accounts_attempt")
    )


# --- After set-up --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_after_set_up_every_step_is_gone_whatever_the_method(signed_in: Client, path: str) -> None:
    complete_setup()
    before = state()
    for client in (signed_in, Client()):
        for method in METHODS:
            answer = getattr(client, method)(path)
            assert answer.status_code == 410, (method, path)
        answer = send(client, path)
        assert answer.status_code == 410
        assert "Set-up is done" in text_of(answer)
        assert answer["Cache-Control"] == "no-store"
    answer = signed_in.get(path, headers={"HX-Request": "true"})
    assert answer.status_code == 410 and "<html" not in answer.content.decode()
    assert state() == before


@pytest.mark.parametrize("end", ["gone", "deactivated"])
def test_set_up_stays_over_when_nobody_is_left(
    signed_in: Client, claimed: Account, end: str
) -> None:
    complete_setup()
    if end == "gone":
        Account.objects.all().delete()
    else:
        set_active(email=claimed.email, active=False)
    for client in (signed_in, Client()):
        for path in PATHS:
            assert client.get(path).status_code == 410
            assert send(client, path).status_code == 410
    assert not Account.objects.filter(is_active=True).exists()


def test_a_path_that_is_no_step_is_not_there(signed_in: Client) -> None:
    for path in ("/setup/", "/setup/nothing", "/setup/provider/", "/setup/key/1"):
        assert signed_in.get(path).status_code == 404


# --- In between ----------------------------------------------------------------------------------


def test_before_there_is_an_owner_every_step_leads_to_the_first(engine: Any, token: str) -> None:
    before = state()
    client = Client()
    for path in PATHS[1:]:
        for answer in (send(client, path), client.get(path) if path != PATHS[-1] else None):
            if answer is not None:
                assert (answer.status_code, answer["Location"]) == (302, "/setup"), path
    assert state() == before


def test_who_is_not_signed_in_is_led_to_sign_in_and_back(signed_in: Client) -> None:
    before = state()
    stranger = Client()
    for path in PATHS[:-1]:
        answer = stranger.get(path)
        assert (answer.status_code, answer["Location"]) == (302, f"/login?next={path}")
    for path in PATHS:
        answer = send(stranger, path)
        assert (answer.status_code, answer["Location"]) == (302, "/login"), path
        answer = stranger.post(path, FORMS[path], headers={"HX-Request": "true"})
        assert answer["HX-Redirect"] == "/login"
    assert state() == before
    body = {"email": "alice@example.org", "password": PASSWORD, "next": "/setup/provider"}
    assert stranger.post("/login", body)["Location"] == "/setup/provider"
    assert stranger.get("/setup/provider").status_code == 200


def test_another_account_than_the_owner_s_may_take_no_step(signed_in: Client, bob: Account) -> None:
    other = sign_in(bob)
    before = state()
    for path in PATHS:
        answers = [send(other, path)] + ([other.get(path)] if path != PATHS[-1] else [])
        for answer in answers:
            assert answer.status_code == 403, path
            assert "The owner of this server sets it up." in text_of(answer)
    assert state() == before
    # An administrator of the project owns the project, not the server.
    bob.memberships.update(role="admin")
    assert other.get("/setup/provider").status_code == 403


def test_a_session_that_has_ended_takes_no_step(signed_in: Client) -> None:
    assert signed_in.get("/setup/provider").status_code == 200
    Account.objects.update(session_epoch=F("session_epoch") + 1)
    assert signed_in.get("/setup/provider")["Location"] == "/login?next=/setup/provider"
    assert signed_in.post("/setup/provider", NO_PROVIDER)["Location"] == "/login"
    assert not configuration.latest_row()


def test_a_key_of_the_api_takes_no_step(signed_in: Client, key: Any) -> None:
    for headers in ({"X-API-Key": key()}, {"Authorization": f"Bearer {key()}"}):
        answer = Client().get("/setup/provider", headers=headers)
        assert answer.status_code == 302


@pytest.mark.parametrize("next_step", LATER)
def test_steps_behind_the_next_one_lead_back_to_it(signed_in: Client, next_step: str) -> None:
    go_to(signed_in, next_step)
    assert signed_in.get("/setup")["Location"] == f"/setup/{next_step}"
    assert signed_in.get("/dashboard", follow=True).redirect_chain == [
        ("/setup", 302),
        (f"/setup/{next_step}", 302),
    ]
    before = state()
    position = LATER.index(next_step)
    for name in LATER[position + 1 :]:
        for answer in (signed_in.get(f"/setup/{name}"), send(signed_in, f"/setup/{name}")):
            assert (answer.status_code, answer["Location"]) == (302, f"/setup/{next_step}")
    if next_step != "test":
        assert signed_in.post("/setup/finish")["Location"] == f"/setup/{next_step}"
    assert state() == before and not setup.is_complete()
    # Those that are done can be looked at again, and the rail leads there.
    text = signed_in.get(f"/setup/{next_step}").content.decode()
    for name in ("administrator", *LATER[:position]):
        assert signed_in.get(f"/setup/{name}").status_code == 200
        assert f'<a href="/setup/{name}">' in text
    for name in LATER[position + 1 :]:
        assert f'href="/setup/{name}"' not in text


def test_set_up_goes_on_in_another_browser_where_it_stood(
    signed_in: Client, claimed: Account, provider: Any
) -> None:
    assert save(signed_in, llm_at(provider, api_key=PROVIDER_KEY)).status_code == 302
    key = make_key(signed_in, label="Laptop")
    signed_in.post(
        "/setup/use-case",
        {"preset": "coding", "use_case": "Go and Rust", "instructions": "Keep versions."},
    )
    other = Client()
    other.post("/login", {"email": claimed.email, "password": PASSWORD, "next": ""})
    page = other.get("/dashboard", follow=True)
    assert page.redirect_chain[-1] == ("/setup/test", 302)
    text = text_of(page)
    row = ApiKey.objects.get()
    for told in (claimed.email, "stub-chat", f"Laptop, {row.prefix}…{row.last4}", "Coding assist"):
        assert told in text
    assert "Step 5 of 5" in text and text.count("Done: ") == 4
    # Back, all the way, with what was entered and without any secret.
    for name in ("use-case", "key", "provider", "administrator"):
        back = re.search(
            r'<a class="btn btn-ghost-secondary" href="([^"]+)">', page.content.decode()
        )
        assert back is not None and back[1] == f"/setup/{name}"
        page = other.get(back[1])
        assert page.status_code == 200
        assert key not in page.content.decode() and PROVIDER_KEY not in page.content.decode()
    use_case = text_of(other.get("/setup/use-case"))
    assert "Go and Rust" in use_case and "Keep versions." in use_case
    assert 'value="coding" checked' in other.get("/setup/use-case").content.decode()
    assert provider.url in text_of(other.get("/setup/provider"))


def test_finishing_opens_the_dashboard_and_closes_all_else(signed_in: Client) -> None:
    go_to(signed_in, "test")
    assert signed_in.get("/setup/finish").status_code == 405
    answer = signed_in.post("/setup/finish", follow=True)
    assert answer.redirect_chain == [("/dashboard", 302)]
    assert answer.status_code == 200
    assert "mem0dash is set up." in text_of(answer)
    assert setup.is_complete() and not Progress.objects.exists()
    assert signed_in.post("/setup/finish").status_code == 410
    key = ApiKey.objects.get()
    assert key.revoked_at is None


# --- Forms, headers, addresses -------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS[1:])
def test_every_form_asks_for_its_token(engine: Any, claimed: Account, path: str) -> None:
    guarded = sign_in(claimed, enforce_csrf_checks=True)
    plain = sign_in(claimed)
    go_to(plain, "test")
    before = state()
    assert send(guarded, path).status_code == 403
    wrong = {**FORMS[path], "csrfmiddlewaretoken": "x" * 64}
    assert guarded.post(path, wrong).status_code == 403
    htmx = {"HX-Request": "true", "X-CSRFToken": "x" * 32}
    assert guarded.post(path, FORMS[path], headers=htmx).status_code == 403
    for method in ("put", "patch", "delete"):
        assert getattr(guarded, method)(path).status_code == 403
    assert state() == before and not setup.is_complete()


def test_looking_at_a_step_changes_nothing(signed_in: Client) -> None:
    go_to(signed_in, "test")
    before = state()
    for path in PATHS[:-1]:
        for query in ("", "?action=skip&llm=none&embedder=local&label=x&rights=all&expiry=never"):
            for method in (signed_in.get, signed_in.head, signed_in.options):
                method(path + query)
    assert state() == before


def test_every_answer_has_its_headers_and_is_kept_nowhere(
    signed_in: Client, bob: Account, claimed: Account
) -> None:
    other = sign_in(bob)
    guarded = Client(enforce_csrf_checks=True)

    def check(answer: Any) -> None:
        assert answer["Content-Security-Policy"] == CONTENT_SECURITY_POLICY
        assert "unsafe" not in answer["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in answer["Content-Security-Policy"]
        assert answer["X-Content-Type-Options"] == "nosniff"
        assert answer["X-Frame-Options"] == "DENY"
        assert answer["Referrer-Policy"] == "same-origin"
        assert answer["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in answer
        assert {"Cookie", "HX-Request"} <= set(re.split(r",\s*", answer["Vary"]))

    def look() -> None:
        for client in (signed_in, other, guarded, Client()):
            for path in PATHS:
                check(client.get(path, headers={"Origin": "https://evil.example"}))
                if path != "/setup/finish":
                    check(client.post(path, {}))

    look()
    go_to(signed_in, "test")
    look()
    complete_setup()
    look()


@pytest.mark.parametrize("host", ["evil.example", "testserver.evil.example", "testserver@evil"])
def test_another_host_s_name_gets_no_page(signed_in: Client, host: str) -> None:
    before = state()
    for answer in (
        signed_in.get("/setup/provider", headers={"Host": host}),
        signed_in.post("/setup/provider", NO_PROVIDER, headers={"Host": host}),
    ):
        assert answer.status_code == 400
        assert "evil" not in answer.content.decode()
    assert state() == before


def test_the_address_in_snippets_is_the_public_one_not_the_caller_s(
    signed_in: Client, settings: Any
) -> None:
    settings.PUBLIC_URL = "https://memory.example.org"
    go_to(signed_in, "key")
    answer = signed_in.post("/setup/key", KEY, headers={"Host": "192.0.2.66"})
    assert "curl https://memory.example.org/memories" in text_of(answer)
    assert "192.0.2.66" not in answer.content.decode()


@pytest.mark.parametrize("wanted", ["//evil.example", "https://evil.example/", "/\\evil.example"])
def test_no_step_leads_to_another_server(signed_in: Client, wanted: str) -> None:
    go_to(signed_in, "test")
    for path in PATHS[:-2]:
        for answer in (
            signed_in.get(path, {"next": wanted}),
            signed_in.post(path, {**FORMS[path], "next": wanted, "former": ""}),
        ):
            assert "evil" not in answer.get("Location", "")
    answer = Client().get("/setup/key", {"next": wanted})
    assert answer["Location"].startswith("/login?next=/setup/key%3F")
    assert signed_in.post("/setup/finish", {"next": wanted})["Location"] == "/dashboard"


def test_below_a_path_the_steps_stay_there(
    signed_in: Client, claimed: Account, settings: Any
) -> None:
    settings.FORCE_SCRIPT_NAME = "/mem"
    settings.PUBLIC_URL = "https://memory.example.org/mem"
    set_script_prefix("/mem/")
    try:
        answer = signed_in.get("/setup")
        assert answer["Location"] == "/mem/setup/provider"
        text = signed_in.get("/setup/provider").content.decode()
        assert 'action="/mem/setup/provider"' in text and 'hx-post="/mem/setup/provider"' in text
        assert 'href="/setup' not in text and 'action="/setup' not in text
        assert signed_in.post("/setup/provider", NO_PROVIDER)["Location"] == "/mem/setup/key"
        text = text_of(signed_in.post("/setup/key", KEY))
        assert "curl https://memory.example.org/mem/memories" in text
        assert "testserver" not in text
        assert Client().get("/setup/key")["Location"] == "/mem/login?next=/mem/setup/key"
    finally:
        set_script_prefix("/")
