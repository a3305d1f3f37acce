"""How often, and when last, searches gave a memory to agents: counted behind, shown, sorted by."""

import random
import sqlite3
from contextlib import closing
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.http import QueryDict
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import Account, Project
from accounts.tests.signing import sign_in
from core import notes
from core.database.sqlite3.turns import at_most
from memories import retrievals
from memories.background import retention
from memories.browse import pages as paging
from memories.browse import service as browse
from memories.browse.selection import Selection
from memories.demo import service as demo
from memories.editing import service as services
from memories.models import Memory, MemoryRetrieval
from memories.retrievals import Retrieval, noted
from memories.tests import crowd
from memories.tests.actions import add, settled
from memories.tests.memserv import Memserv
from memories.tests.pages import LIST, text_of

SORTS = ("most_retrieved", "last_retrieved")


@pytest.fixture(autouse=True)
def _gathering(gathering: None) -> None:
    """`counts` writes what has gathered."""


def counts() -> dict[UUID, int]:
    """How often each memory was given so far."""
    assert noted.write()
    return dict(MemoryRetrieval.objects.values_list("memory_id", "count"))


def given(id_: UUID, count: int, **ago: float) -> None:
    """As if searches had given it so often, and so long ago for the last time."""
    noted.put(id_, Retrieval(count, timezone.now() - timedelta(**ago)))
    assert noted.write()


# --- What counts ---------------------------------------------------------------------------------


def oss(client: Any, key: str, query: str) -> Any:
    body = {"query": query, "user_id": "alice"}
    headers = {"X-API-Key": key}
    return client.post("/search", body, content_type="application/json", headers=headers)


def memserv(client: Any, key: str, query: str) -> Any:
    return Memserv(client, key)("POST", "/search", {"query": query, "user_id": "alice"})


def by_words(client: Any, key: str, query: str) -> Any:
    body = {"query": query, "user_id": "alice", "mode": "keyword"}
    return Memserv(client, key)("POST", "/search", body)


DIALECTS = pytest.mark.parametrize("search", [oss, memserv, by_words])


@DIALECTS
def test_a_search_counts_what_it_gave_and_changes_nothing_of_the_memory(
    engine: Any, owner: Any, client: Any, key: Any, search: Any
) -> None:
    [tea], [_] = add(owner, "green tea"), add(owner, "an old bicycle")
    settled(engine)
    before = Memory.objects.values().get(id=tea)
    began = timezone.now()
    for _ in range(3):
        assert len(search(client, key("read"), "green tea").json()["results"]) == 1
    assert not MemoryRetrieval.objects.exists()  # no request has written anything
    assert counts() == {tea: 3}
    row = MemoryRetrieval.objects.get(memory_id=tea)
    assert row.project_id == owner.project.id
    assert began <= row.last_at <= timezone.now()
    assert search(client, key("read"), "green tea").status_code == 200
    assert counts() == {tea: 4}
    assert MemoryRetrieval.objects.get(memory_id=tea).last_at > row.last_at
    assert Memory.objects.values().get(id=tea) == before


@DIALECTS
def test_a_search_that_fails_or_finds_nothing_counts_nothing(
    engine: Any, owner: Any, embedder: Any, client: Any, key: Any, search: Any
) -> None:
    add(owner, "green tea")
    assert search(client, key("read"), "").status_code in {200, 400, 422}
    assert search(client, key("write"), "green tea").status_code == 403
    assert search(client, "m0sk_" + "x" * 43, "green tea").status_code == 401
    assert search(client, key("read"), "xylophone").json()["results"] == []
    embedder.error = ConnectionError("away")
    search(client, key("read"), "xylophone")
    assert counts() == {}


def test_a_limited_key_counts_only_what_it_was_given(
    engine: Any, owner: Any, client: Any, key: Any
) -> None:
    [one], [_] = add(owner, "green tea", user_id="alice"), add(owner, "green tea", user_id="mara")
    limited = key("read", entity_limit={"user_id": ["alice"]})
    assert len(memserv(client, limited, "green tea").json()["results"]) == 1
    assert counts() == {one: 1}


def test_what_people_look_at_and_what_is_listed_is_not_given_to_an_agent(
    api: Any, alice: Account
) -> None:
    id_ = api.add("green tea")
    browser = sign_in(alice)
    for query in ("", "q=green+tea", "q=green+tea&mode=words", f"q=green+tea&id={id_}"):
        assert "green tea" in text_of(browser.get(f"{LIST}?{query}"))
    assert api.get(f"/memories/{id_}").status_code == 200
    assert api.get("/memories?user_id=alice").json()["results"]
    assert counts() == {}


def test_a_process_that_keeps_no_notes_counts_nothing(
    api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notes, "are_kept", lambda: False)
    api.add("green tea")
    assert api.search("green tea")
    assert not noted.count


# --- What becomes of it --------------------------------------------------------------------------


