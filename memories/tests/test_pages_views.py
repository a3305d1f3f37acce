"""Saved views: one's own and shared ones, from the menu and on their page."""

import html
import re
from typing import Any

import pytest
from django.test import Client

from accounts.models import Account, Membership, Project, Role
from memories.models import SavedView
from memories.tests.pages import HOSTILE, LIST, addresses, assert_inert, signed_in, text_of, told

pytestmark = pytest.mark.one_form

VIEWS = f"{LIST}/views"


@pytest.fixture
def browser(engine: Any, alice: Account) -> Client:
    return signed_in(alice)


def save(browser: Client, name: str, **sent: Any) -> Any:
    return browser.post(f"{VIEWS}/save", {"name": name, **sent})


def named(browser: Client) -> list[str]:
    page = browser.get(VIEWS).content.decode()
    return [html.unescape(n) for n in re.findall(r'class="row-title"[^>]*>([^<]+)<', page)]


def test_a_view_brings_search_filters_and_order_back(browser: Client, api: Any) -> None:
    api.add("Drinks tea", "mara")
    sent = {"user_id": ["mara", "jonas"], "q": "tea", "mode": "words", "sort": "oldest", "page": 3}
    answer = save(browser, "  Tea   people ", **sent)
    address = f"{LIST}?q=tea&mode=words&user_id=jonas&user_id=mara&sort=oldest"
    assert answer.status_code == 302 and answer["Location"] == address
    menu = browser.get(LIST)
    assert address in addresses(menu, "sort=oldest")
    assert "Tea people" in text_of(menu)
    assert "Drinks tea" in text_of(browser.get(address))


def test_shared_views_are_for_the_project_and_own_ones_for_oneself(
    browser: Client, bob: Account, charlie: Account
) -> None:
    save(browser, "Mine", user_id="mara")
    save(browser, "Ours", user_id="jonas", shared="on")
    assert named(browser) == ["Mine", "Ours"]
    member = signed_in(bob)
    assert named(member) == ["Ours"]
    assert "shared by Alice" in text_of(member.get(LIST))
    assert named(signed_in(charlie)) == []
    # A member keeps views, and shares none.
    assert save(member, "Bob's", user_id="x").status_code == 302
    assert save(member, "For all", user_id="x", shared="on").status_code == 403
    assert named(member) == ["Bob's", "Ours"]


def test_a_view_is_renamed_and_deleted_by_who_made_it(
    browser: Client, bob: Account, project: Project
) -> None:
    save(browser, "Ours", shared="on")
    view = SavedView.objects.get()
    member = signed_in(bob)
    assert member.post(f"{VIEWS}/{view.id}/rename", {"name": "His"}).status_code == 404
    assert member.post(f"{VIEWS}/{view.id}/delete").status_code == 403
    assert browser.post(f"{VIEWS}/{view.id}/rename", {"name": "All of us"}).status_code == 302
    assert told(browser)[-1:] == ["The view is called “All of us” now."]
    assert named(browser) == ["All of us"]
    browser.post(f"{VIEWS}/{view.id}/delete", {"next": VIEWS})
    assert named(browser) == [] and not SavedView.objects.exists()
    Membership.objects.filter(account=bob).update(role=Role.ADMIN)
    assert browser.post(f"{VIEWS}/{view.id}/delete").status_code == 404


def test_names_that_do_not_fit_are_told(browser: Client) -> None:
    for name in ("", "  ", "x" * 81, "a\u202eb"):
        answer = save(browser, name, user_id="mara")
        assert answer.status_code == 422
        assert 'name="user_id" value="mara"' in answer.content.decode()
    save(browser, "One")
    save(browser, "Two")
    one, two = SavedView.objects.order_by("id")
    browser.post(f"{VIEWS}/{two.id}/rename", {"name": "One"})
    assert told(browser)[-1:] == ["Another of your views is called “One”."]
    browser.post(f"{VIEWS}/{two.id}/rename", {"name": ""})
    assert told(browser) == ["Give the view a name."]
    assert named(browser) == ["One", "Two"] and one.id != two.id


def test_a_view_that_cannot_be_read_any_more_is_shown_as_such(
    browser: Client, project: Project, alice: Account
) -> None:
    SavedView.objects.create(project=project, owner=alice, name="Old", params={"sort": ["magic"]})
    assert browser.get(LIST).status_code == 200
    text = text_of(browser.get(VIEWS))
    assert "Old" in text and "A newer or older version of the server made it." in text


def test_hostile_names_and_values_are_inert(browser: Client) -> None:
    hostile = HOSTILE.rstrip("\u202e")
    assert save(browser, hostile, user_id=HOSTILE, q=HOSTILE, mode="words").status_code == 302
    assert_inert(browser.get(VIEWS))
    assert_inert(browser.get(LIST))


def test_a_forged_form_keeps_nothing(alice: Account, engine: Any) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(alice)
    assert save(strict, "Mine").status_code == 403
    assert save(Client(), "Mine").status_code == 302
    assert not SavedView.objects.exists()
