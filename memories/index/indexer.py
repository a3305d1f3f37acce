"""Keeps the index equal to SQL: applies changes, drains pending ones, rebuilds."""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from core import disk
from core.errors import ConflictError, IndexUnavailableError
from memories.index import folder, rows
from memories.index.base import VectorIndex
from memories.index.compare import Differences, compare_all
from memories.index.rows import BATCH, expiry_second
from memories.index.tended import HEAL_SECONDS, OpenIndex, RepairingIndexer
from memories.models import Memory
from memories.models.server import IndexState

__all__ = ["UNSETTLED", "Indexer", "expiry_second"]

logger = logging.getLogger(__name__)

# The most unsettled changes, which are applied again after a crash.
UNSETTLED: Final = 20_000
# The measured disk space of a point without its vector: text, fields, journal.
POINT_BYTES: Final = 2000
Progress = Callable[[int, int], None]
Model = tuple[str, int]


def ignore_progress(done: int, total: int) -> None:
    """The default for `progress`."""


def do_nothing() -> None:
    """The default for `each`."""


@dataclass(slots=True)
class GenerationBuild:
    """The next generation while it is being built."""

    index: VectorIndex
    generation: int
    model: Model
    started: datetime


class Indexer(RepairingIndexer):
    """The one writer of an index. Safe to call from any thread.

    A change is applied right after its commit, so that a search sees it at once. It is recorded as
    applied (`indexed_rev`) only after the index is on disk. After a crash the changes in between
    are applied again, which is harmless.

    `index`, `model_key` and `dims` change together, under `swap_lock`.
    """

    # Whether no other process can use the same index.
    is_alone = True

    def __init__(self, root: Path, model_key: str, dims: int, open_index: OpenIndex) -> None:
        """Opens or creates the index of the embedder `model_key` below the folder `root`.

        IndexInUseError if another process has it. A damaged index is set aside and rebuilt; one
        that the disk does not let be opened stays closed until `tend` opens it.
        """
        self._root, self._open = root, open_index
        self._lock = threading.RLock()
        self._applied: dict[UUID, int] = {}
        self._prepare(model_key, dims)
        self.state = self._ensure_state()
        self._tend_from_now(folder.prepare(root))

    def _prepare(self, model_key: str, dims: int) -> None:
        self.swap_lock = threading.Lock()
        self._one_build = threading.Lock()
        self._building: GenerationBuild | None = None
        self.model_key, self.dims = model_key, dims

    def _ensure_state(self) -> IndexState:
        state, _ = IndexState.objects.get_or_create(
            name="default", defaults={"model_key": self.model_key, "dims": self.dims}
        )
        if (state.model_key, state.dims) != (self.model_key, self.dims):
            state.model_key, state.dims = self.model_key, self.dims
            state.generation += 1
            state.save()
        return state

    @property
    def complete(self) -> bool:
        """Whether the index contains all memories. Otherwise its answers would be wrongly empty."""
        return self.state.built_at is not None and not self.problem

    def _path(self, generation: int) -> Path:
        return self._root / f"{generation:06d}"

    # --- Following -------------------------------------------------------------------------------
    def refresh(self) -> None:
        """Follows other processes' changes to the index; the embedded index has no other
        processes."""

    @contextmanager
    def briefly(self) -> Iterator[None]:
        """Marks calls inside as optional: an index over a network gets a second for them and then
        raises IndexUnavailableError."""
        yield

    def follow(self, ids: Sequence[UUID]) -> None:
        """`apply` for a change whose caller is about to get the answer, so that searches find it
        from then on."""
        self.apply(ids)

    def apply(self, ids: Sequence[UUID]) -> None:
        """Brings the index up to SQL for these memories. May raise IndexUnavailableError.

        Rows are read under the lock, so that the later of two changes to one memory wins.
        """
        if not ids:
            return
        with self._lock:
            if self.problem:
                return  # the changes stay pending and are drained once the index is open
            for id_ in ids:
                self._applied.pop(id_, None)
            index_rows = rows.read_rows(ids, self.model_key)
            write(self.index, ids, index_rows)
            if (building := self._building) is not None:
                same = building.model[0] == self.model_key
                write(
                    building.index,
                    ids,
                    index_rows if same else rows.read_rows(ids, building.model[0]),
                )
            self._applied.update((row.id, row.rev) for row in index_rows)

    def drain(self) -> int:
        """Applies pending changes; how many memories those were."""
        if self.problem:
            return 0
        with self._lock:
            pending = rows.filter_pending().values_list("id", "rev")
            ids = [id_ for id_, rev in pending[:UNSETTLED] if self._applied.get(id_) != rev]
        # One batch at a time under the lock, so that an add in between need not wait for all.
        for at in range(0, len(ids), BATCH):
            self.apply(ids[at : at + BATCH])
        return len(ids)

    @property
    def is_building(self) -> bool:
        """Whether this process is building another generation."""
        return self._building is not None

    @property
    def unsettled(self) -> int:
        """How many applied changes are not yet recorded as being on disk."""
        return len(self._applied)

    def settle(self) -> None:
        """Writes the index to disk, and records in SQL what is there.

        Flushing stops every thread of the process for as long as the disk takes (the engine holds
        the interpreter's lock), so it happens periodically, not after every change.
        """
        with self._lock:
            applied = self._applied
            if applied:
                # If that fails, the changes stay unsettled.
                self.index.flush()
            self._applied = {}
        for rev, same in group_by_rev(applied).items():
            for at in range(0, len(same), BATCH):
                Memory.objects.filter(id__in=same[at : at + BATCH], rev=rev).update(indexed_rev=rev)

    def differences(self, *, each: Callable[[], None] = do_nothing) -> Differences:
        """The differences between index and SQL, except pending changes. `each` is called after
        every page."""
        return compare_all(self.index, each=each)

    def repair(self, differences: Differences, *, each: Callable[[], None] = do_nothing) -> None:
        """Applies the differences again."""
        # A point with a later revision than SQL's refuses an earlier one, and so does the grave of
        # a memory that is live in a restored backup. Such points are deleted first.
        to_delete_first = {*differences.ghosts, *differences.ahead, *differences.missing}
        ids = differences.all
        for at in range(0, len(ids), BATCH):
            each()
            some = ids[at : at + BATCH]
            self.index.delete([id_ for id_ in some if id_ in to_delete_first])
            self.apply(some)
        self.settle()

    # --- Rebuilding ------------------------------------------------------------------------------
    def rebuild_wanted(self) -> bool:
        """Whether the index has to be rebuilt."""
        if self.problem or time.monotonic() < self._heal_at:
            return False
        return IndexState.objects.get(pk=self.state.pk).wants_rebuild or not self.complete

    def rebuild(
        self,
        progress: Progress = ignore_progress,
        *,
        model: Model | None = None,
        commit: Callable[[], object] | None = None,
        swapped: Callable[[], object] | None = None,
    ) -> int:
        """Builds a new index beside the old one, which answers meanwhile; how many memories.

        The new index is for `model` (its key and dimensions), by default the same model. Nothing is
        embedded: vectors come from SQL, and a memory without one is found by its words. Changes
        during the rebuild go to both. In the end `commit` is called in the transaction that makes
        the new index the one in use; if it raises, nothing has changed. `swapped` is called under
        `swap_lock`, together with the change of `index`, `model_key` and `dims`. ConflictError if a
        rebuild is running already.
        """
        with self._only_build():
            return self._rebuild(progress, model or (self.model_key, self.dims), commit, swapped)

    @contextmanager
    def _only_build(self) -> Iterator[None]:
        if not self._one_build.acquire(blocking=False):
            raise ConflictError("The index is being rebuilt already; try again shortly.")
        try:
            yield
        finally:
            self._one_build.release()

    def _rebuild(
        self,
        progress: Progress,
        model: Model,
        commit: Callable[[], object] | None,
        swapped: Callable[[], object] | None,
    ) -> int:
        building = self._begin(model)
        # If the rebuild fails, wait before the next one.
        self._heal_at = time.monotonic() + HEAL_SECONDS
        try:
            total = Memory.objects.filter(deleted_at=None).count()
            done = 0
            for batch in rows.batches():
                done += self._copy(batch, building)
                progress(done, total)
            building.index.flush()
            self._flip(building, commit, swapped)
        except BaseException:
            self._give_up(building)
            raise
        self._heal_at = 0.0
        return done

    def _begin(self, model: Model) -> GenerationBuild:
        self._check_room(model[1])
        generation = IndexState.objects.get(pk=self.state.pk).generation + 1
        shutil.rmtree(self._path(generation), ignore_errors=True)
        fresh = self._open(self._path(generation), model[1])
        building = GenerationBuild(fresh, generation, model, timezone.now())
        with self._lock:
            self._building = building
        return building

    def _check_room(self, dims: int) -> None:
        """DiskFullError if a second index does not fit on the disk beside the first."""
        count = Memory.objects.filter(deleted_at=None).count()
        room, needed = disk.room_of(self._root), count * (POINT_BYTES + 5 * dims)
        if room.free < room.floor + needed:
            raise disk.disk_full_error(room, room.floor + needed)

    def _give_up(self, building: GenerationBuild) -> None:
        with self._lock:
            self._building = None
        with suppress(IndexUnavailableError):
            building.index.close()
        shutil.rmtree(self._path(building.generation), ignore_errors=True)

    def _copy(self, ids: Sequence[UUID], building: GenerationBuild) -> int:
        with self._lock:
            points = [row.point for row in rows.read_rows(ids, building.model[0]) if row.point]
            building.index.upsert(points)
        return len(points)

    def _flip(
        self,
        building: GenerationBuild,
        commit: Callable[[], object] | None,
        swapped: Callable[[], object] | None,
    ) -> None:
        # Nothing is applied meanwhile, so both have the same changes after the transaction.
        with self._lock:
            with transaction.atomic():
                state = self._write_down(building)
                if commit is not None:
                    commit()
            old = self._take(building, state, swapped)
        # A search in the old index is repeated in the new one.
        with suppress(IndexUnavailableError):
            old.close()
        folder.drop_others(self._root, self._path(state.generation))

    def _write_down(self, building: GenerationBuild) -> IndexState:
        """Records the flip in SQL, in the caller's transaction."""
        model_key, dims = building.model
        IndexState.objects.filter(pk=self.state.pk).update(
            generation=building.generation,
            built_at=building.started,
            model_key=model_key,
            dims=dims,
        )
        return IndexState.objects.get(pk=self.state.pk)

    def _take(
        self, building: GenerationBuild, state: IndexState, swapped: Callable[[], object] | None
    ) -> VectorIndex:
        """Switches to the new index; returns the old one."""
        with self.swap_lock:
            old, self.index, self._building = self.index, building.index, None
            self.problem = ""
            self.model_key, self.dims = building.model
            self.state = state
            if swapped is not None:
                swapped()
        return old

    def close(self) -> None:
        """Settles and closes the index."""
        try:
            self.settle()
        finally:
            with self._lock:
                self.index.close()


def write(index: VectorIndex, ids: Sequence[UUID], index_rows: Sequence[rows.IndexRow]) -> None:
    """Writes these rows to the index and deletes the others of `ids`."""
    live = [row.point for row in index_rows if row.point is not None]
    index.upsert(live)
    deleted = {row.id: row.rev for row in index_rows if row.point is None}
    index.delete(set(ids) - {point.id for point in live}, deleted)


def group_by_rev(revisions: dict[UUID, int]) -> dict[int, list[UUID]]:
    """The memory ids by revision; most memories are in their first."""
    same: dict[int, list[UUID]] = {}
    for id_, rev in revisions.items():
        same.setdefault(rev, []).append(id_)
    return same