def test_what_is_gone_by_the_time_of_writing_counts_nothing(owner: Any, engine: Any) -> None:
    one, two = add(owner, "green tea", "black tea")
    services.delete_memory(owner, one)
    for id_ in (one, two, uuid4()):
        noted.put(id_, Retrieval(1, timezone.now()))
    assert counts() == {two: 1}


def test_the_count_goes_with_the_memory(owner: Any, engine: Any, project: Project) -> None:
    ids = add(owner, "green tea", "black tea", "red tea")
    for id_ in ids:
        given(id_, 2, hours=1)
    services.erase_memories(owner, [ids[0]])
    services.delete_memory(owner, ids[1])
    # What is deleted may come back, with all that was its.
    assert counts() == {ids[1]: 2, ids[2]: 2}
    settled(engine)
    assert retention.purge_deleted(project, older_than=timezone.now()) == 2
    assert counts() == {ids[2]: 2}


def test_the_counts_of_sample_data_go_with_it(owner: Any, engine: Any) -> None:
    demo.fill_project(owner)
    for id_ in Memory.objects.filter(deleted_at=None).values_list("id", flat=True)[:3]:
        given(id_, 1)
    assert len(counts()) == 3
    demo.remove_demo(owner)
    assert counts() == {}


def test_a_later_process_adds_to_the_count_and_never_turns_time_back(
    owner: Any, engine: Any
) -> None:
    [tea] = add(owner, "green tea")
    given(tea, 5, hours=1)
    last = MemoryRetrieval.objects.get().last_at
    given(tea, 2, hours=3)
    row = MemoryRetrieval.objects.get()
    assert (row.count, row.last_at) == (7, last)


def test_more_than_one_statement_holds_is_counted_once_each(
    owner: Any, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrievals, "ROWS", 2)
    ids = add(owner, *(f"tea number {n}" for n in range(5)))
    for id_ in ids:
        noted.put(id_, Retrieval(1, timezone.now()))
    with CaptureQueriesContext(connection) as captured:
        assert counts() == dict.fromkeys(ids, 1)
    assert len([q for q in captured if "INSERT" in q["sql"]]) == 3


