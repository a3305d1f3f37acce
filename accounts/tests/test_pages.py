"""Signing in and out on the pages: what a session needs, what ends it, what limits guessing."""

import ipaddress
import re
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings as configured
from django.contrib.sessions.models import Session
from django.test import Client
from django.utils import timezone

from accounts import throttle
from accounts.models import Account, InstanceState, Membership, Project, Role
from accounts.services import complete_setup, reset_password, set_active

pytestmark = pytest.mark.one_form

PASSWORD = "correct horse battery"
OVERVIEW = "/dashboard"


@pytest.fixture(autouse=True)
def owned(alice: Account) -> None:
    """Set-up is done, as it is when there is an owner."""
    InstanceState.objects.update(owner_created_at=timezone.now())
    complete_setup()


@pytest.fixture
def visitor(engine: Any) -> Client:
    """A client that minds form tokens, as the server does."""
    return Client(enforce_csrf_checks=True)


def token(visitor: Client, path: str = "/login") -> str:
    found = re.search(
        r'name="csrfmiddlewaretoken" value="([^"]+)"', visitor.get(path).content.decode()
    )
    assert found is not None
    return found[1]


def sign_in(
    visitor: Client, email: str = "alice@example.org", password: str = PASSWORD, **rest: Any
) -> Any:
    fields = {"email": email, "password": password, "next": rest.pop("next", "")}
    body = {**fields, "csrfmiddlewaretoken": token(visitor)}
    return visitor.post("/login", body, **rest)


def is_in(visitor: Client) -> bool:
    return visitor.get(OVERVIEW).status_code == 200


def test_a_page_leads_to_sign_in_and_from_there_back(visitor: Client) -> None:
    answer = visitor.get("/dashboard?x=1&y=2")
    assert (answer.status_code, answer["Location"]) == (
        302,
        "/login?next=/dashboard%3Fx%3D1%26y%3D2",
    )
    assert (
        'name="next" value="/dashboard?x=1&amp;y=2"'
        in visitor.get(answer["Location"]).content.decode()
    )
    answer = sign_in(visitor, next="/dashboard?x=1&y=2")
    assert (answer.status_code, answer["Location"]) == (302, "/dashboard?x=1&y=2")
    assert is_in(visitor)
    # Who is signed in is not asked again.
    assert visitor.get("/login").status_code == 302


def test_signing_out_ends_the_session_also_for_a_copy_of_its_cookie(visitor: Client) -> None:
    sign_in(visitor)
    copy = Client()
    copy.cookies[configured.SESSION_COOKIE_NAME] = visitor.cookies[
        configured.SESSION_COOKIE_NAME
    ].value
    assert is_in(copy)
    answer = visitor.post("/logout", {"csrfmiddlewaretoken": token(visitor, OVERVIEW)})
    assert (answer.status_code, answer["Location"]) == (302, "/login")
    assert not is_in(visitor) and not is_in(copy)
    assert not Session.objects.exists()


def test_signing_in_makes_a_new_session_and_a_new_form_token(visitor: Client) -> None:
    visitor.cookies[configured.SESSION_COOKIE_NAME] = "x" * 32
    before = token(visitor)
    sign_in(visitor)
    assert visitor.cookies[configured.SESSION_COOKIE_NAME].value != "x" * 32
    answer = visitor.post("/logout", {"csrfmiddlewaretoken": before})
    assert answer.status_code == 403
    assert is_in(visitor)


def test_a_get_does_not_sign_out(visitor: Client) -> None:
    sign_in(visitor)
    assert visitor.get("/logout").status_code == 405
    assert is_in(visitor)


@pytest.mark.parametrize(
    "end",
    [
        lambda: reset_password(email="alice@example.org", password="another long one"),
        lambda: set_active(email="alice@example.org", active=False),
        lambda: Account.objects.update(session_epoch=7),
        lambda: Account.objects.all().delete(),
    ],
    ids=["a new password", "deactivation", "a change of role", "deletion"],
)
def test_what_ends_sessions_ends_them_on_the_next_request(visitor: Client, end: Any) -> None:
    sign_in(visitor)
    assert is_in(visitor)
    end()
    assert not is_in(visitor)
    set_up_again = Account.objects.filter(is_active=False).exists()
    if set_up_again:
        set_active(email="alice@example.org", active=True)
        assert not is_in(visitor), "a session of before comes back to life"


def test_sessions_that_ran_out_are_cleared_away(visitor: Client) -> None:
    Session.objects.create(
        session_key="old", session_data="", expire_date=timezone.now() - timedelta(days=1)
    )
    sign_in(visitor)
    assert not Session.objects.filter(session_key="old").exists()


# --- What is said, and to whom -------------------------------------------------------------------


def shown(answer: Any, email: str) -> str:
    """The page without what differs by itself: the token, the request, the address typed."""
    text = answer.content.decode().replace(email, "EMAIL")
    text = re.sub(r'csrfmiddlewaretoken" value="[^"]+"', "", text)
    return re.sub(r"X-CSRFToken[^}]+", "", text)


