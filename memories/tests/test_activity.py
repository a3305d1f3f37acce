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

from accounts.models import Account, Membership, Project, Role
from accounts.queries import operator_of
from memories import activity, services
from memories.activity import Chosen
from memories.models import Memory, Revision

HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>\u202e'


def signed_in(account: Account) -> Client:
    made = Client()
    made.force_login(account)
    return made


@pytest.fixture
def browser(engine: Any, alice: Account) -> Client:
    return signed_in(alice)


def text_of(browser: Client, expected: int = 200, /, **params: Any) -> str:
    answer = browser.get(f"/dashboard/activity?{urlencode(params)}")
    assert answer.status_code == expected, answer.content[:300]
    return re.sub(r"\s+", " ", answer.content.decode())


def entries_of(text: str) -> list[tuple[str, str]]:
    """(what, the text as it is marked up), in the order of the page."""
    pattern = r'<span class="op [a-z]*">(\w+)</span>.*?<p class="entry-text[^>]*>(.*?)</p>'
    return re.findall(pattern, text)


def listed(browser: Client, **params: Any) -> list[tuple[str, str]]:
    return entries_of(text_of(browser, **params))


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


def test_nothing_has_happened_yet(browser: Client) -> None:
    text = text_of(browser)
    assert "Nothing has happened yet" in text and "activity/export" not in text


def test_what_is_done_to_a_memory_is_told_with_who_and_how(
    browser: Client, api: Any, alice: Account, owner: Any
) -> None:
    id_ = api.add("Drinks green tea")
    api.put(f"/memories/{id_}", {"text": "Drinks black tea", "metadata": {"mood": "calm"}})
    api.delete(f"/memories/{id_}")
    text = text_of(browser)
    assert entries_of(text) == [
        ("Deleted", "Drinks black tea"),
        ("Changed", "Drinks <del>green</del><ins>black</ins> tea"),
        ("Added", "Drinks green tea"),
    ]
    assert "<dt>metadata: mood</dt>" in text and "<ins>calm</ins>" in text
    assert "Alice" in text and "with an API key" in text
    assert api.headers["X-API-Key"][:12] in text and api.headers["X-API-Key"] not in text
    assert "Open memory" not in text and "History of the deleted memory" in text
    services.restore_memories(owner, [Memory.objects.get(id=id_).id])
    text = text_of(browser)
    assert entries_of(text)[0] == ("Restored", "Drinks black tea")
    assert f'href="/dashboard/memories?id={id_}"' in text


def test_erased_words_are_gone_and_who_erased_them_is_not(
    browser: Client, api: Any, owner: Any
) -> None:
    id_ = api.add("Has a secret cinnamon recipe", metadata={"note": "cinnamon"})
    services.erase_memories(owner, [Memory.objects.get(id=id_).id])
    text = text_of(browser)
    assert "cinnamon" not in text
    assert [what for what, _ in entries_of(text)] == ["Erased", "Added"]
    assert "All its words were removed" in text and "Its words are no longer kept" in text
    for format_ in ("csv", "jsonl"):
        content = b"".join(browser.get(f"/dashboard/activity/export?format={format_}"))
        assert b"cinnamon" not in content and b"ERASE" in content


def test_other_projects_and_people_without_a_session_see_nothing(
    browser: Client, project: Project, other_project: Project, charlie: Account
) -> None:
    mine = happened(project, new_text="Mine alone")
    happened(other_project, new_text="Foreign words")
    assert listed(browser) == [("Added", "Mine alone")]
    other = signed_in(charlie)
    assert listed(other) == [("Added", "Foreign words")]
    assert listed(other, memory=mine.memory_id) == []
    assert b"Mine alone" not in b"".join(other.get("/dashboard/activity/export?format=jsonl"))
    for path in ("/dashboard/activity", "/dashboard/activity/export"):
        answer = Client().get(path)
        assert answer.status_code == 302 and "/login" in answer.headers["Location"]
    # Who works in another project alone is nobody to filter by here.
    assert "Charlie" not in text_of(browser)
    text_of(browser, 422, account=charlie.id)


