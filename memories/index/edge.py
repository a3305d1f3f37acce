"""The embedded index: Qdrant Edge in this process, one process per directory."""

import ctypes
import functools
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar, cast
from uuid import UUID

import qdrant_edge as edge

from core import disk
from core.errors import IndexDamagedError, IndexPausedError, IndexUnavailableError
from memories.filters import Node
from memories.index import folder
from memories.index import payload as fields
from memories.index.base import Hits, Point
from memories.index.payload import EXPIRES, KEYWORDS, LEXICAL, REV
from memories.readings import Vector

DENSE: Final = ""
_RESCORED: Final = edge.SearchParams(
    quantization=edge.QuantizationSearchParams(rescore=True, oversampling=2.0)
)
_SCAN_PAGE: Final = 5000
_FIRST_LOOK: Final = 20
# The disk space of a new index, and that of a point without its vector and text.
_CREATED_BYTES: Final = disk.MB
_POINT_BYTES: Final = 2000
# How messages of the engine's internal errors begin.
_BROKEN: Final = ("Service runtime error", "IO Error")
# A panic of the engine's Rust code; pyo3 derives it from BaseException.
_PANIC: Final = "PanicException"
# From _MANY points, a filter that passes at least the share _WIDE of them (by the engine's
# estimate) is applied to the nearest points only, _SPARE times as many as needed.
_MANY: Final = 30_000
_WIDE: Final = 0.4
_SPARE: Final = 1.25


Method = TypeVar("Method", bound=Callable[..., Any])


def _guarded(method: Method) -> Method:
    """Runs a method that calls the engine inside EdgeIndex._at_work."""

    @functools.wraps(method)
    def guarded(self: "EdgeIndex", *args: Any, **kwargs: Any) -> Any:
        with self._at_work():
            return method(self, *args, **kwargs)

    return cast("Method", guarded)


