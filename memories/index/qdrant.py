"""The index on a Qdrant server, cluster or cloud: one collection for each generation."""

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, cast
from uuid import UUID

import httpx
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from mem0dash.errors import IndexUnavailableError
from memories.filters import Node
from memories.index import fields
from memories.index.base import Hits, Point
from memories.index.fields import EXPIRES, KEYWORDS, LEXICAL, REV, TENANTS, translated
from memories.records import Vector

DENSE: Final = "dense"
_SCAN_PAGE: Final = 5000
# Numbers in one request: about 8 MB of JSON, a quarter of what a server takes by default.
_NUMBERS_AT_ONCE: Final = 400_000
# Of two writers of one point the same one is last on every replica.
_ORDERING: Final = models.WriteOrdering.MEDIUM


class CollectionMissingError(IndexUnavailableError):
    """The server answers and does not have the collection: it was dropped, or lost its data."""


@contextmanager
def _answered(name: str) -> Iterator[None]:
    """As `translated`; a collection that is not there has an error of its own."""
    with translated():
        try:
            yield
        except UnexpectedResponse as error:
            if error.status_code == 404:
                raise CollectionMissingError(
                    f"The memory index {name} is not on the Qdrant server."
                ) from error
            raise


class _Filters:
    """fields.Dialect in the words of the client."""

    def match(self, field: str, texts: Sequence[str]) -> Any:
        match: Any = models.MatchAny(any=list(texts))
        if len(texts) == 1:
            match = models.MatchValue(value=texts[0])
        return models.FieldCondition(key=field, match=match)

    def up_to(self, field: str, value: float) -> Any:
        return models.FieldCondition(key=field, range=models.Range(lte=value))

    def has_id(self, ids: Collection[UUID]) -> Any:
        # Unchecked: they are ids, and there may be thousands of them.
        return models.HasIdCondition.model_construct(has_id=[str(id_) for id_ in ids])

    def group(self, *, must: Any = None, should: Any = None, must_not: Any = None) -> Any:
        if not (must or should or must_not):
            must_not = [self.has_id(())]  # everything, said with a condition
        return models.Filter.model_construct(
            must=must or None, should=should or None, must_not=must_not or None, min_should=None
        )


_FILTERS: Final = _Filters()


@dataclass(frozen=True, slots=True)
class Server:
    """Where the collections are and how they are made. The key never shows in a repr."""

    url: str
    api_key: str = field(default="", repr=False)
    collection: str = "mem0dash"
    timeout: int = 10
    # Kept open between calls; there may be as many more as there are threads that call.
    connections: int = 32
    replication_factor: int | None = None
    write_consistency_factor: int | None = None
    shard_number: int | None = None
    on_disk: bool = False


class Collections:
    """The generations of the index on a server. Opening one asks the server nothing."""

    def __init__(self, server: Server) -> None:
        self.server = server
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=server.connections)
        self._client = QdrantClient(
            url=server.url,
            # A header of our own: given as `api_key` without TLS, it warns on every start.
            headers={"api-key": server.api_key} if server.api_key else None,
            timeout=server.timeout,
            prefer_grpc=False,
            check_compatibility=False,
            limits=limits,
        )

    def name(self, generation: int) -> str:
        return f"{self.server.collection}_{generation:06d}"

    def open(self, generation: int, dims: int) -> "QdrantIndex":
        """The index of this generation, whether it is there or not."""
        return QdrantIndex(self._client, self.name(generation), dims)

    @translated()
    def exists(self, generation: int) -> bool:
        return bool(self._client.collection_exists(self.name(generation)))

    @translated()
    def generations(self) -> list[int]:
        """The generations that are there, in use or not, in their order."""
        pattern = re.compile(re.escape(self.server.collection) + r"_(\d{6,})")
        found = [pattern.fullmatch(one.name) for one in self._client.get_collections().collections]
        return sorted(int(match[1]) for match in found if match)

    @translated()
    def drop(self, generation: int) -> None:
        self._client.delete_collection(self.name(generation))

    @translated()
    def create(self, generation: int, dims: int) -> "QdrantIndex":
        """Makes the empty collection and what its filters need."""
        server, name = self.server, self.name(generation)
        on_disk = True if server.on_disk else None
        dense = models.VectorParams(size=dims, distance=models.Distance.COSINE, on_disk=on_disk)
        sparse = models.SparseVectorParams(modifier=models.Modifier.IDF)
        self._client.create_collection(
            name,
            vectors_config={DENSE: dense} if dims else {},
            sparse_vectors_config={LEXICAL: sparse},
            shard_number=server.shard_number,
            replication_factor=server.replication_factor,
            write_consistency_factor=server.write_consistency_factor,
            on_disk_payload=on_disk,
        )
        for key in KEYWORDS:
            tenant = True if key in TENANTS else None
            keyword = models.KeywordIndexParams(
                type=models.KeywordIndexType.KEYWORD, is_tenant=tenant
            )
            self._client.create_payload_index(name, key, field_schema=keyword, wait=True)
        number = models.PayloadSchemaType.FLOAT
        self._client.create_payload_index(name, EXPIRES, field_schema=number, wait=True)
        # A server may be told to refuse conditions on what has no index.
        rev = models.IntegerIndexParams(
            type=models.IntegerIndexType.INTEGER, lookup=False, range=True
        )
        self._client.create_payload_index(name, REV, field_schema=rev, wait=True)
        return self.open(generation, dims)

    def close(self) -> None:
        self._client.close()


