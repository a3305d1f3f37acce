"""The index on a server that several processes write, each of which may be killed at any time."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final
from uuid import UUID

from django.db import Error as AnyDatabaseError
from django.db import transaction
from django.db.models import Exists, Q
from django.db.models.functions import Now
from django.utils import timezone

from core.errors import ConflictError, IndexUnavailableError
from jobs import leases
from jobs.leases import HeldLease
from jobs.models import Lease
from memories.index import rows
from memories.index.base import VectorIndex
from memories.index.compare import compare_all, compare_batch
from memories.index.indexer import (
    GenerationBuild,
    Indexer,
    Model,
    Progress,
    group_by_rev,
    ignore_progress,
    write,
)
from memories.index.leftovers import Leftovers
from memories.index.qdrant import Collections, QdrantIndex
from memories.index.rows import BATCH
from memories.models import Memory
from memories.models.server import INDEX_BUILD, IndexState

logger = logging.getLogger(__name__)

BUILD: Final = INDEX_BUILD
# While this lease is held, no row is recorded as applied, so changes stay pending.
FENCE: Final = "index-flip"
FENCE_SECONDS: Final = 60.0
CLAIM_SECONDS: Final = 60
# Younger changes are left to the process that made them.
YOUNG_SECONDS = 2.0
# Changes of longer transactions are found only by the comparison.
LONG_TRANSACTION: Final = timedelta(seconds=60)
ATTEMPTS: Final = 5
LOOK_SECONDS: Final = 5.0
# How long a change waits for a new generation to take over, and how long changes then go to the
# former generation too, because a process may still search in it.
FOLLOW_SECONDS: Final = 1.0
FORMER_SECONDS: Final = 10.0
# How long a process may use an index of the former model until it has the new embedder.
BEHIND_SECONDS: Final = 30.0


@dataclass(slots=True)
class SharedGenerationBuild(GenerationBuild):
    """A build with its lease, and the ids that were written without a vector."""

    lease: HeldLease
    wordless: set[UUID] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class FormerGeneration:
    """The generation that this process used before."""

    index: VectorIndex
    model_key: str
    left_at: float = field(default_factory=time.monotonic)


class SharedIndexer(Indexer):
    """One of several writers of an index. Safe to call from any thread of any process.

    A change is applied after its commit and then checked again: if it changed meanwhile, it is
    applied again, so that a slow process never leaves an older state behind. Applied changes are
    recorded at once, but only while this generation is the one in use.
    """

    is_alone = False
    index: QdrantIndex

    def __init__(self, collections: Collections, model_key: str, dims: int) -> None:
        """Opens the index without a call to the server; the index of an empty database is created
        at once."""
        self._collections = collections
        self._prepare(model_key, dims)
        self.state, _ = IndexState.objects.get_or_create(
            name="default", defaults={"model_key": model_key, "dims": dims}
        )
        self._insists = self._model_of(self.state) != (model_key, dims)
        self._behind_since: float | None = None
        self._former: FormerGeneration | None = None
        self._looked_at = -LOOK_SECONDS
        self._leftovers = Leftovers(collections)
        self.index = collections.open(self.state.generation, dims)
        if not self.complete and not Memory.objects.exists():
            # Another process may be building it, or the server is unavailable; it is built later
            # then.
            with suppress(ConflictError, IndexUnavailableError):
                self.rebuild()

    @staticmethod
    def _model_of(state: IndexState) -> Model:
        return state.model_key, state.dims

    @property
    def complete(self) -> bool:
        if self._insists or self.state.built_at is None:
            return False
        behind = self._behind_since
        return behind is None or time.monotonic() - behind < BEHIND_SECONDS

    # --- Following -------------------------------------------------------------------------------
    def refresh(self) -> None:
        """Follows other processes: a new generation, a loss, a requested rebuild.

        An index of another model waits for the engine of that model: `rebuild(model=…)` then
        switches to it without building. A process without an embedder takes any index.
        """
        state = IndexState.objects.get(pk=self.state.pk)
        if state.generation == self.state.generation:
            self.state = state
            return
        model = self._model_of(state)
        if model == (self.model_key, self.dims) or not self.dims:
            self._go_over(state)
        elif self._behind_since is None:
            self._behind_since = time.monotonic()

    def _go_over(self, state: IndexState, swapped: Callable[[], object] | None = None) -> None:
        """Switches to the generation that another process made."""
        index = self._collections.open(state.generation, state.dims)
        former = self._as_former()
        with self.swap_lock:
            self._former = former
            self.index, self.state = index, state
            self.model_key, self.dims = self._model_of(state)
            self._insists, self._behind_since = False, None
            if swapped is not None:
                swapped()

    @contextmanager
    def briefly(self) -> Iterator[None]:
        patience = self._collections.patience
        with patience.on(patience.looking):
            yield

    def _writing(self) -> AbstractContextManager[None]:
        """Limits writes that somebody waits for; writes that miss the limit stay pending."""
        patience = self._collections.patience
        return patience.on(patience.writing)

    def apply(self, ids: Sequence[UUID]) -> None:
        if ids:
            self._apply(ids)

    def follow(self, ids: Sequence[UUID]) -> None:
        """`apply` so that searches of all processes find the change, even while a new generation
        takes over. Some processes use the old generation then and some the new one, so the change
        goes to both."""
        if not ids:
            return
        with self._writing():
            generation, is_marked = self._apply(ids)
        if not is_marked and self._has_gone_over(generation):
            with self._writing():
                self._apply(ids)
        former = self._former
        if former is not None and time.monotonic() - former.left_at < FORMER_SECONDS:
            # It may have been dropped already, because nobody uses it any more.
            with suppress(IndexUnavailableError), self._writing():
                self._bring(former.index, former.model_key, ids)

    def _as_former(self) -> FormerGeneration | None:
        """The generation in use, which is about to be replaced; None if nobody can search in it."""
        return FormerGeneration(self.index, self.model_key) if self.complete else None

    def _has_gone_over(self, generation: int) -> bool:
        """Waits until it is certain whether this process leaves that generation; False if it stays,
        or if the flip takes too long."""
        until = time.monotonic() + FOLLOW_SECONDS
        while time.monotonic() < until:
            # In this order, because the fence lasts until the new generation is in use.
            is_fenced = leases.is_held(FENCE)
            self.refresh()
            if self.state.generation != generation:
                return True
            if not is_fenced and self._behind_since is None:
                return False
            time.sleep(FOLLOW_SECONDS / 50)
        return False

    def _apply(self, ids: Sequence[UUID]) -> tuple[int, bool]:
        """The generation that got the changes, and whether all of them are recorded."""
        with self.swap_lock:
            index, model_key, state = self.index, self.model_key, self.state
        try:
            revisions = self._bring(index, model_key, ids)
        except IndexUnavailableError:
            self.refresh()
            if self.index is index:
                raise
            return self._apply(ids)  # another process has replaced the index
        if (building := self._building) is not None:
            # If this fails, the comparison before the flip finds the change.
            with suppress(IndexUnavailableError):
                self._bring(building.index, building.model[0], ids)
        return state.generation, self._mark(revisions, state.generation) == len(revisions)

    def _bring(
        self,
        index: VectorIndex,
        model_key: str,
        ids: Sequence[UUID],
        wordless: set[UUID] | None = None,
    ) -> dict[UUID, int]:
        """Writes until nothing has changed meanwhile; returns the revisions in the index.

        Two processes that write the same memory both check again after writing. The one that wrote
        last sees the other's change, so the last write has the latest state.
        """
        revisions: dict[UUID, int] = {}
        todo = list(dict.fromkeys(ids))
        for _ in range(ATTEMPTS):
            index_rows = rows.read_rows(todo, model_key)
            write(index, todo, index_rows)
            now = rows.read_revisions(todo, model_key)
            before = {row.id: row.stamp for row in index_rows}
            revisions.update((row.id, row.rev) for row in index_rows)
            if wordless is not None:
                wordless.update(
                    row.id for row in index_rows if row.point and row.point.vector is None
                )
            todo = [id_ for id_ in todo if now.get(id_) != before.get(id_)]
            if not todo:
                break
        # Memories that keep changing are left to their last writer and stay pending.
        for id_ in todo:
            revisions.pop(id_, None)
        return revisions

    def _mark(self, revisions: dict[UUID, int], generation: int) -> int:
        """Records what the index has, if it is in use and nobody is replacing it; for how many
        memories."""
        marked = 0
        in_use = Exists(IndexState.objects.filter(pk=self.state.pk, generation=generation))
        fenced = Exists(Lease.objects.filter(name=FENCE, until__gt=Now()))
        for rev, same in group_by_rev(revisions).items():
            for at in range(0, len(same), BATCH):
                memories = Memory.objects.filter(
                    in_use, ~fenced, id__in=same[at : at + BATCH], rev=rev
                )
                marked += memories.update(indexed_rev=rev, claimed_until=None)
        return marked

    def drain(self) -> int:
        """Applies pending changes that no other process works on; how many memories those were."""
        if not self.complete or self._behind_since is not None:
            return 0
        total = 0
        while ids := self._claim():
            try:
                self.apply(ids)
            except BaseException:
                Memory.objects.filter(id__in=ids).update(claimed_until=None)
                raise
            total += len(ids)
        self._leftovers.sweep(self.index, self.state)
        return total

    def _claim(self) -> list[UUID]:
        """Claims up to a batch of pending memories for this process, for a while."""
        now = timezone.now()
        # Imports may date their memories; one in the future is not young.
        young = Q(
            updated_at__gt=now - timedelta(seconds=YOUNG_SECONDS),
            updated_at__lte=now + timedelta(seconds=5),
        )
        free = Q(claimed_until=None) | Q(claimed_until__lt=Now())
        # First a query without a lock, because most rounds find nothing.
        pending = rows.filter_pending().filter(free).exclude(young)
        if not pending.exists():
            return []
        with transaction.atomic():
            locked = pending.select_for_update(skip_locked=True).values_list("id", flat=True)
            ids = list(locked[:BATCH])
            until = now + timedelta(seconds=CLAIM_SECONDS)
            Memory.objects.filter(id__in=ids).update(claimed_until=until)
        return ids

    @property
    def unsettled(self) -> int:
        """Always 0, because the server has stored what it acknowledged."""
        return 0

    def settle(self) -> None:
        """Nothing to do; see `unsettled`."""

    def tend(self) -> None:
        """Nothing to do; `rebuild_wanted` checks whether the server still has the index."""

    # --- Rebuilding ------------------------------------------------------------------------------
    def rebuild_wanted(self) -> bool:
        """Whether the index has to be rebuilt and nobody is rebuilding it."""
        self.refresh()
        self._look_for_it()
        is_needed = self._insists or self.state.wants_rebuild
        return is_needed and self._behind_since is None and not leases.is_held(BUILD)

    def _look_for_it(self) -> None:
        """Checks that the collection exists, because a server that lost its data answers like an
        empty one."""
        if self.state.built_at is None or time.monotonic() - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = time.monotonic()
        generation = self.state.generation
        if self._collections.exists(generation):
            return
        self.refresh()
        state = IndexState.objects.filter(pk=self.state.pk, generation=generation)
        if self.state.generation == generation and state.update(built_at=None):
            logger.error("the Qdrant server has lost the index: it is built anew")
            self.refresh()

    def rebuild(
        self,
        progress: Progress = ignore_progress,
        *,
        model: Model | None = None,
        commit: Callable[[], object] | None = None,
        swapped: Callable[[], object] | None = None,
    ) -> int:
        """As in the embedded index; ConflictError also if another process builds.

        If another process has built the requested index meanwhile, this one switches to it.
        """
        with self._only_build():
            if self._made_by_another(model, commit, swapped):
                return Memory.objects.filter(deleted_at=None).count()
            with leases.hold(BUILD) as lease:
                self._lease = lease
                target = model or self._model_to_build()
                return self._rebuild(progress, target, commit, swapped)

    def _model_to_build(self) -> Model:
        if self._insists:
            return self.model_key, self.dims
        return self._model_of(IndexState.objects.get(pk=self.state.pk))

    def _made_by_another(
        self,
        model: Model | None,
        commit: Callable[[], object] | None,
        swapped: Callable[[], object] | None,
    ) -> bool:
        state = IndexState.objects.get(pk=self.state.pk)
        target = model or (self.model_key, self.dims)
        newer = state.generation != self.state.generation and state.built_at is not None
        if not newer or self._model_of(state) != target:
            return False
        if commit is not None:
            with transaction.atomic():
                commit()
        self._go_over(state, swapped)
        return True

    def _begin(self, model: Model) -> GenerationBuild:
        started = timezone.now()
        live = IndexState.objects.get(pk=self.state.pk).generation
        # Never reuse a number, because a process that has not noticed its lost lease may still
        # write to that collection.
        generation = max([live, *self._collections.generations()]) + 1
        fresh = self._collections.create(generation, model[1])
        self._building = SharedGenerationBuild(fresh, generation, model, started, self._lease)
        return self._building

    def _give_up(self, building: GenerationBuild) -> None:
        self._building = None
        # The commit may have succeeded without a reply. If the database cannot tell, a sweep drops
        # it.
        with suppress(IndexUnavailableError, AnyDatabaseError):
            if IndexState.objects.get(pk=self.state.pk).generation != building.generation:
                self._collections.drop(building.generation)

    def _copy(self, ids: Sequence[UUID], building: GenerationBuild) -> int:
        assert isinstance(building, SharedGenerationBuild)  # noqa: S101  (_begin makes no other)
        building.lease.renew()
        wordless = building.wordless if building.model[1] else None
        return len(self._bring(building.index, building.model[0], ids, wordless))

    def _flip(
        self,
        building: GenerationBuild,
        commit: Callable[[], object] | None,
        swapped: Callable[[], object] | None,
    ) -> None:
        assert isinstance(building, SharedGenerationBuild)  # noqa: S101  (_begin makes no other)
        since = timezone.now() - LONG_TRANSACTION
        beat = building.lease.renew
        differences = compare_all(building.index, pending_too=True, each=beat)
        self._catch_up(building, differences.all, beat)
        self._catch_up(building, rows.ids_changed_since(since), beat)
        with leases.hold(FENCE, FENCE_SECONDS) as fence:
            # From here on changes stay pending and their processes wait, so copy only what is
            # missing.
            self._catch_up(building, rows.ids_changed_since(since), fence.renew)
            embedded = rows.with_vector(building.wordless, building.model[0])
            for at in range(0, len(embedded), BATCH):
                fence.renew()
                self._copy(embedded[at : at + BATCH], building)
            with transaction.atomic():
                building.lease.lock()
                fence.lock()
                state = self._write_down(building)
                if commit is not None:
                    commit()
            former = self._as_former()
            self._take(building, state, swapped)
            self._former = former
            self._insists, self._behind_since = False, None

    def _catch_up(
        self, building: SharedGenerationBuild, ids: Sequence[UUID], beat: Callable[[], None]
    ) -> None:
        for at in range(0, len(ids), BATCH):
            beat()
            self._copy(compare_batch(building.index, ids[at : at + BATCH]), building)

    def close(self) -> None:
        self.index.close()
