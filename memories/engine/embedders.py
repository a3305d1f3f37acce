"""What turns text into vectors: the interface, and the embedder this installation has."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, Generic, Protocol, TypeVar

from memories.readings import Vector

T = TypeVar("T")


class Embedder(Protocol):
    """Turns texts into vectors of one model. May raise ProviderError."""

    model_key: str
    dims: int

    def embed(self, texts: Sequence[str]) -> Vector:
        """Shape (len(texts), dims), float32."""


class RecentQueries(Generic[T]):
    """What was worked out for the latest queries: agents repeat themselves."""

    SIZE: Final = 512

    def __init__(self) -> None:
        self._kept: OrderedDict[str, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, query: str) -> T | None:
        """What is known of a query that was asked before."""
        with self._lock:
            if (known := self._kept.get(query)) is not None:
                self._kept.move_to_end(query)
            return known

    def keep(self, query: str, found: T) -> None:
        with self._lock:
            self._kept[query] = found
            if len(self._kept) > self.SIZE:
                self._kept.popitem(last=False)
