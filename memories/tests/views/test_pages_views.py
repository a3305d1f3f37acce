"""Saved views: one's own and shared ones, from the menu and on their page."""

import html
import re
from typing import Any

import pytest
from django.test import Client

from accounts.models import Account, Membership, Project, Role
from accounts.tests.signing import sign_in
from memories.models import SavedView
from memories.tests.pages import HOSTILE, LIST, addresses, assert_inert, text_of, told

pytestmark = [pytest.mark.one_form, pytest.mark.usefixtures("engine")]

VIEWS = f"{LIST}/views"


def save(signed_in: Client, name: str, **sent: Any) -> Any:
    return signed_in.post(f"{VIEWS}/save", {"name": name, **sent})


def named(signed_in: Client) -> list[str]:
    page = signed_in.get(VIEWS).content.decode()
    return [html.unescape(n) for n in re.findall(r'class="row-title"[^>]*>([^<]+)<', page)]


def test_a_view_brings_search_filters_and_order_back(signed_in: Client, api: Any) -> None:
    api.add("Drinks tea", "mara")
    sent = {"user_id": ["mara", "jonas"], "q": "tea", "mode": "words", "sort": "oldest", "page": 3}
    answer = save(signed_in, "  Tea   people ", **sent)
    address = f"{LIST}?q=tea&mode=words&user_id=jonas&user_id=mara&sort=oldest"
    assert answer.status_code == 302 and answer["Location"] == address
    menu = signed_in.get(LIST)
    assert address in addresses(menu, "sort=oldest")
    assert "Tea people" in text_of(menu)
    assert "Drinks tea" in text_of(signed_in.get(address))


def test_shared_views_are_for_the_project_and_own_ones_for_oneself(
    signed_in: Client, bob: Account, charlie: Account
) -> None:
    save(signed_in, "Mine", user_id="mara")
    save(signed_in, "Ours", user_id="jonas", shared="on")
    assert named(signed_in) == ["Mine", "Ours"]
    member = sign_in(bob)
    assert named(member) == ["Ours"]
    assert "shared by Alice" in text_of(member.get(LIST))
    assert named(sign_in(charlie)) == []
    # A member keeps views, and shares none.
    assert save(member, "Bob's", user_id="x").status_code == 302
    assert save(member, "For all", user_id="x", shared="on").status_code == 403
    assert named(member) == ["Bob's", "Ours"]


def test_a_view_is_renamed_and_deleted_by_who_made_it(
    signed_in: Client, bob: Account, project: Project
) -> None:
    save(signed_in, "Ours", shared="on")
    view = SavedView.objects.get()
    member = sign_in(bob)
    assert member.post(f"{VIEWS}/{view.id}/rename", {"name": "His"}).status_code == 404
    assert member.post(f"{VIEWS}/{view.id}/delete").status_code == 403
    assert signed_in.post(f"{VIEWS}/{view.id}/rename", {"name": "All of us"}).status_code == 302
    assert told(signed_in)[-1:] == ["The view is called “All of us” now."]
    assert named(signed_in) == ["All of us"]
    signed_in.post(f"{VIEWS}/{view.id}/delete", {"next": VIEWS})
    assert named(signed_in) == [] and not SavedView.objects.exists()
    Membership.objects.filter(account=bob).update(role=Role.ADMIN)
    assert signed_in.post(f"{VIEWS}/{view.id}/delete").status_code == 404


def test_names_that_do_not_fit_are_told(signed_in: Client) -> None:
    for name in ("", "  ", "x" * 81, "a\u202eb"):
        answer = save(signed_in, name, user_id="mara")
        assert answer.status_code == 422
        assert 'name="user_id" value="mara"' in answer.content.decode()
    save(signed_in, "One")
    save(signed_in, "Two")
    one, two = SavedView.objects.order_by("id")
    signed_in.post(f"{VIEWS}/{two.id}/rename", {"name": "One"})
    assert told(signed_in)[-1:] == ["Another of your views is called “One”."]
    signed_in.post(f"{VIEWS}/{two.id}/rename", {"name": ""})
    assert told(signed_in) == ["Give the view a name."]
    assert named(signed_in) == ["One", "Two"] and one.id != two.id


def test_a_view_that_cannot_be_read_any_more_is_shown_as_such(
    signed_in: Client, project: Project, alice: Account
) -> None:
    SavedView.objects.create(project=project, owner=alice, name="Old", params={"sort": ["magic"]})
    assert signed_in.get(LIST).status_code == 200
    text = text_of(signed_in.get(VIEWS))
    assert "Old" in text and "A newer or older version of the server made it." in text


def test_hostile_names_and_values_are_inert(signed_in: Client) -> None:
    hostile = HOSTILE.rstrip("\u202e")
    assert save(signed_in, hostile, user_id=HOSTILE, q=HOSTILE, mode="words").status_code == 302
    assert_inert(signed_in.get(VIEWS))
    assert_inert(signed_in.get(LIST))


def test_a_forged_form_keeps_nothing(alice: Account, engine: Any) -> None:
    strict = sign_in(alice, enforce_csrf_checks=True)
    assert save(strict, "Mine").status_code == 403
    assert save(Client(), "Mine").status_code == 302
    assert not SavedView.objects.exists()
