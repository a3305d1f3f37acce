"""A deterministic embedder that costs next to nothing: a bag of words, hashed to 384 dimensions."""

import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from memories.records import Vector

DIMS = 384
# Each word touches this many dimensions, so that texts are near when they share words.
TOUCHED = 6


@lru_cache(maxsize=100_000)
def _places(word: str) -> tuple[list[int], list[float]]:
    hashes = [zlib.crc32(f"{word}/{turn}".encode()) for turn in range(TOUCHED)]
    return [h % DIMS for h in hashes], [1.0 if h & 0x10000 else -1.0 for h in hashes]


class StubEmbedder:
    """memories.engine.embedders.Embedder without a model."""

    model_key = "stub-bag-of-words"
    dims = DIMS

    def embed(self, texts: Sequence[str]) -> Vector:
        rows = np.zeros((len(texts), DIMS), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.lower().split():
                places, signs = _places(word)
                row[places] += signs
        return rows


def load() -> StubEmbedder:
    """What settings.EMBEDDER_LOADER names."""
    return StubEmbedder()
