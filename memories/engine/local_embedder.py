"""Embeds texts in this process, without a key or a network: all-MiniLM-L6-v2 on onnxruntime."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Self, TypeVar

import numpy as np
import onnxruntime
from django.conf import settings
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from memories.engine.embedders import Embedder
from memories.engine.local_model import DIMS, MAX_TOKENS, MODEL_KEY, find_prepared_model
from memories.engine.token_reader import STATES_KEY, Projection, pieces_that_count
from memories.readings import Pieces, QueryTokens, Reading, TokenStates, Vector

T = TypeVar("T")

# Tokenising takes time in proportion to the text although only 256 tokens count, and a book must
# not cost seconds. Only texts with an average of 80 letters a word lose tokens by this.
_MAX_CHARS = 20_000
# From this many texts a second thread pays off.
_MANY: Final = 8
_MOST_THREADS: Final = 8


class LocalEmbedder:
    """all-MiniLM-L6-v2 with int8 weights; safe to call from several threads.

    English, 384 dimensions, at most 256 tokens; of a longer text only the beginning counts. Vectors
    of another `model_key` live in another space and must not be compared with these.
    """

    model_key: str = MODEL_KEY
    states_key: str = STATES_KEY
    dims: int = DIMS

    def __init__(self, session: onnxruntime.InferenceSession, tokenizer: Tokenizer) -> None:
        self._session = session
        self._tokenizer = tokenizer
        self._project = Projection()
        self._pool: ThreadPoolExecutor | None = None
        self._making = threading.Lock()

    @classmethod
    def load(cls, model_dir: Path) -> Self | None:
        """The embedder of the model in `model_dir`; None if none has been prepared.

        Does all the loading (0.2 s, 80 MiB), so that `embed` never does. Raises WeightsError when
        the model's files are damaged.
        """
        model = find_prepared_model(model_dir)
        if model is None:
            return None
        tokenizer = Tokenizer.from_file(str(model.tokenizer))
        tokenizer.enable_truncation(MAX_TOKENS)  # the file says 128, the model's own limit is 256
        tokenizer.no_padding()
        session = onnxruntime.InferenceSession(
            str(model.onnx), _session_options(), providers=["CPUExecutionProvider"]
        )
        return cls(session, tokenizer)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of `texts`, in their order: float32, shape (len(texts), 384), rows of length 1.

        The texts run one by one, so that a text's vector does not depend on the others; without
        padding this is also cheaper than batches (750 against 920 ms for 400 texts).
        """
        vectors = np.empty((len(texts), self.dims), np.float32)
        for row, vector in zip(vectors, self._each(self._embed_one, texts), strict=True):
            row[:] = vector
        return vectors

    def read(self, texts: Sequence[str]) -> list[Reading]:
        """Vector and token states of each text, from a single pass."""
        return list(self._each(self._read_one, texts))

    def read_query(self, query: str) -> tuple[Vector, QueryTokens | None]:
        """Vector of a query, and its meaningful word pieces; None if there are none."""
        encoding, text, _ = self._encoded(query)
        vector, states = self._run(encoding)
        words = pieces_that_count(encoding, text)
        if not words:
            return vector, None
        places = list(words)
        pieces = np.array(encoding.ids, np.uint16)[places]
        return vector, QueryTokens(pieces, self._project(states[places]), tuple(words.values()))

    def pieces(self, text: str) -> Pieces:
        """The word pieces for which `read` returns states, without running the model."""
        return np.array(self._encoded(text)[0].ids[1:-1], np.uint16)

    def words(self, text: str) -> list[tuple[int, int]]:
        """For each piece of `pieces`, the span of its word in the text: [start, end)."""
        encoding, _, shift = self._encoded(text)
        ends: dict[int, tuple[int, int]] = {}
        for word, (start, end) in zip(encoding.word_ids, encoding.offsets, strict=True):
            if word is not None:
                ends[word] = ends.get(word, (start, end))[0], end
        return [
            (ends[word][0] + shift, ends[word][1] + shift)
            for word in encoding.word_ids
            if word is not None
        ]

    def states(self, text: str) -> NDArray[np.float32]:
        """The last layer's unprojected states of a text's word pieces, [n, 384]."""
        return self._run(self._encoded(text)[0])[1][1:-1]

    def _embed_one(self, text: str) -> Vector:
        vector: Vector = self._session.run(["embedding"], _input(self._encoded(text)[0]))[0][0]
        return vector

    def _read_one(self, text: str) -> Reading:
        encoding, _, _ = self._encoded(text)
        vector, states = self._run(encoding)
        # Without the first and the last piece, which mark beginning and end.
        pieces = np.array(encoding.ids[1:-1], np.uint16)
        return Reading(vector, TokenStates(pieces, self._project(states[1:-1])))

    def _run(self, encoding: Encoding) -> tuple[Vector, NDArray[np.float32]]:
        vectors, states = self._session.run(["embedding", "token_states"], _input(encoding))
        return vectors[0], states[0]

    def _encoded(self, text: str) -> tuple[Encoding, str, int]:
        """The text in word pieces, the part of it that was encoded, and where that part begins."""
        # JSON may contain half a surrogate pair, which the tokenizer refuses.
        clean = text.strip()[:_MAX_CHARS].encode("utf-8", "replace").decode("utf-8")
        return self._tokenizer.encode(clean), clean, len(text) - len(text.lstrip())

    def _each(self, do: Callable[[str], T], texts: Sequence[str]) -> Iterable[T]:
        """Runs many texts on all cores, one text per thread."""
        if len(texts) < _MANY:
            return map(do, texts)
        with self._making:
            if self._pool is None:
                threads = min(os.cpu_count() or 1, _MOST_THREADS)
                self._pool = ThreadPoolExecutor(threads, thread_name_prefix="mem0dash-embed")
        return self._pool.map(do, texts)


def _input(encoding: Encoding) -> dict[str, NDArray[np.int64]]:
    return {"input_ids": np.array([encoding.ids], np.int64)}


def _session_options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    # One thread per call: two answer a query no sooner (1.5 ms) and take half as much CPU again;
    # the server's threads already use the other cores.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # One arena for all threads: without it malloc keeps one per thread (after long texts in 16
    # threads 238 instead of 168 MiB, at the same speed).
    options.enable_cpu_mem_arena = True
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    return options


def load_embedder() -> Embedder | None:
    """The local embedding model, or None if it was not prepared."""
    from memories.engine.local_embedder import LocalEmbedder

    return LocalEmbedder.load(settings.MODEL_DIR)
