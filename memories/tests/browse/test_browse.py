"""Pages of the memory browser against a plain reading of the same memories."""

import random
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.http import QueryDict
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from core.errors import InvalidInputError, NotFoundError, PermissionDeniedError, ProviderError
from core.principal import Scope
from memories import runtime
from memories.browse import service as browse
from memories.browse.selection import Selection
from memories.editing import service as services
from memories.models import Memory
from memories.tests import crowd

LAST = datetime.max.replace(tzinfo=UTC)
KEYS = {
    "newest": lambda row: (-row.created_at.timestamp(), -row.id.int),
    "oldest": lambda row: (row.created_at.timestamp(), row.id.int),
    "updated": lambda row: (-row.updated_at.timestamp(), -row.id.int),
}
QUERIES = [
    "",
    "user_id=mara",
    "user_id=mara&user_id=",
    "agent_id=opencode&confidence=low&confidence=high",
    "agent_id=&source=cli",
    "run_id=run-3",
    "app_id=shop&expiry=soon",
    "expiry=expired&expiry=never",
    "expiry=later",
    "collection=knowledge&review_status=stale&source=&confidence=unknown&agent_id=claude",
    "user_id=nobody",
    "deleted=yes",
    "deleted=yes&user_id=mara&confidence=low",
    "q=tee&mode=words",
    "q=STRASSE&mode=words&review_status=approved",
    "q=te&mode=words",
    "q=%F0%9F%9A%80&mode=words&deleted=yes",
]


def of(query: str) -> Selection:
    return Selection.of(QueryDict(query))


def limited(principal, **limit):
    return replace(principal, entity_limit={name: frozenset(v) for name, v in limit.items()})


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("sort", ["newest", "oldest", "updated"])
def test_pages_have_what_fits_in_order_with_an_exact_total(owner, project, query, sort):
    rows = crowd.make(project, 400)
    selection = of(f"{query}&sort={sort}")
    expected = sorted((r for r in rows if crowd.fits(r, selection)), key=KEYS[sort])
    seen = []
    first = browse.read_page(owner, selection, per_page=30)
    for number in range(1, first.pages + 1):
        page = browse.read_page(owner, selection, number=number, per_page=30)
        assert (page.total, page.number, page.at_least) == (len(expected), number, False)
        seen += [row.id for row in page.rows]
    assert seen == [row.id for row in expected]


@pytest.mark.parametrize("query", ["", "expiry=soon&expiry=later", "user_id=mara", "expiry=never"])
def test_what_expires_comes_soonest_first_and_then_what_never_does(owner, project, query):
    rows = [r for r in crowd.make(project, 300) if crowd.fits(r, of(query))]
    selection = of(f"{query}&sort=expiring")
    seen = []
    for number in range(1, browse.read_page(owner, selection, per_page=37).pages + 1):
        seen += browse.read_page(owner, selection, number=number, per_page=37).rows
    assert {row.id for row in seen} == {row.id for row in rows}
    assert len(seen) == len(rows)
    times = [crowd.ends(row) or LAST for row in seen]
    assert times == sorted(times)
    never = [row for row in seen if crowd.ends(row) is None]
    assert [row.id for row in never] == [row.id for row in sorted(never, key=KEYS["newest"])]


def test_a_number_beyond_the_last_page_is_the_last_page(owner, project):
    crowd.make(project, 30, deleted_at=None)
    page = browse.read_page(owner, of(""), number=99, per_page=20)
    assert (page.number, page.pages, len(page.rows)) == (2, 2, 10)
    assert browse.read_page(owner, of(""), number=-5, per_page=20).number == 1
    assert browse.read_page(owner, of("user_id=x"), number=7).pages == 1


def test_created_updated_and_metadata_count_as_filters(owner, project):
    rows = [r for r in crowd.make(project, 200) if r.deleted_at is None]
    now = timezone.now()
    recent = [r for r in rows if r.created_at >= now - timedelta(days=10)]
    assert browse.read_page(owner, of("created=10d")).total == len(recent)
    recent = [r for r in rows if r.updated_at >= now - timedelta(hours=24) and r.source == "cli"]
    assert browse.read_page(owner, of("updated=24h&source=cli")).total == len(recent)
    tea = [r for r in rows if r.metadata.get("topic") == "tea" and r.user_id == "mara"]
    page = browse.read_page(owner, of("metadata=topic%3Dtea&user_id=mara"))
    assert {r.id for r in page.rows} == {r.id for r in tea[:50]}
    assert page.total == len(tea)


def test_other_projects_do_not_exist(owner, project, other_project):
    crowd.make(other_project, 30)
    for query in ("", "q=tee&mode=words", "deleted=yes", "user_id=mara"):
        assert browse.read_page(owner, of(query)).total == 0
    assert all(not f.count for fs in browse.facets(owner, of("")).values() for f in fs)