@pytest.mark.parametrize("role", [Role.MEMBER, Role.REVIEWER])
def test_keys_and_clients_are_for_administrators(
    browser: Client, project: Project, role: str
) -> None:
    happened(project)
    account = Account.objects.create(email="m@example.org", name="M")
    Membership.objects.create(project=project, account=account, role=role)
    member = signed_in(account)
    text = text_of(member)
    assert entries_of(text) == [("Added", "Drinks tea")] and "with an API key" in text
    for secret in ("m0sk_", "opencode", "r-1", 'name="key"', 'name="client"'):
        assert secret not in text
        assert secret in text_of(browser) or secret == "r-1"
    for asked in ({"key": "m0sk_aaaaaaa"}, {"client": "opencode/1.2"}, {"request": "r-1"}):
        text_of(member, 403, **asked)
        answer = member.get(f"/dashboard/activity/export?{urlencode(asked)}")
        assert answer.status_code == 403
        assert listed(browser, **asked) == [("Added", "Drinks tea")]
    for format_ in ("csv", "jsonl"):
        for client, sees in ((member, False), (browser, True)):
            content = b"".join(client.get(f"/dashboard/activity/export?format={format_}"))
            assert b"Drinks tea" in content
            assert (b"m0sk_" in content, b"opencode" in content) == (sees, sees)


