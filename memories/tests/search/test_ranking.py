"""Ranking: what each term of the formula does to the order, and which dates a query names."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest

from memories.search.dates import closeness, named_interval
from memories.search.ranking import Candidate, base_scores, rank

pytestmark = pytest.mark.one_form

NOON = datetime(2024, 3, 5, 12, tzinfo=UTC)


def key(name: int) -> str:
    return f"{name:032x}"


def candidate(name: int, cosine: float = 0.5, **fields) -> Candidate:
    fields = {"text": f"memory {name}", "created_at": NOON, **fields}
    return Candidate(id=key(name), cosine=cosine, **fields)


def turns(count: int, session: str, start: int = 1, **fields) -> list[Candidate]:
    """A conversation: each turn knows the one before and the one after."""
    found = [candidate(start + n, session=session, **fields) for n in range(count)]
    for earlier, later in pairwise(found):
        earlier.next, later.previous = later.id, earlier.id
    return found


def order(*pool: Candidate, coverage: float = 1.0, **options) -> list[int]:
    return [int(r.candidate.id, 16) for r in rank(list(pool), coverage=coverage, **options)]


# --- The terms -----------------------------------------------------------------------------------
def test_the_nearer_in_meaning_comes_first():
    assert order(candidate(1, 0.2), candidate(2, 0.9), candidate(3, 0.5)) == [2, 3, 1]


def test_shared_words_lift_a_memory():
    assert order(candidate(1, 0.5), candidate(2, 0.5, bm25=3.0)) == [2, 1]
    assert order(candidate(1, 0.5, bm25=1.0), candidate(2, 0.5, bm25=3.0)) == [2, 1]


def test_words_count_less_where_the_best_match_covers_little_of_the_query():
    pool = candidate(1, 0.6), candidate(2, 0.5, bm25=3.0)
    assert order(*pool, coverage=1.0) == [2, 1]
    assert order(*pool, coverage=0.0) == [1, 2]


def test_only_the_proportion_of_word_scores_matters():
    small = [candidate(1, 0.3, bm25=1.0), candidate(2, 0.3, bm25=0.5)]
    large = [candidate(1, 0.3, bm25=100.0), candidate(2, 0.3, bm25=50.0)]
    assert base_scores(small, 1.0) == pytest.approx(base_scores(large, 1.0))


def test_a_good_neighbour_lifts_a_turn_on_either_side():
    for side in ("previous", "next"):
        lifted = candidate(2, 0.3, session="a", **{side: key(3)})
        lonely = candidate(1, 0.3, session="b")
        lender = candidate(3, 0.9, session="c", is_candidate=False)
        assert order(lonely, lifted, lender) == [2, 1]


def test_the_better_of_two_neighbours_counts():
    a = candidate(1, 0.3, session="a", previous=key(8), next=key(9))
    b = candidate(2, 0.3, session="a", previous=key(8), next=key(8))
    bad = candidate(8, 0.1, session="b", is_candidate=False)
    good = candidate(9, 0.8, session="b", is_candidate=False)
    assert order(b, a, bad, good) == [1, 2]


def test_a_neighbour_outside_of_the_pool_lends_nothing():
    a = candidate(1, 0.3, session="a", previous=key(99))
    [ranked] = rank([a], coverage=1.0)
    assert ranked.terms["neighbour"] == 0


def test_a_good_conversation_lifts_its_turns():
    good = [candidate(n, 0.8, session="good") for n in (1, 2, 3)]
    poor = [candidate(n, 0.1, session="poor") for n in (4, 5, 6)]
    one, other = candidate(7, 0.4, session="good"), candidate(8, 0.4, session="poor")
    ranked = order(*good, *poor, one, other)
    assert ranked.index(7) < ranked.index(8)


def test_only_the_best_turns_of_a_conversation_count_for_it():
    best = [0.9, 0.9, 0.9]
    short = [candidate(10 + n, c, session="short") for n, c in enumerate([*best, 0.3])]
    long = [candidate(20 + n, c, session="long") for n, c in enumerate([*best, 0.3, *[0.0] * 9])]
    by_id = {int(r.candidate.id, 16): r for r in rank([*short, *long], coverage=1.0)}
    assert by_id[13].terms["session"] == pytest.approx(by_id[23].terms["session"])


def test_a_lone_fact_competes_on_equal_terms_with_turns():
    fact = candidate(9, 0.8)
    conversation = turns(3, "a", cosine=0.7)
    assert order(fact, *conversation)[0] == 9


def test_a_question_gives_way_to_a_statement_that_is_as_near():
    for mark in ("?", "? ", "？"):
        assert order(candidate(1, 0.5, text=f"Who{mark}"), candidate(2, 0.5)) == [2, 1]
    assert order(candidate(1, 0.5, text="Why? Because."), candidate(2, 0.4)) == [1, 2]


def test_a_memory_of_the_named_day_is_lifted():
    old = candidate(1, 0.5, created_at=datetime(2023, 1, 1, tzinfo=UTC))
    named = candidate(2, 0.5, created_at=datetime(2022, 7, 7, tzinfo=UTC))
    day = (date(2022, 7, 7), date(2022, 7, 7))
    assert order(old, named) == [1, 2]
    assert order(old, named, interval=day) == [2, 1]


# --- Ties and scores -----------------------------------------------------------------------------
def test_ties_fall_to_the_newer_and_then_to_the_id():
    later = NOON + timedelta(seconds=1)
    a, b, c = candidate(3), candidate(2, created_at=later), candidate(1)
    assert order(a, b, c) == order(c, b, a) == order(b, c, a) == [2, 1, 3]


def test_lenders_are_no_answers_and_nothing_ranks_to_nothing():
    assert order(candidate(1), candidate(2, is_candidate=False)) == [1]
    assert order() == []


def test_scores_follow_the_order_and_stay_between_0_and_1():
    pool = [
        *turns(4, "a", cosine=1.0, bm25=9.0),
        candidate(10, -1.0, text="Why?"),
        candidate(11, 0.0),
        candidate(12, 1.0, bm25=9.0),
    ]
    day = (NOON.date(), NOON.date())
    for interval in (None, day):
        scores = [r.score for r in rank(pool, coverage=1.0, interval=interval)]
        assert scores == sorted(scores, reverse=True)
        assert scores[0] == pytest.approx(1.0)
        assert scores[-1] == 0.0


def test_the_terms_add_up_to_the_order():
    pool = [*turns(3, "a", bm25=1.0), candidate(9, 0.6), candidate(10, 0.4, text="Why?")]
    ranked = rank(pool, coverage=0.5, interval=(NOON.date(), NOON.date()))
    sums = [sum(r.terms.values()) for r in ranked]
    assert sums == sorted(sums, reverse=True)
    names = {"semantic", "lexical", "neighbour", "session", "question", "date"}
    assert all(set(r.terms) == names for r in ranked)


# --- Dates ---------------------------------------------------------------------------------------
def test_closeness_is_full_inside_and_falls_with_every_day_outside():
    march = (date(2024, 3, 1), date(2024, 3, 31))
    inside = [datetime(2024, 3, 1, tzinfo=UTC), datetime(2024, 3, 31, 23, 59, tzinfo=UTC)]
    assert [closeness(moment, march) for moment in inside] == [1, 1]
    falling = [closeness(datetime(2024, 4, day, tzinfo=UTC), march) for day in range(1, 30)]
    assert falling == sorted(falling, reverse=True)
    assert len(set(falling)) == 29
    assert 0 < falling[-1] < falling[0] < 1
    before, after = datetime(2024, 2, 26, tzinfo=UTC), datetime(2024, 4, 4, tzinfo=UTC)
    assert closeness(before, march) == closeness(after, march)


def test_closeness_goes_by_the_day_in_utc():
    day = (date(2024, 3, 5), date(2024, 3, 5))
    assert closeness(datetime.fromisoformat("2024-03-06T00:30:00+01:00"), day) == 1
    assert closeness(datetime.fromisoformat("2024-03-05T00:30:00+01:00"), day) < 1


NOW = datetime(2024, 8, 15, 12, tzinfo=UTC)


def day(*ymd: int) -> tuple[date, date]:
    return date(*ymd), date(*ymd)


def span(*ends: tuple[int, int, int]) -> tuple[date, date]:
    first, last = (date(*end) for end in ends)
    return first, last


MARCH = span((2024, 3, 1), (2024, 3, 31))


@pytest.mark.parametrize(
    ("query", "interval"),
    [
        ("What did we eat on 5 March 2024?", day(2024, 3, 5)),
        ("5th of March, 2024", day(2024, 3, 5)),
        ("on March 5th, 2024 we met", day(2024, 3, 5)),
        ("MARCH 5 2024", day(2024, 3, 5)),
        ("Mar. 5, 2024", day(2024, 3, 5)),
        ("the 1st Sept 1999", day(1999, 9, 1)),
        ("since 2024-03-05?", day(2024, 3, 5)),
        ("29 February 2024", day(2024, 2, 29)),
        ("March 2024", MARCH),
        ("in march, 2024", MARCH),
        ("February 2023", span((2023, 2, 1), (2023, 2, 28))),
        ("in December 2023", span((2023, 12, 1), (2023, 12, 31))),
        ("in early March 2024", span((2024, 3, 1), (2024, 3, 10))),
        ("mid-March 2024", span((2024, 3, 10), (2024, 3, 20))),
        ("late February 2024", span((2024, 2, 20), (2024, 2, 29))),
        ("what happened in 2022?", span((2022, 1, 1), (2022, 12, 31))),
        # Without a year: the latest that is not in the future.
        ("5 March", day(2024, 3, 5)),
        ("on August 15", day(2024, 8, 15)),
        ("on 16 August", day(2023, 8, 16)),
        ("December 24th", day(2023, 12, 24)),
        ("in May", span((2024, 5, 1), (2024, 5, 31))),
        ("in August", span((2024, 8, 1), (2024, 8, 31))),
        ("during October", span((2023, 10, 1), (2023, 10, 31))),
        ("last June", span((2024, 6, 1), (2024, 6, 30))),
        ("last November", span((2023, 11, 1), (2023, 11, 30))),
        ("early March", span((2024, 3, 1), (2024, 3, 10))),
        ("29 February", day(2024, 2, 29)),
        ("in late August", span((2023, 8, 20), (2023, 8, 31))),
        # No dates.
        ("31 June", None),
        ("30 February or so", None),
        ("2024-13-05", None),
        ("2023-02-29", None),
        ("may I have tea", None),
        ("may we march on", None),
        ("she will march for a second", None),
        ("room 2024", None),
        ("2024", None),
        ("42", None),
        ("version 12.5.2024", None),
        ("the decade of jazz", None),
        ("mayor of Marchfield", None),
        ("", None),
    ],
)
def test_a_query_names_a_day_a_month_a_year_or_no_date(query, interval):
    assert named_interval(query, NOW) == interval


@pytest.mark.parametrize(
    ("query", "now", "interval"),
    [
        ("last June", (2024, 3, 1), span((2023, 6, 1), (2023, 6, 30))),
        ("in December", (2024, 1, 1), span((2023, 12, 1), (2023, 12, 31))),
        ("1 January", (2024, 1, 1), day(2024, 1, 1)),
        ("2 January", (2024, 1, 1), day(2023, 1, 2)),
        ("29 February", (2023, 6, 1), day(2020, 2, 29)),
        ("29 February", (2024, 1, 10), day(2020, 2, 29)),
        ("late March", (2024, 3, 5), span((2023, 3, 20), (2023, 3, 31))),
        ("early March", (2024, 3, 5), span((2024, 3, 1), (2024, 3, 10))),
    ],
)
def test_a_date_without_a_year_is_the_latest_that_has_been(query, now, interval):
    assert named_interval(query, datetime(*now, tzinfo=UTC)) == interval


def test_today_is_the_day_in_utc():
    night = datetime.fromisoformat("2024-03-06T00:30:00+02:00")
    assert named_interval("6 March", night) == day(2023, 3, 6)
