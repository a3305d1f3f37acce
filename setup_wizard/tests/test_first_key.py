"""The third step: one key, shown once, with snippets that run as they are."""

import html
import re
import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone

from accounts.tests.signing import sign_in
from apikeys.models import ApiKey
from apikeys.services import KEY_PATTERN, revoke_api_key
from mem0dash.tests.test_secrets import dump
from setup_wizard.tests.wizard import (
    HOSTILE,
    KEY,
    assert_inert,
    go_to,
    make_key,
    shown_key,
    text_of,
)

pytestmark = pytest.mark.one_form

MADE_ALREADY = "A key was made already, perhaps in another tab, and shown there."


@pytest.fixture
def at_key(signed_in: Client) -> Client:
    go_to(signed_in, "key")
    return signed_in


def former_of(signed_in: Client) -> str:
    """The key that the form would replace."""
    found = re.search(
        r'name="former" value="([^"]*)"', signed_in.get("/setup/key").content.decode()
    )
    assert found is not None
    return found[1]


def works(as_key: Any, key: str) -> bool:
    return bool(as_key(key).get("/memories?user_id=alice").status_code == 200)


def test_the_key_is_shown_once_and_works(at_key: Client, as_key: Any) -> None:
    assert "Make the first API key" in text_of(at_key.get("/setup/key"))
    answer = at_key.post("/setup/key", {**KEY, "label": "Laptop"})
    assert answer.status_code == 200
    key = shown_key(answer)
    assert KEY_PATTERN.fullmatch(key) and works(as_key, key)
    text = text_of(answer)
    assert "Copy your key now" in text and "Laptop: reads and writes memories" in text
    row = ApiKey.objects.get()
    # A look at the same page afterwards, and at all others, shows no more than its ends.
    for path in ("key", "provider", "administrator", "use-case"):
        later = at_key.get(f"/setup/{path}")
        assert later.status_code == 200
        assert key not in later.content.decode() and key[12:-4] not in later.content.decode()
    text = text_of(at_key.get("/setup/key"))
    assert "It was shown when it was made." in text
    assert f"{row.prefix}…{row.last4}" in text and "Laptop" in text
    for place in (dump(), str(dict(at_key.session))):
        assert key not in place and key[12:-4] not in place


@pytest.mark.parametrize(
    ("rights", "scopes", "told"),
    [
        ("agent", {"read", "write"}, "reads and writes memories"),
        ("all", {"read", "write", "review", "admin"}, "everything you may do"),
    ],
)
def test_the_key_may_do_what_was_chosen(
    at_key: Client, as_key: Any, rights: str, scopes: set[str], told: str
) -> None:
    answer = at_key.post("/setup/key", {**KEY, "rights": rights})
    assert set(ApiKey.objects.get().scopes) == scopes
    assert told in text_of(answer)
    status = as_key(shown_key(answer)).post("/configure", {}).status_code
    assert (status == 403) == (rights == "agent")


@pytest.mark.parametrize(("expiry", "days"), [("90", 90), ("365", 365), ("never", None)])
def test_the_key_ends_when_it_was_chosen_to(at_key: Client, expiry: str, days: int | None) -> None:
    answer = at_key.post("/setup/key", {**KEY, "expiry": expiry})
    ends = ApiKey.objects.get().expires_at
    if days is None:
        assert ends is None and "never ends" in text_of(answer)
        assert "Never" in text_of(at_key.get("/setup/key"))
    else:
        assert abs(ends - timezone.now() - timedelta(days=days)) < timedelta(minutes=5)
        assert f"ends on {ends:%Y-%m-%d}" in text_of(answer)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"label": ""}, "Give the key a name."),
        ({"label": "   "}, "Give the key a name."),
        ({"label": "x" * 151}, "at most 150 characters"),
        ({"label": "a\0b"}, "Null characters are not allowed."),
        ({"rights": ""}, "Choose what the key may do."),
        ({"rights": "root"}, "Select a valid choice."),
        ({"expiry": ""}, "Choose when the key ends."),
        ({"expiry": "9999999999"}, "Select a valid choice."),
        ({"expiry": "-1"}, "Select a valid choice."),
    ],
)
def test_a_form_that_does_not_fit_makes_no_key(
    at_key: Client, fields: dict[str, str], told: str
) -> None:
    answer = at_key.post("/setup/key", {**KEY, **fields})
    assert answer.status_code == 422
    assert told in text_of(answer)
    assert not ApiKey.objects.exists()


