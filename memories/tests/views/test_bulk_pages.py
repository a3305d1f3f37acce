"""Bulk changes as people make them: shown, done, undone; and all that is refused."""

import html
import re
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core import signing
from django.test import Client
from django.utils import timezone

from accounts.models import Account, Membership, Project, Role
from accounts.tests.signing import sign_in
from memories.bulk import job as bulk_work
from memories.bulk import service as bulk
from memories.models import Memory, ReviewStatus, Revision
from memories.models.bulk import Operation
from memories.tests.actions import add

pytestmark = [pytest.mark.one_form, pytest.mark.usefixtures("engine")]

PLAN, RUN = "/dashboard/memories/bulk", "/dashboard/memories/bulk/run"
LIST = "/dashboard/memories"
DELETE = "/dashboard/entities/delete"
HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>\u202e'


@pytest.fixture
def tea(engine: Any, owner: Any) -> list[UUID]:
    """Two memories of mara; a third one is jonas's."""
    ids = add(owner, "Drinks tea", "Sleeps late", user_id="mara")
    add(owner, "Runs", user_id="jonas")
    return ids


def many(project: Project, count: int, **fields: Any) -> None:
    now = timezone.now()
    Memory.objects.bulk_create(
        Memory(
            **{
                "project": project,
                "text": f"Fact {n}",
                "text_fold": f"fact {n}",
                "fingerprint": f"{n:064d}",
                "user_id": "many",
                "created_at": now - timedelta(seconds=n),
                "updated_at": now,
                "indexed_rev": 1,
                **fields,
            }
        )
        for n in range(count)
    )


def as_role(signed_in: Client, account: Account, role: Role | None = None) -> Client:
    if role is not None:
        Membership.objects.filter(account=account).update(role=role)
    signed_in.force_login(account)
    return signed_in


def text_of(answer: Any) -> str:
    return html.unescape(re.sub(r"\s+", " ", answer.content.decode()))


def hidden(answer: Any) -> dict[str, str]:
    """The hidden fields of the page's form that runs what is shown."""
    form = re.search(rf'<form[^>]*action="{RUN}".*?</form>', answer.content.decode(), re.S)
    assert form is not None, text_of(answer)
    pairs = re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', form[0])
    return {name: html.unescape(value) for name, value in pairs}


def shown(signed_in: Client, action: str, **sent: Any) -> Any:
    answer = signed_in.post(PLAN, {"action": action, **sent})
    assert answer.status_code == 200, text_of(answer)
    return answer


def ran(signed_in: Client, answer: Any, **more: str) -> Any:
    return signed_in.post(RUN, {**hidden(answer), **more})


def told(answer: Any) -> str:
    return " ".join(str(message) for message in answer.wsgi_request._messages)


def live() -> set[str]:
    return set(Memory.objects.filter(deleted_at=None).values_list("text", flat=True))


# --- Shown, done, undone -------------------------------------------------------------------------
def test_what_is_shown_is_done_and_can_be_undone(signed_in: Client, tea: list[UUID]) -> None:
    answer = shown(signed_in, "delete", ids=tea)
    text = text_of(answer)
    assert '<h1 class="h-page">Delete 2 memories?</h1>' in text
    assert "2 chosen memories" in text and "Drinks tea" in text and "Runs" not in text
    assert re.search(r'class="before">live</span>.*?class="after">deleted</span>', text)
    assert "by every reviewer and administrator" in text
    assert live() == {"Drinks tea", "Sleeps late", "Runs"}, "nothing has changed yet"

    answer = ran(signed_in, answer)
    assert (answer.status_code, answer["Location"]) == (302, LIST)
    assert live() == {"Runs"}
    [operation] = Operation.objects.all()
    assert (operation.done, operation.state) == (2, "done")

    answer = signed_in.get("/dashboard/entities")
    text = answer.content.decode()
    assert "2 memories deleted." in text
    undo = f"/dashboard/operations/{operation.id}/undo"
    assert f'<form method="post" action="{undo}">' in text
    answer = signed_in.post(undo, {"next": "/dashboard/entities?type=user"})
    assert (answer.status_code, answer["Location"]) == (302, "/dashboard/entities?type=user")
    assert live() == {"Drinks tea", "Sleeps late", "Runs"}
    assert "Undone: 2 memories are as before." in told(answer)


