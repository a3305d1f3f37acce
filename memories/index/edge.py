"""The embedded index: Qdrant Edge in this process, exact search, one process per directory."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast
from uuid import UUID

import qdrant_edge as edge

from mem0dash.errors import IndexUnavailableError
from memories.filters import AllOf, AnyOf, Condition, Node, Not
from memories.filters.pushdown import INDEXED_FIELDS, METADATA_WORDS
from memories.index.base import Hits, Point
from memories.records import Vector

DENSE: Final = ""
LEXICAL: Final = "bm25"
EXPIRES: Final = "expires"
_SCAN_PAGE: Final = 5000


@contextmanager
def _translated() -> Iterator[None]:
    """Any failure of the index becomes IndexUnavailableError; an outage is never an empty list."""
    try:
        yield
    except IndexUnavailableError:
        raise
    except Exception as error:
        raise IndexUnavailableError("The memory index failed.") from error


class EdgeIndex:
    """VectorIndex on Qdrant Edge. `dims` 0 makes an index of words only."""

    def __init__(self, path: Path, dims: int) -> None:
        """Opens the index in `path`, or makes it; IndexUnavailableError when it is in use."""
        self.path, self.dims = path, dims
        self._bm25 = edge.Bm25()
        try:
            if (path / "edge_config.json").exists():
                self._shard = edge.EdgeShard.load(str(path))
            else:
                self._shard = self._create(path, dims)
        except Exception as error:
            raise IndexUnavailableError(
                f"The memory index in {path} cannot be opened; is another mem0dash using it?"
            ) from error

    @staticmethod
    def _create(path: Path, dims: int) -> Any:
        path.mkdir(parents=True, exist_ok=True)
        sparse = {LEXICAL: edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf)}
        if dims:
            dense = edge.EdgeVectorParams(size=dims, distance=edge.Distance.Cosine)
            config = edge.EdgeConfig(vectors=dense, sparse_vectors=sparse)
        else:
            config = edge.EdgeConfig(sparse_vectors=sparse)
        shard = edge.EdgeShard.create(str(path), config)
        for name in (*INDEXED_FIELDS, METADATA_WORDS):
            keyword = edge.PayloadSchemaType.Keyword
            shard.update(edge.UpdateOperation.create_field_index(name, keyword))
        number = edge.PayloadSchemaType.Float
        shard.update(edge.UpdateOperation.create_field_index(EXPIRES, number))
        return shard

    @_translated()
    def upsert(self, points: Sequence[Point]) -> None:
        if not points:
            return
        rows = []
        for point in points:
            vectors: dict[str, Any] = {LEXICAL: self._bm25.embed_document(point.text)}
            if point.vector is not None and self.dims:
                vectors[DENSE] = point.vector.tolist()
            rows.append(edge.Point(str(point.id), vectors, {**point.fields, "rev": point.rev}))
        self._shard.update(edge.UpdateOperation.upsert_points(rows))

    @_translated()
    def delete(self, ids: Collection[UUID]) -> None:
        if ids:
            self._shard.update(edge.UpdateOperation.delete_points([str(i) for i in ids]))

    @_translated()
    def search(
        self,
        vector: Vector,
        *,
        limit: int,
        where: Node,
        now: float | None = None,
        ids: Collection[UUID] | None = None,
    ) -> Hits:
        nearest = edge.Query.Nearest(vector.tolist(), None)
        return self._query(nearest, limit, where, now, ids)

    @_translated()
    def search_text(
        self,
        query: str,
        *,
        limit: int,
        where: Node,
        now: float | None = None,
        ids: Collection[UUID] | None = None,
    ) -> Hits:
        sparse = self._bm25.embed_query(query)
        if not sparse.indices:
            return []
        return self._query(edge.Query.Nearest(sparse, LEXICAL), limit, where, now, ids)

    def _query(
        self,
        query: Any,
        limit: int,
        where: Node,
        now: float | None,
        ids: Collection[UUID] | None,
    ) -> Hits:
        must = [_native(where)] if where != AllOf(()) else []
        must_not: list[Any] = []
        if now is not None:
            must_not.append(edge.FieldCondition(EXPIRES, range=edge.RangeFloat(lte=now)))
        if ids is not None:
            must.append(edge.HasIdCondition(set(ids)))
        chosen = edge.Filter(must=must, must_not=must_not) if must or must_not else None
        request = edge.QueryRequest(query=query, limit=limit, filter=chosen, with_payload=False)
        # Every id is a UUID, for it went in as one; to say so costs more than the search itself.
        return cast("Hits", [(hit.id, hit.score) for hit in self._shard.query(request)])

    def words(self, text: str) -> frozenset[int]:
        return frozenset(self._bm25.embed_query(text).indices)

    @_translated()
    def scan_ids(self) -> Iterator[tuple[UUID, int]]:
        return iter(self._scan())

    def _scan(self) -> list[tuple[UUID, int]]:
        found: list[tuple[UUID, int]] = []
        offset = None
        while True:
            request = edge.ScrollRequest(limit=_SCAN_PAGE, offset=offset, with_payload=True)
            records, offset = self._shard.scroll(request)
            found += [(cast("UUID", r.id), int((r.payload or {}).get("rev", 0))) for r in records]
            if offset is None:
                return found

    @_translated()
    def count(self) -> int:
        return int(self._shard.count(edge.CountRequest(exact=True)))

    @_translated()
    def flush(self) -> None:
        self._shard.flush()

    @_translated()
    def close(self) -> None:
        self._shard.close()


def _native(node: Node) -> Any:
    """A pushed-down node as Qdrant's filter."""
    if isinstance(node, Condition):
        values = node.value if isinstance(node.value, tuple) else (node.value,)
        texts = [str(value) for value in values]
        # One value alone is a third cheaper to match than a list of one.
        match = edge.MatchValue(texts[0]) if len(texts) == 1 else edge.MatchAny(texts)
        return edge.FieldCondition(node.field, match=match)
    if isinstance(node, Not):
        return edge.Filter(must_not=[_native(node.part)])
    parts = [_native(part) for part in node.parts]
    if isinstance(node, AnyOf) and not parts:
        return edge.HasIdCondition(set())
    return edge.Filter(should=parts) if isinstance(node, AnyOf) else edge.Filter(must=parts)
