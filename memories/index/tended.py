"""Keeps the embedded index open: sets a damaged one aside, and tries a closed one again."""

import logging
import os
import threading
import time
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Final
from uuid import UUID

from django.db import Error as AnyDatabaseError
from django.utils import timezone

from core.errors import IndexDamagedError, IndexPausedError
from memories.index import folder
from memories.index.base import VectorIndex
from memories.index.closed import ClosedIndex
from memories.index.compare import Differences
from memories.models import Memory
from memories.models.server import IndexState

logger = logging.getLogger(__name__)

# How often a closed index is tried again. A damaged one is rebuilt after a pause that doubles each
# time, because the cause of the damage may persist.
TRY_AGAIN_SECONDS: Final = 5.0
HEAL_SECONDS: Final = 10.0
MOST_HEAL_SECONDS: Final = 3600.0
OpenIndex = Callable[[Path, int], VectorIndex]


class RepairingIndexer:
    """The part of an Indexer that opens and reopens its index."""

    index: VectorIndex
    state: IndexState
    # Why the index does not answer although this process has it, for people; "" if it does.
    problem = ""
    # Until this time (monotonic clock) no automatic rebuild starts.
    _heal_at = 0.0

    dims: int
    swap_lock: threading.Lock
    _root: Path
    _open: OpenIndex
    _lock: threading.RLock
    _applied: dict[UUID, int]

    @property
    @abstractmethod
    def complete(self) -> bool: ...
    @abstractmethod
    def _path(self, generation: int) -> Path: ...
    @abstractmethod
    def differences(self) -> Differences: ...
    @abstractmethod
    def repair(self, found: Differences) -> None: ...

    def _tend_from_now(self, damage: str) -> None:
        self._heals, self._try_at, self._doubtful = 0, 0.0, False
        with self._lock:
            self._open_index(damage)

    def _open_index(self, damage: str = "") -> None:
        """Opens the generation in use. `damage` says what is wrong with its files, if anything."""
        path = self._path(self.state.generation)
        # The path may be in another user's folder.
        existed = os.path.exists(path)  # noqa: PTH110  (Path.exists raises there)
        try:
            if damage:
                raise IndexDamagedError(damage)
            self._use(self._open(path, self.dims))
        except IndexPausedError as error:
            self._stay_closed(error.message)
            return
        except IndexDamagedError as error:
            existed = False
            self._set_aside(path, "; ".join(getattr(error, "__notes__", [error.message])))
        folder.drop_others(self._root, path)
        if not existed:
            self._begin_anew()

    def _set_aside(self, path: Path, damage: str) -> None:
        """Sets a damaged index aside for a new one, which is built at once the first time."""
        aside = folder.set_aside(path)
        logger.error(
            "the search index is damaged: it is built again from the database",
            extra={"cause": damage[:300], "aside": str(aside or "")},
        )
        now = time.monotonic()
        if now - self._heal_at > MOST_HEAL_SECONDS:
            self._heals = 0  # the last time was long ago
        pause = min(HEAL_SECONDS * 2 ** (self._heals - 1), MOST_HEAL_SECONDS) if self._heals else 0
        self._heals += 1
        self._heal_at = now + pause
        try:
            self._use(self._open(path, self.dims))
        except (IndexPausedError, IndexDamagedError) as error:
            self._stay_closed(error.message)

    def _use(self, index: VectorIndex) -> None:
        with self.swap_lock:
            self.index, self.problem = index, ""
        self._applied = {}
        # After an improper closing the index may lack changes: the journal is replayed, but it may
        # have been incomplete.
        self._doubtful = not getattr(index, "was_left_in_order", True)

    def _stay_closed(self, reason: str) -> None:
        with self.swap_lock:
            self.index, self.problem = ClosedIndex(self.dims, reason), reason
        self._try_at = time.monotonic() + TRY_AGAIN_SECONDS
        logger.error("the search index stays closed: search is by words", extra={"why": reason})

    def tend(self) -> None:
        """Checks the index, once a second: opens a closed one, and has a damaged or deleted one
        rebuilt."""
        with self._lock:
            if isinstance(self.index, ClosedIndex):
                if time.monotonic() >= self._try_at:
                    self._open_index()
                return
            if damage := self._damage():
                # The damaged index is not worth writing to disk.
                self.index.abandon()
                self._open_index(damage)
            elif self._doubtful and self.complete:
                self._doubtful = False
                self._compare()

    def _damage(self) -> str:
        """What has happened to the files since they were opened; "" for nothing."""
        damage = str(getattr(self.index, "damage", ""))
        was = getattr(self.index, "identity", None)
        if not damage and was is not None:
            path = self._path(self.state.generation)
            if folder.identity(path) != was:
                damage = f"the folder {path} was deleted or replaced"
        return damage

    def _compare(self) -> None:
        differences = self.differences()
        if differences.all:
            logger.warning(
                "the index lacked changes after a crash: repaired",
                extra={"memories": len(differences.all)},
            )
            self.repair(differences)

    def _begin_anew(self) -> None:
        """Marks the new index as incomplete, because the folder was lost or the embedder is new."""
        there_is_some = Memory.objects.filter(deleted_at=None).exists()
        self.state.built_at = None if there_is_some else timezone.now()
        try:
            self.state.save(update_fields=["built_at"])
        except AnyDatabaseError:
            # For example a full disk; after a restart the missing folder has the same effect.
            logger.warning("that the index is to be built is not written down")
