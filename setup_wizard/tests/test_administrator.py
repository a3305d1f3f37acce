"""The first step: who has the setup token becomes the owner, once, and nobody else does."""

import io
import ipaddress
import re
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from django.conf import settings as configured
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client

from accounts import setup, throttle
from accounts.models import Account, InstanceState
from accounts.services import complete_setup
from mem0dash.tests.test_secrets import dump, written
from setup_wizard.tests.wizard import HOSTILE, assert_inert, form_token, text_of

__all__ = ["written"]  # the fixture

PASSWORD = "correct horse battery"
EVE = {"name": "Eve", "email": "eve@example.org", "password": PASSWORD}
NOT_THE_TOKEN = "This is not the setup token of this server."


@pytest.fixture
def visitor(engine: Any) -> Client:
    """A stranger's client; the server minds form tokens."""
    return Client(enforce_csrf_checks=True)


@pytest.fixture(autouse=True)
def _one_minute(monkeypatch: Any) -> None:
    """All that a test does is done within one minute."""
    monkeypatch.setattr(throttle, "time", SimpleNamespace(time=lambda: 1_800_000_000.0))


def claim(visitor: Client, token: str = "", **rest: Any) -> Any:
    """Sends the first form."""
    options = {name: rest.pop(name) for name in ("headers", "REMOTE_ADDR") if name in rest}
    body = {**EVE, "setup_token": token, **rest}
    body["csrfmiddlewaretoken"] = form_token(visitor.get("/setup"))
    return visitor.post("/setup", body, **options)


def nobody_is_there() -> bool:
    return not Account.objects.exists() and setup.needs_setup()


def test_the_link_makes_an_owner_who_is_signed_in_and_led_on(visitor: Client, token: str) -> None:
    page = visitor.get("/setup", {"token": token})
    assert page.status_code == 200
    assert f'<input type="hidden" name="setup_token" value="{token}">' in page.content.decode()
    before = visitor.cookies.get(configured.SESSION_COOKIE_NAME)
    answer = claim(visitor, token, email=" Eve@Example.org ")
    assert (answer.status_code, answer["Location"]) == (302, "/setup/provider")
    eve = Account.objects.get()
    assert (eve.name, eve.email, eve.is_owner) == ("Eve", "eve@example.org", True)
    assert eve.check_password(PASSWORD)
    assert before is None and visitor.get("/setup/provider").status_code == 200
    # Claimed is not complete: the other steps are still to be taken.
    assert not setup.needs_setup() and not setup.is_complete()


def test_the_token_typed_by_hand_will_do(visitor: Client, token: str) -> None:
    assert 'type="hidden" name="setup_token"' not in visitor.get("/setup").content.decode()
    assert "Setup token" in text_of(visitor.get("/setup"))
    assert claim(visitor, f"  {token}\n").status_code == 302


@pytest.mark.parametrize(
    "sent", ["", "wrong", "x" * 43, "tökén", "\0", "x" * 5000, "{token}x", "%00"]
)
def test_without_the_token_nobody_is_made(visitor: Client, token: str, sent: str) -> None:
    answer = claim(visitor, sent.replace("{token}", token))
    assert answer.status_code == 403
    assert nobody_is_there()
    assert not Session.objects.exists()
    assert ("Enter the setup token." if not sent else NOT_THE_TOKEN) in text_of(answer)
    assert f'value="{token}"' not in answer.content.decode()


def test_without_a_token_on_the_server_none_is_right(visitor: Client, token: str) -> None:
    setup.forget_setup_token()
    for sent in ("", token, "None"):
        assert claim(visitor, sent).status_code == 403
    assert nobody_is_there()


def test_the_token_of_the_operator_counts_instead_of_a_kept_one(
    visitor: Client, token: str, settings: Any
) -> None:
    settings.SETUP_TOKEN = "a token from the operator"
    assert claim(visitor, token).status_code == 403
    assert claim(visitor, "a token from the operator").status_code == 302


def test_opening_a_link_does_not_tell_whether_its_token_is_right(
    visitor: Client, token: str
) -> None:
    def shown(sent: str) -> str:
        answer = visitor.get("/setup", {"token": sent})
        assert answer.status_code == 200
        text = re.sub(r'csrfmiddlewaretoken" value="[^"]+"', "", answer.content.decode())
        return re.sub(r"X-CSRFToken[^}]+", "", text).replace(sent, "TOKEN")

    assert shown(token) == shown("z" * len(token))
    assert nobody_is_there()
    # Nor do they count as attempts, which would shut the owner out.
    for _ in range(30):
        shown("wrong")
    assert claim(visitor, token).status_code == 302


