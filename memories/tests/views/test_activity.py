"""The activity page: who did what, told truly, to those who may know, and unchangeable."""

import csv
import io
import json
import re
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts import audit
from accounts.audit import AuditAction, AuditTarget, account_target
from accounts.models import Account, AuditEntry, Membership, Project, Role
from accounts.queries import operator_of
from accounts.tests.signing import sign_in
from apikeys.services import create_api_key
from core.principal import OPERATOR, Actor
from memories.browse import activity
from memories.browse.activity import ActivityFilter
from memories.editing import service as services
from memories.models import Memory, Revision
from memories.views import deeds

pytestmark = pytest.mark.usefixtures("engine")

HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>\u202e'


def text_of(signed_in: Client, expected: int = 200, /, **params: Any) -> str:
    answer = signed_in.get(f"/dashboard/activity?{urlencode(params)}")
    assert answer.status_code == expected, answer.content[:300]
    return re.sub(r"\s+", " ", answer.content.decode())


def entries_of(text: str) -> list[tuple[str, str]]:
    """(what, the text as it is marked up), in the order of the page."""
    pattern = r'<span class="op [a-z]*">([\w ]+)</span>.*?<p class="entry-text[^>]*>(.*?)</p>'
    return [(what, said.strip()) for what, said in re.findall(pattern, text)]


def listed(signed_in: Client, **params: Any) -> list[tuple[str, str]]:
    return entries_of(text_of(signed_in, **params))


def happened(project: Project, **fields: Any) -> Revision:
    values: dict[str, Any] = {
        "memory_id": uuid4(),
        "event": "ADD",
        "new_text": "Drinks tea",
        "memory_created_at": timezone.now(),
        "via": "api_key",
        "key_prefix": "m0sk_aaaaaaa",
        "client": "opencode/1.2",
        "request_id": "r-1",
        "at": timezone.now(),
    }
    return Revision.objects.create(project=project, **values | fields)


def test_nothing_has_happened_yet(signed_in: Client) -> None:
    text = text_of(signed_in)
    assert "Nothing has happened yet" in text and "activity/export" not in text


def test_what_is_done_to_a_memory_is_told_with_who_and_how(
    signed_in: Client, api: Any, alice: Account, owner: Any
) -> None:
    id_ = api.add("Drinks green tea")
    api.put(f"/memories/{id_}", {"text": "Drinks black tea", "metadata": {"mood": "calm"}})
    api.delete(f"/memories/{id_}")
    text = text_of(signed_in, kind="memories")
    assert entries_of(text) == [
        ("Deleted", "Drinks black tea"),
        ("Changed", "Drinks <del>green</del><ins>black</ins> tea"),
        ("Added", "Drinks green tea"),
    ]
    assert "<dt>Metadata: mood</dt>" in text and "<ins>calm</ins>" in text
    assert "Alice" in text and "with an API key" in text
    assert api.headers["X-API-Key"][:12] in text and api.headers["X-API-Key"] not in text
    assert "Open memory" not in text and "History of the deleted memory" in text
    services.restore_memories(owner, [Memory.objects.get(id=id_).id])
    text = text_of(signed_in, kind="memories")
    assert entries_of(text)[0] == ("Restored", "Drinks black tea")
    assert f'href="/dashboard/memories?id={id_}"' in text


def test_erased_words_are_gone_and_who_erased_them_is_not(
    signed_in: Client, api: Any, owner: Any
) -> None:
    id_ = api.add("Has a secret cinnamon recipe", metadata={"note": "cinnamon"})
    services.erase_memories(owner, [Memory.objects.get(id=id_).id])
    text = text_of(signed_in, kind="memories")
    assert "cinnamon" not in text
    assert [what for what, _ in entries_of(text)] == ["Erased", "Added"]
    assert "All its words were removed" in text and "Its words are no longer kept" in text
    for format_ in ("csv", "jsonl"):
        content = b"".join(signed_in.get(f"/dashboard/activity/export?format={format_}"))
        assert b"cinnamon" not in content and b"ERASE" in content


