"""A page whose address asks for what it does not understand lists nothing, and says so."""

from typing import Any

import pytest
from django.test import Client

from accounts.tests.signing import sign_in
from memories.models import Memory, SavedView
from memories.tests.pages import HTMX, LIST, addresses, text_of

pytestmark = pytest.mark.one_form

SECRET = "Drinks tea every morning"


@pytest.fixture
def signed_in(api: Any, alice: Any) -> Client:
    api.add(SECRET, "mara")
    return sign_in(alice)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (f"{LIST}?agent=odd", "agent"),
        (f"{LIST}?status=bogus", "status"),
        (f"{LIST}?user_id=mara&userId=odd", "userId"),
        (f"{LIST}?USER_ID=odd", "USER_ID"),
        (f"{LIST}/export?format=csv&agent=odd", "agent"),
        (f"{LIST}/filters?agent=odd", "agent"),
        ("/dashboard/entities?type=user&name=odd", "name"),
        ("/dashboard/operations?state=running", "state"),
        ("/dashboard/memories/views?owner=odd", "owner"),
        ("/dashboard/entities/delete?type=user&name=mara&agent_id=odd", "agent_id"),
        ("/dashboard/activity/export?format=csv&user_id=mara", "user_id"),
        ("/dashboard/activity?user_id=mara", "user_id"),
        ("/dashboard/activity?Event=DELETE", "Event"),
        ("/dashboard/requests?user=mara", "user"),
    ],
)
def test_a_name_that_a_page_does_not_know_shows_nothing_of_the_list(
    signed_in: Client, path: str, name: str
) -> None:
    for headers in ({}, HTMX):
        answer = signed_in.get(path, headers=headers)
        assert answer.status_code in {400, 422}, path
        page = text_of(answer)
        assert f"does not understand “{name}”" in page
        assert SECRET not in page and "mara" not in page.replace(path, "").replace("name=mara", "")
        # The way out, without a script.
        assert headers or addresses(answer, rf"^{path.partition('?')[0].split('/export')[0]}$|ent")


@pytest.mark.parametrize(
    "query",
    [
        "review_status=bogus",
        "confidence=certain",
        "created=yesterday",
        "q=tea&q=coffee",
        "mode=words&mode=meaning&q=tea",
        "deleted=no",
        "collection=odd",
        "expiry=never-ever",
    ],
)
def test_a_value_that_a_filter_cannot_have_shows_nothing_of_the_list(
    signed_in: Client, query: str
) -> None:
    answer = signed_in.get(f"{LIST}?{query}")
    assert answer.status_code == 400
    assert SECRET not in text_of(answer)
    assert addresses(answer, f"^{LIST}$")


def test_the_tags_of_a_newsletter_change_nothing(signed_in: Client) -> None:
    for path in (LIST, "/dashboard/activity", "/dashboard/entities", "/dashboard/requests"):
        assert signed_in.get(f"{path}?utm_source=mail&fbclid=x").status_code == 200, path
    assert SECRET in text_of(signed_in.get(f"{LIST}?utm_source=mail"))


def test_a_bulk_action_from_such_an_address_is_refused(signed_in: Client) -> None:
    for extra in ({"agent": "odd"}, {"status": "bogus"}, {"review_status": "bogus"}):
        answer = signed_in.post(f"{LIST}/bulk", {"action": "delete", "all": "1", **extra})
        assert answer.status_code == 400
        assert "Delete 1 memory" not in text_of(answer)
    for query in ("user_id=nobody", "agent=odd", "q=x&mode=words", "ids="):
        answer = signed_in.post(f"{LIST}/bulk?{query}", {"action": "delete", "all": "1"})
        assert answer.status_code == 400, query
        assert "Delete 1 memory" not in text_of(answer)
    assert Memory.objects.filter(deleted_at=None).count() == 1
    saved = signed_in.post(f"{LIST}/views/save", {"name": "Odd", "agent": "odd"})
    assert saved.status_code == 400
    assert not SavedView.objects.exists()


def test_a_saved_view_that_is_no_longer_understood_leads_nowhere(
    signed_in: Client, alice: Any, project: Any
) -> None:
    SavedView.objects.create(
        project=project, owner=alice, name="Former", params={"former_field": ["x"]}
    )
    page = text_of(signed_in.get("/dashboard/memories/views"))
    assert "Former" in page and "A newer or older version of the server made it." in page
    assert "former_field" not in page


def test_metadata_inside_of_objects_is_found_and_no_depth_breaks_the_page(
    signed_in: Client, api: Any
) -> None:
    api.add("Drinks coffee", "mara", metadata={"nested": {"a": 1}})
    page = text_of(signed_in.get(f"{LIST}?metadata=nested.a%3D1"))
    assert "Drinks coffee" in page and SECRET not in page
    deep = ".".join("a" * 140)
    assert SECRET not in text_of(signed_in.get(f"{LIST}?metadata={deep}"))


def test_a_name_that_is_longer_than_any_id_finds_no_entity(signed_in: Client) -> None:
    answer = signed_in.get(f"/dashboard/entities?q={'mara' * 70}")
    assert answer.status_code == 400
    assert "at most 255" in text_of(answer)