def test_unknown_known_and_deactivated_accounts_get_the_same_answer(
    visitor: Client, bob: Account
) -> None:
    set_active(email=bob.email, active=False)
    pages = set()
    for email, password in (
        ("alice@example.org", "wrong"),
        ("nobody@example.org", "wrong"),
        (bob.email, "wrong"),
        (bob.email, PASSWORD),
    ):
        answer = sign_in(visitor, email, password)
        assert answer.status_code == 422
        assert not answer.cookies.keys() & {configured.SESSION_COOKIE_NAME, "mem0dash_known"}
        pages.add(shown(answer, email))
    assert len(pages) == 1
    assert "The e-mail address or the password is not right." in pages.pop()


@pytest.mark.parametrize(
    ("email", "password", "told"),
    [
        ("", "x", "Enter your e-mail address."),
        ("alice", "x", "Enter a whole e-mail address"),
        ("alice@example.org", "", "Enter your password."),
        ("a@example.org\0", "x", "Null characters are not allowed."),
        ("a" * 300 + "@example.org", "x", "at most 254 characters"),
        ("alice@example.org", "x" * 5000, "at most 1000 characters"),
    ],
)
def test_a_form_that_does_not_fit_is_shown_again(
    visitor: Client, email: str, password: str, told: str
) -> None:
    answer = sign_in(visitor, email, password)
    assert answer.status_code == 422
    text = answer.content.decode()
    assert told in text and 'aria-invalid="true"' in text and "_error" in text
    assert password not in {"", "x"} or f'value="{password}"' not in text


def test_what_was_typed_is_inert_in_the_form(visitor: Client) -> None:
    text = sign_in(visitor, '"><script>alert(1)</script>', "x", next="/x\"'><b>").content.decode()
    assert "<script>alert" not in text and "<b>" not in text


@pytest.mark.parametrize(
    "wanted",
    [
        "https://evil.example/",
        "//evil.example",
        "///evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/\t/evil.example",
        "/\n/evil.example",
        "http:evil.example",
        "https:///evil.example",
        "javascript:alert(1)",
        "evil.example",
        "@evil.example",
        "%2f%2fevil.example",
        " //evil.example",
        "/%0d%0aLocation:evil",
        "http://testserver/dashboard",
    ],
)
def test_next_leads_to_no_other_server(visitor: Client, wanted: str) -> None:
    for answer in (
        sign_in(visitor, next=wanted),
        visitor.get("/login", {"next": wanted}),  # signed in by now
    ):
        assert answer.status_code == 302
        where = answer["Location"]
        assert where == "/dashboard" or (wanted.startswith("/%") and where == wanted)
    answer = visitor.post(
        "/dashboard/theme",
        {"theme": "dark", "next": wanted, "csrfmiddlewaretoken": token(visitor, OVERVIEW)},
    )
    assert "evil.example" not in answer["Location"]


# --- Guessing ------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: Any) -> Clock:
    made = Clock()
    monkeypatch.setattr(throttle, "time", made)
    return made


def test_wrong_passwords_at_one_address_leave_the_owner_room_at_another(
    visitor: Client, clock: Clock
) -> None:
    codes = []
    for _ in range(12):
        codes.append(sign_in(visitor, password="wrong").status_code)
        clock.now += 7  # the limit of the address, whatever account it tries, is another question
    assert codes == [422] * 10 + [429] * 2
    answer = sign_in(visitor)
    assert answer.status_code == 429
    assert answer["Retry-After"].isdigit()
    assert "Too many attempts. Try again in 14 minutes." in answer.content.decode()
    elsewhere = Client(enforce_csrf_checks=True)
    assert sign_in(elsewhere, REMOTE_ADDR="192.0.2.1").status_code == 302
    clock.now += 900
    assert sign_in(visitor).status_code == 302


def test_wrong_passwords_from_many_addresses_are_limited_by_account(
    visitor: Client, clock: Clock, settings: Any
) -> None:
    settings.TRUSTED_PROXIES = [ipaddress.ip_network("127.0.0.1")]
    codes = [
        sign_in(visitor, password="wrong", headers={"X-Forwarded-For": f"192.0.2.{n}"}).status_code
        for n in range(15)
    ]
    assert codes == [422] * 14 + [429]
    assert sign_in(visitor).status_code == 429
    clock.now += 900
    assert sign_in(visitor).status_code == 302


def test_forwarded_addresses_count_for_nothing_without_a_trusted_proxy(
    visitor: Client, clock: Clock
) -> None:
    codes = [
        sign_in(
            visitor, f"a{n}@example.org", "wrong", headers={"X-Forwarded-For": f"192.0.2.{n}"}
        ).status_code
        for n in range(12)
    ]
    assert codes == [422] * 10 + [429] * 2


