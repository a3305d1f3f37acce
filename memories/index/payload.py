"""Shared by both kinds of index: names, words as sparse vectors, payloads and filters."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol
from uuid import UUID

import qdrant_edge as edge

from core.errors import IndexUnavailableError
from memories.filters import AllOf, AnyOf, Comparison, Node, Not
from memories.filters.pushdown import INDEXED_FIELDS, METADATA_WORDS
from memories.index.base import Point

LEXICAL: Final = "bm25"
EXPIRES: Final = "expires"
REV: Final = "rev"
KEYWORDS: Final = (*INDEXED_FIELDS, METADATA_WORDS)
# Nearly every search is within one of these, so a server stores their points together.
TENANTS: Final = frozenset({"project", "user_id"})


@contextmanager
def translating_errors() -> Iterator[None]:
    """Turns every failure of the index into IndexUnavailableError; an outage is never an empty
    list."""
    try:
        yield
    except IndexUnavailableError:
        raise
    except Exception as error:
        raise IndexUnavailableError("The memory index failed.") from error


class Bm25Encoder:
    """Qdrant's own BM25 encoder, run in this process, so that the server need not know the
    language."""

    def __init__(self) -> None:
        self._bm25 = edge.Bm25()

    def document(self, text: str) -> Any:
        """The sparse vector of a stored text (`indices`, `values`)."""
        return self._bm25.embed_document(text)

    def query(self, text: str) -> Any:
        """The sparse vector of a query; without indices if it has only stop words."""
        return self._bm25.embed_query(text)

    def of(self, text: str) -> frozenset[int]:
        """The content words: stemmed, without stop words, hashed."""
        return frozenset(self._bm25.embed_query(text).indices)


def payload_of(point: Point) -> dict[str, Any]:
    """The payload that is stored with a point's vectors."""
    return {**point.fields, REV: point.rev}


class FilterDialect(Protocol):
    """The parts of a filter in one implementation."""

    def match(self, field: str, texts: Sequence[str]) -> Any: ...
    def up_to(self, field: str, value: float) -> Any: ...
    def has_id(self, ids: Collection[UUID]) -> Any: ...
    def group(self, *, must: Any = None, should: Any = None, must_not: Any = None) -> Any: ...


def build_filter(
    dialect: FilterDialect, where: Node, now: float | None, ids: Collection[UUID] | None
) -> Any | None:
    """The filter of a search; None if it passes everything."""
    must = [_native(dialect, where)] if where != AllOf(()) else []
    must_not = [dialect.up_to(EXPIRES, now)] if now is not None else []
    if ids is not None:
        must.append(dialect.has_id(ids))
    return dialect.group(must=must, must_not=must_not) if must or must_not else None


def _native(dialect: FilterDialect, node: Node) -> Any:
    """A pushed-down node as Qdrant's filter."""
    if isinstance(node, Comparison):
        values = node.value if isinstance(node.value, tuple) else (node.value,)
        return dialect.match(node.field, [str(value) for value in values])
    if isinstance(node, Not):
        return dialect.group(must_not=[_native(dialect, node.part)])
    parts = [_native(dialect, part) for part in node.parts]
    if isinstance(node, AnyOf) and not parts:
        return dialect.has_id(())
    return dialect.group(should=parts) if isinstance(node, AnyOf) else dialect.group(must=parts)
