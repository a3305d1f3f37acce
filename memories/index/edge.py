"""The embedded index: Qdrant Edge in this process, one process per directory."""

import fcntl
import os
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast
from uuid import UUID

import qdrant_edge as edge

from mem0dash.errors import IndexUnavailableError
from memories.filters import Node
from memories.index import fields
from memories.index.base import Hits, Point
from memories.index.fields import EXPIRES, KEYWORDS, LEXICAL, REV, translated
from memories.records import Vector

DENSE: Final = ""
_RESCORED: Final = edge.SearchParams(
    quantization=edge.QuantizationSearchParams(rescore=True, oversampling=2.0)
)
_SCAN_PAGE: Final = 5000
# Of so many points on, a filter that lets this share of them through, by the engine's estimate, is
# checked on the nearest of all: on so many times what is needed.
_MANY: Final = 30_000
_WIDE: Final = 0.4
_SPARE: Final = 1.25


class _Filters:
    """fields.Dialect in the words of the embedded engine."""

    def match(self, field: str, texts: Sequence[str]) -> Any:
        # One value alone is a third cheaper to match than a list of one.
        match = edge.MatchValue(texts[0]) if len(texts) == 1 else edge.MatchAny(list(texts))
        return edge.FieldCondition(field, match=match)

    def up_to(self, field: str, value: float) -> Any:
        return edge.FieldCondition(field, range=edge.RangeFloat(lte=value))

    def has_id(self, ids: Collection[UUID]) -> Any:
        return edge.HasIdCondition(set(ids))

    def group(self, *, must: Any = None, should: Any = None, must_not: Any = None) -> Any:
        return edge.Filter(must=must, should=should, must_not=must_not)


_FILTERS: Final = _Filters()