def test_wrong_tokens_are_limited_by_address(visitor: Client, token: str) -> None:
    answers = [claim(visitor, f"guess {n}") for n in range(8)]
    assert [answer.status_code for answer in answers] == [403] * 5 + [429] * 3
    assert "Too many attempts. Try again in 1 minute." in text_of(answers[-1])
    assert 1 <= int(answers[-1]["Retry-After"]) <= 60
    # A forwarded address counts for nothing where no proxy is trusted.
    for n in range(3):
        answer = claim(visitor, "guess", headers={"X-Forwarded-For": f"192.0.2.{n}"})
        assert answer.status_code == 429
    assert nobody_is_there()
    # Who has the token is not shut out by who guesses, at the same address as well.
    assert claim(Client(enforce_csrf_checks=True), token).status_code == 302


def test_who_has_the_token_may_try_passwords_until_one_suits(visitor: Client, token: str) -> None:
    for _ in range(12):
        assert claim(visitor, token, password="short").status_code == 422
    assert claim(visitor, token).status_code == 302


def test_a_trusted_proxy_tells_the_address_of_who_guesses(
    visitor: Client, token: str, settings: Any
) -> None:
    settings.TRUSTED_PROXIES = [ipaddress.ip_network("127.0.0.1")]
    for n in range(7):
        answer = claim(visitor, "wrong", headers={"X-Forwarded-For": f"192.0.2.{n}"})
        assert answer.status_code == 403
    for _ in range(6):
        answer = claim(visitor, "wrong", headers={"X-Forwarded-For": "192.0.2.99"})
    assert answer.status_code == 429


def test_the_answer_does_not_depend_on_who_asks(visitor: Client, token: str, bob: Account) -> None:
    """Whether an account exists, a stranger does not learn: not here either."""
    pages = set()
    for email in (bob.email, "nobody@example.org"):
        answer = claim(visitor, "wrong", email=email)
        assert answer.status_code == 403
        text = re.sub(r'(csrfmiddlewaretoken" value=|X-CSRFToken)[^>]+', "", text_of(answer))
        pages.add(text.replace(email, "EMAIL"))
    assert len(pages) == 1


def test_the_token_is_written_nowhere_and_dead_afterwards(
    visitor: Client, token: str, written: io.StringIO, caplog: pytest.LogCaptureFixture
) -> None:
    visitor.get("/setup", {"token": token})
    claim(visitor, "wrong")
    again = claim(visitor, token, password="short")
    assert again.status_code == 422
    assert again.content.decode().count(token) == 1
    assert f'<input type="hidden" name="setup_token" value="{token}">' in again.content.decode()
    answer = claim(visitor, token)
    assert answer.status_code == 302 and token not in answer["Location"]
    for path in ("provider", "administrator", "key"):
        assert token not in visitor.get(f"/setup/{path}", follow=True).content.decode()
    for place in (dump(), written.getvalue(), caplog.text, str(visitor.session.items())):
        assert token not in place and PASSWORD not in place
    # The link is spent: it leads on, and its token goes no further.
    spent = visitor.get("/setup", {"token": token}, follow=True)
    assert spent.redirect_chain == [("/setup", 302), ("/setup/provider", 302)]
    spent = Client().get("/setup", {"token": token}, follow=True)
    assert spent.redirect_chain[-1] == ("/login?next=/setup", 302)
    assert token not in spent.content.decode()
    answer = Client().post("/setup", {**EVE, "email": "mallory@example.org", "setup_token": token})
    assert answer["Location"] == "/login"
    assert Account.objects.count() == 1


# --- Of many at once, and after it ---------------------------------------------------------------


def test_of_twenty_claims_at_once_one_makes_the_owner(
    transactional_db: None, engine: Any, token: str
) -> None:
    start = threading.Barrier(20)
    answers: list[tuple[int, str]] = []

    def run(number: int) -> None:
        try:
            client = Client()
            body = {**EVE, "email": f"eve{number}@example.org", "setup_token": token}
            start.wait(20)
            # Each from an address of its own, or most were refused for coming too often.
            answer = client.post("/setup", body, REMOTE_ADDR=f"192.0.2.{number}")
            answers.append((answer.status_code, answer.get("Location", "")))
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers.count((302, "/setup/provider")) == 1
    assert answers.count((302, "/login")) == 19
    assert Account.objects.filter(is_owner=True).count() == Account.objects.count() == 1
    assert Session.objects.exclude(session_data="").count() >= 1
    assert InstanceState.objects.get().owner_created_at is not None


