"""Late interaction: the word pieces of a query against those of each memory and the turns around.

After ColBERT's MaxSim (Khattab and Zaharia 2020). For every piece of the query that says something,
weighted by how rare it is in the pool, the best cosine among the pieces of the memory itself, of
the turns next to it · 0.8 and of those after the next · 0.6; `late` is the weighted mean of that.
docs/finding.md has the figures.
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from memories.readings import QueryTokens, piece_count, unpack_all
from memories.search.ranking import Candidate, Key

NEXT: Final = 0.8
AFTER_NEXT: Final = 0.6
# Only the best of the pool by the first step and the first pieces of the query are compared: a pool
# may have a hundred thousand members, and a query may be a page of text.
MOST: Final = 1000
MOST_PIECES: Final = 64
# Where fewer memories than this, or than this share of them, have token states, nothing can be said
# about the others.
ENOUGH: Final = 5
ENOUGH_OF: Final = 0.2
# So many pieces are unpacked at a time, 1 MB: every thread keeps the room it once needed.
AT_ONCE: Final = 4096

Scores = NDArray[np.float32]


def select_for_comparison(
    pool: Sequence[Candidate], first_step: Mapping[Key, float]
) -> Sequence[Candidate]:
    """The candidates whose token states `late_scores` needs."""
    if len(pool) <= MOST:
        return pool
    return heapq.nlargest(MOST, pool, key=lambda candidate: first_step[candidate.id])


def late_scores(
    query: QueryTokens, pool: Sequence[Candidate], first_step: Mapping[Key, float]
) -> dict[Key, float] | None:
    """`late` (about 0..1) of every member of the pool; None when too few have token states.

    `first_step` is what they scored without it: by that, a memory without token states gets what
    memories of its score have on average, so that it neither gains nor loses. A memory outside of
    any conversation gets what the turns around bring to the others, on average.
    """
    compared = [c for c in pool if c.tokens]
    if len(compared) < max(ENOUGH, ENOUGH_OF * min(len(pool), MOST)):
        return None
    best, weights = _best(query, compared)
    own = best @ weights
    around = _with_turns_around(best, compared) @ weights
    in_session = np.array([bool(c.session) for c in compared])
    if in_session.any():
        around[~in_session] += float((around - own)[in_session].mean())
    scores = {c.id: float(score) for c, score in zip(compared, around, strict=True)}
    if len(compared) < len(pool):
        scores |= _expected(pool, scores, first_step)
    return scores


def _best(query: QueryTokens, compared: Sequence[Candidate]) -> tuple[Scores, Scores]:
    """The best cosine of each memory for each piece of the query, [m, q]; and the pieces' weights,
    which add up to one, [q]: log((m + 1) / (n + 0.5)) where n of the m memories hold the piece."""
    query_pieces, towards = query.pieces[:MOST_PIECES], query.vectors[:MOST_PIECES].T
    best = np.empty((len(compared), len(query_pieces)), np.float32)
    holders = np.zeros(len(query_pieces), np.intp)
    for place, some in _portions(compared):
        pieces, vectors, starts = unpack_all([c.tokens for c in some])
        near = np.maximum.reduceat(vectors @ towards, starts, axis=0)
        best[place : place + len(some)] = near
        holders += np.logical_or.reduceat(pieces[:, None] == query_pieces, starts, axis=0).sum(
            axis=0
        )
    weights = np.log((len(compared) + 1) / (holders + 0.5)).astype(np.float32)
    return best, weights / weights.sum()


def _portions(compared: Sequence[Candidate]) -> Iterator[tuple[int, Sequence[Candidate]]]:
    """The memories in portions of so many pieces, or a little more, each with its place."""
    first = pieces = 0
    for place, candidate in enumerate(compared):
        pieces += piece_count(candidate.tokens)
        if pieces >= AT_ONCE:
            yield first, compared[first : place + 1]
            first, pieces = place + 1, 0
    if first < len(compared):
        yield first, compared[first:]


def _with_turns_around(best: Scores, compared: Sequence[Candidate]) -> Scores:
    """The same with what the turns around it bring to each memory, where they are in the pool."""
    nowhere = len(compared)
    places: dict[Key | None, int] = {c.id: place for place, c in enumerate(compared)}
    before = np.array([*(places.get(c.previous, nowhere) for c in compared), nowhere], np.intp)
    after = np.array([*(places.get(c.next, nowhere) for c in compared), nowhere], np.intp)
    padded = np.vstack([best, np.full((1, best.shape[1]), -1.0, np.float32)])
    near = np.maximum(padded[before], padded[after])
    far = np.maximum(padded[before[before]], padded[after[after]])
    around: Scores = np.maximum(best, np.maximum(NEXT * near, AFTER_NEXT * far)[:-1])
    return around


def _expected(
    pool: Sequence[Candidate], scores: Mapping[Key, float], first_step: Mapping[Key, float]
) -> dict[Key, float]:
    """Estimated scores of candidates without token states, from a line through the other scores."""
    x = np.array([first_step[id_] for id_ in scores])
    y = np.array(list(scores.values()))
    spread = float(x.var())
    slope = float(((x - x.mean()) * (y - y.mean())).mean()) / spread if spread > 1e-9 else 0.0
    low, high, middle = float(y.min()), float(y.max()), float(y.mean() - slope * x.mean())
    return {
        c.id: min(max(middle + slope * first_step[c.id], low), high)
        for c in pool
        if c.id not in scores
    }