def test_each_filter_leaves_what_it_says(
    browser: Client, project: Project, alice: Account, bob: Account
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
        assert listed(browser, **params) == [("Restored", "wanted")], params
    assert listed(browser, until=f"{now - timedelta(days=6):%Y-%m-%d}") == [("Added", "other")]
    text = text_of(browser, event="ERASE", client="laptop")
    assert "Nothing fits" in text and "What: Erased, Client: laptop" in text


@pytest.mark.parametrize(
    "params",
    [{"event": "LOOK"}, {"account": "x"}, {"memory": "x"}, {"since": "1-2-3"}, {"client": "\0"}],
)
def test_a_filter_that_cannot_be_read_is_told_beside_its_field(
    browser: Client, project: Project, params: dict[str, str]
) -> None:
    happened(project)
    text = text_of(browser, 422, **params)
    assert 'class="field-error"' in text and "Drinks tea" not in text
    answer = browser.get(f"/dashboard/activity/export?{urlencode(params)}")
    assert answer.status_code == 400


def test_unknown_places_and_formats_are_refused(browser: Client, project: Project) -> None:
    happened(project)
    assert "leads to no place" in text_of(browser, 400, behind="there")
    assert browser.get("/dashboard/activity/export?format=xlsx").status_code == 400


def test_paging_shows_each_entry_once_while_others_come_in(
    browser: Client, project: Project
) -> None:
    start = timezone.now() - timedelta(hours=1)
    expected = [f"fact {n:03}" for n in range(130)]
    for n, text in enumerate(expected):
        # A bulk change writes many at the same moment.
        happened(project, new_text=text, at=start + timedelta(minutes=n // 60))
    seen: list[str] = []
    address: str | None = "/dashboard/activity?event=ADD"
    while address:
        text = re.sub(r"\s+", " ", browser.get(address).content.decode())
        seen += [words for _, words in entries_of(text)]
        happened(project, new_text="came later")
        older = re.search(r'href="(\?[^"]*)" rel="next"', text)
        address = "/dashboard/activity" + older[1].replace("&amp;", "&") if older else None
        assert address is None or "event=ADD" in address
    assert seen == expected[::-1]


def test_the_number_of_statements_does_not_grow(
    browser: Client, project: Project, alice: Account, bob: Account, monkeypatch: Any
) -> None:
    # How all parts are is asked anew every ten seconds.
    monkeypatch.setattr("dashboard.shell.needing_attention", lambda: 0)

    def statements() -> int:
        with CaptureQueriesContext(connection) as caught:
            text_of(browser)
        return len(caught)

    happened(project, account=alice)
    text_of(browser)
    before = statements()
    for n in range(60):
        happened(project, account=(alice, bob)[n % 2])
    assert statements() == before


def exported(browser: Client, **params: Any) -> bytes:
    answer = browser.get(f"/dashboard/activity/export?{urlencode(params)}")
    assert answer.status_code == 200 and answer.streaming
    assert "attachment" in answer.headers["Content-Disposition"]
    return b"".join(answer)


def test_the_export_holds_what_the_filter_shows(
    browser: Client, project: Project, alice: Account, monkeypatch: Any
) -> None:
    monkeypatch.setattr(activity, "BATCH", 7)
    at = timezone.now() - timedelta(hours=1)
    rows = [
        happened(project, new_text=f"fact {n}", account=alice, at=at + timedelta(seconds=n // 10))
        for n in range(30)
    ]
    happened(project, event="DELETE", old_text="not meant", new_text=None)
    lines = exported(browser, format="jsonl", event="ADD").splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["new_text"] for record in records] == [row.new_text for row in rows[::-1]]
    assert records[0]["account"] == "Alice" and records[0]["key_prefix"] == "m0sk_aaaaaaa"
    assert datetime.fromisoformat(records[0]["at"]) == rows[-1].at
    table = list(csv.DictReader(io.StringIO(exported(browser, event="ADD").decode())))
    assert [row["new_text"] for row in table] == [row.new_text for row in rows[::-1]]
    assert {row["memory_id"] for row in table} == {str(row.memory_id) for row in rows}
    assert exported(browser, event="ERASE", format="jsonl") == b""


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", '=HYPERLINK("http://x")'])
def test_cells_are_inert_in_a_spreadsheet(browser: Client, project: Project, text: str) -> None:
    happened(project, new_text=text, client=text, actor_id=text)
    [row] = csv.DictReader(io.StringIO(exported(browser).decode()))
    for name in ("new_text", "client", "actor_id"):
        assert row[name] == f"'{text}"


def test_numbers_beyond_64_bits_are_told_and_exported(browser: Client, project: Project) -> None:
    # What jsonb makes of 1e20.
    happened(project, event="UPDATE", changes={"metadata": [{"n": 1}, {"n": 10**20}]})
    assert f"<ins>{10**20}</ins>" in text_of(browser)
    [line] = exported(browser, format="jsonl").splitlines()
    told = json.loads(line)
    assert told["changes"]["metadata"][1] == {"n": 10**20}
    assert datetime.fromisoformat(told["at"]).tzinfo is not None
    [row] = csv.DictReader(io.StringIO(exported(browser).decode()))
    assert str(10**20) in row["changes"]


def test_stored_texts_are_inert(browser: Client, project: Project, alice: Account) -> None:
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
    for text in (text_of(browser), text_of(browser, client=HOSTILE)):
        assert "<img" not in text and "<script>alert" not in text
        assert "<ins>after</ins>" in text


def test_no_way_leads_to_a_change_of_an_entry(browser: Client, project: Project, api: Any) -> None:
    row = happened(project)
    for path in ("/dashboard/activity", "/dashboard/activity/export"):
        for method in ("post", "put", "patch", "delete"):
            assert getattr(browser, method)(path, {"id": row.pk}).status_code == 405
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        answer = api(method, f"/memories/{row.memory_id}/history", {})
        assert answer.status_code == 405
    before = Revision.objects.values().get(pk=row.pk)
    text_of(browser)
    assert Revision.objects.values().get(pk=row.pk) == before


def test_a_key_limited_to_some_entities_sees_their_entries_alone(
    project: Project, api: Any
) -> None:
    from dataclasses import replace

    mine = api.add("Alice's own", user_id="alice")
    api.add("Zoe's own", user_id="zoe")
    limited = replace(operator_of(project.slug), entity_limit={"user_id": frozenset({"alice"})})
    found = activity.entries(limited, Chosen(), limit=9)
    assert [str(entry.row.memory_id) for entry in found] == [mine]