class _Filters:
    """FilterDialect of the embedded engine."""

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
    """VectorIndex on Qdrant Edge. `dims` 0 makes an index of words only.

    The engine's files are mapped to memory, so nothing may be written while the disk is full:
    IndexPausedError. `damage` says what is wrong with the files, once that is known.
    """

    is_remote = False

    def __init__(self, path: Path, dims: int) -> None:
        """Opens or creates the index in `path`. IndexInUseError if another process has it,
        IndexPausedError if the disk is full or read-only, IndexDamagedError if the files were
        changed since they were closed, or belong to another kind of index."""
        self.path, self.dims = path, dims
        self.damage = ""
        self._is_open = True
        self._words = fields.Bm25Encoder()
        self._let_go_of_root = folder.hold(path.parent)
        try:
            self._shard, self.was_left_in_order = self._open_shard()
        except OSError as error:
            self._let_go_of_root()
            # Belongs to another user, or cannot be created. Somebody may fix that meanwhile.
            raise IndexPausedError(
                f"The memory index in {path} cannot be opened ({error.strerror})."
            ) from error
        except BaseException:
            self._let_go_of_root()
            raise
        self.identity = folder.identity(path)

    def _open_shard(self) -> tuple[Any, bool]:
        """The engine's shard, and whether it was closed properly the last time."""
        self._pause_when_full(_CREATED_BYTES)
        if not self.path.exists():
            self._pause_when_read_only(self.path.parent)
            self.path.mkdir(mode=0o700, parents=True)
        self._let_go = folder.hold_folder(self, self.path)
        try:
            self._pause_when_read_only(self.path)
            if not any(self.path.iterdir()):
                with self._at_work():
                    return self._create(self.path, self.dims), True
            return self._load()
        except BaseException:
            self._let_go()
            raise

    def _load(self) -> tuple[Any, bool]:
        in_order, damage = folder.compare_with_record(self.path)
        damage = damage or self._wrong_config()
        if not damage and not folder.record_opening(self.path):
            damage = "the process that opened it died of it, more than once"
        if damage:
            raise self._damaged(damage)
        with self._at_work(loading=True):
            shard = edge.EdgeShard.load(str(self.path))
            # If counting and reading fail, so would a search.
            shard.count(edge.CountRequest(exact=True))
            shard.scroll(edge.ScrollRequest(limit=_FIRST_LOOK, with_payload=True))
        folder.record_opened(self.path)
        return shard, in_order

    def _wrong_config(self) -> str:
        """What is wrong with the engine's own description of the index; "" for nothing."""
        try:
            config = json.loads((self.path / folder.CONFIG).read_text(encoding="utf-8"))
            vectors = config.get("vectors") or {}
            dims = int(vectors.get(DENSE, {}).get("size", 0))
        except FileNotFoundError:
            return f"{folder.CONFIG} is missing"
        except (OSError, ValueError, AttributeError, TypeError):
            return f"{folder.CONFIG} cannot be read"
        return "" if dims == self.dims else f"it is of {dims} dimensions, not of {self.dims}"

    # --- Guarding the engine ---------------------------------------------------------------------
    @contextmanager
    def _at_work(self, *, loading: bool = False) -> Iterator[None]:
        """Wraps every call of the engine and turns errors into IndexUnavailableError, even panics,
        which `except Exception` does not catch. A full or read-only disk is not damage."""
        if not self._is_open:
            raise IndexUnavailableError("The memory index is closed.")
        try:
            yield
        except IndexUnavailableError:
            raise
        except BaseException as error:
            panicked = type(error).__name__ == _PANIC
            if not panicked and not isinstance(error, Exception):
                raise
            broken = panicked or loading or str(error).startswith(_BROKEN)
            if not broken:
                raise IndexUnavailableError("The memory index failed.") from error
            self._pause_when_read_only(self.path)
            self._pause_when_full(0)
            raise self._damaged(str(error).partition("\n")[0][:200]) from error

    def _damaged(self, damage: str) -> IndexDamagedError:
        self.damage = damage
        error = IndexDamagedError("The files of the memory index are damaged.")
        error.add_note(damage)
        return error

    def _pause_when_full(self, needed: int) -> None:
        room = disk.room_of(self.path)
        if room.free < room.floor + needed:
            error = disk.disk_full_error(room, room.floor + needed)
            raise IndexPausedError(f"The memory index is not written: {error.message}") from error

    def _pause_when_read_only(self, path: Path) -> None:
        if not folder.is_writable(path):
            raise IndexPausedError(f"The memory index in {path} can only be read by this process.")

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

    @_guarded
    def upsert(self, points: Sequence[Point]) -> None:
        if not points:
            return
        rows, size = [], 0
        for point in points:
            size += _POINT_BYTES + 4 * self.dims + 12 * len(point.text)
            vectors: dict[str, Any] = {LEXICAL: self._words.document(point.text)}
            if point.vector is not None and self.dims:
                vectors[DENSE] = point.vector.tolist()
            rows.append(edge.Point(str(point.id), vectors, fields.payload_of(point)))
        # Once in the journal, once in place, and partly filled pages.
        self._pause_when_full(3 * size)
        self._shard.update(edge.UpdateOperation.upsert_points(rows))

    @_guarded
    def delete(self, ids: Collection[UUID], revs: Mapping[UUID, int] | None = None) -> None:
        # `revs` is not needed, because the only writer is in this process.
        if ids:
            self._pause_when_full(0)
            self._shard.update(edge.UpdateOperation.delete_points([str(i) for i in ids]))

    @_guarded
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
        if ids is None and (hits := self._wide(nearest, limit, where, now)) is not None:
            return hits
        return self._query(nearest, limit, where, now, ids)

    def _wide(self, nearest: Any, limit: int, where: Node, now: float | None) -> Hits | None:
        """A faster search for filters that pass most of many points: finds the nearest of all and
        filters only those. Filtering every point takes five times as long as finding the nearest.
        None if the filter is not of this kind, or too few of the nearest pass."""
        filter_, total = (
            fields.build_filter(_FILTERS, where, now, None),
            self._shard.info().points_count,
        )
        if filter_ is None or total < _MANY:
            return None
        share = self._shard.count(edge.CountRequest(filter=filter_, exact=False)) / total
        if share < _WIDE:
            return None
        more = int(limit * _SPARE / share) + 1
        of_all = edge.QueryRequest(query=nearest, limit=more, params=_RESCORED)
        nearest_ids = {cast("UUID", hit.id) for hit in self._shard.query(of_all)}
        hits = self._query(nearest, limit, where, now, nearest_ids)
        return hits if len(hits) == limit else None

    @_guarded
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
        filter_ = fields.build_filter(_FILTERS, where, now, ids)
        request = edge.QueryRequest(
            query=query, limit=limit, filter=filter_, with_payload=False, params=_RESCORED
        )
        # Every id is a UUID already; converting them would cost more than the search itself.
        return cast("Hits", [(hit.id, hit.score) for hit in self._shard.query(request)])

    def words(self, text: str) -> frozenset[int]:
        return self._words.of(text)

    @_guarded
    def scan_ids(self) -> Iterator[tuple[UUID, int]]:
        return iter(self._scan())

    def _scan(self) -> list[tuple[UUID, int]]:
        revisions: list[tuple[UUID, int]] = []
        offset = None
        while True:
            request = edge.ScrollRequest(limit=_SCAN_PAGE, offset=offset, with_payload=True)
            records, offset = self._shard.scroll(request)
            revisions += _revisions(records)
            if offset is None:
                return revisions

    @_guarded
    def revisions(self, ids: Collection[UUID]) -> dict[UUID, int]:
        records = self._shard.retrieve(list(ids), with_payload=True, with_vector=False)
        return dict(_revisions(records))

    @_guarded
    def count(self) -> int:
        return int(self._shard.count(edge.CountRequest(exact=True)))

    @_guarded
    def flush(self) -> None:
        room = disk.room_of(self.path)
        # Writes stop at a higher limit, so that a flush of earlier writes still works.
        if room.free < room.floor // 2:
            self._pause_when_full(0)
        self._shard.flush()

    def close(self) -> None:
        if not self._is_open:
            return
        try:
            self._close()
        finally:
            self._is_open = False
            self._let_go()
            self._let_go_of_root()

    @_guarded
    def _close(self) -> None:
        try:
            self.flush()
        except IndexUnavailableError:
            self._keep_shard()
            raise
        self._shard.close()
        folder.record_closed(self.path)

    def abandon(self) -> None:
        if self._is_open:
            self._keep_shard()
            self._is_open = False
            self._let_go()
            self._let_go_of_root()

    def _keep_shard(self) -> None:
        """Leaks the engine's shard on purpose. Its destructor writes to its files, and crashes the
        process on a full disk."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._shard))


def _revisions(records: Sequence[Any]) -> list[tuple[UUID, int]]:
    return [(cast("UUID", r.id), int((r.payload or {}).get(REV, 0))) for r in records]