def test_all_that_match_is_no_more_than_the_filter(signed_in: Client, tea: list[UUID]) -> None:
    answer = shown(signed_in, "approve", all="1", user_id="mara", ids=[tea[0]])
    text = text_of(answer)
    assert "Approve 2 memories?" in text and "user mara" in text
    answer = ran(signed_in, answer)
    assert answer["Location"] == f"{LIST}?user_id=mara", "back to where one came from"
    assert told(answer) == "2 memories approved."
    approved = Memory.objects.filter(review_status=ReviewStatus.APPROVED)
    assert set(approved.values_list("user_id", flat=True)) == {"mara"}
    assert all(memory.reviewed_by == "Alice" and memory.reviewed_at for memory in approved)


def test_only_the_ticked_are_changed_where_not_all_was_said(
    signed_in: Client, tea: list[UUID]
) -> None:
    ran(signed_in, shown(signed_in, "stale", ids=[tea[1]], user_id="mara"))
    stale = Memory.objects.filter(review_status=ReviewStatus.STALE)
    assert [memory.text for memory in stale] == ["Sleeps late"]


def test_what_is_so_already_is_counted_apart(signed_in: Client, tea: list[UUID]) -> None:
    ran(signed_in, shown(signed_in, "reject", ids=tea[:1]))
    answer = shown(signed_in, "reject", ids=tea)
    assert "2, of which 1 is as wanted already and stays" in text_of(answer)
    assert told(ran(signed_in, answer)).endswith("1 memory rejected. 1 memory was so already.")
    again = text_of(shown(signed_in, "reject", ids=tea))
    assert "There is nothing to change" in again and f'action="{RUN}"' not in again


def test_an_action_that_needs_a_value_asks_for_it(signed_in: Client, tea: list[UUID]) -> None:
    answer = shown(signed_in, "confidence", ids=tea, user_id="mara")
    text = text_of(answer)
    assert 'name="value" value="high"' in text and "2 memories" in text
    carried = re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', answer.content.decode())
    ids = [value for name, value in carried if name == "ids"]
    assert ids == [str(id_) for id_ in tea]
    answer = shown(signed_in, "confidence", ids=ids, user_id="mara", value=["", "high"])
    assert "unknown" in text_of(answer)
    answer = ran(signed_in, answer)
    assert told(answer) == "The confidence of 2 memories set to high."
    assert Memory.objects.filter(confidence="high").count() == 2


def test_an_expiry_is_a_day_and_can_be_taken_off(signed_in: Client, tea: list[UUID]) -> None:
    text = text_of(shown(signed_in, "expire", all="1"))
    assert 'type="date"' in text and "all memories" in text
    bad = signed_in.post(PLAN, {"action": "expire", "ids": tea, "value": "soon"})
    assert bad.status_code == 422 and "Give the expiry as a day" in text_of(bad)
    answer = shown(signed_in, "expire", ids=tea, value="2031-05-01")
    assert "expires after 2031-05-01" in text_of(answer)
    ran(signed_in, answer)
    assert {str(m.expiration_date) for m in Memory.objects.filter(id__in=tea)} == {"2031-05-01"}
    ran(signed_in, shown(signed_in, "unexpire", ids=tea))
    assert not Memory.objects.exclude(expiration_date=None).exists()


def test_deleted_ones_are_restored(signed_in: Client, tea: list[UUID]) -> None:
    ran(signed_in, shown(signed_in, "delete", ids=tea))
    answer = shown(signed_in, "restore", all="1", deleted="yes")
    ran(signed_in, answer)
    assert live() == {"Drinks tea", "Sleeps late", "Runs"}


