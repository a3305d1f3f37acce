"""The interface of embedders, and a cache for queries."""

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
    """A cache of results for the latest queries, because agents repeat theirs."""

    SIZE: Final = 512

    def __init__(self) -> None:
        self._kept: OrderedDict[str, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, query: str) -> T | None:
        """The cached value of a query, if any."""
        with self._lock:
            if (value := self._kept.get(query)) is not None:
                self._kept.move_to_end(query)
            return value

    def keep(self, query: str, value: T) -> None:
        with self._lock:
            self._kept[query] = value
            if len(self._kept) > self.SIZE:
                self._kept.popitem(last=False)
