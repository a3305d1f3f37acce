"""Embeds texts in this process, without a key or a network: all-MiniLM-L6-v2 on onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from memories.engine.local_model import DIMS, MAX_TOKENS, MODEL_KEY, prepared_model

# Tokenising takes time in proportion to the text although 256 tokens are kept: a book must not
# cost seconds. Only a text whose words average 80 letters is cut shorter by this.
_MAX_CHARS = 20_000


class LocalEmbedder:
    """all-MiniLM-L6-v2 with int8 weights; safe to call from several threads.

    English, 384 dimensions, at most 256 tokens: of a longer text the beginning counts. Vectors of
    another `model_key` live in another space and must not be compared with these.
    """

    model_key: str = MODEL_KEY
    dims: int = DIMS

    def __init__(self, session: onnxruntime.InferenceSession, tokenizer: Tokenizer) -> None:
        self._session = session
        self._tokenizer = tokenizer

    @classmethod
    def load(cls, model_dir: Path) -> Self | None:
        """The embedder of the model in `model_dir`; None when none has been prepared.

        Does all the loading (0.2 s, 80 MiB), so that `embed` never does. Raises WeightsError when
        the model's files are damaged.
        """
        model = prepared_model(model_dir)
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

        The texts run one by one: a text's vector is the same whatever it is embedded with, and
        without padding this is also cheaper than batches (750 against 920 ms for 400 texts).
        """
        vectors = np.empty((len(texts), self.dims), np.float32)
        for row, text in zip(vectors, texts, strict=True):
            row[:] = self._session.run(["embedding"], {"input_ids": self._ids(text)})[0][0]
        return vectors

    def _ids(self, text: str) -> NDArray[np.int64]:
        # JSON may bring half a surrogate pair, which the tokenizer refuses.
        clean = text.strip()[:_MAX_CHARS].encode("utf-8", "replace").decode("utf-8")
        return np.array([self._tokenizer.encode(clean).ids], np.int64)


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
