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
    """A memory with its score (0..1) and the terms of the score. `rerank_score` (0..1) is the score
    with recency, by which the answer is ordered; None when recency was not asked for."""

    memory: Memory
    score: float
    terms: dict[str, float]
    rerank_score: float | None = None


@dataclass(frozen=True, slots=True)
class Recency:
    """How much the age of a memory counts, from 0 (not at all) to 1 (nothing else counts)."""

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
class _Options:
    """What the caller asked of a search, besides the query itself."""

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
    # What the models read from the text, and the keys of those models, by which the stored vectors
    # and token states of memories are found.
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
    the query's content words. `recency` reorders everything that passes, before the best are cut.
    While the embedder does not answer, the search is by words alone and labelled so. The memories
    count as retrieved by an agent unless `counts` is false, as for pages (memories.retrievals).
    Raises InvalidInputError, PermissionDeniedError (scope `read`), and EngineError when index or
    database fail, or the embedder while words find nothing: never an empty answer for an outage.
    """
    principal.require(Scope.READ)
    _check(query, top_k, threshold)
    if top_k == 0:
        return SearchAnswer([], _mode(runtime.get_runtime().engine.embedder))
    options = _Options(top_k, threshold, show_expired, recency)
    current = runtime.get_runtime()
    try:
        answer = _searched(current, principal, query, where, options)
    except IndexUnavailableError as error:
        if not current.has_words_alone:
            raise
        answer = _by_words(principal, query, where, options, error)
    if counts:
        retrievals.note(hit.memory for hit in answer.hits)
    return answer


def _searched(
    current: runtime.Runtime, principal: Principal, query: str, where: Node, options: _Options
) -> SearchAnswer:
    engine, index = current.pair()
    try:
        return _search(engine, index, principal, query, where, options)
    except IndexUnavailableError:
        engine, swapped = current.pair()
        if swapped is index:
            raise
        # Rebuilt meanwhile, perhaps for another model.
        return _search(engine, swapped, principal, query, where, options)


def _by_words(
    principal: Principal,
    query: str,
    where: Node,
    options: _Options,
    problem: IndexUnavailableError,
) -> SearchAnswer:
    """What the database's own index of words finds while the search index is unavailable. Raises
    `problem` when that is nothing, because the outage may be the reason."""
    with _turns:
        prepared = _prepare(principal, query, where, options)
        index = WordsInSql(prepared.rows)
        words = _by_key(index.search_text(prepared.text, limit=prepared.pool))
        ranked = _ranked(index, prepared, ({}, words), options.threshold)
        hits = _hydrate(prepared.reader, _cut(prepared.reader, ranked, options))
    if not hits:
        raise problem
    return SearchAnswer(hits, "keyword", problem.code)


def _search(
    engine: Engine,
    index: VectorIndex,
    principal: Principal,
    query: str,
    where: Node,
    options: _Options,
) -> SearchAnswer:
    vector, tokens, problem = None, None, None
    try:
        vector, tokens = engine.read_query(query)
    except ProviderError as error:
        # Search by words instead; if that finds nothing, the error is the answer.
        problem = error
    with ExitStack() as turn:
        if not index.is_remote:
            turn.enter_context(_turns)
        prepared = _prepare(principal, query, where, options)
        prepared = replace(
            prepared,
            vector=vector,
            tokens=tokens,
            model_key=engine.model_key,
            states_key=engine.states_key,
        )
        scores = _named(index, prepared)
        if index.is_remote:
            # Not earlier: a search that waits for a server must not keep others from ranking.
            turn.enter_context(_turns)
        ranked = _ranked(index, prepared, scores, options.threshold)
        hits = _hydrate(prepared.reader, _cut(prepared.reader, ranked, options))
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


def _prepare(principal: Principal, query: str, where: Node, options: _Options) -> _Query:
    """Everything except what the models read from the query."""
    rows = visibility.filter_visible(principal, where, show_expired=options.show_expired)
    requested = AllOf(
        (
            Comparison("project", "in", (str(principal.project.id),)),
            _of_status(visibility.statuses_for_agents(principal, where)),
            visibility.limit_of(principal),
            where,
        )
    )
    pushed, exact = pushdown(requested)
    ids: list[UUID] | None = None
    if not exact:
        # What the index cannot filter, SQL resolves to ids; a filter that lets more through than
        # that is so wide that a larger pool holds enough of what matches.
        ids = list(rows.values_list("id", flat=True)[: RESOLVED_IDS + 1])
        ids = None if len(ids) > RESOLVED_IDS else ids
    pool = max(POOL, 2 * options.top_k) * (1 if exact or ids is not None else 20)
    now = timezone.now()
    cutoff = None if options.show_expired else now.timestamp()
    interval = named_interval(query, now)
    reader = CandidateReader(rows)
    return _Query(query, rows, reader, pushed, ids, cutoff, pool, interval)


def _of_status(statuses: Sequence[str]) -> Node:
    """Matches these statuses with as few values as possible: the index checks each value."""
    hidden = tuple(status for status in ReviewStatus.values if status not in statuses)
    if len(hidden) < len(statuses):
        return Not(Comparison("review_status", "in", hidden))
    return Comparison("review_status", "in", tuple(statuses))


def _named(index: VectorIndex, query: _Query) -> tuple[dict[Key, float], dict[Key, float]]:
    """The cosines of the nearest by meaning, and the BM25 scores of the best by words."""
    dense, lexical = index.search_both(
        query.vector,
        query.text,
        limit=query.pool,
        where=query.where,
        now=query.now,
        ids=query.ids,
    )
    return _by_key(dense), _by_key(lexical)


def _ranked(
    index: VectorIndex | WordsInSql,
    query: _Query,
    scores_by_source: tuple[dict[Key, float], dict[Key, float]],
    threshold: float,
) -> list[Ranked]:
    """Candidates by meaning, by words and by date, with their neighbours, gated and ranked."""
    pool = _pool(query, *scores_by_source)
    members = list(pool.values())
    candidates = [c for c in members if c.is_candidate]
    coverage = _coverage(index, query.text, candidates)
    scores, late = base_scores(members, coverage), None
    if query.tokens is not None:
        compared = {c.id: c.text for c in select_for_comparison(members, scores)}
        for id_, states in query.reader.tokens(compared, query.states_key).items():
            pool[id_].tokens = states
        late = late_scores(query.tokens, members, scores)
        scores = base_scores(members, coverage, late)
    passing = _passing(index, query, candidates, threshold)
    passing |= _admit_neighbours(pool, passing, scores)
    ranked = rank(members, coverage=coverage, interval=query.interval, late=late)
    return [r for r in ranked if r.candidate.id in passing]


def _pool(
    query: _Query, dense: dict[Key, float], lexical: dict[Key, float]
) -> dict[Key, Candidate]:
    """The nearest by meaning, the best by words, and what is of the day or month that the query
    names, all re-checked in SQL; and, as lenders of their scores, the turns around them."""
    pool = query.reader.candidates(dense.keys() | lexical.keys() | _dated(query))
    for id_, bm25 in lexical.items():
        if id_ in pool:
            pool[id_].bm25 = bm25
    around = {i for c in pool.values() for i in (c.previous, c.next) if i is not None}
    pool |= query.reader.lenders(around - pool.keys())
    if query.vector is not None and (unnamed := pool.keys() - dense.keys()):
        # Candidates outside the nearest by meaning need a cosine too.
        dense |= query.reader.cosines(unnamed, query.vector, query.model_key)
    for id_, candidate in pool.items():
        candidate.cosine = dense.get(id_, 0.0)
    return pool


def _by_key(hits: Hits) -> dict[Key, float]:
    return {id_.hex: score for id_, score in hits}


def _dated(query: _Query) -> set[Key]:
    """Memories of the time that the query names, unless that is too long to tell them apart."""
    if query.interval is None or (query.interval[1] - query.interval[0]).days > DATED_DAYS:
        return set()
    start, end = (datetime.combine(day, time.min, tzinfo=UTC) for day in query.interval)
    rows = query.rows.filter(created_at__gte=start, created_at__lt=end + timedelta(days=1))
    ids = rows.order_by("created_at").values_list("id", flat=True)[:POOL]
    return {id_.hex for id_ in ids}


def _coverage(
    index: VectorIndex | WordsInSql, query: str, candidates: Iterable[Candidate]
) -> float:
    """The share (0..1) of the query's content words that the best matches by words hold."""
    query_words = index.words(query)
    best = sorted((c for c in candidates if c.bm25 > 0), key=lambda c: -c.bm25)[:COVERAGE_OF]
    if not query_words or not best:
        return 0.0
    return max(len(query_words & index.words(c.text)) for c in best) / len(query_words)


