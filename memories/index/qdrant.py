"""The index on a Qdrant server, cluster or cloud: one collection for each generation."""

import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final, cast
from uuid import UUID

import httpx
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from core.errors import IndexUnavailableError
from memories.filters import Node
from memories.index import payload as fields
from memories.index.base import Hits, Point
from memories.index.patience import CallLine, CallLines
from memories.index.payload import EXPIRES, KEYWORDS, LEXICAL, REV, TENANTS, translating_errors
from memories.readings import Vector

DENSE: Final = "dense"
_SCAN_PAGE: Final = 5000
# Numbers in one request: about 8 MB of JSON, a quarter of what a server takes by default.
_NUMBERS_AT_ONCE: Final = 400_000
_BURIED_AT_ONCE: Final = 1000
_NUMBER: Final = models.PayloadSchemaType.FLOAT
# The time of a memory's deletion. A point with it (a grave) has nothing else but its revision.
GONE: Final = "gone"
# A margin, because the clocks of other machines may be ahead.
_DAY: Final = 86_400.0
# Every replica applies two writes of one point in the same order.
_ORDERING: Final = models.WriteOrdering.MEDIUM


class CollectionMissingError(IndexUnavailableError):
    """The server answers but does not have the collection: it was dropped, or lost its data."""


@contextmanager
def _translating(name: str) -> Iterator[None]:
    """As `translating_errors`, with a separate error for a missing collection."""
    with translating_errors():
        try:
            yield
        except UnexpectedResponse as error:
            if error.status_code == 404:
                raise CollectionMissingError(
                    f"The memory index {name} is not on the Qdrant server."
                ) from error
            raise


class _Filters:
    """FilterDialect of the Qdrant client."""

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
            must_not = [self.has_id(())]  # everything, expressed as a condition
        return models.Filter.model_construct(
            must=must or None, should=should or None, must_not=must_not or None, min_should=None
        )


_FILTERS: Final = _Filters()


@dataclass(frozen=True, slots=True)
class Server:
    """The address of a server and the settings of its collections. Its repr hides the key."""

    url: str
    api_key: str = field(default="", repr=False)
    collection: str = "mem0dash"
    timeout: int = 10
    # Connections kept open between calls; busy threads may open more.
    connections: int = 32
    replication_factor: int | None = None
    write_consistency_factor: int | None = None
    shard_number: int | None = None
    on_disk: bool = False


class Collections:
    """The generations of the index on a server. Opening one makes no call."""

    def __init__(self, server: Server) -> None:
        self.server = server
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=server.connections)
        self._client = QdrantClient(
            url=server.url,
            # As a header, because the client warns about an `api_key` without TLS on every start.
            headers={"api-key": server.api_key} if server.api_key else None,
            timeout=server.timeout,
            prefer_grpc=False,
            check_compatibility=False,
            limits=limits,
        )
        self.patience = CallLines(server.timeout)
        api = self._client.http.client
        api.add_middleware(self.patience.send)
        # Middleware sees an answer only after its body, so the connections are watched too.
        self.patience.watch(api._client)

    def name(self, generation: int) -> str:
        return f"{self.server.collection}_{generation:06d}"

    def open(self, generation: int, dims: int) -> "QdrantIndex":
        """The index of this generation, whether it exists or not."""
        return QdrantIndex(self._client, self.name(generation), dims, self.patience)

    @translating_errors()
    def exists(self, generation: int) -> bool:
        return bool(self._client.collection_exists(self.name(generation)))

    @translating_errors()
    def generations(self) -> list[int]:
        """All existing generations, in use or not, in order."""
        pattern = re.compile(re.escape(self.server.collection) + r"_(\d{6,})")
        matches = [
            pattern.fullmatch(one.name) for one in self._client.get_collections().collections
        ]
        return sorted(int(match[1]) for match in matches if match)

    @translating_errors()
    def drop(self, generation: int) -> None:
        self._client.delete_collection(self.name(generation))

    @translating_errors()
    def create(self, generation: int, dims: int) -> "QdrantIndex":
        """Creates the empty collection and the payload indexes for its filters."""
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
        for key in (EXPIRES, GONE):
            self._client.create_payload_index(name, key, field_schema=_NUMBER, wait=True)
        # Servers may be configured to refuse conditions on fields without an index.
        rev = models.IntegerIndexParams(
            type=models.IntegerIndexType.INTEGER, lookup=False, range=True
        )
        self._client.create_payload_index(name, REV, field_schema=rev, wait=True)
        return self.open(generation, dims)

    def close(self) -> None:
        self._client.close()


