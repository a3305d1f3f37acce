"""Late interaction: the word pieces of a query against those of each memory and the turns around.

After ColBERT's MaxSim (Khattab and Zaharia 2020). For every piece of the query that says something,
weighted by how rare it is in the pool, the best cosine among the pieces of the memory itself, of
the turns next to it · 0.8 and of those after the next · 0.6; `late` is the weighted mean of that.
docs/finding.md has the figures.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from memories.ranking import Candidate, Key
from memories.token_states import QueryTokens, unpack_all

NEXT: Final = 0.8
AFTER_NEXT: Final = 0.6
# Of a pool in which fewer memories than this, or than this share, have token states, nothing can be
# said about the others.
ENOUGH: Final = 5
ENOUGH_OF: Final = 0.2
# A piece that all memories of the pool hold counts this much, and not nothing.
LEAST_WEIGHT: Final = 0.01

Scores = NDArray[np.float32]


def late_scores(
    query: QueryTokens, pool: Sequence[Candidate], first_step: Mapping[Key, float]
) -> dict[Key, float] | None:
    """`late` (about 0..1) of every member of the pool; None when too few have token states.

    `first_step` is what they scored without it: by that, a memory without token states gets what
    memories of its score have on average, so that it neither gains nor loses. A memory outside of
    any conversation gets what the turns around bring to the others, on average.
    """
    held = [c for c in pool if c.tokens]
    if len(held) < max(ENOUGH, ENOUGH_OF * len(pool)):
        return None
    best, weights = _best(query, held)
    own = best @ weights
    around = _with_turns_around(best, held) @ weights
    in_session = np.array([bool(c.session) for c in held])
    if in_session.any():
        around[~in_session] += float((around - own)[in_session].mean())
    found = {c.id: float(score) for c, score in zip(held, around, strict=True)}
    if len(held) < len(pool):
        found |= _expected(pool, found, first_step)
    return found


def _best(query: QueryTokens, held: Sequence[Candidate]) -> tuple[Scores, Scores]:
    """The best cosine of each memory for each piece of the query, [m, q]; and the pieces' weights,
    which add up to one, [q]: log((m + 1) / (n + 0.5)) where n of the m memories hold the piece."""
    pieces, vectors, starts = unpack_all([c.tokens for c in held])
    best = np.maximum.reduceat(vectors @ query.vectors.T, starts, axis=0)
    holds = np.logical_or.reduceat(pieces[:, None] == query.pieces, starts, axis=0)
    rare = np.log((len(held) + 1) / (holds.sum(axis=0) + 0.5))
    weights = np.maximum(rare, LEAST_WEIGHT).astype(np.float32)
    return best, weights / weights.sum()


def _with_turns_around(best: Scores, held: Sequence[Candidate]) -> Scores:
    """The same with what the turns around it bring to each memory, where they are in the pool."""
    nowhere = len(held)
    places: dict[Key | None, int] = {c.id: place for place, c in enumerate(held)}
    before = np.array([*(places.get(c.previous, nowhere) for c in held), nowhere], np.intp)
    after = np.array([*(places.get(c.next, nowhere) for c in held), nowhere], np.intp)
    padded = np.vstack([best, np.full((1, best.shape[1]), -1.0, np.float32)])
    near = np.maximum(padded[before], padded[after])
    far = np.maximum(padded[before[before]], padded[after[after]])
    around: Scores = np.maximum(best, np.maximum(NEXT * near, AFTER_NEXT * far)[:-1])
    return around


def _expected(
    pool: Sequence[Candidate], found: Mapping[Key, float], first_step: Mapping[Key, float]
) -> dict[Key, float]:
    """What those without token states would have: by the line through the others' scores."""
    x = np.array([first_step[id_] for id_ in found])
    y = np.array(list(found.values()))
    spread = float(x.var())
    slope = float(((x - x.mean()) * (y - y.mean())).mean()) / spread if spread > 1e-9 else 0.0
    low, high, middle = float(y.min()), float(y.max()), float(y.mean() - slope * x.mean())
    return {
        c.id: min(max(middle + slope * first_step[c.id], low), high)
        for c in pool
        if c.id not in found
    }
