"""One memory as people see it: where it comes from, what became of it, what is set right there."""

import json
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import Account, Role
from accounts.tests.signing import sign_in
from memories.editing import service as services
from memories.models import Memory, Revision
from memories.tests.actions import add
from memories.tests.pages import (
    HOSTILE,
    HTMX,
    LIST,
    addresses,
    assert_inert,
    text_of,
    told,
    undo_of,
)

pytestmark = [pytest.mark.one_form, pytest.mark.usefixtures("engine")]


@pytest.fixture
def tea(engine: Any, owner: Any) -> UUID:
    [id_] = add(
        owner,
        "Drinks tea at four",
        user_id="mara",
        entities={"agent_id": "kitchen-bot", "run_id": "autumn"},
        metadata={"source": "chat", "confidence": "high", "brand": "Assam"},
    )
    return id_


def opened(signed_in: Client, id_: UUID, query: str = "") -> str:
    answer = signed_in.get(f"{LIST}?{query}id={id_}")
    assert answer.status_code == 200
    return text_of(answer)


def test_the_inspector_tells_all_of_a_memory(signed_in: Client, tea: UUID, owner: Any) -> None:
    services.update_memory(owner, tea, text="Drinks green tea at five")
    text = opened(signed_in, tea)
    assert '<p class="lead-memory" id="memory-text">Drinks green tea at five</p>' in text
    for fact in ("mara", "kitchen-bot", "autumn", "chat", "High", "Never", str(tea)):
        assert fact in text
    assert '"brand": "Assam"' in text
    assert "Drinks <ins>green </ins>tea at <del>four</del><ins>five</ins>" in text
    assert "Changed by Alice" in text and "Added by Alice" in text
    # What the add was given.
    assert "Where it came from" in text and "<dd>Drinks tea at four</dd>" in text
    [mara] = addresses(signed_in.get(f"{LIST}?id={tea}"), r"\?user_id=mara$")
    assert "Drinks green tea" in text_of(signed_in.get(mara))


def test_which_key_it_was_is_told_to_administrators_alone(
    signed_in: Client, tea: UUID, bob: Account, alice: Account
) -> None:
    Revision.objects.filter(memory_id=tea).update(key_prefix="m0sk_abcdefg", via="api_key")
    assert "Added by Alice with key m0sk_abcdefg" in opened(signed_in, tea)
    seen = opened(sign_in(bob, Role.REVIEWER), tea)
    assert "Added by Alice with an API key" in seen and "m0sk_" not in seen
    type(alice).objects.filter(id=alice.id).update(name="")
    seen = opened(sign_in(bob, Role.MEMBER), tea)
    assert "Added by somebody with an API key" in seen and alice.email not in seen


def test_similar_memories_have_scores_and_lead_there(signed_in: Client, owner: Any) -> None:
    first, second, _ = add(owner, "Drinks green tea", "Drinks black tea", "Owns a boat")
    text = opened(signed_in, first, "user_id=alice&")
    assert "Similar memories" in text
    near = text.split("Similar memories")[1]
    assert f"{LIST}?user_id=alice&id={second}" in near.replace("&amp;", "&")
    assert "0." in near


def test_the_ways_on_are_those_of_the_list(signed_in: Client, owner: Any) -> None:
    oldest, middle, newest = add(owner, "One", "Two", "Three")
    page = signed_in.get(f"{LIST}?user_id=alice&id={middle}")
    steps = addresses(page, r"\?user_id=alice&id=")
    assert f"{LIST}?user_id=alice&id={newest}" in steps
    assert f"{LIST}?user_id=alice&id={oldest}" in steps
    first = signed_in.get(f"{LIST}?id={newest}").content.decode()
    assert 'aria-disabled="true" aria-label="Previous memory"' in first
    assert 'aria-disabled="true" aria-label="Next memory"' not in first


@pytest.mark.parametrize("partial", [True, False])
def test_a_status_is_set_and_undone(signed_in: Client, tea: UUID, partial: bool) -> None:
    here = f"{LIST}?user_id=mara&id={tea}"
    sent = {"status": "approved", "next": here}
    answer = signed_in.post(f"{LIST}/{tea}/review", sent, headers=HTMX if partial else {})
    assert answer.status_code == 302 and answer["Location"] == here
    row = Memory.objects.get(id=tea)
    assert (row.review_status, row.reviewed_by) == ("approved", "Alice")
    way = undo_of(signed_in)
    assert signed_in.post(way, {"next": here}).status_code == 302
    row.refresh_from_db()
    assert (row.review_status, row.reviewed_by) == ("unreviewed", "")
    assert told(signed_in) == ["Undone."]


