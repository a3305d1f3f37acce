"""Late interaction: what a memory's own words, the turns around it and missing states bring."""

from itertools import pairwise

import numpy as np
import pytest

from memories.readings import DIMS, QueryTokens, TokenStates, pack_states, unpack_all, unpack_states
from memories.search.late_interaction import late_scores, select_for_comparison
from memories.search.ranking import Candidate, base_scores, rank
from memories.tests.search.test_ranking import NOON, candidate, key

pytestmark = pytest.mark.one_form

WORDS = ["tea", "morning", "piano", "river", "dog", "garden"]


def vector(word: str) -> np.ndarray:
    """One word, one direction of its own, and one that all have in common."""
    found = np.zeros(DIMS, np.float32)
    place = 8 * WORDS.index(word)
    found[place : place + 8] = 0.25
    found[48:] = 0.5**0.5 / 4
    return found


def states(*words: str) -> TokenStates:
    pieces = np.array([WORDS.index(word) for word in words], np.uint16)
    return TokenStates(pieces, np.array([vector(word) for word in words]))


def asked(*words: str) -> QueryTokens:
    return QueryTokens(*states(*words), words)


def of(name: int, *words: str, **fields) -> Candidate:
    return candidate(name, tokens=pack_states(states(*words)), **fields)


def conversation(*said: tuple[str, ...], session: str = "a", start: int = 1) -> list[Candidate]:
    """Turns that know the one before and the one after."""
    turns = [of(start + n, *words, session=session) for n, words in enumerate(said)]
    for earlier, later in pairwise(turns):
        earlier.next, later.previous = later.id, earlier.id
    return turns


def late(query: QueryTokens, *pool: Candidate) -> dict[int, float]:
    found = late_scores(query, pool, base_scores(pool, 1.0))
    assert found is not None
    return {int(id_, 16): score for id_, score in found.items()}


