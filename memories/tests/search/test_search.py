"""Search: who is found, who never is, in what order, and what an outage looks like."""

import uuid
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from core.errors import (
    EngineError,
    IndexUnavailableError,
    InvalidInputError,
    PermissionDeniedError,
    ProviderError,
)
from core.principal import Scope
from memories import runtime
from memories.editing import service as services
from memories.engine.engine import Engine
from memories.filters import parse_filters
from memories.models import Memory, MemoryVector
from memories.search import service as search
from memories.search.service import search_memories
from memories.tests.actions import add, said


@pytest.fixture
def by_first_word(embedder, monkeypatch):
    """Meaning is the first word's letters: "xy" is 1.0 to "xy", 0.5 to "xz", and 0 to "vw"."""

    def vector(text: str) -> np.ndarray:
        made = np.zeros(embedder.dims, np.float32)
        for letter in text.split()[0].casefold():
            made[ord(letter) % embedder.dims] += 1
        return made / np.linalg.norm(made)

    monkeypatch.setattr(embedder, "_vector", vector)


def found(principal, query: str, filters=None, **options) -> list[uuid.UUID]:
    where = parse_filters(filters or {})
    return [hit.memory.id for hit in search_memories(principal, query, where=where, **options).hits]


def conversation(owner, name: str, *texts: str) -> list[uuid.UUID]:
    """Turns of one run, a minute apart; each in an add of its own."""
    start = timezone.now() - timedelta(hours=1)
    return [
        add(
            owner,
            text,
            entities={"run_id": name},
            metadata={"created_at": (start + timedelta(minutes=n)).isoformat()},
        )[0]
        for n, text in enumerate(texts)
    ]


def reject(*ids: uuid.UUID) -> None:
    Memory.objects.filter(id__in=ids).update(review_status="rejected")


# --- The gates -----------------------------------------------------------------------------------
def test_the_threshold_gates_the_cosine(owner, engine, by_first_word):
    [same], [half], [none] = add(owner, "xy one"), add(owner, "xz two"), add(owner, "vw three")
    assert found(owner, "xy") == found(owner, "xy", threshold=0.49) == [same, half]
    assert found(owner, "xy", threshold=0.51) == [same]
    assert found(owner, "xy", threshold=1) == [same]
    assert set(found(owner, "xy", threshold=0)) == {same, half, none}


def test_half_of_the_content_words_pass_without_the_cosine(owner, engine, by_first_word):
    [half] = add(owner, "vw: gluon and plasma")
    [third] = add(owner, "vw: some gluon")
    assert found(owner, "xy gluon plasma beam", threshold=0.9) == [half]
    assert set(found(owner, "xy of the gluon", threshold=0.9)) == {half, third}
    assert found(owner, "the of and", threshold=0.9) == []


def test_words_alone_are_no_reason_for_a_memory_that_the_filter_hides(owner, engine):
    [one] = add(owner, "green tea", user_id="bob")
    assert found(owner, "green tea", {"user_id": "alice"}) == []
    assert found(owner, "green tea", {"user_id": "bob"}) == [one]


def test_a_memory_without_a_vector_is_found_by_its_words(owner, engine):
    [one] = add(owner, "green tea")
    MemoryVector.objects.all().delete()
    engine.indexer.apply([one])
    assert found(owner, "green tea") == [one]
    assert found(owner, "coffee") == []


def test_a_memory_of_the_named_day_is_found_whatever_its_words(owner, engine, by_first_word):
    [old] = add(owner, "vw lunch", metadata={"created_at": "2023-03-05T09:00:00Z"})
    [new] = add(owner, "vw lunch")
    assert found(owner, "xy on 5 March 2023", threshold=0.9) == [old]
    assert found(owner, "vw on 5 March 2023", threshold=0.9) == [old, new]


# --- Conversations -------------------------------------------------------------------------------
def test_a_neighbour_that_is_no_answer_lends_its_score(owner, engine, by_first_word):
    lifted, good = conversation(owner, "one", "xz first", "xy second")
    plain, poor = conversation(owner, "two", "xz first", "vw second")
    reject(good, poor)
    assert found(owner, "xy") == [lifted, plain]
    reject(lifted)
    assert found(owner, "xy") == [plain]


def test_a_neighbour_lends_its_score_although_the_pool_is_too_small_for_it(
    owner, engine, by_first_word, monkeypatch
):
    monkeypatch.setattr(search, "POOL", 2)
    question, answer = conversation(owner, "one", "xy question", "vw answer")
    [lone] = add(owner, "vw gossip")
    assert found(owner, "xy", top_k=1) == [question]
    assert found(owner, "xy", top_k=2) == [question, answer]
    assert lone not in found(owner, "xy", top_k=2)


def test_the_turn_after_the_answer_is_found_with_it(owner, engine, by_first_word):
    before, hit, after, far = conversation(owner, "one", "vw a", "xy b", "vw c", "vw d")
    [lone] = add(owner, "vw e")
    hits = found(owner, "xy", threshold=0.9)
    assert hits[0] == hit
    assert {before, after} <= set(hits)
    assert not {far, lone} & set(hits)


