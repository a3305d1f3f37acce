"""Notes of requests, written to the database in the background.

Requests leave notes instead of waiting for a write. One thread per process writes the gathered
notes, once a second or when a batch is full. During an outage of the database, or while the disk is
full, they wait; notes beyond the limit are counted and dropped.
"""

import logging
import threading
import time
from collections.abc import Callable, Hashable
from itertools import islice
from typing import Any, Final, Generic, TypeVar

from django.db import Error as AnyDatabaseError
from django.db import close_old_connections, connection

from core import disk

logger = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# How often the thread looks for notes to write.
LOOK_SECONDS: Final = 1.0
# How long notes that could not be written wait for the next attempt, at most.
RETRY_SECONDS: Final = 30.0


class Notes(Generic[K, V]):
    """Notes of one kind, each under a key.

    `store` writes a batch and returns how many it dropped. After a database error the batch waits,
    without the notes that `store` has removed from it. `join` merges two notes with the same key;
    by default the newer one counts. At most `size` notes wait.
    """

    def __init__(
        self,
        name: str,
        store: Callable[[dict[K, V]], int],
        *,
        join: Callable[[V, V], V] = lambda old, new: new,
        size: int = 10_000,
        batch: int = 200,
        seconds: float = LOOK_SECONDS,
    ) -> None:
        self.name, self.store, self.size = name, store, size
        self._join, self._batch, self._seconds = join, batch, seconds
        self._guard = threading.Lock()
        self.clear()
        _all.append(self)

    def clear(self) -> None:
        """Forgets all notes."""
        self._notes: dict[K, V] = {}
        self._kept: dict[K, V] = {}  # a batch that could not be written yet
        self._dropped = 0
        self._wait = self._seconds
        self._due = 0.0

    @property
    def count(self) -> int:
        """How many wait."""
        return len(self._kept) + len(self._notes)

    def put(self, key: K, note: V) -> None:
        """Queues the note or counts it as dropped; never waits."""
        with self._guard:
            if key in self._notes:
                self._notes[key] = self._join(self._notes[key], note)
            elif len(self._notes) < self.size:
                self._notes[key] = note
            else:
                self._dropped += 1
        if self._has_batch() and not _full.is_set():
            _full.set()

    def write(self) -> bool:
        """Writes all waiting notes, in one thread; False if that failed and they still wait."""
        self._tell_dropped()
        if self.count and disk.is_low():
            return False  # the remaining space is for deletes
        while self._kept or self._take_batch():
            try:
                left_out = self.store(self._kept)
            except AnyDatabaseError as error:
                extra = {"notes": len(self._kept), "cause": str(error).strip()[:300]}
                logger.warning("%s not written; trying again", self.name, extra=extra)
                return False
            except Exception:  # the thread must go on, the next batch may succeed
                logger.exception("%s not written", self.name)
                self._drop(len(self._kept))
                self._kept = {}
                return False
            self._drop(left_out)
            self._kept = {}
        return True

    def write_if_due(self) -> None:
        """Writes when it is due or a batch is full; after a failure only when it is due."""
        now = time.monotonic()
        if now < self._due and not self._has_batch():
            return
        succeeded = self.write()
        self._wait = self._seconds if succeeded else min(self._wait * 2, RETRY_SECONDS)
        self._due = now + self._wait

    def end(self) -> None:
        """Writes what is left, and drops what cannot be written."""
        self.write()
        self._drop(self.count)
        self._tell_dropped()
        self.clear()

    def _has_batch(self) -> bool:
        return len(self._notes) >= self._batch and self._wait == self._seconds

    def _take_batch(self) -> bool:
        with self._guard:
            keys = list(islice(self._notes, self._batch))
            self._kept = {key: self._notes.pop(key) for key in keys}
        return bool(keys)

    def _drop(self, count: int) -> None:
        with self._guard:
            self._dropped += count

    def _tell_dropped(self) -> None:
        with self._guard:
            dropped, self._dropped = self._dropped, 0
        if dropped:
            logger.warning("%s: some were dropped", self.name, extra={"notes": dropped})


_all: Final[list[Notes[Any, Any]]] = []
_full: Final = threading.Event()
_stop: Final = threading.Event()
_thread: threading.Thread | None = None


def are_kept() -> bool:
    """Whether this process keeps notes; commands do not."""
    return _thread is not None


def start() -> None:
    """Begins to keep notes in this process."""
    global _thread
    _stop.clear()
    _thread = threading.Thread(target=_run, name="mem0dash-notes", daemon=True)
    _thread.start()


def stop() -> None:
    """Writes what is left and ends the thread."""
    global _thread
    thread, _thread = _thread, None
    _stop.set()
    _full.set()
    if thread is not None:
        thread.join(timeout=30)


def _run() -> None:
    while not _stop.is_set():
        _full.wait(LOOK_SECONDS)
        _full.clear()
        close_old_connections()
        for notes in _all:
            notes.write_if_due()
    for notes in _all:
        notes.end()
    connection.close()
