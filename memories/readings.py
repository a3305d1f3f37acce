"""Values that the models make of a text: its unit vector, and the token states that late
interaction compares one by one.

States as stored (`pack_states`): for each word piece 66 bytes, its id in the vocabulary as
little-endian uint16 and then its state, a unit vector of 64 dimensions, as int8 in steps of 1/254.
Numbers outside −0.5..0.5, rare in a unit vector of 64 dimensions, are clipped. The ids are in the
order of the text, which can be read from them, so they are as private as the text itself.
"""

import zlib
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.errors import ProviderError

BAD_REPLY: Final = "provider_bad_reply"
DIMS: Final = 64
_STEPS: Final = 254
_RECORD: Final = 2 + DIMS

Vector = np.ndarray[Any, np.dtype[np.float32]]
Pieces = NDArray[np.uint16]
States = NDArray[np.float32]


class TokenStates(NamedTuple):
    """The word pieces of one text: vocabulary ids, uint16 [n]; and a unit vector, or nearly, for
    each, float32 [n, 64]."""

    pieces: Pieces
    vectors: States


class Reading(NamedTuple):
    """A text's unit vector and token states; None for those without a model, or to be made
    later."""

    vector: Vector | None
    tokens: TokenStates | None = None


class QueryTokens(NamedTuple):
    """The word pieces of a query without stop words: ids, uint16 [q]; unit vectors, float32 [q,
    64]; and the query's word that each piece belongs to."""

    pieces: Pieces
    vectors: States
    words: tuple[str, ...]


def normalise_vector(vector: Sequence[float] | Vector, dims: int) -> Vector:
    """`vector` as unit float32; ProviderError when its length is wrong or it is not finite."""
    array = np.asarray(vector, dtype=np.float32)
    if array.shape != (dims,):
        raise ProviderError(
            f"The embedder answered with {array.size} dimensions where {dims} are stored.",
            code=BAD_REPLY,
        )
    norm = float(np.linalg.norm(array))
    if not np.isfinite(norm):
        raise ProviderError(
            "The embedder answered with a vector that is not finite.", code=BAD_REPLY
        )
    return array if norm == 0 else array / np.float32(norm)


def text_sum(text: str) -> int:
    """CRC-32 of a memory's text, which tells whether states belong to it. It takes a third of a
    microsecond; a search needs hundreds. The day that is read with the text never changes."""
    return zlib.crc32(text.encode("utf-8", "replace"))


def pack_states(states: TokenStates) -> bytes:
    """The states as the database stores them: 66 · n bytes."""
    records = np.empty((len(states.pieces), _RECORD), np.uint8)
    records[:, :2] = states.pieces.astype("<u2")[:, None].view(np.uint8)
    codes = np.clip(np.rint(states.vectors * _STEPS), -127, 127).astype(np.int8)
    records[:, 2:] = codes.view(np.uint8)
    return records.tobytes()


def piece_count(data: bytes) -> int:
    """The number of packed word pieces."""
    return len(data) // _RECORD


def unpack_states(data: bytes | memoryview) -> TokenStates:
    """The reverse of `pack_states`."""
    records = np.frombuffer(data, np.uint8).reshape(-1, _RECORD)
    pieces: Pieces = np.ascontiguousarray(records[:, :2]).view("<u2")[:, 0]
    vectors: States = records[:, 2:].view(np.int8).astype(np.float32)
    vectors *= np.float32(1 / _STEPS)
    return TokenStates(pieces, vectors)


def unpack_all(packed: Sequence[bytes]) -> tuple[Pieces, States, NDArray[np.intp]]:
    """Unpacks many at once, none of them empty: the concatenated pieces, vectors, and where each
    text begins."""
    starts = np.zeros(len(packed), np.intp)
    np.cumsum([piece_count(data) for data in packed[:-1]], out=starts[1:])
    pieces, vectors = unpack_states(b"".join(packed))
    return pieces, vectors, starts
