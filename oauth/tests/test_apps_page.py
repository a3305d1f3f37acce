"""Connected apps: who sees which, what the list says, and what revoking ends."""

import re
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import Account, Membership, Project, Role
from accounts.tests.signing import sign_in
from oauth import service
from oauth.models import AppGrant
from oauth.tests.asking import connect, exchange, open_page, register, told

pytestmark = pytest.mark.one_form

APPS = "/dashboard/apps"


@pytest.fixture(autouse=True)
def _set_up(alice: Account) -> None:
    """Nobody is sent to set-up."""


def holds(token: str) -> bool:
    """Whether a call with this access token has a caller."""
    return service.principal_of(token, request_id="test", client="test") is not None


def connected(client: Client, name: str = "Claude Code", **changes: Any) -> str:
    """An app with access; its access token."""
    return str(connect(client, register(Client(), name), **changes)["access_token"])


def shown(answer: Any) -> str:
    assert answer.status_code == 200
    found = re.search(r"<main.*</main>", answer.content.decode(), re.DOTALL)
    assert found is not None
    return found[0]


def revoke(client: Client, id_: UUID | None = None) -> Any:
    id_ = id_ or AppGrant.objects.get().id
    return client.post(f"{APPS}/{id_}/revoke")


def test_without_apps_the_page_leads_to_connect(signed_in: Client) -> None:
    page = shown(signed_in.get(APPS))
    assert "No app is connected" in page
    assert 'href="/dashboard/connect"' in page


def test_the_list_says_who_gave_what_since_when(signed_in: Client) -> None:
    connected(signed_in)
    page = shown(signed_in.get(APPS))
    assert "“<bdi>Claude Code</bdi>”" in page
    for words in ("app.example", "Read, write", "Alice", "Never used", "just now"):
        assert words in page


def test_the_list_says_when_and_from_where_an_app_was_last_used(signed_in: Client) -> None:
    connected(signed_in)
    long_ago = timezone.now() - timedelta(days=41)
    AppGrant.objects.update(last_used_at=long_ago, last_address="10.0.4.7", created_at=long_ago)
    page = shown(signed_in.get(APPS))
    assert re.search(r'class="state warn"><time[^>]*>[^<]+</time>', page)
    assert "10.0.4.7" in page
    AppGrant.objects.update(last_used_at=timezone.now() - timedelta(days=29))
    assert "state warn" not in shown(signed_in.get(APPS))


def test_access_that_was_never_used_for_long_is_marked(signed_in: Client) -> None:
    connected(signed_in)
    assert "state warn" not in shown(signed_in.get(APPS))
    AppGrant.objects.update(created_at=timezone.now() - timedelta(days=31))
    assert re.search(r'class="state warn">Never used', shown(signed_in.get(APPS)))


def test_a_member_sees_their_own_and_an_administrator_all_of_the_project(
    bob: Account, alice: Account, project: Project, charlie: Account
) -> None:
    connected(sign_in(bob), "Bobs app")
    connected(sign_in(alice), "Alices app")
    connected(sign_in(charlie), "Foreign app")
    page = shown(sign_in(bob).get(APPS))
    assert "Bobs app" in page
    assert "Alices app" not in page
    page = shown(sign_in(bob, Role.ADMIN).get(APPS))
    assert "Alices app" in page
    assert "Foreign app" not in page


def test_access_in_another_project_names_it(
    bob: Account, other_project: Project, charlie: Account
) -> None:
    Membership.objects.create(project=other_project, account=bob)
    his = sign_in(bob)
    app = register(Client())
    page = open_page(his, app)
    exchange(Client(), app, told(page.send(project=str(other_project.id)))["code"])
    assert "in Other" in shown(his.get(APPS))


def test_revoking_ends_the_access_at_once_and_says_so(signed_in: Client) -> None:
    token = connected(signed_in)
    assert holds(token)
    answer = revoke(signed_in)
    assert (answer.status_code, answer["Location"]) == (302, APPS)
    assert not holds(token)
    page = shown(signed_in.get(APPS))
    assert "“Claude Code” has lost its access. Its next call gets a 401." in page
    assert "No app is connected" in page
    found = signed_in.get("/dashboard/activity").content.decode()
    assert "Alice ended the access of the app ‘Claude Code’" in found


def test_what_has_ended_cannot_be_revoked_again(signed_in: Client) -> None:
    connected(signed_in)
    id_ = AppGrant.objects.get().id
    assert revoke(signed_in).status_code == 302
    assert revoke(signed_in, id_).status_code == 404


def test_a_member_ends_no_access_of_others(signed_in: Client, bob: Account) -> None:
    token = connected(signed_in)
    for role in (Role.MEMBER, Role.REVIEWER):
        assert revoke(sign_in(bob, role)).status_code == 404
    assert holds(token)
    assert revoke(sign_in(bob, Role.ADMIN)).status_code == 302
    assert not holds(token)


def test_an_administrator_ends_no_access_in_another_project(charlie: Account, bob: Account) -> None:
    token = connected(sign_in(bob))
    assert revoke(sign_in(charlie)).status_code == 404
    assert holds(token)
    missing = sign_in(charlie).post(f"{APPS}/{UUID(int=1)}/revoke")
    assert missing.status_code == 404


def test_somebody_signed_out_sees_and_ends_nothing(signed_in: Client, client: Client) -> None:
    token = connected(signed_in)
    assert client.get(APPS)["Location"] == f"/login?next={APPS}"
    assert revoke(client)["Location"] == "/login"
    assert holds(token)


def test_nothing_is_revoked_without_the_forms_token_or_by_a_link(
    signed_in: Client, alice: Account
) -> None:
    token = connected(signed_in)
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(alice)
    assert revoke(strict).status_code == 403
    assert signed_in.get(f"{APPS}/{AppGrant.objects.get().id}/revoke").status_code == 405
    assert holds(token)


def test_an_access_token_opens_no_page(signed_in: Client) -> None:
    token = connected(signed_in)
    answer = Client().get(APPS, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 302


def test_a_filter_that_is_none_is_refused(signed_in: Client) -> None:
    assert signed_in.get(f"{APPS}?person=bob").status_code == 400


def test_a_name_of_an_app_is_only_text(signed_in: Client) -> None:
    connected(signed_in)
    name = '<img src=x onerror="alert(1)">\u202e ”, Known'
    AppGrant.objects.get().application.__class__.objects.update(name=name)
    page = shown(signed_in.get(APPS))
    assert "<img" not in page
    assert "\u202e" not in page
    assert page.count("”") == 1
    assert revoke(signed_in).status_code == 302
    assert "<img" not in shown(signed_in.get(APPS))


def test_the_list_takes_as_many_queries_for_many_as_for_one(
    signed_in: Client, django_assert_max_num_queries: Any
) -> None:
    connected(signed_in, "First")
    with django_assert_max_num_queries(12):
        signed_in.get(APPS)
    for n in range(5):
        connected(signed_in, f"App {n}")
    with django_assert_max_num_queries(12):
        signed_in.get(APPS)
