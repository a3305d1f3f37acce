"""The page of users, agents, apps and runs: right counts, search, order, paging, and who may
delete."""

import html
import re
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import Account, Membership, Project, Role
from mem0dash.errors import InvalidInputError, PermissionDeniedError
from memories import entity_queries
from memories.entity_queries import entity_counts, entity_page
from memories.models import Memory

HOSTILE = '"><img src=x onerror=alert(1)>/../?a=1&b=2#c\u202e'
PATH = "/dashboard/entities"


def keep(project: Project, count: int = 1, *, days_ago: float = 0, **fields: Any) -> None:
    at = timezone.now() - timedelta(days=days_ago)
    Memory.objects.bulk_create(
        Memory(
            **{
                "project": project,
                "text": "Drinks tea",
                "text_fold": "drinks tea",
                "fingerprint": "x",
                "created_at": at,
                "updated_at": at,
                **fields,
            }
        )
        for _ in range(count)
    )


@pytest.fixture
def some(project: Project, other_project: Project) -> None:
    """Three users, an agent, what does not count: a deleted one and one of another project."""
    keep(project, 3, user_id="mara", agent_id="opencode", days_ago=2)
    keep(project, 1, user_id="jonas", days_ago=1)
    keep(project, 2, user_id="Zoë", days_ago=3)
    keep(project, 1, user_id="gone", deleted_at=timezone.now())
    keep(other_project, 5, user_id="stranger", agent_id="foreign", run_id="r")


@pytest.fixture
def browser(some: None, alice: Account) -> Client:
    made = Client()
    made.force_login(alice)
    return made


def names(answer: Any) -> list[str]:
    found = re.findall(r'<td class="c-name">.*?<bdi>(.*?)</bdi>', answer.content.decode(), re.S)
    return [html.unescape(name) for name in found]


def counts(answer: Any) -> list[str]:
    return re.findall(r'<td class="c-most tabular">([\d,]+)', answer.content.decode())


def test_it_lists_users_with_their_memories_the_last_changed_first(browser: Client) -> None:
    answer = browser.get(PATH)
    assert names(answer) == ["jonas", "mara", "Zoë"]
    assert counts(answer) == ["1", "3", "2"]
    text = answer.content.decode()
    assert "stranger" not in text and "gone" not in text
    assert '<h1 class="h-page">Entities</h1>' in text


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("most", ["mara", "Zoë", "jonas"]),
        ("fewest", ["jonas", "Zoë", "mara"]),
        ("recent", ["jonas", "mara", "Zoë"]),
        ("oldest", ["Zoë", "mara", "jonas"]),
    ],
)
def test_it_is_sorted_as_asked(browser: Client, sort: str, expected: list[str]) -> None:
    assert names(browser.get(PATH, {"sort": sort})) == expected


def test_names_are_sorted_both_ways(browser: Client) -> None:
    there = names(browser.get(PATH, {"sort": "name"}))
    back = names(browser.get(PATH, {"sort": "name-desc"}))
    # Where capital letters stand is the database's collation.
    assert sorted(there) == sorted(["jonas", "mara", "Zoë"])
    assert back == there[::-1]


def test_the_tabs_show_how_many_there_are(browser: Client) -> None:
    text = browser.get(PATH, {"type": "agent"}).content.decode()
    found = re.findall(r'class="tab".*?</svg>(\w+)<span class="n">(.*?)</span>', text, re.S)
    assert found == [("Users", "3"), ("Agents", "1"), ("Apps", "0"), ("Runs", "0")]
    assert names(browser.get(PATH, {"type": "agent"})) == ["opencode"]
    assert "No apps yet" in browser.get(PATH, {"type": "app"}).content.decode()


def test_many_of_another_type_are_not_counted_to_the_end(
    browser: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entity_queries, "COUNTED", 2)
    monkeypatch.setattr("memories.views.entities.COUNTED", 2)
    text = browser.get(PATH, {"type": "agent"}).content.decode()
    assert "Users<span" in text and '<span class="n">2+</span>' in text
    text = browser.get(PATH, {"type": "user"}).content.decode()
    assert '<span class="n">3</span>' in text


def test_it_is_found_by_a_part_of_its_name_whatever_the_case(browser: Client) -> None:
    assert names(browser.get(PATH, {"q": "AR"})) == ["mara"]
    assert names(browser.get(PATH, {"q": " jon "})) == ["jonas"]


@pytest.mark.parametrize("wild", ["%", "_", "m%a", "'", "\\", '"'])
def test_a_search_takes_every_character_as_it_is(browser: Client, wild: str) -> None:
    answer = browser.get(PATH, {"q": wild})
    assert answer.status_code == 200
    assert names(answer) == []
    assert "No user is called that" in answer.content.decode()