# --- Keeping them --------------------------------------------------------------------------------
def test_what_is_packed_comes_back_nearly_as_it_was():
    vectors = np.random.default_rng(1).standard_normal((40, DIMS)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pieces = np.arange(40, dtype=np.uint16) * 700
    data = pack_states(TokenStates(pieces, vectors))
    assert len(data) == 40 * 66
    back = unpack_states(data)
    assert back.pieces.tolist() == pieces.tolist()
    assert (back.vectors * vectors).sum(axis=1).min() > 0.995


def test_many_are_unpacked_as_each_is():
    kept = [
        pack_states(states("tea", "dog")),
        pack_states(states("river")),
        pack_states(states("piano", "tea", "dog")),
    ]
    pieces, vectors, starts = unpack_all(kept)
    assert starts.tolist() == [0, 2, 3]
    assert pieces.tolist() == [0, 4, 3, 2, 0, 4]
    assert np.array_equal(vectors[2:3], unpack_states(kept[1]).vectors)


# --- The term ------------------------------------------------------------------------------------
def test_who_holds_more_of_the_querys_words_scores_more():
    pool = [of(1, "tea", "morning"), of(2, "tea", "dog"), of(3, "dog", "river")]
    pool += [of(n, "garden") for n in (4, 5)]
    found = late(asked("tea", "morning"), *pool)
    assert found[1] > found[2] > found[3]
    assert found[1] == pytest.approx(1.0, abs=0.01)


def test_a_rare_word_counts_more_than_one_that_many_hold():
    pool = [of(1, "piano"), of(2, "tea")] + [of(n, "tea", "dog") for n in range(3, 9)]
    found = late(asked("piano", "tea"), *pool)
    assert found[1] > found[2]


def test_the_turns_around_lend_their_words_less_the_further_away_they_are():
    pool = conversation(("tea",), ("dog",), ("garden",), ("river",), ("piano",))
    found = late(asked("tea"), *pool)
    assert found[1] > found[2] > found[3] > found[4]
    assert found[4] == found[5]


def test_a_turn_around_that_is_not_in_the_pool_lends_nothing():
    pool = [of(n, "dog") for n in range(2, 7)]
    cut_off = of(1, "dog", session="a", previous=key(98), next=key(99))
    found = late(asked("tea"), cut_off, *pool)
    assert found[1] == pytest.approx(found[2], abs=0.001)


def test_a_lone_fact_loses_nothing_to_conversations_that_repeat_the_word():
    turns = conversation(*[("tea",), ("garden",), ("tea",), ("river",)] * 3)
    found = late(asked("tea"), of(50, "tea"), *turns)
    assert found[50] >= max(score for name, score in found.items() if name != 50)


# --- Without states ------------------------------------------------------------------------------
def test_a_memory_without_states_gets_what_others_of_its_score_have():
    with_states = [
        of(n, *words, cosine=cosine)
        for n, (words, cosine) in enumerate(
            [(("tea", "morning"), 0.9), (("tea",), 0.7), (("morning",), 0.6), (("dog",), 0.2)] * 3,
            start=1,
        )
    ]
    good, poor = candidate(90, 0.85), candidate(91, 0.25)
    found = late(asked("tea", "morning"), *with_states, good, poor)
    assert found[90] > found[91]
    assert found[4] <= found[91] <= found[2]
    assert found[2] <= found[90] <= found[1]


def test_without_states_the_order_among_themselves_is_that_of_the_first_step():
    pool = [of(n, "tea", cosine=n / 20) for n in range(1, 10)]
    bare = [candidate(50 + n, n / 10) for n in range(10)]
    members = [*pool, *bare]
    first = base_scores(members, 1.0)
    found = late_scores(asked("tea"), members, first)
    ranked = [int(r.candidate.id, 16) for r in rank(members, coverage=1.0, late=found)]
    assert [name for name in ranked if name >= 50] == [59 - n for n in range(10)]


def test_neither_those_with_nor_those_without_states_are_ahead_of_the_others():
    """The same memories twice, with and without: half of the best half are of each."""
    rng = np.random.default_rng(3)
    with_states = [of(n, WORDS[n % 6], cosine=float(rng.uniform(0.2, 0.9))) for n in range(1, 41)]
    bare = [candidate(100 + n, c.cosine) for n, c in enumerate(with_states)]
    members = [*with_states, *bare]
    found = late_scores(asked("tea", "dog"), members, base_scores(members, 1.0))
    best = rank(members, coverage=1.0, late=found)[:40]
    assert 12 <= sum(bool(r.candidate.tokens) for r in best) <= 28


def test_where_hardly_any_has_states_the_first_step_decides_alone():
    bare = [candidate(n, n / 50) for n in range(1, 40)]
    assert late_scores(asked("tea"), [of(99, "tea"), *bare], base_scores(bare, 1.0)) is None


@pytest.mark.parametrize(("held", "bare"), [(4, 0), (9, 41)])
def test_too_few_with_states_say_nothing_of_the_others_and_one_more_does(held: int, bare: int):
    """Five, and a fifth of them."""
    with_states = [of(n, WORDS[n % 6]) for n in range(held)]
    without = [candidate(100 + n) for n in range(bare)]
    pool = [*with_states, *without]
    assert late_scores(asked("tea"), pool, base_scores(pool, 1.0)) is None
    pool = [*with_states, of(99, "tea"), *without[1:]]
    assert late_scores(asked("tea"), pool, base_scores(pool, 1.0)) is not None


def test_of_a_huge_pool_the_best_are_compared(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("memories.search.late_interaction.MOST", 50)
    pool = [of(n, WORDS[n % 6], cosine=n / 400) for n in range(400)]
    first = base_scores(pool, 1.0)
    compared = select_for_comparison(pool, first)
    assert sorted(int(c.id, 16) for c in compared) == list(range(350, 400))
    for one in pool[:350]:
        one.tokens = b""
    found = late_scores(asked("tea"), pool, first)
    assert found is not None and len(found) == 400


def test_portions_make_no_difference(monkeypatch: pytest.MonkeyPatch):
    pool = [of(n, WORDS[n % 6], WORDS[n % 5], cosine=n / 40) for n in range(30)]
    first = base_scores(pool, 1.0)
    at_once = late_scores(asked("tea", "dog"), pool, first)
    monkeypatch.setattr("memories.search.late_interaction.AT_ONCE", 7)
    assert late_scores(asked("tea", "dog"), pool, first) == pytest.approx(at_once)


def test_of_a_page_of_text_the_first_pieces_are_asked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("memories.search.late_interaction.MOST_PIECES", 1)
    pool = [of(n, WORDS[n % 6]) for n in range(12)]
    first = base_scores(pool, 1.0)
    long = late_scores(asked("tea", "dog", "river"), pool, first)
    assert long == pytest.approx(late_scores(asked("tea"), pool, first))


def test_the_term_is_told_where_it_counted_and_only_there():
    pool = [of(n, WORDS[n % 6]) for n in range(1, 8)]
    found = late_scores(asked("tea"), pool, base_scores(pool, 1.0))
    assert all(r.terms["late"] > 0 for r in rank(pool, coverage=1.0, late=found))
    assert all("late" not in r.terms for r in rank(pool, coverage=1.0))


def test_a_score_stays_between_0_and_1():
    pool = [of(n, "tea", "morning", cosine=1.0, bm25=5.0) for n in range(1, 8)]
    found = late_scores(asked("tea", "morning"), pool, base_scores(pool, 1.0))
    scores = [r.score for r in rank(pool, coverage=1.0, late=found)]
    assert max(scores) == pytest.approx(1.0, abs=0.01)
    assert min(scores) >= 0


def test_the_newer_of_two_equals_comes_first():
    older, newer = of(1, "tea"), of(2, "tea", created_at=NOON.replace(year=2025))
    rest = [of(n, "dog") for n in range(3, 8)]
    found = late_scores(asked("tea"), [older, newer, *rest], base_scores([older], 1.0))
    ranked = rank([older, newer, *rest], coverage=1.0, late=found)
    assert [r.candidate.id for r in ranked[:2]] == [newer.id, older.id]
