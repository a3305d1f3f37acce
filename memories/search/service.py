"""Finds memories: candidates by meaning and by words, ranked with the conversation around."""

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from typing import Final, Literal
from uuid import UUID

from django.db.models import QuerySet
from django.utils import timezone

from core import limits
from core.errors import IndexUnavailableError, InvalidInputError, ProviderError
from core.principal import Principal, Scope
from memories import retrievals, runtime, visibility
from memories.engine.engine import Engine
from memories.filters import EVERYTHING, AllOf, Comparison, Node, Not, pushdown
from memories.index.base import Hits, VectorIndex
from memories.models import Memory, ReviewStatus
from memories.readings import QueryTokens, Vector
from memories.search.candidates import CandidateReader
from memories.search.dates import Interval, closeness, named_interval
from memories.search.late_interaction import late_scores, select_for_comparison
from memories.search.ranking import Candidate, Key, Ranked, base_scores, rank, with_recency
from memories.search.words_in_sql import WordsInSql

POOL: Final = 100
# A filter that the index cannot answer is resolved in SQL up to this many memories.
RESOLVED_IDS: Final = 10_000
NEIGHBOURS_OF_BEST: Final = 20
COVERAGE_OF: Final = 3
DATED_DAYS: Final = 31
# Ranking is bound by the interpreter: more of it at once only makes the threads fight for its lock
# (four at once: 11.7 ms of CPU each and 100 a second; two: 8.8 ms and 127).
SEARCHES_AT_ONCE: Final = 2

_turns = threading.BoundedSemaphore(SEARCHES_AT_ONCE)


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A found memory, its score (0..1) and the terms that made it; and, where recency counted, the
    score (0..1) by which it stands where it does."""

    memory: Memory
    score: float
    terms: dict[str, float]
    rerank_score: float | None = None


@dataclass(frozen=True, slots=True)
class Recency:
    """How much it counts that a memory was made or changed lately: 0 (not at all) to 1 (alone)."""

    weight: float
    half_life_days: float = 30.0


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """An answer, best first. `mode` says what answered: meaning and words, or words alone;
    `problem` is the code of what kept the embedder from answering."""

    hits: list[SearchHit]
    mode: Literal["semantic", "keyword"]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a search is to give."""

    top_k: int
    threshold: float
    show_expired: bool
    recency: Recency | None


@dataclass(frozen=True, slots=True)
class _Query:
    """One search as the steps below need it."""

    text: str
    rows: QuerySet[Memory]
    reader: CandidateReader
    where: Node
    ids: Collection[UUID] | None
    now: float | None
    pool: int
    interval: Interval | None
    # What the models make of it; and which ones, for what is kept of the memories.
    vector: Vector | None = None
    tokens: QueryTokens | None = None
    model_key: str = ""
    states_key: str = ""


def search_memories(
    principal: Principal,
    query: str,
    *,
    where: Node = EVERYTHING,
    top_k: int = 20,
    threshold: float = 0.1,
    show_expired: bool = False,
    recency: Recency | None = None,
    counts: bool = True,
) -> SearchAnswer:
    """The `top_k` best memories for `query` among those that match and that the caller may see.

    `threshold` (0..1) gates the cosine; a memory without it passes when it holds at least half of
    the query's content words. `recency` orders anew all that passes, before the best are taken.
    While the embedder does not answer, words alone do, labelled so. What is found counts as given
    to an agent, unless `counts` says that a person looks at it (memories.retrievals).
    Raises InvalidInputError, PermissionDeniedError (scope `read`), and EngineError when index or
    database fail, or the embedder while words find nothing: never an empty answer for an outage.
    """
    principal.require(Scope.READ)
    _check(query, top_k, threshold)
    if top_k == 0:
        return SearchAnswer([], _mode(runtime.get_runtime().engine.embedder))
    wanted = _Wanted(top_k, threshold, show_expired, recency)
    current = runtime.get_runtime()
    try:
        found = _searched(current, principal, query, where, wanted)
    except IndexUnavailableError as error:
        if not current.has_words_alone:
            raise
        found = _by_words(principal, query, where, wanted, error)
    if counts:
        retrievals.note(hit.memory for hit in found.hits)
    return found


def _searched(
    current: runtime.Runtime, principal: Principal, query: str, where: Node, wanted: _Wanted
) -> SearchAnswer:
    engine, index = current.pair()
    try:
        return _search(engine, index, principal, query, where, wanted)
    except IndexUnavailableError:
        engine, swapped = current.pair()
        if swapped is index:
            raise
        # Rebuilt meanwhile, perhaps for another model.
        return _search(engine, swapped, principal, query, where, wanted)


