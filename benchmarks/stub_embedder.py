"""A deterministic embedder that costs next to nothing: a bag of words, hashed to 384 dimensions.

Its token states are as many as the local model's would be for English, a piece or two a word, and
cost a search what those cost.
"""

import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from memories.readings import DIMS as STATE_DIMS
from memories.readings import QueryTokens, Reading, TokenStates, Vector

DIMS = 384
# Each word touches this many dimensions, so that texts are near when they share words.
TOUCHED = 6


@lru_cache(maxsize=100_000)
def _places(word: str) -> tuple[list[int], list[float]]:
    hashes = [zlib.crc32(f"{word}/{turn}".encode()) for turn in range(TOUCHED)]
    return [h % DIMS for h in hashes], [1.0 if h & 0x10000 else -1.0 for h in hashes]


@lru_cache(maxsize=100_000)
def _pieces(word: str) -> tuple[list[int], Vector]:
    """Every third word has two pieces."""
    seed = zlib.crc32(word.encode())
    count = 2 if seed % 3 == 0 else 1
    vectors = np.random.default_rng(seed).standard_normal((count, STATE_DIMS)).astype(np.float32)
    ids = [(seed + turn) % 30_522 for turn in range(count)]
    return ids, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class StubEmbedder:
    """memories.engine.token_reader.TokenReader without a model."""

    model_key = "stub-bag-of-words"
    states_key = "stub-bag-of-words/states"
    dims = DIMS

    def embed(self, texts: Sequence[str]) -> Vector:
        rows = np.zeros((len(texts), DIMS), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.lower().split():
                places, signs = _places(word)
                row[places] += signs
        return rows

    def read(self, texts: Sequence[str]) -> list[Reading]:
        return [
            Reading(vector, self._states(text))
            for vector, text in zip(self.embed(texts), texts, strict=True)
        ]

    def read_query(self, query: str) -> tuple[Vector, QueryTokens | None]:
        words = query.lower().split()
        found = [(_pieces(word), word) for word in words]
        pieces = np.array([i for (ids, _), _ in found for i in ids], np.uint16)
        vectors = np.concatenate([vectors for (_, vectors), _ in found])
        said = tuple(word for (ids, _), word in found for _ in ids)
        return self.embed([query])[0], QueryTokens(pieces, vectors, said)

    def words(self, text: str) -> list[tuple[int, int]]:
        """None of it is ever shown."""
        return []

    def _states(self, text: str) -> TokenStates:
        found = [_pieces(word) for word in text.lower().split()]
        ids = np.array([i for ids, _ in found for i in ids], np.uint16)
        return TokenStates(ids, np.concatenate([vectors for _, vectors in found]))


def load() -> StubEmbedder:
    """What settings.EMBEDDER_LOADER names."""
    return StubEmbedder()