def test_confidence_and_expiry_are_set_and_undone(signed_in: Client, tea: UUID) -> None:
    signed_in.post(f"{LIST}/{tea}/confidence", {"confidence": "low"})
    assert Memory.objects.get(id=tea).confidence == "low"
    signed_in.post(undo_of(signed_in))
    assert Memory.objects.get(id=tea).confidence == "high"
    signed_in.post(f"{LIST}/{tea}/expiry", {"day": "2031-02-03"})
    assert str(Memory.objects.get(id=tea).expiration_date) == "2031-02-03"
    signed_in.get(LIST)
    signed_in.post(f"{LIST}/{tea}/expiry", {"day": ""})
    assert Memory.objects.get(id=tea).expiration_date is None
    assert "after 2031-02-03" in opened(signed_in, tea) or "2031-02-03" in opened(signed_in, tea)
    signed_in.post(f"{LIST}/{tea}/expiry", {"day": ""})
    assert Memory.objects.get(id=tea).expiration_date is None


@pytest.mark.parametrize(
    ("what", "sent"),
    [
        ("review", {"status": "good"}),
        ("review", {}),
        ("review", {"status": "delete"}),
        ("review", {"status": "unexpire"}),
        ("review", {"status": "erase"}),
        ("confidence", {"confidence": "0.7"}),
        ("expiry", {"day": "tomorrow"}),
        ("expiry", {"day": "2026-02-31"}),
        # Which is not "never".
        ("expiry", {}),
        ("expiry", {"last_day": "2030-01-01"}),
    ],
)
def test_values_that_do_not_exist_change_nothing(
    signed_in: Client, tea: UUID, what: str, sent: dict[str, str]
) -> None:
    before = Memory.objects.filter(id=tea).values().get()
    answer = signed_in.post(f"{LIST}/{tea}/{what}", sent)
    assert answer.status_code == 400
    partial = signed_in.post(f"{LIST}/{tea}/{what}", sent, headers=HTMX)
    assert partial.status_code == 400 and b"data-error" in partial.content
    assert Memory.objects.filter(id=tea).values().get() == before


def test_a_deletion_takes_effect_at_once_and_is_undone(
    signed_in: Client, tea: UUID, api: Any
) -> None:
    here = f"{LIST}?user_id=mara&id={tea}"
    answer = signed_in.post(f"{LIST}/{tea}/delete", {"next": here})
    # Back to the list as it was, with nothing open.
    assert answer["Location"] == f"{LIST}?user_id=mara"
    assert api.get(f"/memories/{tea}").json() is None
    assert "It is not there" not in opened(signed_in, tea)
    assert "Deleted" in opened(signed_in, tea)
    signed_in.post(f"{LIST}/{tea}/restore", {"next": here})
    assert api.get(f"/memories/{tea}").json()["memory"] == "Drinks tea at four"
    signed_in.get(LIST)
    signed_in.post(f"{LIST}/{tea}/delete")
    signed_in.post(undo_of(signed_in))
    assert api.get(f"/memories/{tea}").json()["memory"] == "Drinks tea at four"


def test_a_member_undoes_only_what_is_their_own(
    signed_in: Client, tea: UUID, bob: Account, alice: Account
) -> None:
    member = sign_in(bob)
    assert member.post(f"{LIST}/{tea}/delete").status_code == 302
    member.post(undo_of(member))
    assert Memory.objects.get(id=tea).deleted_at is None
    signed_in.post(f"{LIST}/{tea}/review", {"status": "rejected"})
    way = undo_of(signed_in)
    assert member.post(way).status_code == 403
    assert Memory.objects.get(id=tea).review_status == "rejected"