def test_an_entity_limit_holds_in_pages_and_facets(owner, project):
    rows = [r for r in crowd.make(project, 200) if r.user_id == "mara" and not r.deleted_at]
    mara = limited(owner, user_id=["mara"])
    assert browse.read_page(mara, of("")).total == len(rows)
    assert browse.read_page(mara, of("user_id=jonas")).total == 0
    found = browse.facets(mara, of(""))
    assert [(f.value, f.count) for f in found["user_id"]] == [("mara", len(rows))]
    assert sum(f.count for f in found["confidence"]) == len(rows)


def test_without_read_nothing_is_seen_and_without_review_nothing_deleted(owner, project):
    crowd.make(project, 20)
    nobody = replace(owner, scopes=frozenset({Scope.WRITE}))
    member = replace(owner, scopes=frozenset({Scope.READ, Scope.WRITE}))
    for ask in (browse.read_page, browse.facets, browse.filter_matching):
        with pytest.raises(PermissionDeniedError):
            ask(nobody, of(""))
        with pytest.raises(PermissionDeniedError):
            ask(member, of("deleted=yes"))
    with pytest.raises(PermissionDeniedError):
        browse.get_detail(nobody, uuid.uuid4())


def test_what_is_erased_is_in_no_list(owner, project, engine):
    [row] = crowd.make(project, 1, text="quetzalcoatl", deleted_at=None, user_id="mara")
    services.erase_memories(owner, [row.id])
    for query in ("", "deleted=yes", "q=quetzal&mode=words", "q=quetzal&mode=words&deleted=yes"):
        assert browse.read_page(owner, of(query)).total == 0


def test_a_page_takes_the_same_number_of_statements_however_many_memories(owner, project):
    def statements(ask, query: str) -> int:
        with CaptureQueriesContext(connection) as captured:
            ask(owner, of(query))
        return len(captured)

    asks = [(browse.read_page, query) for query in QUERIES] + [(browse.facets, q) for q in QUERIES]
    crowd.make(project, 500, text="grüner tee")
    before = [statements(*ask) for ask in asks]
    crowd.make(project, 500, seed=2, text="grüner tee")
    assert [statements(*ask) for ask in asks] == before
    assert max(before) <= 15


def test_every_memory_that_stays_is_seen_once_while_others_come_and_go(owner, project):
    """From the oldest on, what is added comes behind: nothing shifts; what is deleted shifts, and
    a reader of pages sees everything that stays when the deleted are of pages not yet read."""
    stable = crowd.make(project, 1050, deleted_at=None, user_id="stays")
    seen: list[uuid.UUID] = []
    selection = of("user_id=stays&sort=oldest")
    number = 1
    while number <= browse.read_page(owner, selection, number=number, per_page=100).pages:
        seen += [r.id for r in browse.read_page(owner, selection, number=number, per_page=100).rows]
        crowd.make(
            project, 20, seed=100 + number, user_id="stays", agent_id="new",
            deleted_at=None, created_at=timezone.now() + timedelta(days=1),
        )  # fmt: skip
        newest = Memory.objects.filter(agent_id="new").order_by("-created_at")[:10]
        Memory.objects.filter(id__in=list(newest.values_list("id", flat=True))).update(
            deleted_at=timezone.now()
        )
        number += 1
    assert sorted(i for i in seen if i in {r.id for r in stable}) == sorted(r.id for r in stable)
    assert len(seen) == len(set(seen))


# --- Meaning -------------------------------------------------------------------------------------
@pytest.fixture
def tea(api):
    """Three memories about tea, one of them rejected, and one about the sea."""
    ids = [api.add(f"green tea is good {n}", user_id="mara") for n in range(3)]
    api.add("the sea is blue", user_id="jonas")
    Memory.objects.filter(id=ids[2]).update(review_status="rejected", rev=2)
    runtime.get_runtime().apply([Memory.objects.get(id=ids[2])])
    return ids


def test_a_search_by_meaning_says_so_and_has_scores(owner, tea):
    page = browse.read_page(owner, of("q=green+tea&user_id=mara"))
    assert (page.mode, page.problem) == ("meaning", "")
    assert {str(row.id) for row in page.rows} == set(tea)
    assert set(page.scores) == {row.id for row in page.rows}
    assert all(0 <= score <= 1 for score in page.scores.values())
    assert page.total == 3


def test_a_search_by_meaning_is_narrowed_paged_and_sorted(owner, tea):
    assert browse.read_page(owner, of("q=green+tea&review_status=rejected")).total == 1
    oldest = browse.read_page(owner, of("q=green+tea&user_id=mara&sort=oldest"), per_page=2)
    assert [str(row.id) for row in oldest.rows] == tea[:2]
    assert (oldest.pages, oldest.total) == (2, 3)
    assert [str(r.id) for r in browse.read_page(owner, of(
        "q=green+tea&user_id=mara&sort=oldest"), number=2, per_page=2).rows] == tea[2:]  # fmt: skip


