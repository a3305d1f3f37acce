"""The states of a text's tokens, compressed: what late interaction compares one by one.

As stored (`pack`): a float32 scale, then n little-endian uint16 (the vocabulary ids of the n word
pieces), then n · 64 int8 (a unit vector for each piece, divided by the scale and rounded).
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

DIMS: Final = 64
_HEAD: Final = 4
_PER_PIECE: Final = 2 + DIMS


class TokenStates(NamedTuple):
    """The word pieces of one text: vocabulary ids, uint16 [n]; and their states, int8 [n, 64],
    unit vectors once multiplied by `scale`."""

    pieces: NDArray[np.uint16]
    codes: NDArray[np.int8]
    scale: float


@dataclass(frozen=True, slots=True)
class QueryTokens:
    """The word pieces of a query that say something, no stop words: ids, uint16 [q]; unit vectors,
    float32 [q, 64]; and for each the word of the query that it is of."""

    pieces: NDArray[np.uint16]
    vectors: NDArray[np.float32]
    words: tuple[str, ...]


def compress(pieces: NDArray[np.uint16], vectors: NDArray[np.float32]) -> TokenStates:
    """Unit vectors, float32 [n, 64], as int8 with one scale for all of them."""
    scale = float(np.abs(vectors).max(initial=1e-6)) / 127
    return TokenStates(pieces, np.rint(vectors / np.float32(scale)).astype(np.int8), scale)


def pack(states: TokenStates) -> bytes:
    """As the database keeps them: 4 + 66 · n bytes."""
    head: bytes = np.float32(states.scale).astype("<f4").tobytes()
    return head + states.pieces.astype("<u2").tobytes() + states.codes.tobytes()


def unpack(data: bytes | memoryview) -> TokenStates:
    """The reverse of `pack`, without copying."""
    count = (len(data) - _HEAD) // _PER_PIECE
    scale = float(np.frombuffer(data, "<f4", 1)[0])
    pieces = np.frombuffer(data, "<u2", count, _HEAD)
    codes = np.frombuffer(data, np.int8, count * DIMS, _HEAD + 2 * count)
    return TokenStates(pieces, codes.reshape(count, DIMS), scale)