def test_the_same_page_sent_twice_does_it_once(signed_in: Client, tea: list[UUID]) -> None:
    answer = shown(signed_in, "approve", ids=tea)
    ran(signed_in, answer)
    ran(signed_in, answer)
    assert Operation.objects.count() == 1
    assert Revision.objects.filter(event="UPDATE").count() == 2


# --- Confirming ----------------------------------------------------------------------------------
def test_many_need_their_number_typed(signed_in: Client, project: Project) -> None:
    many(project, 100)
    assert 'name="typed"' not in text_of(shown(signed_in, "delete", all="1", user_id="many"))
    many(project, 1)
    answer = shown(signed_in, "delete", all="1", user_id="many")
    assert "Type <b><bdi>101</bdi></b> to confirm" in text_of(answer)
    for typed in ("", "100", "delete"):
        refused = ran(signed_in, answer, typed=typed)
        assert refused.status_code == 422
        assert "Type “101” to confirm. Nothing was done." in text_of(refused)
        assert 'aria-invalid="true"' in text_of(refused)
    assert Memory.objects.filter(deleted_at=None).count() == 101
    assert ran(signed_in, answer, typed=" 101 ").status_code == 302
    assert not live()


@pytest.mark.parametrize("typed", ["1,001", "1001", "1.001", "1 001"])
def test_a_number_is_read_however_it_is_written(
    signed_in: Client, project: Project, typed: str
) -> None:
    many(project, 1001)
    answer = shown(signed_in, "approve", all="1")
    assert "Type <b><bdi>1,001</bdi></b>" in text_of(answer)
    assert ran(signed_in, answer, typed=typed).status_code == 302


def test_erasing_needs_its_word_and_cannot_be_undone(signed_in: Client, tea: list[UUID]) -> None:
    answer = shown(signed_in, "erase", ids=tea[:1])
    text = text_of(answer)
    assert "Erase 1 memory for ever?" in text and "Never. No copy of it is kept here." in text
    assert ran(signed_in, answer, typed="1").status_code == 422
    answer = ran(signed_in, answer, typed="erase")
    assert told(answer) == "1 memory erased."
    assert "undo" not in [message.extra_tags for message in answer.wsgi_request._messages]
    assert not Memory.objects.filter(text="Drinks tea").exists()
    assert not Revision.objects.filter(new_text="Drinks tea").exists()
    [operation] = Operation.objects.all()
    answer = signed_in.post(f"/dashboard/operations/{operation.id}/undo")
    assert answer["Location"] == f"/dashboard/operations/{operation.id}"
    assert "cannot be brought back" in told(answer)


# --- Drift ---------------------------------------------------------------------------------------
def test_what_changed_meanwhile_is_shown_again_and_nothing_is_done(
    signed_in: Client, owner: Any, tea: list[UUID]
) -> None:
    answer = shown(signed_in, "delete", all="1", user_id="mara")
    add(owner, "Has a cat", user_id="mara")
    again = ran(signed_in, answer)
    assert again.status_code == 409
    text = text_of(again)
    assert "It has changed since you looked" in text and "(1 added)" in text
    assert "Delete 3 memories?" in text and "Has a cat" in text
    assert live() == {"Drinks tea", "Sleeps late", "Runs", "Has a cat"}
    assert ran(signed_in, again).status_code == 302
    assert live() == {"Runs"}


def test_a_ticked_one_that_is_gone_meanwhile_stops_all(signed_in: Client, tea: list[UUID]) -> None:
    answer = shown(signed_in, "approve", ids=tea)
    Memory.objects.filter(id=tea[0]).update(deleted_at=timezone.now())
    answer = ran(signed_in, answer)
    assert answer.status_code == 404
    assert "Nothing was done" in text_of(answer)
    assert not Memory.objects.exclude(review_status="unreviewed").exists()