def _by_words(
    principal: Principal,
    query: str,
    where: Node,
    wanted: _Wanted,
    problem: IndexUnavailableError,
) -> SearchAnswer:
    """What the database's own index of words finds, while there is no other; `problem` rises where
    it finds nothing, for that may be the outage's doing."""
    with _turns:
        asked = _prepare(principal, query, where, wanted)
        index = WordsInSql(asked.rows)
        words = _by_key(index.search_text(asked.text, limit=asked.pool))
        ranked = _ranked(index, asked, ({}, words), wanted.threshold)
        hits = _hydrate(asked.reader, _cut(asked.reader, ranked, wanted))
    if not hits:
        raise problem
    return SearchAnswer(hits, "keyword", problem.code)


def _search(
    engine: Engine,
    index: VectorIndex,
    principal: Principal,
    query: str,
    where: Node,
    wanted: _Wanted,
) -> SearchAnswer:
    vector, tokens, problem = None, None, None
    try:
        vector, tokens = engine.read_query(query)
    except ProviderError as error:
        # By words meanwhile, and said so; but what finds nothing then is no answer.
        problem = error
    with ExitStack() as turn:
        if not index.is_remote:
            turn.enter_context(_turns)
        asked = _prepare(principal, query, where, wanted)
        asked = replace(
            asked,
            vector=vector,
            tokens=tokens,
            model_key=engine.model_key,
            states_key=engine.states_key,
        )
        named = _named(index, asked)
        if index.is_remote:
            # Not before: who waits for a server must not keep others from ranking.
            turn.enter_context(_turns)
        ranked = _ranked(index, asked, named, wanted.threshold)
        hits = _hydrate(asked.reader, _cut(asked.reader, ranked, wanted))
    if problem is not None and not hits:
        raise problem
    return SearchAnswer(hits, _mode(vector), problem.code if problem else "")


def _mode(answering: object) -> Literal["semantic", "keyword"]:
    return "keyword" if answering is None else "semantic"


def _check(query: str, top_k: int, threshold: float) -> None:
    limits.check_query(query)
    if not query.strip():
        raise InvalidInputError("Invalid query: cannot be empty or whitespace-only.")
    if not 0 <= threshold <= 1:
        raise InvalidInputError(
            f"Invalid threshold: {threshold}. Must be between 0 and 1 (inclusive)."
        )
    if top_k < 0:
        raise InvalidInputError(f"Invalid top_k: {top_k}. Must be a non-negative integer.")


def _prepare(principal: Principal, query: str, where: Node, wanted: _Wanted) -> _Query:
    """All but what the models make of the query."""
    rows = visibility.filter_visible(principal, where, show_expired=wanted.show_expired)
    asked = AllOf(
        (
            Comparison("project", "in", (str(principal.project.id),)),
            _of_status(visibility.statuses_for_agents(principal, where)),
            visibility.limit_of(principal),
            where,
        )
    )
    pushed, exact = pushdown(asked)
    ids: list[UUID] | None = None
    if not exact:
        # What the index cannot filter, SQL resolves to ids; a filter that lets more through than
        # that is so wide that a larger pool holds enough of what matches.
        ids = list(rows.values_list("id", flat=True)[: RESOLVED_IDS + 1])
        ids = None if len(ids) > RESOLVED_IDS else ids
    pool = max(POOL, 2 * wanted.top_k) * (1 if exact or ids is not None else 20)
    now = timezone.now()
    cutoff = None if wanted.show_expired else now.timestamp()
    interval = named_interval(query, now)
    reader = CandidateReader(rows)
    return _Query(query, rows, reader, pushed, ids, cutoff, pool, interval)


def _of_status(shown: Sequence[str]) -> Node:
    """One of these, in as few values as can say it: the index looks at each."""
    hidden = tuple(status for status in ReviewStatus.values if status not in shown)
    if len(hidden) < len(shown):
        return Not(Comparison("review_status", "in", hidden))
    return Comparison("review_status", "in", tuple(shown))


def _named(index: VectorIndex, asked: _Query) -> tuple[dict[Key, float], dict[Key, float]]:
    """The cosines of the nearest by meaning, and the BM25 scores of the best by words."""
    dense, lexical = index.search_both(
        asked.vector,
        asked.text,
        limit=asked.pool,
        where=asked.where,
        now=asked.now,
        ids=asked.ids,
    )
    return _by_key(dense), _by_key(lexical)


def _ranked(
    index: VectorIndex | WordsInSql,
    asked: _Query,
    named: tuple[dict[Key, float], dict[Key, float]],
    threshold: float,
) -> list[Ranked]:
    """Candidates by meaning, by words and by date, with their neighbours, gated and ranked."""
    pool = _pool(asked, *named)
    members = list(pool.values())
    candidates = [c for c in members if c.is_candidate]
    coverage = _coverage(index, asked.text, candidates)
    scores, late = base_scores(members, coverage), None
    if asked.tokens is not None:
        compared = {c.id: c.text for c in select_for_comparison(members, scores)}
        for id_, states in asked.reader.tokens(compared, asked.states_key).items():
            pool[id_].tokens = states
        late = late_scores(asked.tokens, members, scores)
        scores = base_scores(members, coverage, late)
    passing = _passing(index, asked, candidates, threshold)
    passing |= _admit_neighbours(pool, passing, scores)
    ranked = rank(members, coverage=coverage, interval=asked.interval, late=late)
    return [r for r in ranked if r.candidate.id in passing]


