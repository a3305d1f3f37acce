"""The stand-in for an embedded index that cannot be opened for now."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NoReturn
from uuid import UUID

from core.errors import IndexUnavailableError
from memories.index.base import Hits, Point
from memories.index.payload import Bm25Encoder


class ClosedIndex:
    """A VectorIndex whose every method raises IndexUnavailableError with the reason."""

    is_remote = False

    def __init__(self, dims: int, reason: str) -> None:
        self.dims = dims
        self._reason = reason
        self._words = Bm25Encoder()

    def _refuse(self) -> NoReturn:
        raise IndexUnavailableError(self._reason)

    def upsert(self, points: Sequence[Point]) -> None:
        self._refuse()

    def delete(self, ids: Collection[UUID], revs: Mapping[UUID, int] | None = None) -> None:
        self._refuse()

    def search(self, vector: Any, **options: Any) -> Hits:
        self._refuse()

    def search_text(self, query: str, **options: Any) -> Hits:
        self._refuse()

    def search_both(self, vector: Any, query: str, **options: Any) -> tuple[Hits, Hits]:
        self._refuse()

    def words(self, text: str) -> frozenset[int]:
        return self._words.of(text)

    def scan_ids(self) -> Iterator[tuple[UUID, int]]:
        self._refuse()

    def revisions(self, ids: Collection[UUID]) -> dict[UUID, int]:
        self._refuse()

    def count(self) -> int:
        self._refuse()

    def flush(self) -> None:
        """Nothing to flush."""

    def close(self) -> None:
        """Nothing to close."""

    def abandon(self) -> None:
        """Nothing to close."""