def test_other_projects_and_people_without_a_session_see_nothing(
    signed_in: Client, project: Project, other_project: Project, charlie: Account
) -> None:
    mine = happened(project, new_text="Mine alone")
    happened(other_project, new_text="Foreign words")
    assert listed(signed_in) == [("Added", "Mine alone")]
    other = sign_in(charlie)
    assert listed(other) == [("Added", "Foreign words")]
    assert listed(other, memory=mine.memory_id) == []
    assert b"Mine alone" not in b"".join(other.get("/dashboard/activity/export?format=jsonl"))
    for path in ("/dashboard/activity", "/dashboard/activity/export"):
        answer = Client().get(path)
        assert answer.status_code == 302 and "/login" in answer.headers["Location"]
    # Who works in another project alone is nobody to filter by here.
    assert "Charlie" not in text_of(signed_in)
    text_of(signed_in, 422, account=charlie.id)


@pytest.mark.parametrize("role", [Role.MEMBER, Role.REVIEWER])
def test_keys_and_clients_are_for_administrators(
    signed_in: Client, project: Project, role: str
) -> None:
    happened(project)
    account = Account.objects.create(email="m@example.org", name="M")
    Membership.objects.create(project=project, account=account, role=role)
    member = sign_in(account)
    text = text_of(member)
    assert entries_of(text) == [("Added", "Drinks tea")] and "with an API key" in text
    for secret in ("m0sk_", "opencode", "r-1", 'name="key"', 'name="client"'):
        assert secret not in text
        assert secret in text_of(signed_in) or secret == "r-1"
    for asked in ({"key": "m0sk_aaaaaaa"}, {"client": "opencode/1.2"}, {"request": "r-1"}):
        text_of(member, 403, **asked)
        answer = member.get(f"/dashboard/activity/export?{urlencode(asked)}")
        assert answer.status_code == 403
        assert listed(signed_in, **asked) == [("Added", "Drinks tea")]
    for format_ in ("csv", "jsonl"):
        for client, sees in ((member, False), (signed_in, True)):
            content = b"".join(client.get(f"/dashboard/activity/export?format={format_}"))
            assert b"Drinks tea" in content
            assert (b"m0sk_" in content, b"opencode" in content) == (sees, sees)


def test_each_filter_leaves_what_it_says(
    signed_in: Client, project: Project, alice: Account, bob: Account
) -> None:
    now = timezone.now()
    happened(project, new_text="other", account=bob, at=now - timedelta(days=9))
    wanted = happened(
        project,
        new_text="wanted",
        event="RESTORE",
        account=alice,
        key_prefix="m0sk_bbbbbbb",
        client="laptop",
        request_id="r-2",
        at=now - timedelta(days=4),
    )
    day = f"{wanted.at:%Y-%m-%d}"
    for params in (
        {"event": "RESTORE"},
        {"account": alice.id},
        {"memory": wanted.memory_id},
        {"key": "m0sk_bbbbbbb"},
        {"client": "laptop"},
        {"request": "r-2"},
        {"since": day},
        {"since": day, "until": day},
        {"event": "RESTORE", "account": alice.id, "client": "laptop"},
    ):
        assert listed(signed_in, **params) == [("Restored", "wanted")], params
    assert listed(signed_in, until=f"{now - timedelta(days=6):%Y-%m-%d}") == [("Added", "other")]
    text = text_of(signed_in, event="ERASE", client="laptop")
    assert "Nothing fits" in text and "What: Memory erased, Client: laptop" in text


@pytest.mark.parametrize(
    "params",
    [{"event": "LOOK"}, {"account": "x"}, {"memory": "x"}, {"since": "1-2-3"}, {"client": "\0"}],
)
def test_a_filter_that_cannot_be_read_is_told_beside_its_field(
    signed_in: Client, project: Project, params: dict[str, str]
) -> None:
    happened(project)
    text = text_of(signed_in, 422, **params)
    assert 'class="field-error"' in text and "Drinks tea" not in text
    answer = signed_in.get(f"/dashboard/activity/export?{urlencode(params)}")
    assert answer.status_code == 400