class EdgeIndex:
    """VectorIndex on Qdrant Edge. `dims` 0 makes an index of words only."""

    is_remote = False

    def __init__(self, path: Path, dims: int) -> None:
        """Opens the index in `path`, or makes it; IndexUnavailableError when it is in use."""
        self.path, self.dims = path, dims
        self._words = fields.Words()
        self._let_go = self._hold(path)
        try:
            if (path / "edge_config.json").exists():
                self._shard = edge.EdgeShard.load(str(path))
            else:
                self._shard = self._create(path, dims)
        except Exception as error:
            self._let_go()
            raise _unopened(path) from error

    def _hold(self, path: Path) -> Callable[[], object]:
        """Locks the folder; what lets go of it again. The engine would refuse a second process as
        well, but only after it has cut off the journals of the first, which could never flush its
        index again."""
        path.mkdir(parents=True, exist_ok=True)
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        let_go = weakref.finalize(self, os.close, folder)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            let_go()
            raise _unopened(path) from error
        return let_go

    @staticmethod
    def _create(path: Path, dims: int) -> Any:
        sparse = {LEXICAL: edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf)}
        if dims:
            # A first look at four bits a number, then at the vectors of twice as many as are asked
            # for: a fifth of the time (100,000 of 384 dimensions: 1.3 ms instead of 6.7), and 99.7
            # of the hundred nearest, of random vectors, which are harder than those of texts
            # (tests/test_many_points.py). An index of before is searched without it until it is
            # built anew.
            coarse = edge.TurboQuantQuantizationConfig(
                bits=edge.TurboQuantBitSize.Bits4, always_ram=True
            )
            dense = edge.EdgeVectorParams(
                size=dims, distance=edge.Distance.Cosine, quantization_config=coarse
            )
            config = edge.EdgeConfig(vectors=dense, sparse_vectors=sparse)
        else:
            config = edge.EdgeConfig(sparse_vectors=sparse)
        shard = edge.EdgeShard.create(str(path), config)
        for name in KEYWORDS:
            keyword = edge.PayloadSchemaType.Keyword
            shard.update(edge.UpdateOperation.create_field_index(name, keyword))
        number = edge.PayloadSchemaType.Float
        shard.update(edge.UpdateOperation.create_field_index(EXPIRES, number))
        return shard

    @translated()
    def upsert(self, points: Sequence[Point]) -> None:
        if not points:
            return
        rows = []
        for point in points:
            vectors: dict[str, Any] = {LEXICAL: self._words.document(point.text)}
            if point.vector is not None and self.dims:
                vectors[DENSE] = point.vector.tolist()
            rows.append(edge.Point(str(point.id), vectors, fields.payload(point)))
        self._shard.update(edge.UpdateOperation.upsert_points(rows))

    @translated()
    def delete(self, ids: Collection[UUID], revs: Mapping[UUID, int] | None = None) -> None:
        # Nothing is on its way: there is one writer, in this process.
        if ids:
            self._shard.update(edge.UpdateOperation.delete_points([str(i) for i in ids]))

    @translated()
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
        if ids is None and (found := self._wide(nearest, limit, where, now)) is not None:
            return found
        return self._query(nearest, limit, where, now, ids)

    def _wide(self, nearest: Any, limit: int, where: Node, now: float | None) -> Hits | None:
        """The same where the filter lets most of many points through: first the nearest of all,
        and then the filter on these alone. To check it on every point takes five times as long as
        to find the nearest. None where it is no such filter, or too few of the nearest pass."""
        chosen, total = fields.chosen(_FILTERS, where, now, None), self._shard.info().points_count
        if chosen is None or total < _MANY:
            return None
        share = self._shard.count(edge.CountRequest(filter=chosen, exact=False)) / total
        if share < _WIDE:
            return None
        more = int(limit * _SPARE / share) + 1
        of_all = edge.QueryRequest(query=nearest, limit=more, params=_RESCORED)
        known = {cast("UUID", hit.id) for hit in self._shard.query(of_all)}
        found = self._query(nearest, limit, where, now, known)
        return found if len(found) == limit else None

    @translated()
    def search_text(
        self,
        query: str,
        *,
        limit: int,
        where: Node,
        now: float | None = None,
        ids: Collection[UUID] | None = None,
    ) -> Hits:
        sparse = self._words.query(query)
        if not sparse.indices:
            return []
        return self._query(edge.Query.Nearest(sparse, LEXICAL), limit, where, now, ids)

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
        dense: Hits = []
        if vector is not None:
            dense = self.search(vector, limit=limit, where=where, now=now, ids=ids)
        return dense, self.search_text(query, limit=limit, where=where, now=now, ids=ids)

    def _query(
        self,
        query: Any,
        limit: int,
        where: Node,
        now: float | None,
        ids: Collection[UUID] | None,
    ) -> Hits:
        chosen = fields.chosen(_FILTERS, where, now, ids)
        request = edge.QueryRequest(
            query=query, limit=limit, filter=chosen, with_payload=False, params=_RESCORED
        )
        # Every id is a UUID, for it went in as one; to say so costs more than the search itself.
        return cast("Hits", [(hit.id, hit.score) for hit in self._shard.query(request)])

    def words(self, text: str) -> frozenset[int]:
        return self._words.of(text)

    @translated()
    def scan_ids(self) -> Iterator[tuple[UUID, int]]:
        return iter(self._scan())

    def _scan(self) -> list[tuple[UUID, int]]:
        found: list[tuple[UUID, int]] = []
        offset = None
        while True:
            request = edge.ScrollRequest(limit=_SCAN_PAGE, offset=offset, with_payload=True)
            records, offset = self._shard.scroll(request)
            found += _revisions(records)
            if offset is None:
                return found

    @translated()
    def revisions(self, ids: Collection[UUID]) -> dict[UUID, int]:
        records = self._shard.retrieve(list(ids), with_payload=True, with_vector=False)
        return dict(_revisions(records))

    @translated()
    def count(self) -> int:
        return int(self._shard.count(edge.CountRequest(exact=True)))

    @translated()
    def flush(self) -> None:
        self._shard.flush()

    @translated()
    def close(self) -> None:
        self._shard.close()
        self._let_go()


def _unopened(path: Path) -> IndexUnavailableError:
    return IndexUnavailableError(
        f"The memory index in {path} cannot be opened; is another mem0dash using it?"
    )


def _revisions(records: Sequence[Any]) -> list[tuple[UUID, int]]:
    return [(cast("UUID", r.id), int((r.payload or {}).get(REV, 0))) for r in records]