@pytest.mark.skipif(connection.vendor != "sqlite", reason="one lock for all writes")
def test_a_locked_database_costs_no_search_and_no_count(transactional_db: None, api: Any) -> None:
    id_ = api.add("green tea")
    name = connection.settings_dict["NAME"]
    with closing(sqlite3.connect(name, isolation_level=None, timeout=20)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert len(api.search("green tea")) == 1
        with at_most(0.05):
            assert not noted.write()
        assert len(api.search("green tea")) == 1
        other.execute("ROLLBACK")
    assert counts() == {UUID(id_): 2}


def test_beyond_what_fits_searches_go_on_uncounted(
    api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noted, "size", 1)
    ids = {api.add("green tea"), api.add("green tea leaves")}
    assert {hit["id"] for hit in api.search("green tea")} == ids
    assert len(counts()) == 1


# --- What is shown -------------------------------------------------------------------------------


def test_the_inspector_says_how_often_and_when_last(
    owner: Any, engine: Any, alice: Account
) -> None:
    [tea] = add(owner, "green tea")
    browser = sign_in(alice)
    assert "Not given to an agent yet" in text_of(browser.get(f"{LIST}?id={tea}"))
    for count, told in (
        (1, "Given to an agent once, <time"),
        (1, "Given to agents twice, last <time"),
        (10, "Given to agents 12 times, last <time"),
        (1272, "Given to agents 1,284 times, last <time"),
    ):
        given(tea, count, hours=3)
        page = text_of(browser.get(f"{LIST}?id={tea}"))
        assert told in page and ">3 h ago</time>" in page


def test_the_list_is_sorted_by_it_and_says_it(owner: Any, engine: Any, alice: Account) -> None:
    often, lately, never = add(owner, "green tea", "black tea", "red tea")
    given(often, 12, hours=3)
    given(lately, 1, minutes=5)
    browser = sign_in(alice)
    page = text_of(browser.get(LIST))
    assert "?sort=most_retrieved" in page and "?sort=last_retrieved" in page
    for sort, first, second, told in (
        ("most_retrieved", "green", "black", ("12 times", "once", "Never")),
        ("last_retrieved", "black", "green", ("5 min ago", "3 h ago", "Never")),
    ):
        page = text_of(browser.get(f"{LIST}?sort={sort}"))
        places = [page.index(f">{colour} tea</a>") for colour in (first, second, "red")]
        assert places == sorted(places)
        cells = page.split('<td class="c-when">')[1:]
        assert all(word in cell for word, cell in zip(told, cells, strict=True))
    assert Memory.objects.filter(id=never).exists()


def test_an_order_that_is_none_is_refused(engine: Any, alice: Account) -> None:
    answer = Client().get(f"{LIST}?sort=retrieved")
    assert answer.status_code == 302  # who is not signed in learns nothing
    assert sign_in(alice).get(f"{LIST}?sort=retrieved").status_code == 400


# --- Sorted --------------------------------------------------------------------------------------


def crowd_given(project: Project, count: int) -> tuple[list[Memory], dict[UUID, Retrieval]]:
    """Random memories, half of which were given now and then."""
    rows = crowd.make(project, count)
    rng, now = random.Random(2), timezone.now()
    given = {
        row.id: Retrieval(rng.randint(1, 4), now - timedelta(seconds=n))
        for n, row in enumerate(rows)
        if rng.random() < 0.5
    }
    MemoryRetrieval.objects.bulk_create(
        MemoryRetrieval(memory_id=id_, project=project, count=count, last_at=last_at)
        for id_, (count, last_at) in given.items()
    )
    return rows, given


def in_order(sort: str, rows: list[Memory], given: dict[UUID, Retrieval]) -> list[UUID]:
    """By plain Python."""

    def key(row: Memory) -> Any:
        count, last_at = given.get(row.id, (0, paging.EARLIEST))
        return ((count,) if sort == "most_retrieved" else ()), last_at, row.created_at, row.id

    return [row.id for row in sorted(rows, key=key, reverse=True)]


@pytest.mark.parametrize("sorted_at_once", [0, 20_000], ids=["by the index", "one by one"])
@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize(
    "query",
    [
        "",
        "user_id=mara",
        "agent_id=&source=cli",
        "run_id=run-3",
        "expiry=soon&confidence=low",
        "deleted=yes",
        "metadata=topic%3Dcode",
        "user_id=nobody",
        "q=tee&mode=words",
    ],
)
def test_pages_stand_in_the_order_of_retrievals(
    owner: Any,
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    query: str,
    sort: str,
    sorted_at_once: int,
) -> None:
    monkeypatch.setattr(paging, "SORTED_AT_ONCE", sorted_at_once)
    rows, given = crowd_given(project, 300)
    selection = Selection.of(QueryDict(f"{query}&sort={sort}"))
    fitting = [row for row in rows if crowd.fits(row, selection)]
    if "metadata" in query:
        fitting = [row for row in fitting if row.metadata.get("topic") == "code"]
    seen = []
    for number in range(1, browse.read_page(owner, selection, per_page=23).pages + 1):
        page = browse.read_page(owner, selection, number=number, per_page=23)
        assert page.total == len(fitting)
        seen += [row.id for row in page.rows]
        assert page.retrieved == {row.id: given[row.id] for row in page.rows if row.id in given}
    assert seen == in_order(sort, fitting, given)


@pytest.mark.parametrize("sort", SORTS)
def test_what_a_search_by_meaning_finds_can_be_sorted_by_it(
    owner: Any, engine: Any, sort: str
) -> None:
    ids = [add(owner, f"green tea number {n}")[0] for n in range(6)]
    for number, count in ((4, 3), (1, 9)):
        given(ids[number], count, hours=number)
    found = browse.read_page(owner, Selection.of(QueryDict(f"q=green+tea&sort={sort}")))
    assert found.mode == "meaning"
    first = [1, 4]  # the most, and the last
    assert [ids.index(row.id) for row in found.rows] == [*first, 5, 3, 2, 0]


def test_others_projects_are_not_in_the_order(
    owner: Any, project: Project, other_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paging, "SORTED_AT_ONCE", 0)
    crowd_given(other_project, 50)
    rows = crowd.make(project, 5, seed=7, deleted_at=None)
    for sort in SORTS:
        page = browse.read_page(owner, Selection(sort=sort))
        assert {row.id for row in page.rows} == {row.id for row in rows}


@pytest.mark.parametrize(
    ("sort", "index"), [(SORTS[0], "retrieval_most"), (SORTS[1], "retrieval_last")]
)
def test_the_first_page_is_read_from_an_index_without_sorting_all(
    owner: Any, project: Project, monkeypatch: pytest.MonkeyPatch, sort: str, index: str
) -> None:
    monkeypatch.setattr(paging, "SORTED_AT_ONCE", 0)
    crowd_given(project, 2000)
    if connection.vendor == "postgresql":  # which gathers statistics by itself
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE memories_memory, memories_memoryretrieval")
    with CaptureQueriesContext(connection) as captured:
        browse.read_page(owner, Selection(sort=sort))
    [asked] = [q["sql"] for q in captured if "CROSS JOIN" in q["sql"] and "ORDER BY" in q["sql"]]
    word = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN"
    with connection.cursor() as cursor:
        cursor.execute(f"{word} {asked}".replace("%", "%%"), [])
        plan = str(cursor.fetchall())
    assert index in plan, plan
    assert "TEMP B-TREE" not in plan and "Sort" not in plan, plan
    if connection.vendor == "sqlite":
        assert "autoindex_memories_memory_1" in plan, plan