class QdrantIndex:
    """VectorIndex on one collection. `dims` 0 is an index of words only."""

    is_remote = True

    def __init__(self, client: QdrantClient, name: str, dims: int, patience: CallLines) -> None:
        self.name, self.dims = name, dims
        self._client, self._patience = client, patience
        self._words = fields.Bm25Encoder()
        self._closed = False

    @contextmanager
    def _asking(self, line: CallLine | None = None) -> Iterator[QdrantClient]:
        if self._closed:
            raise IndexUnavailableError("The memory index is closed.")
        with _translating(self.name), self._patience.on(line) if line else nullcontext():
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
        # Unvalidated, because the values were checked when they were stored, and validating every
        # number again would be most of the work.
        words = self._words.document(point.text)
        sparse = models.SparseVector.model_construct(indices=words.indices, values=words.values)
        vectors: dict[str, Any] = {LEXICAL: sparse}
        if point.vector is not None and self.dims:
            vectors[DENSE] = point.vector.tolist()
        payload = fields.payload_of(point)
        return models.PointStruct.model_construct(id=str(point.id), vector=vectors, payload=payload)

    def delete(self, ids: Collection[UUID], revs: Mapping[UUID, int] | None = None) -> None:
        """Replaces a memory whose revision is known by a grave (id and revision) for a while. A
        delayed write then finds a later revision and changes nothing; otherwise it would restore
        erased text."""
        revs = revs or {}
        with self._asking() as client:
            if unknown := [str(id_) for id_ in ids if id_ not in revs]:
                selector = models.PointIdsList(points=unknown)
                client.delete(self.name, selector, wait=True, ordering=_ORDERING)
        self._bury([Point(id_, revs[id_], "", None) for id_ in ids if id_ in revs])

    def _bury(self, points: Sequence[Point]) -> None:
        now = time.time()
        with self._asking() as client:
            for at in range(0, len(points), _BURIED_AT_ONCE):
                batch = points[at : at + _BURIED_AT_ONCE]
                client.upsert(
                    self.name,
                    [_grave(point, now) for point in batch],
                    wait=True,
                    ordering=_ORDERING,
                    update_filter=_not_newer(batch),
                )

    def sweep(self, before: float) -> None:
        """Removes the graves from before that Unix second."""
        with self._asking() as client:
            # A collection of an earlier version lacks this index; creating it again changes
            # nothing.
            client.create_payload_index(self.name, GONE, field_schema=_NUMBER, wait=True)
            selector = models.FilterSelector(filter=_buried(before))
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
        filter_ = fields.build_filter(_FILTERS, where, now, ids)
        return self._query_batch([_request(vector.tolist(), DENSE, limit, filter_)])[0]

    def search_text(
        self,
        query: str,
        *,
        limit: int,
        where: Node,
        now: float | None = None,
        ids: Collection[UUID] | None = None,
    ) -> Hits:
        return self.search_both(None, query, limit=limit, where=where, now=now, ids=ids)[1]

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
        filter_ = fields.build_filter(_FILTERS, where, now, ids)
        words = self._words.query(query)
        dense, lexical = [], []
        if vector is not None:
            dense = [_request(vector.tolist(), DENSE, limit, filter_)]
        if words.indices:
            sparse = models.SparseVector.model_construct(indices=words.indices, values=words.values)
            lexical = [_request(sparse, LEXICAL, limit, filter_)]
        hits = self._query_batch([*dense, *lexical])
        return hits[0] if dense else [], hits[-1] if lexical else []

    def _query_batch(self, requests: Sequence[models.QueryRequest]) -> list[Hits]:
        """Runs all queries in one call, because a second call would double the time on the
        network."""
        if not requests:
            return []
        batch = models.QueryRequestBatch.model_construct(searches=list(requests))
        with self._asking(self._patience.searching) as client:
            # The client's own method would search every number for something to embed.
            answer = client.http.search_api.query_batch_points(
                collection_name=self.name, query_request_batch=batch
            )
            return [
                [(UUID(str(hit.id)), hit.score) for hit in one.points]
                for one in answer.result or []
            ]

    def words(self, text: str) -> frozenset[int]:
        return self._words.of(text)

    def scan_ids(self) -> Iterator[tuple[UUID, int]]:
        offset: Any = None
        while True:
            with self._asking() as client:
                records, offset = client.scroll(
                    self.name, limit=_SCAN_PAGE, offset=offset, with_payload=[REV, GONE]
                )
            yield from _revisions(records)
            if offset is None:
                return

    def revisions(self, ids: Collection[UUID]) -> dict[UUID, int]:
        names = [str(id_) for id_ in ids]
        with self._asking() as client:
            return dict(_revisions(client.retrieve(self.name, names, with_payload=[REV, GONE])))

    def count(self) -> int:
        with self._asking(self._patience.looking) as client:
            points = client.count(self.name, exact=True).count
            graves = client.count(self.name, count_filter=_buried(time.time() + _DAY), exact=True)
            return int(points - graves.count)

    def flush(self) -> None:
        """Nothing to flush, because every write waits until the server has it."""
        with self._asking():
            pass

    def close(self) -> None:
        """Ends this view; the client stays open for the other generations."""
        self._closed = True

    def abandon(self) -> None:
        self.close()


def _request(query: Any, using: str, limit: int, filter_: Any) -> models.QueryRequest:
    return models.QueryRequest.model_construct(
        query=query, using=using, limit=limit, filter=filter_, with_payload=False
    )


def _not_newer(points: Sequence[Point]) -> Any:
    """The condition that an upsert only replaces points without a later revision.

    It keeps the slower of two processes from leaving an older state behind. Servers before 1.16
    ignore the condition, but writers check again anyway.
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


def _grave(point: Point, at: float) -> models.PointStruct:
    payload = {REV: point.rev, GONE: at}
    return models.PointStruct.model_construct(id=str(point.id), vector={}, payload=payload)


def _buried(before: float) -> Any:
    return _FILTERS.group(must=[_FILTERS.up_to(GONE, before)])


def _revisions(records: Sequence[Any]) -> list[tuple[UUID, int]]:
    """The revisions of all points except graves."""
    payloads = [(r.id, cast("Any", r.payload or {})) for r in records]
    return [
        (UUID(str(id_)), int(payload.get(REV, 0)))
        for id_, payload in payloads
        if GONE not in payload
    ]