def test_pages_hold_everyone_once(browser: Client, project: Project) -> None:
    for n in range(120):
        keep(project, user_id=f"u{n:03d}", days_ago=10)
    seen: list[str] = []
    url = f"{PATH}?sort=name&q=u"
    while url:
        answer = browser.get(url)
        seen += names(answer)
        found = re.search(r'rel="next" href="([^"]+)"', answer.content.decode())
        url = html.unescape(found[1]) if found else ""
    assert seen == [f"u{n:03d}" for n in range(120)]
    assert "101–120 of 120" in answer.content.decode()


def test_a_page_beyond_the_last_is_the_last(browser: Client, owner: Any) -> None:
    assert names(browser.get(PATH, {"page": "999999999"})) == ["jonas", "mara", "Zoë"]
    found = entity_page(owner, "user", number=7, per_page=2, sort="most")
    assert (found.number, found.pages, found.total) == (2, 2, 3)
    assert [row.name for row in found.rows] == ["jonas"]


@pytest.mark.parametrize(
    "query",
    [
        "type=account",
        "type=",
        "sort=best",
        "page=zero",
        "page=-1",
        "page=",
        "page=%D9%A1",
        "type=id",
        "q=%00",
    ],
)
def test_what_cannot_be_asked_for_is_told(browser: Client, query: str) -> None:
    assert browser.get(f"{PATH}?{query}").status_code == 400


def test_a_name_leads_to_its_memories_also_a_hostile_one(browser: Client, project: Project) -> None:
    keep(project, user_id=HOSTILE)
    text = browser.get(PATH).content.decode()
    assert "<img" not in text
    links = [html.unescape(url) for url in re.findall(r'href="([^"]+user_id=[^"]+)"', text)]
    asked = [parse_qs(urlsplit(link).query)["user_id"] for link in links]
    assert [HOSTILE] in asked
    deletes = [html.unescape(url) for url in re.findall(r'href="([^"]+delete\?[^"]+)"', text)]
    assert [HOSTILE] in [parse_qs(urlsplit(url).query)["name"] for url in deletes]


def test_only_administrators_are_offered_to_delete(
    browser: Client, bob: Account, project: Project
) -> None:
    assert "entities/delete" in browser.get(PATH).content.decode()
    browser.force_login(bob)
    for role in (Role.MEMBER, Role.REVIEWER):
        Membership.objects.filter(account=bob).update(role=role)
        answer = browser.get(PATH)
        assert names(answer) == ["jonas", "mara", "Zoë"]
        assert "entities/delete" not in answer.content.decode()


def test_a_stranger_sees_their_own_project_alone(browser: Client, charlie: Account) -> None:
    browser.force_login(charlie)
    assert names(browser.get(PATH)) == ["stranger"]


def test_without_signing_in_it_leads_to_sign_in(some: None, alice: Account) -> None:
    answer = Client().get(PATH)
    assert answer.status_code == 302
    assert answer["Location"].startswith("/login")


def test_it_takes_the_same_statements_for_three_users_and_for_two_hundred(
    browser: Client, project: Project
) -> None:
    def asked() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert browser.get(PATH).status_code == 200
        return len(captured)

    asked()
    few = asked()
    for n in range(200):
        keep(project, user_id=f"u{n}", agent_id=f"a{n}", run_id=f"r{n}")
    assert asked() == few


@pytest.mark.parametrize("type_", ["user", "agent", "app", "run"])
def test_they_are_counted_from_an_index_alone(owner: Any, project: Project, type_: str) -> None:
    for n in range(40):
        keep(project, 50, **{f"{type_}_id": f"x{n}"}, days_ago=1)
    if connection.vendor == "postgresql":  # which gathers statistics by itself; SQLite does not
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE memories_memory")
            cursor.execute("SET LOCAL enable_seqscan = off")
    with CaptureQueriesContext(connection) as captured:
        entity_page(owner, type_)
        entity_counts(owner)
    page, *counted = [query["sql"] for query in captured.captured_queries]
    word = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN"
    [own] = [sql for sql in counted if f"MIN({type_}_id)" in sql]
    # PostgreSQL reads an index alone only where the rows were vacuumed: not in a transaction.
    for sql in (page, own) if connection.vendor == "sqlite" else (own,):
        with connection.cursor() as cursor:
            cursor.execute(f"{word} {sql}".replace("%", "%%"), [])
            plan = str(cursor.fetchall())
        assert f"memory_{type_}s" in plan, plan
        assert "SCAN memories_memory" not in plan


def test_an_entity_limit_holds(some: None, owner: Any) -> None:
    limited = replace(owner, entity_limit={"user_id": frozenset({"mara"})})
    assert [row.name for row in entity_page(limited, "user").rows] == ["mara"]
    assert entity_counts(limited) == {"user": 1, "agent": 1, "app": 0, "run": 0}


def test_who_may_not_read_gets_nothing(some: None, owner: Any) -> None:
    without = replace(owner, scopes=frozenset())
    for call in (lambda: entity_page(without, "user"), lambda: entity_counts(without)):
        with pytest.raises(PermissionDeniedError):
            call()
    with pytest.raises(InvalidInputError):
        entity_page(owner, "user", sort="; DROP TABLE")