def _pool(
    asked: _Query, dense: dict[Key, float], lexical: dict[Key, float]
) -> dict[Key, Candidate]:
    """The nearest by meaning, the best by words, and what is of the day or month that the query
    names, all re-checked in SQL; and, as lenders of their scores, the turns around them."""
    pool = asked.reader.candidates(dense.keys() | lexical.keys() | _dated(asked))
    for id_, bm25 in lexical.items():
        if id_ in pool:
            pool[id_].bm25 = bm25
    around = {i for c in pool.values() for i in (c.previous, c.next) if i is not None}
    pool |= asked.reader.lenders(around - pool.keys())
    if asked.vector is not None and (unnamed := pool.keys() - dense.keys()):
        # Whom the search by meaning did not name has a cosine all the same.
        dense |= asked.reader.cosines(unnamed, asked.vector, asked.model_key)
    for id_, candidate in pool.items():
        candidate.cosine = dense.get(id_, 0.0)
    return pool


def _by_key(hits: Hits) -> dict[Key, float]:
    return {id_.hex: score for id_, score in hits}


def _dated(asked: _Query) -> set[Key]:
    """Memories of the time that the query names, unless that is too long to tell them apart."""
    if asked.interval is None or (asked.interval[1] - asked.interval[0]).days > DATED_DAYS:
        return set()
    start, end = (datetime.combine(day, time.min, tzinfo=UTC) for day in asked.interval)
    rows = asked.rows.filter(created_at__gte=start, created_at__lt=end + timedelta(days=1))
    found = rows.order_by("created_at").values_list("id", flat=True)[:POOL]
    return {id_.hex for id_ in found}


def _coverage(
    index: VectorIndex | WordsInSql, query: str, candidates: Iterable[Candidate]
) -> float:
    """The share (0..1) of the query's content words that the best matches by words hold."""
    asked = index.words(query)
    best = sorted((c for c in candidates if c.bm25 > 0), key=lambda c: -c.bm25)[:COVERAGE_OF]
    if not asked or not best:
        return 0.0
    return max(len(asked & index.words(c.text)) for c in best) / len(asked)


def _passing(
    index: VectorIndex | WordsInSql,
    asked: _Query,
    candidates: Iterable[Candidate],
    threshold: float,
) -> set[Key]:
    """Who passes the threshold: by cosine, by holding half of the query's content words, or by
    being of the day that the query names."""
    words = index.words(asked.text)

    def passes(candidate: Candidate) -> bool:
        if asked.vector is None:
            return candidate.bm25 > 0
        if candidate.cosine >= threshold:
            return True
        if asked.interval and closeness(candidate.created_at, asked.interval) == 1.0:
            return True
        if candidate.bm25 <= 0:
            return False
        return 2 * len(words & index.words(candidate.text)) >= len(words)

    return {candidate.id for candidate in candidates if passes(candidate)}


def _admit_neighbours(
    pool: dict[Key, Candidate], passing: set[Key], scores: Mapping[Key, float]
) -> set[Key]:
    """The turns around the best answers are answers too, though their own words need not match:
    a follow-up is understood from what was said before. Only what the filter lets through."""
    best = sorted((pool[i] for i in passing), key=lambda c: -scores[c.id])[:NEIGHBOURS_OF_BEST]
    near = {i for c in best for i in (c.previous, c.next) if i is not None and i in pool}
    admitted = {id_ for id_ in near if pool[id_].may_answer}
    for id_ in admitted:
        pool[id_].is_candidate = True
    return admitted


def _cut(
    reader: CandidateReader, ranked: list[Ranked], wanted: _Wanted
) -> list[tuple[Ranked, float | None]]:
    """The best of all, each with the score that recency had a part in."""
    recency = wanted.recency
    if recency is None or recency.weight <= 0 or len(ranked) < 2:
        return [(r, None) for r in ranked[: wanted.top_k]]
    changed = reader.updated_at([r.candidate.id for r in ranked])
    again = with_recency(
        ranked,
        changed,
        timezone.now(),
        weight=recency.weight,
        half_life_days=recency.half_life_days,
    )
    return list(again[: wanted.top_k])


def _hydrate(
    reader: CandidateReader, ranked: Sequence[tuple[Ranked, float | None]]
) -> list[SearchHit]:
    """The rows of the answer, read once more through the caller's predicate."""
    found = reader.memories([UUID(hex=r.candidate.id) for r, _ in ranked])
    by_key = {id_.hex: memory for id_, memory in found.items()}
    return [
        SearchHit(by_key[r.candidate.id], r.score, r.terms, rerank)
        for r, rerank in ranked
        if r.candidate.id in by_key
    ]