def test_a_form_that_is_sent_again_makes_no_second_key(at_key: Client, as_key: Any) -> None:
    key = make_key(at_key)
    for former in ("", "nonsense", "0" * 32, str(ApiKey.objects.get().owner_id)):
        answer = at_key.post("/setup/key", {**KEY, "label": "Again", "former": former})
        assert answer.status_code == 409
        assert MADE_ALREADY in text_of(answer)
        assert "m0sk_" not in re.sub(r"m0sk_\S{7}…", "", text_of(answer))
    assert ApiKey.objects.get().label == "First key"
    assert works(as_key, key)


def test_another_key_takes_the_place_of_the_former(at_key: Client, as_key: Any) -> None:
    first = make_key(at_key)
    second = make_key(at_key, former=former_of(at_key), label="Second")
    assert second != first
    assert works(as_key, second) and not works(as_key, first)
    assert as_key(first).get("/memories?user_id=alice").status_code == 401
    assert "Second" in text_of(at_key.get("/setup/key"))
    # The tab in which the first one was shown is out of date.
    stale = str(ApiKey.objects.get(label="First key").id)
    assert at_key.post("/setup/key", {**KEY, "former": stale}).status_code == 409
    assert works(as_key, second)


def test_of_many_forms_at_once_one_makes_the_key(
    transactional_db: None, engine: Any, claimed: Any, as_key: Any
) -> None:
    clients = [sign_in(claimed) for _ in range(8)]
    go_to(clients[0], "key")
    start, answers = threading.Barrier(8), []

    def run(signed_in: Client) -> None:
        try:
            start.wait(20)
            answers.append(signed_in.post("/setup/key", KEY))
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(signed_in,)) for signed_in in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 7
    assert ApiKey.objects.count() == 1
    key = shown_key(next(answer for answer in answers if answer.status_code == 200))
    assert works(as_key, key)


def test_a_key_that_was_revoked_elsewhere_can_be_replaced(
    at_key: Client, claimed: Any, as_key: Any
) -> None:
    make_key(at_key)
    revoke_api_key(key_id=ApiKey.objects.get().id, owner=claimed)
    assert "Revoked" in text_of(at_key.get("/setup/key"))
    assert works(as_key, make_key(at_key, former=former_of(at_key)))


def test_a_key_whose_row_is_gone_makes_the_step_one_to_be_taken(at_key: Client) -> None:
    make_key(at_key)
    ApiKey.objects.all().delete()
    assert at_key.get("/setup/use-case")["Location"] == "/setup/key"
    assert make_key(at_key)


def test_a_hostile_name_is_inert(at_key: Client) -> None:
    answer = at_key.post("/setup/key", {**KEY, "label": HOSTILE})
    assert answer.status_code == 200
    assert_inert(answer)
    assert_inert(at_key.get("/setup/key"))
    assert_inert(at_key.get("/setup/provider"))
    assert_inert(at_key.post("/setup/key", {**KEY, "label": HOSTILE, "rights": HOSTILE}))


def test_snippets_hold_the_address_and_the_key(at_key: Client, claimed: Any) -> None:
    claimed.email = "o'hara@example.org"
    claimed.save()
    answer = at_key.post("/setup/key", KEY)
    shown = blocks(answer.content.decode())
    assert shown.keys() == {"curl", "python", "javascript", "opencode"}
    for code in shown.values():
        assert "http://testserver" in code and shown_key(answer) in code
        assert "o-hara" in code and "o'hara" not in code


def blocks(page: str) -> dict[str, str]:
    """The snippets of a page, as somebody would copy them."""
    found = re.findall(r'<code id="snippet-(\w+)">(.*?)</code>', page, re.DOTALL)
    return {name: html.unescape(code) for name, code in found}
