"""The embedded index with many points: the coarse first look, and filters that are checked late."""

import uuid
from pathlib import Path

import numpy as np
import pytest

from memories.filters import EVERYTHING, AllOf, Comparison, Not
from memories.index import edge
from memories.index.base import Point
from memories.index.edge import EdgeIndex

pytestmark = pytest.mark.one_form

COUNT = 2000
DIMS = 96
ASKED = 20

MOST = AllOf((Comparison("user_id", "in", ("a",)), Not(Comparison("source", "in", ("cli",)))))
FEW = Comparison("user_id", "in", ("b",))


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    made = np.random.default_rng(5).standard_normal((COUNT, DIMS)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def index(vectors: np.ndarray, tmp_path_factory: pytest.TempPathFactory):
    """Nine of ten are user a's, every seventh is from the CLI, and every fifth has expired."""
    made = EdgeIndex(tmp_path_factory.mktemp("many"), DIMS)
    made.upsert(
        [
            Point(
                uuid.UUID(int=n),
                1,
                f"text {n}",
                vectors[n],
                {
                    "user_id": "b" if n % 10 == 0 else "a",
                    "source": "cli" if n % 7 == 0 else "web",
                    **({"expires": 100.0} if n % 5 == 0 else {}),
                },
            )
            for n in range(COUNT)
        ]
    )
    yield made
    made.close()


@pytest.fixture
def many(index: EdgeIndex, monkeypatch: pytest.MonkeyPatch) -> EdgeIndex:
    """The same, for which 2,000 points are many."""
    monkeypatch.setattr(edge, "_MANY", 1000)
    return index


def truly(vectors: np.ndarray, query: np.ndarray, allowed) -> list[uuid.UUID]:
    order = np.argsort(-(vectors @ query))
    return [uuid.UUID(int=int(n)) for n in order if allowed(int(n))][:ASKED]


def of_user_a(n: int) -> bool:
    return n % 10 != 0 and n % 7 != 0


def test_the_nearest_are_found_with_their_true_cosines(index: EdgeIndex, vectors: np.ndarray):
    missed = 0
    for query in vectors[:50]:
        hits = index.search(query, limit=ASKED, where=EVERYTHING)
        missed += len(set(truly(vectors, query, lambda n: True)) - {id_ for id_, _ in hits})
        for id_, score in hits:
            assert score == pytest.approx(float(vectors[id_.int] @ query), abs=1e-4)
    assert missed <= 0.02 * 50 * ASKED


def test_a_filter_checked_late_lets_the_same_through(
    many: EdgeIndex, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    late = []
    checked_late = many._wide
    monkeypatch.setattr(many, "_wide", lambda *args: late.append(checked_late(*args)) or late[-1])
    missed = 0
    for query in vectors[:50]:
        hits = many.search(query, limit=ASKED, where=MOST)
        assert len(hits) == ASKED
        assert all(of_user_a(id_.int) for id_, _ in hits)
        missed += len(set(truly(vectors, query, of_user_a)) - {id_ for id_, _ in hits})
    assert missed <= 0.02 * 50 * ASKED
    assert sum(found is not None for found in late) > 40


def test_what_has_expired_is_hidden_from_it_as_well(many: EdgeIndex, vectors: np.ndarray):
    hits = many.search(vectors[3], limit=ASKED, where=MOST, now=200.0)
    assert len(hits) == ASKED
    assert not [id_ for id_, _ in hits if id_.int % 5 == 0]


def test_a_narrow_filter_finds_as_many_as_a_wide_one(many: EdgeIndex, vectors: np.ndarray):
    assert many._wide(None, ASKED, FEW, None) is None  # nothing is asked for it
    for query in vectors[:5]:
        hits = many.search(query, limit=ASKED, where=FEW)
        assert len(hits) == ASKED
        assert all(id_.int % 10 == 0 for id_, _ in hits)


def test_more_than_there_are_gives_all_there_are(many: EdgeIndex, vectors: np.ndarray):
    assert len(many.search(vectors[0], limit=COUNT * 2, where=EVERYTHING)) == COUNT
    assert len(many.search(vectors[0], limit=COUNT * 2, where=FEW)) == COUNT // 10


def test_what_is_written_and_deleted_later_counts_at_once(many: EdgeIndex, vectors: np.ndarray):
    id_ = uuid.UUID(int=COUNT + 1)
    query = np.zeros(DIMS, np.float32)
    query[0] = 1
    many.upsert([Point(id_, 1, "new", query, {"user_id": "a", "source": "web"})])
    assert many.search(query, limit=1, where=MOST)[0][0] == id_
    many.delete([id_])
    assert many.search(query, limit=1, where=MOST)[0][0] != id_


def test_an_index_that_is_opened_again_finds_the_same(tmp_path: Path, vectors: np.ndarray):
    made = EdgeIndex(tmp_path / "again", DIMS)
    made.upsert([Point(uuid.UUID(int=n), 1, "x", vectors[n], {}) for n in range(300)])
    before = [made.search(query, limit=5, where=EVERYTHING) for query in vectors[:10]]
    made.close()
    again = EdgeIndex(tmp_path / "again", DIMS)
    assert [again.search(query, limit=5, where=EVERYTHING) for query in vectors[:10]] == before
    again.close()


def test_many_points_without_vectors_are_an_empty_answer(tmp_path: Path, many: EdgeIndex):
    """As after a start by words alone, until the first vectors are made."""
    made = EdgeIndex(tmp_path / "words", DIMS)
    made.upsert([Point(uuid.UUID(int=n), 1, "x", None, {"user_id": "a"}) for n in range(1100)])
    assert made.search(np.ones(DIMS, np.float32), limit=5, where=MOST) == []
    assert len(made.search_text("x", limit=5, where=MOST)) == 5
    made.close()
