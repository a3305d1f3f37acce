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
# An embedder whose dimensions could not be asked at the start is asked again this often.
ASK_AGAIN_SECONDS: Final = 30.0
# Of more memories than this that wait for their token states, the sweep finds the oldest.
MOST_UNREAD: Final = 10_000
ModelState = Literal["ready", "loading", "missing"]


class Runtime:
    """Engine and index of this process. Without an indexer, writes stay pending for the one that
    has it. `version` is the configuration that the engine is made of."""

    def __init__(self, engine: Engine, indexer: Indexer | None, version: int = 0) -> None:
        self.engine = engine
        self.indexer = indexer
        self.version = version
        # When this process last brought its index to disk.
        self.settled_at: datetime | None = None
        self._settled_at = self._asked_at = time.monotonic()
        self._reader_failed = False
        # What this process stored and the local model has not read yet.
        self._unread: deque[UUID] = deque(maxlen=MOST_UNREAD)
        self._changing = threading.Lock()

    @property
    def index(self) -> VectorIndex:
        """The index to search in; IndexUnavailableError in a process without one."""
        return self.pair()[1]

    def pair(self) -> tuple[Engine, VectorIndex]:
        """Engine and index of one and the same model, for a search; errors as `index`."""
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
        """Whether this process has the embedded index to itself, and cannot ask it now: while it is
        built again, or closed. Until then the database's own index of words answers."""
        indexer = self.indexer
        if indexer is None or not indexer.is_alone:
            return False
        return not indexer.complete or bool(getattr(indexer.index, "damage", ""))

    def briefly(self) -> AbstractContextManager[None]:
        """As the indexer's: for what is no more than welcome."""
        return self.indexer.briefly() if self.indexer is not None else nullcontext()

    def apply(self, memories: list[Memory]) -> None:
        """Shows the index what was just committed. Never fails the caller: the rows are stored,
        and the drain loop tries again."""
        engine = self.engine
        if engine.wants_reader and engine.reader is not engine.embedder:
            self._unread.extend(memory.id for memory in memories)
        if self.indexer is None or not memories:
            return
        try:
            self.indexer.follow([memory.id for memory in memories])
        except IndexPausedError as error:
            # Said once by the round that tries it again, not by each write.
            logger.debug("index not updated", extra={"why": error.message})
        except (Mem0dashError, AnyDatabaseError) as error:
            # One line: there may be one for each write until the index answers again.
            cause = str(error.__cause__ or error).strip()[:300]
            logger.warning("index not updated; it will be tried again", extra={"cause": cause})

    def use(self, engine: Engine, commit: Callable[[], int]) -> None:
        """Puts `engine` in the place of the present one, for what begins from now on.

        `commit` keeps the configuration that it is made of and gives its version. With another
        model the index is built anew beside the old one, and both change at once.
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
        """Takes up a configuration that another process, or a command, has made."""
        if configuration.latest_version() != self.version:
            wanted = configuration.current_configuration()
            self.use(engine_of(wanted, self.engine, ask=False), lambda: wanted.version)

    def ask_for_dims(self) -> None:
        """Takes an embedder into use that could not be asked for its dimensions so far. It may take
        as long as a call; ConflictError when it turns out to be another than the vectors' own."""
        due = time.monotonic() - self._asked_at >= ASK_AGAIN_SECONDS
        if due and self.engine.embedder is None and self.engine.chosen is not None:
            self._asked_at = time.monotonic()
            wanted = configuration.current_configuration()
            engine = engine_of(wanted, self.engine)
            check_model(engine)
            self.use(engine, lambda: wanted.version)

    def prepare_reader(self) -> None:
        """Loads the model that reads token states, where it is not the embedder: no search and no
        add waits for that."""
        engine = self.engine
        if self.reader_state == "loading":
            try:
                engine.reader = open_reader()
            finally:
                # What is not prepared, or damaged, stays so until the next start.
                self._reader_failed = engine.reader is None

    @property
    def reader_state(self) -> ModelState:
        """Whether token states can be read, where they are wanted."""
        engine = self.engine
        if engine.reader is not None:
            return "ready"
        # Without a choice the local model is the embedder: it was there at the start, or not.
        missing = engine.chosen is None or self._reader_failed
        return "missing" if missing or not engine.wants_reader else "loading"

    def take_unread(self, limit: int) -> list[UUID]:
        """At most `limit` ids of what this process stored without token states, the oldest
        first. One thread may ask."""
        taken: list[UUID] = []
        while self._unread and len(taken) < limit:
            taken.append(self._unread.popleft())
        return taken

    def close(self) -> None:
        """Lets go of the index."""
        if self.indexer is None:
            return
        try:
            self.indexer.close()
        except (Mem0dashError, AnyDatabaseError):
            logger.exception("index not closed cleanly; what is missing is applied at the start")

    def tick(self) -> None:
        """One round: a rebuild where one is wanted, what is pending, now and then to disk."""
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


def engine_of(wanted: Configuration, former: Engine | None = None, *, ask: bool = True) -> Engine:
    """The engine of a configuration. An embedder that cannot be set up or, with `ask`, be asked for
    unknown dimensions, is missing from it: search is by words until it can."""
    dims = wanted.dims
    if wanted.embedder is not None and not dims:
        dims = known_dims(wanted)
    if wanted.embedder is not None and not dims and ask:
        try:
            dims = remote.measure_dims(wanted.embedder)
        except (ProviderError, InvalidInputError) as error:
            cause = getattr(error, "cause", "") or error.message
            logger.error("the embedder cannot be used: search is by words", extra={"cause": cause})
    return open_engine(
        llm=wanted.llm,
        fallback_llm=wanted.fallback_llm,
        embedder=wanted.embedder,
        dims=dims,
        late_interaction=wanted.late_interaction,
        former=former,
    )


def known_dims(wanted: Configuration) -> int:
    """The dimensions of stored vectors of this very provider and model; 0 for none."""
    state = IndexState.objects.first()
    assert wanted.embedder is not None  # noqa: S101  (asked for an embedder alone)
    if state is None or state.model_key != remote.model_key(wanted.embedder, state.dims):
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
        told = f"{other.model_key} ({other.dims} dimensions)" if other else "another model"
        raise ConflictError(
            f"{count:,} stored memories were embedded with {told}, the configured embedder is "
            f"{engine.model_key} ({engine.dims}). Vectors of two models cannot be compared: "
            "keep the former embedder, or change it with manage.py reembed, which makes the new "
            "vectors while search goes on."
        )


def _indexed_model(engine: Engine) -> tuple[str, int]:
    """The model of the index to open: without an embedder, the one that the vectors are of."""
    if engine.embedder is None and (state := IndexState.objects.first()) is not None:
        return state.model_key, state.dims
    return engine.model_key, engine.dims


def open_runtime(*, index_root: Path | None = None) -> Runtime:
    """Makes the engine and opens the index. ConfigurationError or IndexUnavailableError rise."""
    wanted = configuration.current_configuration()
    engine = engine_of(wanted)
    try:
        check_model(engine)
    except ConflictError as error:
        raise ConfigurationError(error.message) from error
    indexer = open_indexer(*_indexed_model(engine), root=index_root)
    return Runtime(engine, indexer, wanted.version)


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
