"""What every vector index offers, whatever it is made of."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from memories.filters import Node
from memories.readings import Vector


@dataclass(frozen=True, slots=True)
class Point:
    """A memory as the index holds it: its text for words, its vector for meaning, its fields."""

    id: UUID
    rev: int
    text: str
    vector: Vector | None
    fields: dict[str, Any] = field(default_factory=dict)


Hits = list[tuple[UUID, float]]


class VectorIndex(Protocol):
    """A cache of what SQL holds. Every method may raise IndexUnavailableError.

    Filters are nodes that memories.filters.pushdown gave; `now` (Unix seconds) hides what expired
    before it, None hides nothing; `ids` narrows to those memories.
    """

    dims: int
    # Whether its answers come over a network: whoever waits for them needs no CPU meanwhile.
    is_remote: bool

    def upsert(self, points: Sequence[Point]) -> None:
        """Adds or replaces the points."""

    def delete(self, ids: Collection[UUID], revs: Mapping[UUID, int] | None = None) -> None:
        """Removes the points; unknown ids are no error. `revs` are the revisions in which they were
        deleted, where known: an earlier one that is still on its way must not bring them back."""

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
        """What `search` and `search_text` find; without a vector, nothing by meaning."""

    def words(self, text: str) -> frozenset[int]:
        """The content words of a text as BM25 sees them: stemmed, without stop words, hashed."""

    def scan_ids(self) -> Iterator[tuple[UUID, int]]:
        """Every point's id and revision, in the order of the ids."""

    def revisions(self, ids: Collection[UUID]) -> dict[UUID, int]:
        """The revisions of those of the points that are there."""

    def count(self) -> int:
        """How many points there are."""

    def flush(self) -> None:
        """Returns when everything so far is on disk."""

    def close(self) -> None:
        """Flushes and lets go of the files."""

    def abandon(self) -> None:
        """Lets go of the files without writing to them."""