def test_what_others_changed_since_is_not_undone(signed_in: Client, tea: UUID, owner: Any) -> None:
    signed_in.post(f"{LIST}/{tea}/review", {"status": "approved"})
    way = undo_of(signed_in)
    services.update_memory(owner, tea, text="Drinks coffee")
    assert signed_in.post(way).status_code == 302
    row = Memory.objects.get(id=tea)
    assert (row.review_status, row.text) == ("approved", "Drinks coffee")
    assert told(signed_in) != ["Undone."]


CHANGES = [
    ("review", {"status": "approved"}),
    ("confidence", {"confidence": "low"}),
    ("expiry", {"day": "2030-01-01"}),
    ("delete", {}),
    ("restore", {}),
    ("undo/1", {}),
    ("edit", {"text": "Mine", "metadata": "", "rev": "1", "step": "save"}),
]


@pytest.mark.parametrize(("what", "sent"), CHANGES)
def test_another_project_changes_nothing(
    tea: UUID, charlie: Account, what: str, sent: dict[str, str]
) -> None:
    before = Memory.objects.filter(id=tea).values().get()
    stranger = sign_in(charlie)
    for id_ in (tea, uuid4()):
        answer = stranger.post(f"{LIST}/{id_}/{what}", sent)
        assert answer.status_code == (409 if what == "restore" else 404)
    assert Memory.objects.filter(id=tea).values().get() == before
    assert Revision.objects.filter(memory_id=tea).count() == 1


@pytest.mark.parametrize("what", ["review", "confidence", "expiry", "restore"])
def test_a_member_may_not_review(tea: UUID, bob: Account, what: str) -> None:
    before = Memory.objects.filter(id=tea).values().get()
    sent = {"status": "approved", "confidence": "low", "day": "2030-01-01"}
    assert sign_in(bob).post(f"{LIST}/{tea}/{what}", sent).status_code == 403
    assert Memory.objects.filter(id=tea).values().get() == before


@pytest.mark.parametrize(("what", "sent"), CHANGES)
def test_a_look_or_a_forged_form_changes_nothing(
    signed_in: Client, tea: UUID, alice: Account, what: str, sent: dict[str, str]
) -> None:
    before = Memory.objects.filter(id=tea).values().get()
    if what != "edit":
        assert signed_in.get(f"{LIST}/{tea}/{what}").status_code == 405
    strict = sign_in(alice, enforce_csrf_checks=True)
    assert strict.post(f"{LIST}/{tea}/{what}", sent).status_code == 403
    assert Client().post(f"{LIST}/{tea}/{what}", sent).status_code == 302
    assert Memory.objects.filter(id=tea).values().get() == before


@pytest.mark.parametrize("way", ["https://evil.example/", "//evil.example", "javascript:alert(1)"])
def test_the_way_back_never_leaves_the_server(signed_in: Client, tea: UUID, way: str) -> None:
    answer = signed_in.post(f"{LIST}/{tea}/review", {"status": "approved", "next": way})
    assert answer["Location"] == "/dashboard"
    edit = signed_in.get(f"{LIST}/{tea}/edit", {"next": way})
    assert not addresses(edit, "evil|javascript:")
    assert '<input type="hidden" name="next" value="/dashboard">' in edit.content.decode()


def test_hostile_history_is_inert(signed_in: Client, owner: Any) -> None:
    [id_] = add(owner, "Before", metadata={"note": "x"})
    services.update_memory(owner, id_, text=HOSTILE, metadata={"note": HOSTILE})
    Revision.objects.filter(memory_id=id_).update(client=HOSTILE, key_prefix="<img src=x>"[:12])
    answer = signed_in.get(f"{LIST}?id={id_}")
    assert_inert(answer)
    assert json.dumps(HOSTILE, ensure_ascii=False)[1:-1] in text_of(answer)


def test_an_expired_memory_says_so(signed_in: Client, tea: UUID) -> None:
    Memory.objects.filter(id=tea).update(expires_at=timezone.now() - timedelta(hours=1))
    assert '<span class="state warn">Expired</span>' in opened(signed_in, tea)


def test_a_reviewer_sets_what_an_admin_sets(tea: UUID, bob: Account) -> None:
    reviewer = sign_in(bob, Role.REVIEWER)
    assert reviewer.post(f"{LIST}/{tea}/review", {"status": "stale"}).status_code == 302
    assert Memory.objects.get(id=tea).review_status == "stale"