def test_while_the_embedder_is_away_words_answer_and_say_why(owner, tea, engine):
    failure = ProviderError("away", code="provider_timeout")
    engine.engine.embedder.error = failure
    page = browse.read_page(owner, of("q=green+tea"))
    assert (page.mode, page.problem, page.scores) == ("words", "provider_timeout", {})
    assert {str(row.id) for row in page.rows} == set(tea)
    # Even where the index of words finds nothing: a part of a word.
    page = browse.read_page(owner, of("q=reen+te"))
    assert (page.mode, page.total) == ("words", 3)


def test_without_an_index_words_answer(owner, tea, engine, monkeypatch):
    monkeypatch.setattr(runtime.get_runtime(), "indexer", None)
    page = browse.read_page(owner, of("q=green+tea"))
    assert (page.mode, page.total) == ("words", 3)
    assert page.problem == "vector_store_unavailable"


def test_deleted_memories_are_searched_by_words(owner, tea, engine):
    services.delete_memory(owner, tea[0])
    page = browse.read_page(owner, of("q=green+tea&deleted=yes"))
    assert (page.mode, page.total, page.problem) == ("words", 1, "deleted")


def test_a_search_by_meaning_selects_nothing_for_bulk_actions(owner, project):
    with pytest.raises(InvalidInputError):
        browse.filter_matching(owner, of("q=tea"))


@pytest.mark.parametrize("query", QUERIES)
def test_what_bulk_actions_take_is_what_the_pages_have(owner, project, query):
    rows = crowd.make(project, 300)
    expected = {row.id for row in rows if crowd.fits(row, of(query))}
    assert set(browse.filter_matching(owner, of(query)).values_list("id", flat=True)) == expected
    assert browse.filter_matching(owner, of(query)).count() == len(expected)


# --- One -----------------------------------------------------------------------------------------
def test_one_memory_has_its_history_its_origin_and_what_is_like_it(owner, tea, engine):
    services.update_memory(owner, tea[0], text="green tea is very good")
    detail = browse.get_detail(owner, tea[0])
    assert detail.memory.text == "green tea is very good"
    assert [entry.revision.event for entry in detail.history] == ["UPDATE", "ADD"]
    assert all(entry.actor.startswith("Alice") for entry in detail.history)
    assert detail.messages == [{"role": "user", "content": "green tea is good 0"}]
    assert {str(near.memory.id) for near in detail.similar} >= set(tea[1:])
    assert tea[0] not in {str(near.memory.id) for near in detail.similar}
    scores = [near.score for near in detail.similar]
    assert scores == sorted(scores, reverse=True)


def test_what_is_like_it_never_asks_a_model_and_may_be_missing(owner, tea, engine, monkeypatch):
    engine.engine.embedder.error = ProviderError("must not be asked")
    assert browse.get_detail(owner, tea[0]).similar
    monkeypatch.setattr(runtime.get_runtime(), "indexer", None)
    assert browse.get_detail(owner, tea[0]).similar == []


def test_what_is_like_it_stays_within_the_limit(owner, api, engine):
    mine = api.add("green tea", user_id="mara")
    other = api.add("green tea too", user_id="jonas")
    assert [str(s.memory.id) for s in browse.get_detail(owner, mine).similar] == [other]
    assert browse.get_detail(limited(owner, user_id=["mara"]), mine).similar == []


def test_a_deleted_memory_is_seen_by_who_may_review_alone(owner, tea, engine):
    services.delete_memory(owner, tea[0])
    assert browse.get_detail(owner, tea[0]).memory.deleted_at is not None
    member = replace(owner, scopes=frozenset({Scope.READ, Scope.WRITE}))
    with pytest.raises(NotFoundError):
        browse.get_detail(member, tea[0])


def test_missing_foreign_and_erased_memories_are_not_found(owner, other_project, tea, engine):
    [foreign] = crowd.make(other_project, 1, deleted_at=None)
    services.erase_memories(owner, [uuid.UUID(tea[0])])
    for id_ in (foreign.id, uuid.uuid4(), "no id", tea[0]):
        with pytest.raises(NotFoundError):
            browse.get_detail(owner, id_)
    with pytest.raises(NotFoundError):
        browse.get_detail(limited(owner, user_id=["jonas"]), tea[1])


def test_the_longest_ids_are_stored_and_listed_and_longer_ones_refused(owner, api):
    rng = random.Random(3)

    def id_of(length: int, letters: str) -> str:
        return "".join(rng.choices(letters, k=length))

    ascii_ids = {f"{n}_id": id_of(255, "abcdefghijklmnopqrstuvwxyz0123456789") for n in (
        "user", "agent", "run")}  # fmt: skip
    body = {"messages": [{"role": "user", "content": "tea"}], **ascii_ids}
    body["metadata"] = {"source": id_of(100, "北京烤鸭茶水")}
    assert api.post("/memories", body).status_code == 200
    assert browse.read_page(owner, Selection(fields={"run_id": (ascii_ids["run_id"],)})).total == 1
    wide = {name: id_of(255, "北京烤鸭茶水") for name in ascii_ids}
    refused = api.post("/memories", {**body, **wide})
    assert refused.status_code in {400, 422}
