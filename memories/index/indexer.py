"""Keeps the index equal to SQL: applies changes, drains what was left over, rebuilds."""

import logging
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from datetime import time as day_time
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import numpy as np
from django.db.models import F
from django.utils import timezone

from memories.filters.pushdown import METADATA_WORDS, metadata_words
from memories.index.base import Point, VectorIndex
from memories.index.edge import EXPIRES
from memories.models import ENTITY_FIELDS, IndexState, Memory

logger = logging.getLogger(__name__)

BATCH: Final = 500
# The most changes that may wait to be settled, and so be applied again after a crash.
UNSETTLED: Final = 20_000
_COLUMNS: Final = (
    "id",
    "rev",
    "deleted_at",
    "text",
    "project_id",
    "collection",
    *ENTITY_FIELDS,
    "actor_id",
    "role",
    "source",
    "confidence",
    "review_status",
    "metadata",
    "expires_at",
    "expiration_date",
    "vector__data",
    "vector__model_key",
)
OpenIndex = Callable[[Path, int], VectorIndex]


class Indexer:
    """The one writer of an index. Safe to call from any thread.

    A change is applied right after its commit, so that a search sees it at once; that it was
    applied is written down (`indexed_rev`) only after the index is on disk. What a crash leaves in
    between is applied again, which changes nothing.
    """

    def __init__(self, root: Path, model_key: str, dims: int, open_index: OpenIndex) -> None:
        """Opens, or makes, the index of the embedder `model_key` below the folder `root`."""
        self._root, self._open = root, open_index
        self._lock = threading.RLock()
        self._applied: dict[UUID, int] = {}
        self._building: VectorIndex | None = None
        self.model_key, self.dims = model_key, dims
        self.state = self._ensure_state()
        existed = self._path(self.state.generation).exists()
        self.index = open_index(self._path(self.state.generation), dims)
        self._drop_other_folders()
        if not existed:
            self._begin_anew()

    def _ensure_state(self) -> IndexState:
        state, _ = IndexState.objects.get_or_create(
            name="default", defaults={"model_key": self.model_key, "dims": self.dims}
        )
        if (state.model_key, state.dims) != (self.model_key, self.dims):
            state.model_key, state.dims = self.model_key, self.dims
            state.generation += 1
            state.save()
        return state

    def _begin_anew(self) -> None:
        """The folder was lost or the embedder is new: all that there is has to be applied again."""
        there_is_some = Memory.objects.filter(deleted_at=None).exists()
        self.state.built_at = None if there_is_some else timezone.now()
        self.state.save(update_fields=["built_at"])

    @property
    def complete(self) -> bool:
        """Whether the index holds all memories: an answer from it would be an empty list for an
        outage otherwise."""
        return self.state.built_at is not None

    def _path(self, generation: int) -> Path:
        return self._root / f"{generation:06d}"

    def _drop_other_folders(self) -> None:
        keep = self._path(self.state.generation)
        for folder in self._root.iterdir():
            if folder.is_dir() and folder != keep:
                shutil.rmtree(folder, ignore_errors=True)

    def apply(self, ids: Sequence[UUID]) -> None:
        """Brings the index to what SQL holds for these memories. IndexUnavailableError may rise.

        Rows are read under the lock, so that of two changes to one memory the later one stays.
        """
        if not ids:
            return
        with self._lock:
            for id_ in ids:
                self._applied.pop(id_, None)
            rows = list(Memory.objects.filter(id__in=ids).values_list(*_COLUMNS))
            live = [self._point(row) for row in rows if row[2] is None]
            gone = set(ids) - {point.id for point in live}
            for index in (self.index, self._building):
                if index is not None:
                    index.upsert(live)
                    index.delete(gone)
            self._applied.update((row[0], row[1]) for row in rows)

    def _point(self, row: tuple[Any, ...]) -> Point:
        values = dict(zip(_COLUMNS, row, strict=True))
        fields: dict[str, Any] = {"project": str(values["project_id"])}
        for name in ("collection", *ENTITY_FIELDS, "actor_id", "role", "source"):
            if values[name]:
                fields[name] = values[name]
        fields["confidence"] = values["confidence"]
        fields["review_status"] = values["review_status"]
        if words := metadata_words(values["metadata"]):
            fields[METADATA_WORDS] = words
        if (expires := expiry_second(values["expires_at"], values["expiration_date"])) is not None:
            fields[EXPIRES] = expires
        data = values["vector__data"]
        same_model = data is not None and values["vector__model_key"] == self.model_key
        vector = np.frombuffer(data, dtype="<f4") if same_model else None
        return Point(values["id"], values["rev"], values["text"], vector, fields)

    def drain(self) -> int:
        """Applies what SQL has and the index has not seen; how many memories that were."""
        with self._lock:
            rows = Memory.objects.filter(rev__gt=F("indexed_rev")).values_list("id", "rev")
            pending = [id_ for id_, rev in rows[:UNSETTLED] if self._applied.get(id_) != rev]
        # A batch at a time under the lock: an add that comes in between does not wait for all.
        for at in range(0, len(pending), BATCH):
            self.apply(pending[at : at + BATCH])
        return len(pending)

    @property
    def unsettled(self) -> int:
        """How many applied changes are not yet written down as being on disk."""
        return len(self._applied)

    def settle(self) -> None:
        """Brings the index to disk, and writes down in SQL what is there.

        Flushing stops every thread of the process for as long as the disk takes (the index holds
        the interpreter's lock), so it is done now and then, not after every change.
        """
        with self._lock:
            applied, self._applied = self._applied, {}
            if applied:
                self.index.flush()
        by_rev: dict[int, list[UUID]] = {}
        for id_, rev in applied.items():
            by_rev.setdefault(rev, []).append(id_)
        for rev, same in by_rev.items():
            for at in range(0, len(same), BATCH):
                Memory.objects.filter(id__in=same[at : at + BATCH], rev=rev).update(indexed_rev=rev)

    def rebuild_wanted(self) -> bool:
        """Whether someone asked for a rebuild since the index was built."""
        state = IndexState.objects.get(pk=self.state.pk)
        if state.built_at is None:
            return True
        return state.rebuild_wanted_at is not None and state.rebuild_wanted_at >= state.built_at

    def rebuild(self, progress: Callable[[int, int], None] = lambda done, total: None) -> int:
        """Builds the index anew beside the old one, which answers meanwhile; how many memories.

        No embedding is made: vectors come from SQL. Changes during the rebuild go to both.
        """
        started = timezone.now()
        generation = IndexState.objects.get(pk=self.state.pk).generation + 1
        shutil.rmtree(self._path(generation), ignore_errors=True)
        fresh = self._open(self._path(generation), self.dims)
        with self._lock:
            self._building = fresh
        try:
            total = Memory.objects.filter(deleted_at=None).count()
            done = 0
            for batch in self._batches():
                done += self._copy(batch, fresh)
                progress(done, total)
            fresh.flush()
        except BaseException:
            with self._lock:
                self._building = None
            fresh.close()
            raise
        self._swap(fresh, generation, started)
        return done

    def _batches(self) -> Iterator[list[UUID]]:
        rows = Memory.objects.filter(deleted_at=None).order_by("id").values_list("id", flat=True)
        last: UUID | None = None
        while True:
            page = list(rows.filter(id__gt=last)[:BATCH] if last else rows[:BATCH])
            if not page:
                return
            yield page
            last = page[-1]

    def _copy(self, ids: list[UUID], index: VectorIndex) -> int:
        with self._lock:
            rows = Memory.objects.filter(id__in=ids, deleted_at=None).values_list(*_COLUMNS)
            points = [self._point(row) for row in rows]
            index.upsert(points)
        return len(points)

    def _swap(self, fresh: VectorIndex, generation: int, started: datetime) -> None:
        with self._lock:
            IndexState.objects.filter(pk=self.state.pk).update(
                generation=generation, built_at=started
            )
            self.state.generation, self.state.built_at = generation, started
            old, self.index, self._building = self.index, fresh, None
        # A search that is under way in the old one starts over in the new one.
        old.close()
        self._drop_other_folders()

    def close(self) -> None:
        """Writes down what is on disk and lets go of the index."""
        self.settle()
        with self._lock:
            self.index.close()


def expiry_second(expires_at: Any, expiration_date: Any) -> float | None:
    """The Unix second from which a memory is expired; None for never.

    A memory with an expiration date holds to the end of that day, UTC.
    """
    ends = []
    if expires_at is not None:
        ends.append(expires_at.timestamp())
    if expiration_date is not None:
        midnight = datetime.combine(expiration_date, day_time.min, tzinfo=UTC)
        ends.append(midnight.timestamp() + 86_400)
    return min(ends) if ends else None