def test_a_turn_that_may_not_be_seen_is_not_found_with_its_neighbour(owner, engine, by_first_word):
    hit, hidden = conversation(owner, "one", "xy a", "vw b")
    reject(hidden)
    assert found(owner, "xy", threshold=0.9) == [hit]
    Memory.objects.filter(id=hidden).update(review_status="approved", user_id="bob")
    assert found(owner, "xy", {"user_id": "alice"}, threshold=0.9) == [hit]
    limited = replace(owner, entity_limit={"user_id": frozenset({"alice"})})
    assert found(limited, "xy", threshold=0.9) == [hit]


def test_the_same_run_of_another_user_is_another_conversation(owner, engine, by_first_word):
    [hit] = add(owner, "xy a", entities={"run_id": "r"})
    [other] = add(owner, "vw b", user_id="bob", entities={"run_id": "r"})
    assert found(owner, "xy", threshold=0.9) == [hit]
    assert Memory.objects.get(id=hit).session != Memory.objects.get(id=other).session


# --- Visibility ----------------------------------------------------------------------------------
def test_rejected_memories_show_only_to_a_filter_that_names_the_status(owner, engine):
    [good], [bad] = add(owner, "green tea"), add(owner, "black tea")
    reject(bad)
    engine.indexer.apply([bad])
    assert found(owner, "tea") == [good]
    assert found(owner, "tea", {"review_status": "rejected"}) == [bad]
    assert set(found(owner, "tea", {"review_status": {"ne": "stale"}})) == {good, bad}


def test_a_project_may_hide_what_nobody_has_reviewed(owner, engine):
    add(owner, "green tea")
    [seen] = add(owner, "black tea", metadata={"review_status": "approved"})
    strict = replace(owner, project=replace(owner.project, hide_unreviewed=True))
    assert found(strict, "tea") == [seen]
    assert len(found(owner, "tea")) == len(found(strict, "tea", {"review_status": "*"})) == 2


def test_expired_memories_show_only_on_demand(owner, engine):
    [live] = add(owner, "green tea", expiration_date=timezone.now().date())
    [day] = add(owner, "black tea", expiration_date=timezone.now().date() - timedelta(days=1))
    [instant] = add(owner, "white tea", metadata={"expires_at": "2020-01-01T00:00:00Z"})
    assert found(owner, "tea") == [live]
    assert set(found(owner, "tea", show_expired=True)) == {live, day, instant}


PAST = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("deleted_at", PAST),
        ("review_status", "rejected"),
        ("expires_at", PAST),
        ("expiration_date", date(2020, 1, 1)),
        ("user_id", "bob"),
        ("metadata", "{}"),
        ("source", ""),
        ("project_id", None),
    ],
)
def test_a_stale_index_shows_nothing_that_sql_has_taken_away(
    owner, engine, other_project, column, value
):
    [kept] = add(owner, "green tea", metadata={"k": 1, "source": "cli"})
    [one] = add(owner, "black tea", metadata={"k": 1, "source": "cli"})
    field = Memory._meta.get_field(column)
    value = other_project.pk if value is None else value
    prepared = value if column == "metadata" else field.get_db_prep_save(value, connection)
    own_id = Memory._meta.pk.get_db_prep_save(one, connection)
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE memories_memory SET {field.column} = %s WHERE id = %s", [prepared, own_id]
        )
    filters = {"user_id": "alice", "k": 1, "source": "cli"}
    assert said(engine.index, "tea") == {kept, one}
    assert found(owner, "black tea", filters) == [kept]
    assert found(owner, "black tea", filters, threshold=0, top_k=1) == [kept]
    engine.indexer.apply([one])
    assert found(owner, "black tea", filters) == [kept]


def test_a_stale_index_shows_nothing_that_is_gone_for_good(owner, engine):
    [one] = add(owner, "green tea")
    MemoryVector.objects.all().delete()
    Memory.objects.all().delete()
    assert said(engine.index, "tea") == {one}
    assert found(owner, "tea") == []


def test_what_the_index_has_not_seen_yet_is_the_only_thing_missing(owner, engine, monkeypatch):
    [one] = add(owner, "green tea")
    with monkeypatch.context() as patch:
        patch.setattr(engine, "apply", lambda memories: None)
        [two] = add(owner, "black tea")
        services.update_memory(owner, one, text="cold coffee")
    [hit] = search_memories(owner, "tea").hits
    assert (hit.memory.id, hit.memory.text) == (one, "cold coffee")
    engine.tick()
    assert found(owner, "tea") == [two]


# --- How many, and which -------------------------------------------------------------------------
def test_top_k_is_the_most_there_will_be(owner, engine):
    ids = add(owner, *(f"tea number {n}" for n in range(250)))
    assert found(owner, "tea", top_k=0) == []
    assert len(found(owner, "tea", top_k=1)) == 1
    assert len(found(owner, "tea")) == 20
    assert len(found(owner, "tea", top_k=249)) == 249
    assert set(found(owner, "tea", top_k=100_000)) == set(ids)


