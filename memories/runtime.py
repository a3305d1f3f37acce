"""The running parts of the memory server: its engine and its index."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Final, Literal
from uuid import UUID

from django.db import Error as AnyDatabaseError
from django.utils import timezone

from core.env import ConfigurationError
from core.errors import (
    ConflictError,
    IndexPausedError,
    IndexUnavailableError,
    InvalidInputError,
    Mem0dashError,
    ProviderError,
)
from memories.engine import configuration, remote
from memories.engine.catalogue import Configuration
from memories.engine.engine import Engine
from memories.engine.opening import open_engine, open_reader
from memories.index.base import VectorIndex
from memories.index.indexer import UNSETTLED, Indexer
from memories.index.opening import open_indexer
from memories.models import Memory, MemoryVector
from memories.models.server import IndexState

logger = logging.getLogger(__name__)

SETTLE_SECONDS: Final = 20.0
# How often an embedder is asked again whose dimensions are unknown since the start.
ASK_AGAIN_SECONDS: Final = 30.0
# The most memories queued for token states; the sweep finds the others.
MOST_UNREAD: Final = 10_000
ModelState = Literal["ready", "loading", "missing"]


class Runtime:
    """Engine and index of this process. Without an indexer, writes stay pending for the process
    that has one. `version` is that of the engine's configuration."""

    def __init__(self, engine: Engine, indexer: Indexer | None, version: int = 0) -> None:
        self.engine = engine
        self.indexer = indexer
        self.version = version
        # When this process last wrote its index to disk.
        self.settled_at: datetime | None = None
        self._settled_at = self._asked_at = time.monotonic()
        self._reader_failed = False
        # Memories that this process stored and the local model has not read yet.
        self._unread: deque[UUID] = deque(maxlen=MOST_UNREAD)
        self._changing = threading.Lock()

    @property
    def index(self) -> VectorIndex:
        """The index to search; IndexUnavailableError in a process without one."""
        return self.pair()[1]

    def pair(self) -> tuple[Engine, VectorIndex]:
        """Engine and index of the same model, for a search; errors as `index`."""
        if self.indexer is None:
            raise IndexUnavailableError("The memory index is not open in this process.")
        if self.indexer.problem:
            raise IndexUnavailableError(self.indexer.problem)
        if not self.indexer.complete:
            raise IndexUnavailableError("The memory index is being rebuilt; try again shortly.")
        with self.indexer.swap_lock:
            return self.engine, self.indexer.index

    @property
    def has_words_alone(self) -> bool:
        """Whether this process has the embedded index to itself and cannot use it now, because it
        is being rebuilt or is closed. Until it can, the database's index of words answers."""
        indexer = self.indexer
        if indexer is None or not indexer.is_alone:
            return False
        return not indexer.complete or bool(getattr(indexer.index, "damage", ""))

    def briefly(self) -> AbstractContextManager[None]:
        """As the indexer's `briefly`, for calls that are optional."""
        return self.indexer.briefly() if self.indexer is not None else nullcontext()

    def apply(self, memories: list[Memory]) -> None:
        """Applies committed changes to the index. Never fails the caller: the rows are stored, and
        the drain loop tries again."""
        engine = self.engine
        if engine.wants_reader and engine.reader is not engine.embedder:
            self._unread.extend(memory.id for memory in memories)
        if self.indexer is None or not memories:
            return
        try:
            self.indexer.follow([memory.id for memory in memories])
        except IndexPausedError as error:
            # Logged once by the round that retries, not by each write.
            logger.debug("index not updated", extra={"why": error.message})
        except (Mem0dashError, AnyDatabaseError) as error:
            # One line, because each write may log it until the index answers again.
            cause = str(error.__cause__ or error).strip()[:300]
            logger.warning("index not updated; it will be tried again", extra={"cause": cause})

    def use(self, engine: Engine, commit: Callable[[], int]) -> None:
        """Replaces the engine for all new work.

        `commit` stores the engine's configuration and returns its version. With another model a new
        index is built beside the old one, and both are swapped at once.
        """

        def swapped() -> None:
            self.engine = engine

        def commit_it() -> None:
            self.version = commit()

        with self._changing:
            former = self.version
            try:
                same = self.indexer is None or engine.model_key == self.indexer.model_key
                if self.indexer is None or same or engine.embedder is None:
                    commit_it()
                    swapped()
                else:
                    model = (engine.model_key, engine.dims)
                    self.indexer.rebuild(model=model, commit=commit_it, swapped=swapped)
            except BaseException:
                self.version = former
                raise

    def refresh(self) -> None:
        """Follows a configuration that another process or a command has stored."""
        if configuration.latest_version() != self.version:
            target = configuration.current_configuration()
            self.use(engine_of(target, self.engine, ask=False), lambda: target.version)

    def ask_for_dims(self) -> None:
        """Takes an embedder into use whose dimensions were unknown so far. May take as long as a
        call; ConflictError if it differs from the model of the stored vectors."""
        due = time.monotonic() - self._asked_at >= ASK_AGAIN_SECONDS
        if due and self.engine.embedder is None and self.engine.chosen is not None:
            self._asked_at = time.monotonic()
            target = configuration.current_configuration()
            engine = engine_of(target, self.engine)
            check_model(engine)
            self.use(engine, lambda: target.version)

    def prepare_reader(self) -> None:
        """Loads the model that reads token states if it is not the embedder, so that no search or
        add waits for it."""
        engine = self.engine
        if self.reader_state == "loading":
            try:
                engine.reader = open_reader()
            finally:
                # A missing or damaged model stays so until the next start.
                self._reader_failed = engine.reader is None

    @property
    def reader_state(self) -> ModelState:
        """Whether token states can be read, if they are wanted."""
        engine = self.engine
        if engine.reader is not None:
            return "ready"
        # Without a choice the local model is the embedder, and the start has loaded it or failed
        # to.
        missing = engine.chosen is None or self._reader_failed
        return "missing" if missing or not engine.wants_reader else "loading"

    def take_unread(self, limit: int) -> list[UUID]:
        """At most `limit` ids of memories that this process stored without token states, the oldest
        first. For one thread only."""
        ids: list[UUID] = []
        while self._unread and len(ids) < limit:
            ids.append(self._unread.popleft())
        return ids

    def close(self) -> None:
        """Closes the index."""
        if self.indexer is None:
            return
        try:
            self.indexer.close()
        except (Mem0dashError, AnyDatabaseError):
            logger.exception("index not closed cleanly; what is missing is applied at the start")

    def tick(self) -> None:
        """One round: rebuilds if requested, applies pending changes, and periodically writes to
        disk."""
        if self.indexer is None:
            return
        self.indexer.tend()
        if self.indexer.rebuild_wanted():
            count = self.indexer.rebuild()
            logger.info("index rebuilt", extra={"memories": count})
        self.indexer.drain()
        due = time.monotonic() - self._settled_at >= SETTLE_SECONDS
        if due or self.indexer.unsettled >= UNSETTLED // 2:
            self._settled_at = time.monotonic()
            self.indexer.settle()
            self.settled_at = timezone.now()


