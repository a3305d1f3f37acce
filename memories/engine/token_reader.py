"""The local model's state of every word piece, compressed for late interaction.

The last layer's state of each piece, minus the mean of all pieces, projected from 384 to 64
dimensions and normalised. After ColBERT (Khattab and Zaharia 2020: a vector for every token, and
the best match for each of the query's), without training: the projection is random but fixed
(Johnson and Lindenstrauss 1984), and the mean is that of unrelated text.
"""

import hashlib
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from memories.engine.embedders import Embedder
from memories.engine.local_model import DIMS, MODEL_KEY
from memories.readings import DIMS as STATE_DIMS
from memories.readings import Pieces, QueryTokens, Reading, Vector

# Model, projection and mean: states of another key are never compared with these.
STATES_KEY: Final = f"{MODEL_KEY}/states-1"
_SEED: Final = b"mem0dash token states 1"
# float32 [384]; `python -m benchmarks.token_mean` made it of the sample memories of manage.py demo.
_MEAN: Final = Path(__file__).with_name("token_mean.npy")

Array = NDArray[np.float32]


class TokenReader(Embedder, Protocol):
    """An embedder that makes a text's token states in the same pass as its vector."""

    states_key: str

    def read(self, texts: Sequence[str]) -> list[Reading]:
        """Vector (not normalised again) and token states of each text."""

    def read_query(self, query: str) -> tuple[Vector, QueryTokens | None]:
        """Vector and word pieces of a query; None instead of pieces if the model does not know the
        script well enough, or if all words are stop words."""

    def pieces(self, text: str) -> Pieces:
        """The word pieces for which `read` returns states, without running the model."""

    def words(self, text: str) -> list[tuple[int, int]]:
        """For each piece of `pieces`, the span of its word in the text: [start, end)."""


class Projection:
    """From the model's states, float32 [n, 384], to unit vectors, float32 [n, 64]."""

    def __init__(self) -> None:
        self._mean: Array = np.load(_MEAN)
        self._matrix = orthonormal_matrix()

    def __call__(self, states: Array) -> Array:
        vectors = (states - self._mean) @ self._matrix
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        projected: Array = vectors / np.maximum(lengths, 1e-9)
        return projected


def orthonormal_matrix() -> Array:
    """float32 [384, 64], its columns orthonormal: random signs, made orthogonal.

    The signs come from a hash, because no random number generator promises the same
    numbers in all versions.
    """
    bits = hashlib.shake_256(_SEED).digest(DIMS * STATE_DIMS // 8)
    signs = np.unpackbits(np.frombuffer(bits, np.uint8)).reshape(DIMS, STATE_DIMS) * 2.0 - 1.0
    basis, triangle = np.linalg.qr(signs)
    # The basis is unique except for the signs of its columns, which this fixes.
    matrix: Array = (basis * np.sign(np.diag(triangle))).astype(np.float32)
    return matrix


# Words that all questions share, from the usual English stop word lists.
_STOP_WORDS: Final = """
a about above after again against all also am an and any are aren as at be because been before
being below between both but by can could couldn d did didn do does doesn doing don down during
each ever few for from further get had hadn has hasn have haven having he her here hers herself
him himself his how i if in into is isn it its itself just ll m me more most my myself no nor
not now of off on once only or other our ours ourselves out over own re s same she should
shouldn so some such t than that the their theirs them themselves then there these they this
those through to too under until up ve very was wasn we were weren what when where which while
who whom whose why will with won would wouldn you your yours yourself yourselves
"""
STOP_WORDS: Final = frozenset(_STOP_WORDS.split())
# Scripts whose word pieces are meaningful to the model, as measured (docs/finding.md). In Chinese
# and Korean pieces are single signs or parts of them, and comparing them makes results worse.
_READ: Final = ("LATIN", "CYRILLIC", "ARABIC", "DIGIT")
_UNKNOWN: Final = "[UNK]"


def pieces_that_count(encoding: Encoding, text: str) -> dict[int, str]:
    """The word of each meaningful piece of a query, by the piece's position, without stop words and
    punctuation. Empty for a query in a script that the model does not read."""
    spans: dict[int, list[int]] = {}
    for place, number in enumerate(encoding.word_ids):
        if number is not None and encoding.tokens[place] != _UNKNOWN:
            spans.setdefault(number, []).append(place)
    words_by_place: dict[int, str] = {}
    words = read = 0
    for places in spans.values():
        spelling = text[encoding.offsets[places[0]][0] : encoding.offsets[places[-1]][1]]
        word = _plain(spelling)
        if word in STOP_WORDS or not any(letter.isalnum() for letter in word):
            continue
        words += 1
        read += unicodedata.name(spelling[0], "").startswith(_READ)
        words_by_place.update(dict.fromkeys(places, spelling))
    return words_by_place if 2 * read > words else {}


def _plain(word: str) -> str:
    """The word as in the model's vocabulary: lower case without accents."""
    decomposed = unicodedata.normalize("NFD", word.casefold())
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))