def _passing(
    index: VectorIndex | WordsInSql,
    query: _Query,
    candidates: Iterable[Candidate],
    threshold: float,
) -> set[Key]:
    """The candidates that pass: by cosine, by containing half of the query's content words, or by
    their date when the query names one."""
    words = index.words(query.text)

    def passes(candidate: Candidate) -> bool:
        if query.vector is None:
            return candidate.bm25 > 0
        if candidate.cosine >= threshold:
            return True
        if query.interval and closeness(candidate.created_at, query.interval) == 1.0:
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
    reader: CandidateReader, ranked: list[Ranked], options: _Options
) -> list[tuple[Ranked, float | None]]:
    """The best candidates, each with its score after recency, if recency was asked for."""
    recency = options.recency
    if recency is None or recency.weight <= 0 or len(ranked) < 2:
        return [(r, None) for r in ranked[: options.top_k]]
    changed = reader.updated_at([r.candidate.id for r in ranked])
    again = with_recency(
        ranked,
        changed,
        timezone.now(),
        weight=recency.weight,
        half_life_days=recency.half_life_days,
    )
    return list(again[: options.top_k])


def _hydrate(
    reader: CandidateReader, ranked: Sequence[tuple[Ranked, float | None]]
) -> list[SearchHit]:
    """The rows of the answer, read once more through the caller's predicate."""
    memories = reader.memories([UUID(hex=r.candidate.id) for r, _ in ranked])
    by_key = {id_.hex: memory for id_, memory in memories.items()}
    return [
        SearchHit(by_key[r.candidate.id], r.score, r.terms, rerank)
        for r, rerank in ranked
        if r.candidate.id in by_key
    ]