def test_what_was_shown_long_ago_is_not_done(
    signed_in: Client, tea: list[UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = shown(signed_in, "delete", ids=tea)
    monkeypatch.setattr("memories.bulk.plan.TOKEN_SECONDS", -1)
    answer = ran(signed_in, answer)
    assert answer.status_code == 409 and "more than an hour ago" in text_of(answer)
    assert len(live()) == 3


# --- Who may, and what is refused ----------------------------------------------------------------
def test_members_change_nothing_in_bulk(signed_in: Client, bob: Account, tea: list[UUID]) -> None:
    plan = hidden(shown(signed_in, "delete", ids=tea))
    as_role(signed_in, bob, Role.MEMBER)
    assert signed_in.post(PLAN, {"action": "delete", "ids": tea}).status_code == 403
    assert signed_in.post(RUN, plan).status_code in {400, 403}
    assert signed_in.get("/dashboard/operations").status_code == 403
    assert len(live()) == 3


def test_reviewers_delete_but_do_not_erase(
    signed_in: Client, bob: Account, tea: list[UUID]
) -> None:
    as_role(signed_in, bob, Role.REVIEWER)
    assert signed_in.post(PLAN, {"action": "erase", "ids": tea}).status_code == 403
    assert signed_in.get(DELETE, {"type": "user", "name": "mara"}).status_code == 403
    ran(signed_in, shown(signed_in, "delete", ids=tea))
    assert live() == {"Runs"}


def test_a_foreign_memory_among_ones_own_refuses_the_whole_call(
    signed_in: Client, tea: list[UUID], charlie: Account, other_project: Project
) -> None:
    many(other_project, 1)
    foreign = Memory.objects.get(project=other_project)
    missing = text_of(signed_in.post(PLAN, {"action": "delete", "ids": [*tea, uuid4()]}))
    answer = signed_in.post(PLAN, {"action": "delete", "ids": [*tea, foreign.id]})
    assert answer.status_code == 404
    assert "1 of these 3 memories were not found. Nothing was done." in text_of(answer)
    assert "1 of these 3 memories were not found. Nothing was done." in missing
    assert "Fact 0" not in text_of(answer)


def test_a_plan_is_its_owners_alone(
    signed_in: Client, bob: Account, charlie: Account, tea: list[UUID]
) -> None:
    plan = hidden(shown(signed_in, "delete", ids=tea))
    for other in (charlie, as_admin(bob)):
        as_role(signed_in, other)
        answer = signed_in.post(RUN, plan)
        assert answer.status_code == 400, other
        assert "Drinks tea" not in text_of(answer)
    assert len(live()) == 3


def as_admin(account: Account) -> Account:
    Membership.objects.filter(account=account).update(role=Role.ADMIN)
    return account


def test_an_operation_of_another_project_does_not_exist(
    signed_in: Client, charlie: Account, tea: list[UUID]
) -> None:
    ran(signed_in, shown(signed_in, "delete", ids=tea))
    [operation] = Operation.objects.all()
    as_role(signed_in, charlie)
    page = f"/dashboard/operations/{operation.id}"
    assert signed_in.get(page).status_code == 404
    assert signed_in.post(f"{page}/undo").status_code == 404
    assert signed_in.post(f"{page}/cancel").status_code == 404
    assert "No bulk changes yet" in text_of(signed_in.get("/dashboard/operations"))
    assert live() == {"Runs"}


@pytest.mark.parametrize("how", ["cut", "other", "signed", "empty"])
def test_a_token_that_was_tampered_with_is_none(
    signed_in: Client, tea: list[UUID], how: str
) -> None:
    plan = hidden(shown(signed_in, "delete", ids=tea))
    plan["token"] = {
        "cut": plan["token"][:-3],
        "other": "x" + plan["token"],
        "signed": signing.dumps({"do": ["delete", ""]}, salt="another"),
        "empty": "",
    }[how]
    answer = signed_in.post(RUN, plan)
    assert answer.status_code == 400 and "This plan is not valid" in text_of(answer)
    assert len(live()) == 3


def test_forms_without_their_token_are_refused(signed_in: Client, alice: Account, tea: Any) -> None:
    strict = sign_in(alice, enforce_csrf_checks=True)
    plan = hidden(shown(signed_in, "delete", ids=tea))
    operation = uuid4()
    for path, sent in (
        (PLAN, {"action": "delete", "ids": tea}),
        (RUN, plan),
        (f"/dashboard/operations/{operation}/undo", {}),
        (f"/dashboard/operations/{operation}/cancel", {}),
    ):
        assert strict.post(path, sent).status_code == 403, path
    assert len(live()) == 3


def test_reading_changes_nothing(signed_in: Client, tea: list[UUID]) -> None:
    ran(signed_in, shown(signed_in, "approve", ids=tea))
    [operation] = Operation.objects.all()
    plan = hidden(shown(signed_in, "delete", ids=tea))
    page = f"/dashboard/operations/{operation.id}"
    for path in (PLAN, RUN, f"{page}/undo", f"{page}/cancel"):
        assert signed_in.get(path, plan).status_code == 405
    assert signed_in.get(DELETE, {"type": "user", "name": "mara"}).status_code == 200
    assert len(live()) == 3
    assert Operation.objects.get().state == "done"


@pytest.mark.parametrize(
    ("sent", "status", "sentence"),
    [
        ({"action": "shred", "all": "1"}, 400, "no such action"),
        ({"all": "1"}, 400, "no such action"),
        ({"action": "delete", "ids": ["nonsense"]}, 404, "not found"),
        ({"action": "delete", "all": "1", "q": "tea"}, 400, "ranks memories"),
        ({"action": "delete", "all": "1", "confidence": "sure"}, 400, "Confidence is"),
        ({"action": "approve", "all": "1", "deleted": "yes"}, 400, "restored or erased"),
        ({"action": "restore", "all": "1"}, 400, "Only deleted memories"),
        ({"action": "approve", "all": "1", "value": "x"}, 400, "takes no value"),
        ({"action": "confidence", "all": "1", "value": "sure"}, 422, "Confidence is one of"),
        ({"action": "expire", "all": "1", "value": f"2030-01-01T00:00:00.{'0' * 50}Z"}, 422, "as"),
    ],
)
def test_what_cannot_be_done_is_told_and_leads_back(
    signed_in: Client, tea: list[UUID], sent: dict[str, Any], status: int, sentence: str
) -> None:
    answer = signed_in.post(PLAN, sent)
    assert answer.status_code == status, text_of(answer)
    assert sentence in text_of(answer)
    assert f'href="{LIST}' in text_of(answer)


def test_nothing_ticked_is_told_on_the_list(signed_in: Client, tea: list[UUID]) -> None:
    answer = signed_in.post(PLAN, {"action": "delete", "user_id": "mara"})
    assert answer["Location"] == f"{LIST}?user_id=mara"
    assert told(answer) == "Nothing is ticked, so nothing was done."


def test_the_way_back_never_leads_to_another_site(signed_in: Client, tea: list[UUID]) -> None:
    plan = hidden(shown(signed_in, "approve", ids=tea))
    for evil in ("https://evil.example/", "//evil.example", "javascript:alert(1)", "\\\\evil"):
        answer = signed_in.post(RUN, {**plan, "back": evil})
        assert answer["Location"] == "/dashboard"
    for evil in ("//[", "//evil.example/dashboard/memories?q=x"):
        again = shown(signed_in, "delete", ids=tea, next=evil)
        assert hidden(again)["back"].startswith(LIST)


def test_hostile_texts_and_names_are_inert(signed_in: Client, owner: Any, engine: Any) -> None:
    name = HOSTILE.replace(" ", "")
    [id_] = add(owner, HOSTILE, user_id=name)
    for answer in (
        shown(signed_in, "delete", ids=[id_]),
        shown(signed_in, "delete", all="1", user_id=name),
        signed_in.get(DELETE, {"type": "user", "name": name}),
        shown(signed_in, "confidence", all="1", user_id=name),
    ):
        raw = answer.content.decode()
        assert "<img" not in raw and "<script>alert" not in raw
    ran(signed_in, shown(signed_in, "approve", all="1", user_id=name))
    [operation] = Operation.objects.all()
    for path in ("/dashboard/operations", f"/dashboard/operations/{operation.id}"):
        raw = signed_in.get(path).content.decode()
        assert "<img" not in raw and "<script>alert" not in raw


def test_without_signing_in_all_leads_to_sign_in(tea: list[UUID], alice: Account) -> None:
    operation = f"/dashboard/operations/{uuid4()}"
    outside = Client()
    for answer in (
        outside.post(PLAN, {"action": "delete", "ids": tea}),
        outside.post(RUN, {}),
        outside.get(DELETE),
        outside.get(operation),
        outside.post(f"{operation}/undo"),
        outside.get("/dashboard/operations"),
    ):
        assert answer.status_code == 302 and answer["Location"].startswith("/login")


# --- Entities ------------------------------------------------------------------------------------
def test_an_entity_is_deleted_with_its_name_typed(signed_in: Client, tea: list[UUID]) -> None:
    answer = signed_in.get(DELETE, {"type": "user", "name": "mara"})
    text = text_of(answer)
    assert "Delete all 2 memories of <bdi>mara</bdi>?" in text
    assert "All memories of the user <bdi>mara</bdi>" in text
    assert "Type <b><bdi>mara</bdi></b> to confirm" in text
    refused = ran(signed_in, answer, typed="jonas")
    assert refused.status_code == 422 and len(live()) == 3
    assert "All memories of the user" in text_of(refused)
    answer = ran(signed_in, refused, typed="mara")
    assert answer["Location"] == "/dashboard/entities?type=user"
    assert live() == {"Runs"}
    [operation] = Operation.objects.all()
    signed_in.post(f"/dashboard/operations/{operation.id}/undo")
    assert len(live()) == 3


@pytest.mark.parametrize(
    ("type_", "name", "status"),
    [
        ("user", "nobody", 404),
        ("user", "\0", 400),
        ("account", "mara", 400),
        ("user", "", 400),
        ("", "", 400),
    ],
)
def test_an_entity_that_is_not_there_is_told(
    signed_in: Client, tea: list[UUID], type_: str, name: str, status: int
) -> None:
    assert signed_in.get(DELETE, {"type": type_, "name": name}).status_code == status


def test_another_projects_entity_is_none(
    signed_in: Client, tea: list[UUID], charlie: Account
) -> None:
    as_role(signed_in, charlie)
    assert signed_in.get(DELETE, {"type": "user", "name": "mara"}).status_code == 404


# --- Jobs ----------------------------------------------------------------------------------------
@pytest.fixture
def job(signed_in: Client, project: Project) -> Operation:
    """A deletion of 1,200 that has not begun."""
    many(project, 1200)
    answer = shown(signed_in, "delete", all="1", user_id="many")
    assert "It runs in the background" in text_of(answer)
    answer = ran(signed_in, answer, typed="1200")
    [operation] = Operation.objects.all()
    assert answer["Location"] == f"/dashboard/operations/{operation.id}"
    return operation


def test_a_large_change_is_watched_on_its_own_page(signed_in: Client, job: Operation) -> None:
    page = f"/dashboard/operations/{job.id}"
    text = text_of(signed_in.get(page))
    assert 'hx-trigger="every 1s"' in text and "0 of 1,200" in text
    partial = signed_in.get(page, headers={"HX-Request": "true"})
    assert b"<html" not in partial.content and b'id="operation"' in partial.content
    while Operation.objects.get().state == "preparing":
        bulk_work.run_next_batch(job.id)
    bulk_work.run_next_batch(job.id)
    assert "500 of 1,200" in text_of(signed_in.get(page))
    bulk_work.work(lambda rows: None)
    text = text_of(signed_in.get(page))
    assert "every 1s" not in text and "Done" in text and "Alice" in text
    assert "1,200 before it began" in text
    answer = signed_in.post(f"{page}/undo", {"next": LIST})
    assert answer["Location"] == page, "an undo of many is a job as well"
    bulk_work.work(lambda rows: None)
    assert "1,200 are as before" in text_of(signed_in.get(page))
    assert Memory.objects.filter(deleted_at=None).count() == 1200


def test_a_job_is_ended_and_what_it_did_is_undone(signed_in: Client, job: Operation) -> None:
    page = f"/dashboard/operations/{job.id}"
    while Operation.objects.get().done == 0:
        bulk_work.run_next_batch(job.id)
    assert signed_in.post(f"{page}/cancel")["Location"] == page
    text = text_of(signed_in.get(page))
    assert "Cancelled" in text and f'action="{page}/undo"' in text
    assert "It is over already" in told(signed_in.post(f"{page}/cancel"))
    signed_in.post(f"{page}/undo")
    bulk_work.work(lambda rows: None)
    assert Memory.objects.filter(deleted_at=None).count() == 1200


def test_a_job_that_drifted_says_so_and_is_looked_at_again(
    signed_in: Client, job: Operation, owner: Any
) -> None:
    add(owner, "One more", user_id="many")
    bulk_work.work(lambda rows: None)
    text = text_of(signed_in.get(f"/dashboard/operations/{job.id}"))
    assert "Stopped" in text and "It stopped before it changed anything" in text
    assert "Look at it again" in text and 'name="user_id" value="many"' in text
    assert not Memory.objects.exclude(deleted_at=None).exists()
    fields = re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', text)
    sent = {name: value for name, value in fields if name != "csrfmiddlewaretoken"}
    assert "Delete 1,201 memories?" in text_of(signed_in.post(PLAN, sent))


def test_the_list_of_operations_tells_who_did_what(signed_in: Client, tea: list[UUID]) -> None:
    assert "No bulk changes yet" in text_of(signed_in.get("/dashboard/operations"))
    ran(signed_in, shown(signed_in, "approve", all="1", user_id="mara"))
    text = text_of(signed_in.get("/dashboard/operations"))
    assert "Approve: 2 memories" in text and "user mara" in text and "Alice" in text
    [operation] = Operation.objects.all()
    assert f'action="/dashboard/operations/{operation.id}/undo"' in text
    signed_in.post(f"/dashboard/operations/{operation.id}/undo")
    text = text_of(signed_in.get("/dashboard/operations"))
    assert "Undone" in text and "/undo" not in text


def test_keys_and_requests_of_an_operation_are_for_administrators(
    signed_in: Client, bob: Account, tea: list[UUID]
) -> None:
    ran(signed_in, shown(signed_in, "approve", ids=tea))
    Operation.objects.update(account=None, key_prefix="m0sk_abc1234", request_id="req-4711")
    [operation] = Operation.objects.all()
    own_page = f"/dashboard/operations/{operation.id}"
    text = text_of(signed_in.get(own_page))
    assert "m0sk_abc1234" in text and "req-4711" in text
    as_role(signed_in, bob, Role.REVIEWER)
    for path in (own_page, "/dashboard/operations"):
        text = text_of(signed_in.get(path))
        assert "an API key" in text and "m0sk_" not in text and "req-4711" not in text


def test_what_others_changed_since_is_left_by_an_undo(
    signed_in: Client, owner: Any, tea: list[UUID]
) -> None:
    ran(signed_in, shown(signed_in, "reject", ids=tea))
    [first] = Operation.objects.all()
    ran(signed_in, shown(signed_in, "approve", ids=tea[:1]))
    answer = signed_in.post(f"/dashboard/operations/{first.id}/undo")
    assert "1 memory is as before. 1 memory had been changed since, and was left." in told(answer)
    statuses = dict(Memory.objects.filter(id__in=tea).values_list("id", "review_status"))
    assert statuses == {tea[0]: "approved", tea[1]: "unreviewed"}


def test_the_limit_of_one_request_is_where_jobs_begin() -> None:
    assert bulk.AT_ONCE == 1000
