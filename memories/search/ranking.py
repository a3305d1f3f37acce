"""Ranks candidates by meaning, words, word pieces, conversation and date (docs/finding.md has the
figures)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from memories.search.dates import Interval, closeness

LEXICAL: Final = 0.4
SESSION: Final = 0.7
SESSION_BEST: Final = 3


# The 32 hexadecimal digits of a memory's id: a UUID takes five times as long to make and compare.
Key = str


@dataclass(frozen=True, slots=True)
class Weights:
    """What the terms of the formula weigh beside the cosine's one."""

    late: float
    neighbour: float
    question: float
    date: float


FIRST_STEP: Final = Weights(late=0.0, neighbour=0.4, question=0.15, date=0.6)
# Late interaction looks at the turns around by itself, and spreads the scores.
WITH_LATE: Final = Weights(late=1.5, neighbour=0.2, question=0.2, date=1.0)


@dataclass(slots=True)
class Candidate:
    """A memory in the pool. `cosine` is −1..1, `bm25` > 0 or 0 where no word is shared; `tokens`
    are its packed token states, empty where there are none.

    `is_candidate` False marks a neighbour that lends its score but is no answer itself.
    """

    id: Key
    text: str
    created_at: datetime
    session: str = ""
    cosine: float = 0.0
    bm25: float = 0.0
    previous: Key | None = None
    next: Key | None = None
    tokens: bytes = b""
    is_candidate: bool = True
    # Whether the caller's filter lets it through.
    may_answer: bool = True


TERMS: Final = ("semantic", "lexical", "neighbour", "session", "question", "date", "late")


@dataclass(frozen=True, slots=True)
class Ranked:
    """A candidate with its score (0..1, comparable within one answer) and the values of TERMS, the
    last of which is missing where late interaction had no part."""

    candidate: Candidate
    total: float
    score: float
    values: tuple[float, ...]

    @property
    def terms(self) -> dict[str, float]:
        return dict(zip(TERMS, self.values, strict=False))


def lexical_weight(pool: Sequence[Candidate], coverage: float) -> float:
    """What one point of BM25 adds: 0.4 · √coverage / max(bm25).

    `coverage` is the share of the query's content words that the best match by words holds: where
    even the best holds few of them, words say little, and meaning decides.
    """
    most = max((c.bm25 for c in pool), default=0.0)
    return LEXICAL * coverage**0.5 / most if most > 0 else 0.0


def base_scores(
    pool: Sequence[Candidate], coverage: float, late: Mapping[Key, float] | None = None
) -> dict[Key, float]:
    """s0 = cos + lexical weight · bm25 + 1.5 · late, for each member of the pool."""
    weight = lexical_weight(pool, coverage)
    if late is None:
        return {c.id: c.cosine + weight * c.bm25 for c in pool}
    return {c.id: c.cosine + weight * c.bm25 + WITH_LATE.late * late[c.id] for c in pool}


def rank(
    pool: Sequence[Candidate],
    *,
    coverage: float,
    interval: Interval | None = None,
    late: Mapping[Key, float] | None = None,
) -> list[Ranked]:
    """The candidates of the pool, best first; ties fall to the newer, then to the id.

    score = s0 + neighbour · best neighbour's s0 + 0.7 · mean of the session's three best s0
            − question · [ends in "?"] + date · closeness to the `interval` that the query names,
    by the weights WITH_LATE where there is a `late` of each, else FIRST_STEP; divided by the sum of
    the weights that can apply, and cut to 0..1. A memory outside of any conversation stands in for
    its own session, so that it competes on equal terms.
    """
    by = FIRST_STEP if late is None else WITH_LATE
    s0 = base_scores(pool, coverage, late)
    sessions = _session_means(pool, s0)
    weight = lexical_weight(pool, coverage)
    weights = (1.0 + LEXICAL * coverage**0.5 + by.late) * (1.0 + by.neighbour + SESSION)
    weights += by.date if interval else 0.0
    ranked = []
    for c in pool:
        if not c.is_candidate:
            continue
        near = [s0[i] for i in (c.previous, c.next) if i is not None and i in s0]
        own = s0[c.id]
        values: tuple[float, ...] = (
            c.cosine,
            weight * c.bm25,
            by.neighbour * (max(near) if near else 0.0 if c.session else own),
            SESSION * (sessions[c.session] if c.session else own),
            -by.question if c.text.rstrip().endswith(("?", "？")) else 0.0,
            by.date * closeness(c.created_at, interval) if interval else 0.0,
        )
        if late is not None:
            values = (*values, by.late * late[c.id])
        total = sum(values)
        ranked.append(Ranked(c, total, min(max(total / weights, 0.0), 1.0), values))
    # The last sort counts first: each keeps the order of what it finds equal.
    ranked.sort(key=lambda r: r.candidate.id)
    ranked.sort(key=lambda r: r.candidate.created_at, reverse=True)
    ranked.sort(key=lambda r: r.total, reverse=True)
    return ranked


def with_recency(
    ranked: Sequence[Ranked],
    updated_at: Mapping[Key, datetime],
    now: datetime,
    *,
    weight: float,
    half_life_days: float,
) -> list[tuple[Ranked, float]]:
    """All candidates, ordered by relevance and recency, each with the combined score.

    (1 − weight) · score, stretched to 0..1 over all of them, + weight · 0.5^(age / half-life).
    """
    if not ranked:
        return []
    scores = [r.total for r in ranked]
    low, high = min(scores), max(scores)
    scored = []
    for r in ranked:
        near = (r.total - low) / (high - low) if high > low else 1.0
        changed = updated_at.get(r.candidate.id, r.candidate.created_at)
        days = max((now - changed).total_seconds() / 86_400, 0.0)
        scored.append((r, (1 - weight) * near + weight * 0.5 ** (days / half_life_days)))
    return sorted(scored, key=lambda one: -one[1])


def _session_means(pool: Sequence[Candidate], s0: Mapping[Key, float]) -> dict[str, float]:
    scores: dict[str, list[float]] = {}
    for c in pool:
        if c.session:
            scores.setdefault(c.session, []).append(s0[c.id])
    return {
        session: sum(sorted(values, reverse=True)[:SESSION_BEST]) / min(len(values), SESSION_BEST)
        for session, values in scores.items()
    }