class QdrantIndex:
    """VectorIndex on one collection. `dims` 0 is an index of words only."""

    def __init__(self, client: QdrantClient, name: str, dims: int) -> None:
        self.name, self.dims = name, dims
        self._client = client
        self._words = fields.Words()
        self._closed = False

    @contextmanager
    def _asking(self) -> Iterator[QdrantClient]:
        if self._closed:
            raise IndexUnavailableError("The memory index is closed.")
        with _answered(self.name):
            yield self._client

    def upsert(self, points: Sequence[Point]) -> None:
        size = max(16, min(500, _NUMBERS_AT_ONCE // max(self.dims, 1)))
        with self._asking() as client:
            for at in range(0, len(points), size):
                batch = points[at : at + size]
                client.upsert(
                    self.name,
                    [self._struct(point) for point in batch],
                    wait=True,
                    ordering=_ORDERING,
                    update_filter=_not_newer(batch),
                )

    def _struct(self, point: Point) -> models.PointStruct:
        # Unchecked: what is written was checked when it was stored, and checking each number of
        # each vector again is most of the work.
        words = self._words.document(point.text)
        sparse = models.SparseVector.model_construct(indices=words.indices, values=words.values)
        vectors: dict[str, Any] = {LEXICAL: sparse}
        if point.vector is not None and self.dims:
            vectors[DENSE] = point.vector.tolist()
        payload = fields.payload(point)
        return models.PointStruct.model_construct(id=str(point.id), vector=vectors, payload=payload)

    def delete(self, ids: Collection[UUID]) -> None:
        with self._asking() as client:
            if ids:
                selector = models.PointIdsList(points=[str(id_) for id_ in ids])
                client.delete(self.name, selector, wait=True, ordering=_ORDERING)

    def search(
        self,
        vector: Vector,
        *,
        limit: int,
        where: Node,
        now: float | None = None,
        ids: Collection[UUID] | None = None,
    ) -> Hits:
        chosen = fields.chosen(_FILTERS, where, now, ids)
        return self._query(vector.tolist(), DENSE, limit, chosen)

    def search_text(
        self,
        query: str,
        *,
        limit: int,
        where: Node,
        now: float | None = None,
        ids: Collection[UUID] | None = None,
    ) -> Hits:
        words = self._words.query(query)
        if not words.indices:
            return []
        sparse = models.SparseVector.model_construct(indices=words.indices, values=words.values)
        return self._query(sparse, LEXICAL, limit, fields.chosen(_FILTERS, where, now, ids))

    def _query(self, query: Any, using: str, limit: int, chosen: Any) -> Hits:
        with self._asking() as client:
            answer = client.query_points(
                self.name,
                query=query,
                using=using,
                limit=limit,
                query_filter=chosen,
                with_payload=False,
            )
            return [(UUID(str(hit.id)), hit.score) for hit in answer.points]

    def words(self, text: str) -> frozenset[int]:
        return self._words.of(text)

    def scan_ids(self) -> Iterator[tuple[UUID, int]]:
        offset: Any = None
        while True:
            with self._asking() as client:
                records, offset = client.scroll(
                    self.name, limit=_SCAN_PAGE, offset=offset, with_payload=[REV]
                )
            yield from _revisions(records)
            if offset is None:
                return

    def revisions(self, ids: Collection[UUID]) -> dict[UUID, int]:
        wanted = [str(id_) for id_ in ids]
        with self._asking() as client:
            return dict(_revisions(client.retrieve(self.name, wanted, with_payload=[REV])))

    def count(self) -> int:
        with self._asking() as client:
            return int(client.count(self.name, exact=True).count)

    def flush(self) -> None:
        """Nothing is left to do: every write waited until the server had it."""
        with self._asking():
            pass

    def close(self) -> None:
        """Ends this view; the client stays open for the other generations."""
        self._closed = True

    def abandon(self) -> None:
        self.close()


def _not_newer(points: Sequence[Point]) -> Any:
    """Lets an upsert replace a point only where it has no later revision than ours.

    Of two processes the slower one then cannot leave its older state behind. Servers before 1.16
    do not know the condition and ignore it; whoever writes looks again all the same.
    """
    by_rev: dict[int, list[UUID]] = {}
    for point in points:
        by_rev.setdefault(point.rev, []).append(point.id)
    return _FILTERS.group(
        should=[
            _FILTERS.group(must=[_FILTERS.has_id(ids), _FILTERS.up_to(REV, rev)])
            for rev, ids in by_rev.items()
        ]
    )


def _revisions(records: Sequence[Any]) -> list[tuple[UUID, int]]:
    return [(UUID(str(r.id)), int(cast("Any", r.payload or {}).get(REV, 0))) for r in records]