def test_the_best_stay_the_best_however_many_are_asked_for(owner, engine, by_first_word):
    for n in range(30):
        add(owner, f"{'xy' if n % 3 else 'xz'} number {n}")
    most = found(owner, "xy", top_k=30)
    assert len(most) == 30
    assert found(owner, "xy", top_k=7) == most[:7]
    assert found(owner, "xy", top_k=30) == most


@pytest.mark.parametrize(
    "filters", [{"n": {"gt": 998}}, {"text": {"contains": "#999"}}, {"n": 999}], ids=repr
)
def test_the_one_match_among_a_thousand_is_found(owner, engine, by_first_word, filters):
    add(owner, *(f"xy tea #{n}" for n in range(999)), metadata={"n": 1})
    [one] = add(owner, "xz coffee #999", metadata={"n": 999})
    assert found(owner, "xy tea", filters) == [one]


def test_a_filter_too_wide_to_resolve_lets_through_only_what_matches(owner, engine, monkeypatch):
    monkeypatch.setattr(search, "RESOLVED_IDS", 10)
    ids = [add(owner, f"tea number {n}", metadata={"n": n})[0] for n in range(40)]
    assert set(found(owner, "tea", {"n": {"gte": 20}}, top_k=100)) == set(ids[20:])


def test_filters_that_hold_nothing_find_nothing(owner, engine):
    add(owner, "green tea")
    assert found(owner, "tea", {"user_id": []}) == []
    assert found(owner, "tea", {"NOT": [{}]}) == []
    assert found(owner, "tea", {"k": {"gt": 1}}) == []


@pytest.mark.parametrize(
    "options",
    [
        {"query": " \n"},
        {"query": ""},
        {"threshold": -0.1},
        {"threshold": 1.1},
        {"threshold": float("nan")},
        {"top_k": -1},
    ],
    ids=repr,
)
def test_what_cannot_be_searched_is_refused(owner, engine, options):
    with pytest.raises(InvalidInputError):
        search_memories(owner, **{"query": "tea", **options})


def test_searching_needs_the_right_to_read(owner, engine):
    with pytest.raises(PermissionDeniedError):
        search_memories(replace(owner, scopes=frozenset({Scope.WRITE})), "tea")


# --- Outages -------------------------------------------------------------------------------------
def test_while_the_embedder_fails_words_answer_and_the_answer_says_so(owner, engine, embedder):
    add(owner, "green tea")
    embedder.error = ConnectionError()
    answer = search_memories(owner, "tea")
    assert [hit.memory.text for hit in answer.hits] == ["green tea"]
    assert (answer.mode, answer.problem) == ("keyword", "unknown")
    embedder.error = None
    answer = search_memories(owner, "tea")
    assert (len(answer.hits), answer.mode, answer.problem) == (1, "semantic", "")


def test_a_failing_embedder_is_an_error_where_words_find_nothing(owner, engine, embedder):
    add(owner, "green tea")
    embedder.error = ConnectionError()
    with pytest.raises(EngineError):
        search_memories(owner, "hiking")


def test_searches_do_not_wait_for_an_embedder_that_has_just_been_away(owner, engine, embedder):
    add(owner, "green tea")
    embedder.error = ProviderError("away", code="provider_timeout")
    before = len(embedder.batches)
    for query in ("tea", "green", "any tea"):
        assert search_memories(owner, query).problem == "provider_timeout"
    assert len(embedder.batches) == before + 1


def test_an_index_that_is_down_is_an_error_and_no_empty_list(owner, engine):
    add(owner, "green tea")
    indexer, engine.indexer = engine.indexer, None
    with pytest.raises(IndexUnavailableError):
        search_memories(owner, "tea")
    engine.indexer = indexer
    indexer.index.close()
    with pytest.raises(IndexUnavailableError):
        search_memories(owner, "tea")
    runtime.install(None)
    with pytest.raises(IndexUnavailableError):
        search_memories(owner, "tea")


def test_without_an_embedder_words_answer_and_the_answer_says_so(owner, engine):
    [one], [two] = add(owner, "green tea"), add(owner, "tea with milk and sugar")
    assert search_memories(owner, "green tea").mode == "semantic"
    engine.engine = Engine(None)
    answer = search_memories(owner, "green tea")
    assert answer.mode == "keyword"
    assert [hit.memory.id for hit in answer.hits] == [one, two]
    assert search_memories(owner, "coffee").mode == "keyword"
    assert search_memories(owner, "tea", top_k=0).mode == "keyword"


# --- What it costs -------------------------------------------------------------------------------
@pytest.mark.parametrize("filters", [{}, {"n": {"gte": 0}}], ids=["pushed down", "resolved"])
def test_the_number_of_statements_does_not_grow_with_the_memories(owner, engine, filters):
    def statements() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert found(owner, "tea", filters, top_k=100)
        return len(captured)

    for n in range(10):
        add(owner, f"tea number {n}", metadata={"n": n}, entities={"run_id": "r"})
    few = statements()
    for n in range(190):
        add(owner, f"tea number {n}", metadata={"n": n}, entities={"run_id": f"r{n % 9}"})
    assert statements() == few <= 6
