"""The running parts of the memory server: its engine, its index, and the work behind the scenes."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from django.conf import settings
from django.db import Error as AnyDatabaseError
from django.db import close_old_connections, connection, transaction
from django.utils.module_loading import import_string

from mem0dash.env import ConfigurationError
from mem0dash.errors import IndexUnavailableError, Mem0dashError
from memories import ingest, purge, records
from memories.engine.embedders import Embedder
from memories.engine.engine import Engine
from memories.index.base import VectorIndex
from memories.index.edge import EdgeIndex
from memories.index.indexer import UNSETTLED, Indexer
from memories.models import IndexState, Memory, MemoryVector

logger = logging.getLogger(__name__)

DRAIN_SECONDS: Final = 1.0
SETTLE_SECONDS: Final = 20.0
PURGE_SECONDS: Final = 600.0
EMBED_BATCH: Final = 32


class Runtime:
    """Engine and index of this process. Without an indexer, writes stay pending for the one that
    has it."""

    def __init__(self, engine: Engine, indexer: Indexer | None) -> None:
        self.engine = engine
        self.indexer = indexer
        self._stop = threading.Event()
        self._settled_at = time.monotonic()
        self._thread: threading.Thread | None = None

    @property
    def index(self) -> VectorIndex:
        """The index to search in; IndexUnavailableError in a process without one."""
        if self.indexer is None:
            raise IndexUnavailableError("The memory index is not open in this process.")
        if not self.indexer.complete:
            raise IndexUnavailableError("The memory index is being rebuilt; try again shortly.")
        return self.indexer.index

    def apply(self, memories: list[Memory]) -> None:
        """Shows the index what was just committed. Never fails the caller: the rows are stored,
        and the drain loop tries again."""
        if self.indexer is None or not memories:
            return
        try:
            self.indexer.apply([memory.id for memory in memories])
        except (Mem0dashError, AnyDatabaseError):
            logger.exception("index not updated; it will be tried again")

    def start(self) -> None:
        """Starts the background thread."""
        self._thread = threading.Thread(target=self._run, name="mem0dash-background", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the background thread and closes the index."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=30)
        if self.indexer is not None:
            try:
                self.indexer.close()
            except (Mem0dashError, AnyDatabaseError):
                logger.exception(
                    "index not closed cleanly; what is missing is applied at the start"
                )

    def _run(self) -> None:
        self._guarded(self.tick)
        self._guarded(self.embed_missing)
        since_purge = 0.0
        while not self._stop.wait(DRAIN_SECONDS):
            since_purge += DRAIN_SECONDS
            self._guarded(self.tick)
            self._guarded(ingest.abandon_claims)
            if since_purge >= PURGE_SECONDS:
                since_purge = 0.0
                self._guarded(purge.purge_all)
        connection.close()

    def _guarded(self, work: Callable[[], object]) -> None:
        """One failing round must not end the loop: whatever it was, the next may go well."""
        try:
            close_old_connections()
            work()
        except Exception:  # see the docstring
            logger.exception("background work failed; trying again")

    def tick(self) -> None:
        """One round: a rebuild where one is wanted, what is pending, now and then to disk."""
        if self.indexer is None:
            return
        if self.indexer.rebuild_wanted():
            count = self.indexer.rebuild()
            logger.info("index rebuilt", extra={"memories": count})
        self.indexer.drain()
        due = time.monotonic() - self._settled_at >= SETTLE_SECONDS
        if due or self.indexer.unsettled >= UNSETTLED // 2:
            self._settled_at = time.monotonic()
            self.indexer.settle()

    def embed_missing(self) -> int:
        """Makes the vectors that live memories lack, as after adds without an embedder."""
        total = 0
        while self.engine.embedder is not None and not self._stop.is_set():
            rows = list(
                Memory.objects.filter(deleted_at=None)
                .exclude(vector__model_key=self.engine.model_key)
                .only("id", "text", "rev", "role", "session", "created_at")[:EMBED_BATCH]
            )
            if not rows:
                break
            self._embed(rows)
            total += len(rows)
        if total:
            logger.info("made missing vectors", extra={"memories": total})
        return total

    def _embed(self, rows: list[Memory]) -> None:
        vectors = self.engine.embed([records.embedded_text(row) for row in rows])
        with transaction.atomic():
            # A text that changed meanwhile got its vector with the change.
            current = dict(
                Memory.objects.select_for_update()
                .filter(id__in=[row.id for row in rows])
                .values_list("id", "rev")
            )
            for row, vector in zip(rows, vectors, strict=True):
                if vector is not None and current.get(row.id) == row.rev:
                    made = records.vector_row(row, vector, self.engine.model_key)
                    MemoryVector.objects.update_or_create(
                        memory=row,
                        defaults={
                            "model_key": made.model_key,
                            "dims": made.dims,
                            "data": made.data,
                        },
                    )
            # Pending again, for the outbox to cover an index that does not take it now.
            Memory.objects.filter(id__in=[row.id for row in rows]).update(indexed_rev=0)
        self.apply(rows)


def check_model(engine: Engine) -> None:
    """Refuses an embedder other than the one the stored vectors are of (ConfigurationError)."""
    if engine.embedder is None:
        return
    other = MemoryVector.objects.exclude(model_key=engine.model_key).first()
    if other is not None:
        count = MemoryVector.objects.exclude(model_key=engine.model_key).count()
        raise ConfigurationError(
            f"{count:,} stored memories were embedded with {other.model_key} ({other.dims} "
            f"dimensions), the configured embedder is {engine.model_key} ({engine.dims}). "
            "Vectors of two models cannot be compared: configure the former embedder again."
        )


def _indexed_model(engine: Engine) -> tuple[str, int]:
    """The model of the index to open: without an embedder, the one that the vectors are of."""
    if engine.embedder is None and (state := IndexState.objects.first()) is not None:
        return state.model_key, state.dims
    return engine.model_key, engine.dims


def open_runtime(*, index_root: Path | None = None) -> Runtime:
    """Loads the embedder and opens the index. ConfigurationError or IndexUnavailableError rise."""
    load: Callable[[], Embedder | None] = import_string(settings.EMBEDDER_LOADER)
    engine = Engine(load())
    check_model(engine)
    root = index_root or settings.DATA_DIR / "index"
    root.mkdir(parents=True, exist_ok=True)
    indexer = Indexer(root, *_indexed_model(engine), open_index=EdgeIndex)
    # Holding the index means being alone: adds that are still marked as running died with the
    # process that ran them.
    ingest.take_over()
    return Runtime(engine, indexer)


_current: Runtime | None = None


def current() -> Runtime:
    """The runtime of this process; IndexUnavailableError before `install`."""
    if _current is None:
        raise IndexUnavailableError("The memory engine has not been started in this process.")
    return _current


def install(runtime: Runtime | None) -> None:
    """Makes `runtime` the one that services and searches use."""
    global _current
    _current = runtime


def check_index() -> None:
    """Raises when the index does not answer."""
    current().index.count()