def test_unknown_places_and_formats_are_refused(signed_in: Client, project: Project) -> None:
    happened(project)
    assert "leads to no place" in text_of(signed_in, 400, behind="there")
    assert signed_in.get("/dashboard/activity/export?format=xlsx").status_code == 400


def test_paging_shows_each_entry_once_while_others_come_in(
    signed_in: Client, project: Project
) -> None:
    start = timezone.now() - timedelta(hours=1)
    expected = [f"fact {n:03}" for n in range(130)]
    for n, text in enumerate(expected):
        # A bulk change writes many at the same moment.
        happened(project, new_text=text, at=start + timedelta(minutes=n // 60))
    seen: list[str] = []
    address: str | None = "/dashboard/activity?event=ADD"
    while address:
        text = re.sub(r"\s+", " ", signed_in.get(address).content.decode())
        seen += [words for _, words in entries_of(text)]
        happened(project, new_text="came later")
        older = re.search(r'href="(\?[^"]*)" rel="next"', text)
        address = "/dashboard/activity" + older[1].replace("&amp;", "&") if older else None
        assert address is None or "event=ADD" in address
    assert seen == expected[::-1]


def test_the_number_of_statements_does_not_grow(
    signed_in: Client, project: Project, alice: Account, bob: Account, monkeypatch: Any
) -> None:
    # How all parts are is asked anew every ten seconds.
    monkeypatch.setattr("dashboard.shell.count_problems", lambda: 0)

    def statements() -> int:
        with CaptureQueriesContext(connection) as caught:
            text_of(signed_in)
        return len(caught)

    happened(project, account=alice)
    text_of(signed_in)
    before = statements()
    for n in range(60):
        happened(project, account=(alice, bob)[n % 2])
    assert statements() == before


def exported(signed_in: Client, **params: Any) -> bytes:
    answer = signed_in.get(f"/dashboard/activity/export?{urlencode(params)}")
    assert answer.status_code == 200 and answer.streaming
    assert "attachment" in answer.headers["Content-Disposition"]
    return b"".join(answer)


def test_the_export_holds_what_the_filter_shows(
    signed_in: Client, project: Project, alice: Account, monkeypatch: Any
) -> None:
    monkeypatch.setattr(activity, "BATCH", 7)
    at = timezone.now() - timedelta(hours=1)
    rows = [
        happened(project, new_text=f"fact {n}", account=alice, at=at + timedelta(seconds=n // 10))
        for n in range(30)
    ]
    happened(project, event="DELETE", old_text="not meant", new_text=None)
    lines = exported(signed_in, format="jsonl", event="ADD").splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["new_text"] for record in records] == [row.new_text for row in rows[::-1]]
    assert records[0]["account"] == "Alice" and records[0]["key_prefix"] == "m0sk_aaaaaaa"
    assert datetime.fromisoformat(records[0]["at"]) == rows[-1].at
    table = list(csv.DictReader(io.StringIO(exported(signed_in, event="ADD").decode())))
    assert [row["new_text"] for row in table] == [row.new_text for row in rows[::-1]]
    assert {row["memory_id"] for row in table} == {str(row.memory_id) for row in rows}
    assert exported(signed_in, event="ERASE", format="jsonl") == b""


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", '=HYPERLINK("http://x")'])
def test_cells_are_inert_in_a_spreadsheet(signed_in: Client, project: Project, text: str) -> None:
    happened(project, new_text=text, client=text, actor_id=text)
    [row] = csv.DictReader(io.StringIO(exported(signed_in).decode()))
    for name in ("new_text", "client", "actor_id"):
        assert row[name] == f"'{text}"


def test_numbers_beyond_64_bits_are_told_and_exported(signed_in: Client, project: Project) -> None:
    # What jsonb makes of 1e20.
    happened(project, event="UPDATE", changes={"metadata": [{"n": 1}, {"n": 10**20}]})
    assert f"<ins>{10**20}</ins>" in text_of(signed_in)
    [line] = exported(signed_in, format="jsonl").splitlines()
    told = json.loads(line)
    assert told["changes"]["metadata"][1] == {"n": 10**20}
    assert datetime.fromisoformat(told["at"]).tzinfo is not None
    [row] = csv.DictReader(io.StringIO(exported(signed_in).decode()))
    assert str(10**20) in row["changes"]


def test_stored_texts_are_inert(signed_in: Client, project: Project, alice: Account) -> None:
    Account.objects.filter(id=alice.id).update(name=HOSTILE)
    happened(
        project,
        event="UPDATE",
        account=alice,
        old_text=f"{HOSTILE} before",
        new_text=f"{HOSTILE} after",
        changes={HOSTILE: [HOSTILE, {HOSTILE: [1]}], "odd": "shape"},
        client=HOSTILE,
    )
    for text in (text_of(signed_in), text_of(signed_in, client=HOSTILE)):
        assert "<img" not in text and "<script>alert" not in text
        assert "<ins>after</ins>" in text


def test_no_way_leads_to_a_change_of_an_entry(
    signed_in: Client, project: Project, api: Any
) -> None:
    row = happened(project)
    for path in ("/dashboard/activity", "/dashboard/activity/export"):
        for method in ("post", "put", "patch", "delete"):
            assert getattr(signed_in, method)(path, {"id": row.pk}).status_code == 405
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        answer = api(method, f"/memories/{row.memory_id}/history", {})
        assert answer.status_code == 405
    before = Revision.objects.values().get(pk=row.pk)
    text_of(signed_in)
    assert Revision.objects.values().get(pk=row.pk) == before


def test_a_key_limited_to_some_entities_sees_their_entries_alone(
    project: Project, api: Any
) -> None:
    from dataclasses import replace

    mine = api.add("Alice's own", user_id="alice")
    api.add("Zoe's own", user_id="zoe")
    limited = replace(operator_of(project.slug), entity_limit={"user_id": frozenset({"alice"})})
    found = activity.list_entries(limited, ActivityFilter(), limit=9)
    assert [str(entry.row.memory_id) for entry in found] == [mine]


# --- Beside memories -----------------------------------------------------------------------------
def did(
    action: AuditAction = AuditAction.KEY_MADE,
    by: Account | None = None,
    project: Project | None = None,
    label: str = "laptop",
    **rest: Any,
) -> AuditEntry:
    actor = Actor(account_id=by.id, via="session", client="Firefox") if by else OPERATOR
    project_id = project.id if project else None
    audit.record(
        action, actor=actor, project_id=project_id, target=AuditTarget("", "", label), **rest
    )
    return AuditEntry.objects.latest("id")


def sentences(text: str) -> list[str]:
    return [words for _, words in entries_of(text)]


def test_what_is_done_to_keys_people_and_settings_is_told_in_words(
    signed_in: Client, project: Project, alice: Account, bob: Account
) -> None:
    create_api_key(
        owner=bob,
        project=project,
        label="laptop",
        entity_limit={"user_id": ["bob"]},
        actor=Actor(account_id=alice.id, via="session"),
    )
    did(
        AuditAction.INSTRUCTIONS_CHANGED,
        alice,
        project,
        "Default",
        details={"instructions": ["", "x"]},
    )
    details = {"llm.model": ["gpt-4", "gpt-5"], "llm.api_key": "changed"}
    did(AuditAction.PROVIDERS_CONFIGURED, None, None, "", details=details)
    audit.record_sign_in(
        AuditAction.SESSION_OPENED,
        actor=Actor(account_id=bob.id, via="session"),
        target=account_target(bob),
        address="192.0.2.7",
    )
    text = text_of(signed_in)
    assert sentences(text) == [
        "Bob signed in",
        "An operator at the command line changed the model providers",
        "Alice changed the instructions of ‘Default’",
        "Alice made the API key ‘laptop’ for Bob",
    ]
    for told in (
        "<dt>Language model</dt> <dd> <del>gpt-4</del>",
        "<ins>gpt-5</ins>",
        "<dt>Language model: API key</dt> <dd> changed </dd>",
        "<dt>Permissions</dt> <dd> read, write </dd>",
        "<dt>Limited to</dt> <dd> user_id bob </dd>",
        "<dt>Expires</dt> <dd> Never </dd>",
        "from 192.0.2.7",
    ):
        assert told in text
    assert "{" not in " ".join(sentences(text))


def test_every_action_has_words_and_a_kind_to_filter_by(
    signed_in: Client, project: Project, alice: Account
) -> None:
    for action in AuditAction:
        did(action, alice, project, "the thing", details={"memories": 2})
    told = {}
    for action in AuditAction:
        [entry] = listed(signed_in, event=action)
        assert entry[1] and "{" not in entry[1]
        told[action] = entry
    assert set(audit.KINDS) | {"memories"} == set(deeds.KINDS)
    for kind, actions in audit.KINDS.items():
        assert sorted(listed(signed_in, kind=kind)) == sorted(told[action] for action in actions)
    assert listed(signed_in, kind="memories") == []


def test_failures_that_were_counted_together_are_told_so(signed_in: Client) -> None:
    AuditEntry(
        action=AuditAction.SESSION_REFUSED, target_kind=audit.MANY, count=1200, at=timezone.now()
    ).save()
    assert sentences(text_of(signed_in)) == [
        "1,200 more failed sign-ins within an hour, counted together"
    ]


def test_members_see_neither_others_sign_ins_nor_what_is_for_administrators(
    signed_in: Client, project: Project, alice: Account, bob: Account, charlie: Account
) -> None:
    did(AuditAction.SESSION_OPENED, alice, None, "Alice")
    did(AuditAction.SESSION_REFUSED, None, None, "Bob")
    did(AuditAction.PROVIDERS_CONFIGURED, alice, None, "")
    did(AuditAction.KEY_MADE, alice, project, "of Alice")
    did(AuditAction.SESSION_OPENED, bob, None, "Bob", address="192.0.2.9")
    happened(project, new_text="Drinks tea", account=alice)
    member = sign_in(bob)
    assert sentences(text_of(member)) == ["Drinks tea", "Bob signed in"]
    assert "Firefox" not in text_of(member) and "192.0.2" not in text_of(member)
    exported_ = b"".join(member.get("/dashboard/activity/export?format=jsonl")).decode()
    assert "of Alice" not in exported_ and "providers" not in exported_
    # Whose entries one does not see is nobody to filter by, but for their memories.
    assert sentences(text_of(member, account=alice.id)) == ["Drinks tea"]
    Membership.objects.filter(account=bob).update(role=Role.ADMIN)
    assert set(sentences(text_of(member))) == {
        "Drinks tea",
        "Bob signed in",
        "Alice made the API key ‘of Alice’",
    }
    # Charlie works elsewhere.
    assert sentences(text_of(sign_in(charlie))) == []
    assert len(sentences(text_of(signed_in))) == 6


def test_each_filter_leaves_of_both_what_it_says(
    signed_in: Client, project: Project, alice: Account, bob: Account
) -> None:
    old = timezone.now() - timedelta(days=9)
    AuditEntry(project=project, action=AuditAction.KEY_REVOKED, target_label="old", at=old).save()
    did(AuditAction.KEY_MADE, bob, project, "wanted")
    happened(project, new_text="added", account=alice, client="curl")
    told = ["Bob made the API key ‘wanted’"]
    for params in (
        {"kind": "keys", "account": bob.id},
        {"account": bob.id},
        {"event": "key.made"},
        {"client": "Firefox"},
        {"kind": "keys", "since": f"{timezone.now() - timedelta(days=2):%Y-%m-%d}"},
    ):
        assert sentences(text_of(signed_in, **params)) == told, params
    assert sentences(text_of(signed_in, event="ADD")) == ["added"]
    assert sentences(text_of(signed_in, client="curl")) == ["added"]
    assert sentences(text_of(signed_in, kind="memories", event="key.made")) == []
    assert sentences(text_of(signed_in, kind="keys", event="ADD")) == []
    assert len(sentences(text_of(signed_in))) == 3
    text_of(signed_in, 422, kind="secrets")


def test_paging_over_both_shows_each_entry_once_also_of_the_same_moment(
    signed_in: Client, project: Project, alice: Account
) -> None:
    start = timezone.now() - timedelta(hours=1)
    expected = set()
    for n in range(130):
        at = start + timedelta(minutes=n // 40)
        words = f"entry {n:03}"
        if n % 3:
            happened(project, new_text=words, at=at)
            expected.add(words)
        else:
            place = project if n % 2 else None
            AuditEntry(
                project=place, action=AuditAction.KEY_REVOKED, target_label=words, at=at
            ).save()
            expected.add(f"Someone revoked the API key ‘{words}’")
    seen: list[str] = []
    address: str | None = "/dashboard/activity"
    while address:
        text = re.sub(r"\s+", " ", signed_in.get(address).content.decode())
        seen += sentences(text)
        happened(project, new_text="came later")
        did(AuditAction.KEY_MADE, alice, project, "came later")
        older = re.search(r'href="(\?[^"]*)" rel="next"', text)
        address = "/dashboard/activity" + older[1].replace("&amp;", "&") if older else None
    assert sorted(seen) == sorted(expected)
    assert "leads to no place" in text_of(signed_in, 400, behind="1-a")


def test_both_are_exported_as_the_filter_shows_them(
    signed_in: Client, project: Project, alice: Account, monkeypatch: Any
) -> None:
    monkeypatch.setattr(activity, "BATCH", 3)
    for n in range(5):
        happened(project, new_text=f"fact {n}", account=alice)
        did(
            AuditAction.KEY_MADE, alice, project, f"=key {n}", address="192.0.2.7", details={"a": n}
        )
    records = [json.loads(line) for line in exported(signed_in, format="jsonl").splitlines()]
    assert [record["event"] for record in records] == ["key.made", "ADD"] * 5
    assert records[0]["target"] == "=key 4" and records[0]["changes"] == {"a": 4}
    assert records[0]["account"] == "Alice" and records[0]["address"] == "192.0.2.7"
    assert records[1]["target_kind"] == "memory"
    assert records[1]["target_id"] == records[1]["memory_id"]
    table = list(csv.DictReader(io.StringIO(exported(signed_in, kind="keys").decode())))
    assert [row["target"] for row in table] == [f"'=key {n}" for n in range(4, -1, -1)]
    assert exported(signed_in, kind="people", format="jsonl") == b""


def test_the_number_of_statements_does_not_grow_with_either(
    signed_in: Client, project: Project, alice: Account, bob: Account, monkeypatch: Any
) -> None:
    monkeypatch.setattr("dashboard.shell.count_problems", lambda: 0)

    def statements() -> int:
        with CaptureQueriesContext(connection) as caught:
            text_of(signed_in)
        return len(caught)

    happened(project, account=alice)
    did(AuditAction.KEY_MADE, alice, project)
    text_of(signed_in)
    before = statements()
    for n in range(20):
        happened(project, account=(alice, bob)[n % 2])
        did(AuditAction.KEY_MADE, (alice, bob)[n % 2], project)
        did(AuditAction.SESSION_OPENED, (alice, bob)[n % 2])
    assert statements() == before


def test_what_was_typed_is_inert_in_entries_as_well(signed_in: Client, project: Project) -> None:
    row = did(AuditAction.KEY_MADE, None, project, HOSTILE, details={HOSTILE: [HOSTILE, HOSTILE]})
    text = text_of(signed_in)
    assert "<img" not in text and "<script>alert" not in text
    for method in ("post", "put", "patch", "delete"):
        assert getattr(signed_in, method)("/dashboard/activity", {"id": row.pk}).status_code == 405
