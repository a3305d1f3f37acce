"""What turns text into vectors: the interface, and the embedder this installation has."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, Protocol

from django.conf import settings

from memories.records import Vector

logger = logging.getLogger(__name__)


class Embedder(Protocol):
    """Turns texts into vectors of one model. May raise ProviderError."""

    model_key: str
    dims: int

    def embed(self, texts: Sequence[str]) -> Vector:
        """Shape (len(texts), dims), float32."""


def load_embedder() -> Embedder | None:
    """The local embedding model, or None when it was not prepared: then search is by words."""
    from memories.engine.local_embedder import LocalEmbedder

    embedder = LocalEmbedder.load(settings.MODEL_DIR)
    if embedder is None:
        logger.warning("no embedding model is prepared: search is by words, not by meaning")
    return embedder


class QueryCache:
    """The vectors of the latest queries: agents repeat themselves."""

    SIZE: Final = 512

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Vector] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, query: str) -> Vector | None:
        """The vector of a query that was asked before."""
        with self._lock:
            if (known := self._kept.get(query)) is not None:
                self._kept.move_to_end(query)
            return known

    def keep(self, query: str, vector: Vector) -> None:
        with self._lock:
            self._kept[query] = vector
            if len(self._kept) > self.SIZE:
                self._kept.popitem(last=False)