def test_who_keeps_failing_does_not_shut_out_a_browser_that_is_known(
    visitor: Client, clock: Clock, settings: Any
) -> None:
    settings.TRUSTED_PROXIES = [ipaddress.ip_network("127.0.0.1")]
    sign_in(visitor)
    visitor.post("/logout", {"csrfmiddlewaretoken": token(visitor, OVERVIEW)})
    attacker = Client(enforce_csrf_checks=True)
    for day in range(3):
        for n in range(30):
            sign_in(attacker, password="wrong", headers={"X-Forwarded-For": f"192.0.2.{n}"})
        assert sign_in(Client(enforce_csrf_checks=True)).status_code == 429
        assert sign_in(visitor).status_code == 302, f"day {day}"
        visitor.post("/logout", {"csrfmiddlewaretoken": token(visitor, OVERVIEW)})
        clock.now += 300


def test_a_known_browser_has_a_limit_of_its_own_and_is_known_for_its_account_alone(
    visitor: Client, bob: Account, clock: Clock
) -> None:
    sign_in(visitor)
    known = visitor.cookies["mem0dash_known"]
    assert known["path"] == "/login" and known["httponly"]
    thief = Client(enforce_csrf_checks=True)
    thief.cookies["mem0dash_known"] = known.value
    codes = []
    for _ in range(12):
        codes.append(sign_in(thief, password="wrong").status_code)
        clock.now += 7
    assert codes == [422] * 10 + [429] * 2
    # What it did there is not counted against the account, nor does the cookie help elsewhere.
    for email, cookie in ((bob.email, known.value), ("alice@example.org", known.value[:-2] + "xx")):
        thief.cookies["mem0dash_known"] = cookie
        codes = []
        for n in range(16):
            codes.append(sign_in(thief, email, "wrong", REMOTE_ADDR=f"192.0.2.{n}").status_code)
        assert codes == [422] * 14 + [429] * 2


def test_a_new_password_by_command_lets_its_owner_in_at_once(visitor: Client, clock: Clock) -> None:
    for n in range(14):
        sign_in(visitor, password="wrong", REMOTE_ADDR=f"192.0.2.{n}")
    assert sign_in(visitor).status_code == 429
    reset_password(email="alice@example.org", password="another long one")
    assert sign_in(visitor, password="another long one").status_code == 302


# --- Before there is anybody, and who is in no project -------------------------------------------


def test_without_a_wizard_the_sign_in_page_says_how_to_make_the_owner(
    visitor: Client, settings: Any
) -> None:
    settings.SETUP_ROUTE = ""
    Account.objects.all().delete()
    InstanceState.objects.update(owner_created_at=None, setup_completed_at=None)
    text = visitor.get("/login").content.decode()
    assert "manage.py bootstrap" in text and "<form" not in text


def test_with_a_wizard_every_page_leads_there_until_set_up_is_done(
    visitor: Client, settings: Any
) -> None:
    sign_in(visitor)
    settings.SETUP_ROUTE = "docs"  # any route stands for the wizard's
    InstanceState.objects.update(setup_completed_at=None)
    assert visitor.get(OVERVIEW)["Location"] == "/docs"
    answer = visitor.get(OVERVIEW, headers={"HX-Request": "true"})
    assert (answer.status_code, answer["HX-Redirect"]) == (200, "/docs")
    # Its later steps are the owner's, who may have to sign in again.
    assert Client().get("/login").status_code == 200
    InstanceState.objects.update(owner_created_at=None)
    assert Client().get("/login")["Location"] == "/docs"
    complete_setup()
    assert is_in(visitor)


def test_a_member_comes_into_the_project_that_is_theirs(
    visitor: Client, bob: Account, other_project: Project
) -> None:
    bob.set_password(PASSWORD)
    bob.save()
    sign_in(visitor, bob.email)
    assert "Member · Default" in visitor.get(OVERVIEW).content.decode()
    Membership.objects.create(project=other_project, account=bob, role=Role.REVIEWER)
    Membership.objects.filter(account=bob, role=Role.MEMBER).delete()
    assert "Reviewer · Other" in visitor.get(OVERVIEW).content.decode()
    Membership.objects.all().delete()
    answer = visitor.get(OVERVIEW)
    assert answer.status_code == 403
    assert "Your account is a member of no project." in answer.content.decode()


def test_with_sign_in_switched_off_everybody_is_the_owner(visitor: Client, settings: Any) -> None:
    settings.AUTH_DISABLED = True
    text = visitor.get(OVERVIEW).content.decode()
    assert "Sign-in is switched off" in text and "Sign out" not in text


def test_htmx_is_led_to_sign_in_as_a_whole_page(visitor: Client) -> None:
    answer = visitor.get(OVERVIEW, headers={"HX-Request": "true"})
    assert (answer.status_code, answer["HX-Redirect"]) == (200, "/login")