def engine_of(target: Configuration, former: Engine | None = None, *, ask: bool = True) -> Engine:
    """The engine of a configuration. It lacks an embedder that cannot be set up or whose unknown
    dimensions cannot be measured (only with `ask`); search is by words until then."""
    dims = target.dims
    if target.embedder is not None and not dims:
        dims = known_dims(target)
    if target.embedder is not None and not dims and ask:
        try:
            dims = remote.measure_dims(target.embedder)
        except (ProviderError, InvalidInputError) as error:
            cause = getattr(error, "cause", "") or error.message
            logger.error("the embedder cannot be used: search is by words", extra={"cause": cause})
    return open_engine(
        llm=target.llm,
        fallback_llm=target.fallback_llm,
        embedder=target.embedder,
        dims=dims,
        late_interaction=target.late_interaction,
        former=former,
    )


def known_dims(target: Configuration) -> int:
    """The dimensions of the stored vectors if they are of this provider and model, else 0."""
    state = IndexState.objects.first()
    assert target.embedder is not None  # noqa: S101  (callers have an embedder)
    if state is None or state.model_key != remote.model_key(target.embedder, state.dims):
        return 0
    return state.dims


def check_model(engine: Engine) -> None:
    """Refuses an embedder other than the one that the stored vectors are of (ConflictError)."""
    if engine.embedder is None:
        return
    state = IndexState.objects.first()
    if state is not None and state.model_key == engine.model_key:
        return
    rows = Memory.objects.filter(deleted_at=None, vectors__isnull=False)
    count = rows.exclude(vectors__model_key=engine.model_key).count()
    if count:
        other = MemoryVector.objects.exclude(model_key=engine.model_key).first()
        former_model = f"{other.model_key} ({other.dims} dimensions)" if other else "another model"
        raise ConflictError(
            f"{count:,} stored memories were embedded with {former_model}, the configured embedder "
            f"is {engine.model_key} ({engine.dims}). Vectors of two models cannot be compared: "
            "keep the former embedder, or change it with manage.py reembed, which makes the new "
            "vectors while search goes on."
        )


def _indexed_model(engine: Engine) -> tuple[str, int]:
    """The model of the index to open: without an embedder, that of the stored vectors."""
    if engine.embedder is None and (state := IndexState.objects.first()) is not None:
        return state.model_key, state.dims
    return engine.model_key, engine.dims


def open_runtime(*, index_root: Path | None = None) -> Runtime:
    """Makes the engine and opens the index; ConfigurationError, IndexUnavailableError."""
    configured = configuration.current_configuration()
    engine = engine_of(configured)
    try:
        check_model(engine)
    except ConflictError as error:
        raise ConfigurationError(error.message) from error
    indexer = open_indexer(*_indexed_model(engine), root=index_root)
    return Runtime(engine, indexer, configured.version)


_current: Runtime | None = None


def get_runtime() -> Runtime:
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
    count_points()


def count_points() -> int:
    """How many memories are in the index; raises when it does not answer."""
    return get_runtime().index.count()
