"""The interface of a vector index."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from memories.filters import Node
from memories.readings import Vector


@dataclass(frozen=True, slots=True)
class Point:
    """A memory in the index: its text for search by words, its vector, and its fields for
    filters."""

    id: UUID
    rev: int
    text: str
    vector: Vector | None
    fields: dict[str, Any] = field(default_factory=dict)


Hits = list[tuple[UUID, float]]


class VectorIndex(Protocol):
    """A cache of SQL. Every method may raise IndexUnavailableError.

    Filters are nodes from memories.filters.pushdown. `now` (Unix seconds) hides memories that
    expired before it, None hides none; `ids` narrows the search to those memories.
    """

    dims: int
    # Whether its answers come over a network, so that a waiting caller uses no CPU.
    is_remote: bool

    def upsert(self, points: Sequence[Point]) -> None:
        """Adds or replaces the points."""

    def delete(self, ids: Collection[UUID], revs: Mapping[UUID, int] | None = None) -> None:
        """Removes the points; unknown ids are no error. `revs` are the revisions of the deletions,
        if known, because a late write of an earlier revision must not restore a point."""

    def search(
        self,
        vector: Vector,
        *,
        limit: int,
        where: Node,
        now: float | None = None,
        ids: Collection[UUID] | None = None,
    ) -> Hits:
        """The `limit` nearest by cosine similarity (−1..1), best first."""

    def search_text(
        self,
        query: str,
        *,
        limit: int,
        where: Node,
        now: float | None = None,
        ids: Collection[UUID] | None = None,
    ) -> Hits:
        """The `limit` best by BM25 (unbounded, > 0), best first."""

    def search_both(
        self,
        vector: Vector | None,
        query: str,
        *,
        limit: int,
        where: Node,
        now: float | None = None,
        ids: Collection[UUID] | None = None,
    ) -> tuple[Hits, Hits]:
        """The hits of `search` and of `search_text`; none of the former without a vector."""

    def words(self, text: str) -> frozenset[int]:
        """The content words of a text as BM25 sees them: stemmed, without stop words, hashed."""

    def scan_ids(self) -> Iterator[tuple[UUID, int]]:
        """Every point's id and revision, in the order of the ids."""

    def revisions(self, ids: Collection[UUID]) -> dict[UUID, int]:
        """The revisions of those points that exist."""

    def count(self) -> int:
        """The number of points."""

    def flush(self) -> None:
        """Returns when all writes so far are on disk."""

    def close(self) -> None:
        """Flushes and closes the files."""

    def abandon(self) -> None:
        """Closes the files without writing to them."""
