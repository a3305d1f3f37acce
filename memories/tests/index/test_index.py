"""What every vector index has to do, whatever it is made of."""

import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from core.errors import IndexUnavailableError
from memories.filters import EVERYTHING, AllOf, AnyOf, Comparison, Not
from memories.index.base import Point, VectorIndex
from memories.index.edge import EdgeIndex
from memories.index.payload import EXPIRES

pytestmark = pytest.mark.one_form

A, B, C, D = (uuid.UUID(int=number) for number in range(1, 5))
OpenIndex = Callable[..., VectorIndex]


@pytest.fixture
def open_edge(tmp_path: Path) -> OpenIndex:
    return lambda name, dims: EdgeIndex(tmp_path / name, dims)


@pytest.fixture
def open_qdrant(request) -> OpenIndex:
    """The names are generations; what is there is opened again, as by another process."""
    names: list[str] = []

    def open_it(name: str, dims: int) -> VectorIndex:
        made = request.getfixturevalue("collections")
        if name in names:
            return made.open(names.index(name), dims)
        names.append(name)
        return made.create(names.index(name), dims)

    return open_it


@pytest.fixture(params=["edge", "qdrant"])
def open_index(request):
    """`open_index(name, dims)` opens or makes an index; all are closed at the end."""
    opened = []
    open_one = request.getfixturevalue(f"open_{request.param}")

    def open_index(name: str = "index", dims: int = 4) -> VectorIndex:
        opened.append(open_one(name, dims))
        return opened[-1]

    yield open_index
    for index in opened:
        with suppress(IndexUnavailableError):  # a test may have closed it
            index.close()


@pytest.fixture
def index(open_index: OpenIndex) -> VectorIndex:
    return open_index()


def vector(*values: float) -> np.ndarray:
    array = np.array([*values, *[0.0] * (4 - len(values))], np.float32)
    return array / np.linalg.norm(array)


def point(id_: uuid.UUID, text: str = "a text", at=None, rev: int = 1, **fields) -> Point:
    return Point(id_, rev, text, vector(1) if at is None else at, fields)


def ids(hits) -> list[uuid.UUID]:
    return [id_ for id_, _ in hits]


def near(index: VectorIndex, at=None, **options) -> list[uuid.UUID]:
    options = {"limit": 10, "where": EVERYTHING, **options}
    return ids(index.search(vector(1) if at is None else at, **options))


def said(index: VectorIndex, query: str, **options) -> list[uuid.UUID]:
    return ids(index.search_text(query, **{"limit": 10, "where": EVERYTHING, **options}))


# --- Writing -------------------------------------------------------------------------------------
def test_a_point_is_found_by_meaning_and_by_words_as_soon_as_it_is_there(index):
    index.upsert([point(A, "green tea")])
    assert near(index) == [A]
    assert said(index, "tea") == [A]
    assert index.count() == 1
    assert list(index.scan_ids()) == [(A, 1)]


def test_a_point_that_is_there_is_replaced_as_a_whole(index):
    index.upsert([point(A, "green tea", user_id="alice")])
    index.upsert([point(A, "black coffee", vector(0, 1), rev=2, user_id="bob")])
    assert (index.count(), list(index.scan_ids())) == (1, [(A, 2)])
    assert said(index, "tea") == []
    assert said(index, "coffee") == [A]
    [(_, score)] = index.search(vector(0, 1), limit=10, where=EVERYTHING)
    assert score == pytest.approx(1)
    assert near(index, where=Comparison("user_id", "in", ("alice",))) == []
    assert near(index, where=Comparison("user_id", "in", ("bob",))) == [A]


def test_a_replacement_without_a_vector_takes_the_old_vector_away(index):
    index.upsert([point(A, "green tea")])
    index.upsert([Point(A, 2, "green tea", None, {})])
    assert near(index) == []
    assert said(index, "tea") == [A]


def test_deleting_removes_and_unknown_ids_are_no_error(index):
    index.upsert([point(A), point(B)])
    index.delete([A, C])
    index.delete([A])
    index.delete([])
    assert near(index) == [B]
    assert index.count() == 1


def test_writing_nothing_changes_nothing(index):
    index.upsert([])
    assert index.count() == 0
    assert list(index.scan_ids()) == []