def test_who_comes_late_is_told_so_at_sign_in(visitor: Client, token: str) -> None:
    late = form_token(visitor.get("/setup", {"token": token}))
    assert claim(Client(enforce_csrf_checks=True), token).status_code == 302
    body = {**EVE, "email": "late@example.org", "setup_token": token, "csrfmiddlewaretoken": late}
    answer = visitor.post("/setup", body, follow=True)
    assert answer.redirect_chain == [("/login", 302)]
    assert "Somebody was faster: this server has an owner now." in text_of(answer)
    assert Account.objects.get().email == EVE["email"]


@pytest.mark.parametrize("end", ["gone", "deactivated"])
def test_without_accounts_a_server_that_had_an_owner_stays_closed(
    visitor: Client, token: str, end: str
) -> None:
    assert claim(visitor, token).status_code == 302
    complete_setup()
    if end == "gone":
        Account.objects.all().delete()
    else:
        Account.objects.update(is_active=False)
    assert setup.offer_setup_token() is None
    stranger = Client()
    assert stranger.get("/setup", {"token": token}).status_code == 410
    assert stranger.post("/setup", {**EVE, "setup_token": token}).status_code == 410
    assert Account.objects.filter(is_active=True).count() == 0


@pytest.mark.parametrize("end", ["gone", "deactivated"])
def test_the_same_holds_in_the_middle_of_set_up(visitor: Client, token: str, end: str) -> None:
    assert claim(visitor, token).status_code == 302
    if end == "gone":
        Account.objects.all().delete()
    else:
        Account.objects.update(is_active=False)
    for answer in (
        visitor.get("/setup", {"token": token}, follow=True),
        visitor.get("/setup/provider", follow=True),
        Client().post("/setup", {**EVE, "setup_token": token}, follow=True),
    ):
        assert answer.redirect_chain[-1][0].startswith("/login")
    assert not Account.objects.filter(is_active=True).exists()


# --- The form ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"name": ""}, "Enter your name"),
        ({"name": "x" * 151}, "at most 150 characters"),
        ({"name": "a\0b"}, "Null characters are not allowed."),
        ({"email": ""}, "Enter your e-mail address."),
        ({"email": "eve"}, "Enter a whole e-mail address"),
        ({"email": "e" * 250 + "@example.org"}, "at most 254 characters"),
        ({"password": ""}, "Choose a password."),
        ({"password": "short"}, "at least 8 characters"),
        ({"password": "password"}, "too common"),
        ({"password": "eve@example.org"}, "too similar"),
        ({"password": "8437582934"}, "entirely numeric"),
    ],
)
def test_what_does_not_fit_is_told_at_its_field_and_makes_nobody(
    visitor: Client, token: str, fields: dict[str, str], told: str
) -> None:
    answer = claim(visitor, token, **fields)
    assert answer.status_code == 422
    assert told in text_of(answer)
    (name,) = fields
    assert f'id="id_{name}_error"' in answer.content.decode()
    assert PASSWORD not in answer.content.decode()
    assert nobody_is_there()
    # What was typed is still there, and the token has not to be found again.
    assert claim(visitor, token).status_code == 302


def test_what_was_typed_is_inert(visitor: Client, token: str) -> None:
    answer = claim(visitor, token, name=HOSTILE, email=HOSTILE)
    assert answer.status_code == 422
    assert_inert(answer)
    assert_inert(visitor.get("/setup", {"token": HOSTILE}))
    assert_inert(claim(visitor, HOSTILE))
    assert claim(visitor, token, name=HOSTILE).status_code == 302
    assert_inert(visitor.get("/setup/administrator"))


def test_every_form_token_is_asked_for(visitor: Client, token: str) -> None:
    visitor.get("/setup")
    answer = visitor.post("/setup", {**EVE, "setup_token": token})
    assert answer.status_code == 403
    assert "This form has expired" in text_of(answer)
    assert nobody_is_there()


def test_the_account_can_be_set_right_as_long_as_set_up_goes_on(
    visitor: Client, token: str, bob: Account
) -> None:
    claim(visitor, token)
    page = visitor.get("/setup/administrator")
    assert 'value="Eve"' in page.content.decode()
    assert "password" not in page.content.decode()

    def change(**fields: str) -> Any:
        body = {"csrfmiddlewaretoken": form_token(visitor.get("/setup/administrator")), **fields}
        return visitor.post("/setup/administrator", body)

    answer = change(name="Eva", email="eva@example.org")
    assert (answer.status_code, answer["Location"]) == (302, "/setup/provider")
    eva = Account.objects.get(is_owner=True)
    assert (eva.name, eva.email) == ("Eva", "eva@example.org")
    assert eva.check_password(PASSWORD)
    answer = change(name="Eva", email=bob.email)
    assert answer.status_code == 422
    assert "Email is already in use." in text_of(answer)
    assert change(name="", email="x").status_code == 422
    eva.refresh_from_db()
    assert (eva.name, eva.email) == ("Eva", "eva@example.org")