def test_points_are_scanned_in_the_order_of_their_ids_and_their_revisions_can_be_asked(index):
    made = [point(uuid.uuid4(), rev=number) for number in range(1, 21)]
    index.upsert(made)
    assert list(index.scan_ids()) == sorted((p.id, p.rev) for p in made)
    asked = [made[3].id, made[7].id, uuid.uuid4()]
    assert index.revisions(asked) == {made[3].id: 4, made[7].id: 8}
    assert index.revisions([]) == {}


# --- Finding -------------------------------------------------------------------------------------
def test_the_nearest_come_first_with_their_cosine(index):
    index.upsert([point(A, at=vector(1)), point(B, at=vector(1, 1)), point(C, at=vector(-1))])
    hits = index.search(vector(1), limit=10, where=EVERYTHING)
    assert ids(hits) == [A, B, C]
    assert [score for _, score in hits] == pytest.approx([1, 0.7071, -1], abs=1e-3)
    assert ids(index.search(vector(1), limit=2, where=EVERYTHING)) == [A, B]


def test_a_search_among_many_is_exact(open_index):
    index = open_index("many")
    rng = np.random.default_rng(7)
    vectors = rng.normal(size=(1500, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    known = [uuid.uuid4() for _ in vectors]
    index.upsert([point(i, at=v) for i, v in zip(known, vectors, strict=True)])
    best = np.argsort(-(vectors @ vectors[3]))[:25]
    assert near(index, vectors[3], limit=25) == [known[i] for i in best]
    assert len(list(index.scan_ids())) == index.count() == 1500


def test_the_rarer_word_and_the_fuller_match_weigh_more(index):
    index.upsert(
        [
            point(A, "the tea is green"),
            point(B, "the tea is from Darjeeling"),
            point(C, "coffee"),
            point(D, "tea tea and more tea"),
        ]
    )
    hits = index.search_text("Darjeeling tea", limit=10, where=EVERYTHING)
    assert ids(hits)[0] == B
    assert set(ids(hits)) == {A, B, D}
    scores = [score for _, score in hits]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] > 0
    assert len(said(index, "tea", limit=2)) == 2


def test_words_are_stemmed_and_stop_words_do_not_count(index):
    index.upsert([point(A, "She likes running in the mountains")])
    assert said(index, "MOUNTAIN run") == [A]
    assert said(index, "in the she") == []
    assert said(index, "") == []
    assert index.words("the mountains") == index.words("Mountain") != index.words("sea")
    assert index.words("the in of") == index.words("") == frozenset()


def test_a_point_without_a_vector_is_found_by_its_words_only(index):
    index.upsert([Point(A, 1, "green tea", None, {})])
    assert near(index) == []
    assert said(index, "tea") == [A]


def test_an_index_of_words_only_keeps_no_vectors(open_index):
    index = open_index("words", dims=0)
    index.upsert([Point(A, 1, "green tea", None, {"user_id": "a"}), point(B, "tea", user_id="b")])
    assert set(said(index, "tea")) == {A, B}
    assert said(index, "tea", where=Comparison("user_id", "in", ("a",))) == [A]
    assert index.count() == 2
    with pytest.raises(IndexUnavailableError):
        near(index)


# --- Filtering -----------------------------------------------------------------------------------
def among(name, *values):
    return Comparison(name, "in", values)


FILTERS = {
    "everything": (EVERYTHING, {A, B, C}),
    "one of": (among("user_id", "alice", "x"), {A}),
    "one of none": (among("user_id"), set()),
    "not one of none": (Not(among("user_id")), {A, B, C}),
    "a missing field is none of them": (Not(among("user_id", "alice")), {B, C}),
    "words": (among("meta", "k=1"), {A, B}),
    "any word": (among("meta", 'k="x"', 'l="y"'), {A, C}),
    "no part of a word": (among("meta", "k="), set()),
    "letter case": (among("user_id", "ALICE"), set()),
    "all": (AllOf((among("meta", "k=1"), among("source", "s"))), {B}),
    "any": (AnyOf((among("user_id", "alice"), among("source", "s"))), {A, B}),
    "never": (AnyOf(()), set()),
    "always": (Not(AnyOf(())), {A, B, C}),
    "not everything": (Not(EVERYTHING), set()),
    "nested": (
        AllOf(
            (
                Not(AnyOf((among("user_id", "alice"), among("source", "t")))),
                Not(AllOf((among("meta", "k=1"), Not(among("source", "s"))))),
            )
        ),
        {B, C},
    ),
    "twice not": (Not(Not(among("user_id", "alice"))), {A}),
}


def test_filters_hold_for_meaning_and_for_words(index):
    index.upsert(
        [
            point(A, user_id="alice", meta=["k=1", 'l="y"']),
            point(B, source="s", meta=["k=1"]),
            point(C, meta=['k="x"']),
        ]
    )
    for name, (where, expected) in FILTERS.items():
        assert set(near(index, where=where)) == expected, name
        assert set(said(index, "text", where=where)) == expected, name


def test_what_expired_is_hidden_from_its_second_on(index):
    index.upsert([point(A, **{EXPIRES: 1_000_000.5}), point(B)])
    for search in (near, lambda index, **options: said(index, "text", **options)):
        assert set(search(index, now=None)) == {A, B}
        assert set(search(index, now=1_000_000.4)) == {A, B}
        assert search(index, now=1_000_000.5) == [B]
        assert search(index, now=2e9) == [B]
        assert search(index, now=2e9, where=Comparison("user_id", "in", ("x",))) == []


def test_ids_narrow_and_no_ids_leave_nothing(index):
    index.upsert([point(A, user_id="a"), point(B, user_id="a"), point(C)])
    where = Comparison("user_id", "in", ("a",))
    for search in (near, lambda index, **options: said(index, "text", **options)):
        assert set(search(index, ids=[A, C, D])) == {A, C}
        assert search(index, ids=[A, C], where=where) == [A]
        assert search(index, ids=[]) == []
        assert search(index, ids=[D]) == []


# --- Keeping -------------------------------------------------------------------------------------
def test_everything_is_there_again_after_flush_and_reopening(open_index):
    index = open_index()
    index.upsert([point(A, "green tea", rev=3, user_id="a"), point(B, "coffee", vector(0, 1))])
    index.upsert([Point(C, 1, "only words", None, {})])
    index.delete([B])
    index.flush()
    index.close()
    again = open_index()
    assert sorted(again.scan_ids()) == [(A, 3), (C, 1)]
    assert near(again) == [A]
    assert said(again, "tea", where=Comparison("user_id", "in", ("a",))) == [A]
    assert said(again, "words") == [C]


def test_closing_flushes(open_index):
    index = open_index()
    index.upsert([point(A)])
    index.close()
    assert near(open_index()) == [A]


def test_a_second_opening_of_the_same_folder_is_refused(open_edge):
    index = open_edge("index", 4)
    index.upsert([point(A)])
    with pytest.raises(IndexUnavailableError, match="another"):
        open_edge("index", 4)
    assert near(index) == [A]
    index.close()


def test_a_closed_index_is_an_error_and_not_an_empty_one(index):
    index.upsert([point(A)])
    index.close()
    for call in (
        lambda: near(index),
        lambda: said(index, "text"),
        lambda: index.upsert([point(B)]),
        lambda: index.delete([A]),
        lambda: index.count(),
        lambda: list(index.scan_ids()),
        lambda: index.revisions([A]),
        lambda: index.flush(),
    ):
        with pytest.raises(IndexUnavailableError):
            call()


def test_a_folder_that_holds_no_index_is_an_error(open_edge, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "edge_config.json").write_text("{")
    with pytest.raises(IndexUnavailableError):
        open_edge("broken", 4)


@pytest.mark.parametrize("dims", [3, 5])
def test_vectors_of_another_length_are_an_error_and_no_wrong_answer(index, dims):
    index.upsert([point(A)])
    odd = np.ones(dims, np.float32) / np.sqrt(np.float32(dims))
    with pytest.raises(IndexUnavailableError):
        index.upsert([point(B, at=odd)])
    with pytest.raises(IndexUnavailableError):
        near(index, odd)
    assert near(index) == [A]
    assert index.count() == 1


def test_an_index_opened_for_other_dimensions_answers_no_query_of_theirs(open_index):
    index = open_index()
    index.upsert([point(A)])
    index.close()
    with pytest.raises(IndexUnavailableError):
        other = open_index(dims=7)
        other.search(np.ones(7, np.float32), limit=3, where=EVERYTHING)
