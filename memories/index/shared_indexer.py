"""The index on a server that several processes write: nobody is alone, everybody may be killed."""

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
# While somebody holds this, no row is written down as applied: what changes stays pending.
FENCE: Final = "index-flip"
FENCE_SECONDS: Final = 60.0
CLAIM_SECONDS: Final = 60
# A change that is younger than this is left to the process that made it.
YOUNG_SECONDS = 2.0
# What was changed earlier than this before its transaction ended is found by the comparison only.
LONG_TRANSACTION: Final = timedelta(seconds=60)
ATTEMPTS: Final = 5
LOOK_SECONDS: Final = 5.0
# So long a change waits for another generation to take over; and so long afterwards changes go to
# the one before as well, in which a process searches that has not noticed yet.
FOLLOW_SECONDS: Final = 1.0
FORMER_SECONDS: Final = 10.0
# So long a process may go on with an index of the former model, until it has the new embedder.
BEHIND_SECONDS: Final = 30.0


@dataclass(slots=True)
class SharedGenerationBuild(GenerationBuild):
    """Beside what every build has: its lease, and what was brought without a vector."""

    lease: HeldLease
    wordless: set[UUID] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class FormerGeneration:
    """The generation that this process searched in before."""

    index: VectorIndex
    model_key: str
    left_at: float = field(default_factory=time.monotonic)


class SharedIndexer(Indexer):
    """One of several writers of an index. Safe to call from any thread of any process.

    A change is applied after its commit and then looked at again: what changed meanwhile is applied
    once more, so that a slow process never leaves an older state behind. What the server has is
    written down at once, but only as long as this generation is the one in use.
    """

    is_alone = False
    index: QdrantIndex

    def __init__(self, collections: Collections, model_key: str, dims: int) -> None:
        """Opens the index without asking the server; one of no memories at all is made at once."""
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
            # Others may be at it, or the server away: then it is built by and by.
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
        """Takes up what other processes did: a new generation, a loss, a wish.

        An index of another model waits for the engine of that model: `rebuild(model=…)` goes over
        to it without building. Without vectors of its own, this process takes any.
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
        """To the generation that another process made."""
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
        """A second for what somebody waits for; what does not get there stays pending."""
        patience = self._collections.patience
        return patience.on(patience.writing)

    def apply(self, ids: Sequence[UUID]) -> None:
        if ids:
            self._apply(ids)

    def follow(self, ids: Sequence[UUID]) -> None:
        """`apply` so that a search of any process finds it, also while a new generation takes over:
        what only the one that goes has would be missed by who has gone over, and what only the
        one that comes has by who has not."""
        if not ids:
            return
        with self._writing():
            generation, is_marked = self._apply(ids)
        if not is_marked and self._has_gone_over(generation):
            with self._writing():
                self._apply(ids)
        former = self._former
        if former is not None and time.monotonic() - former.left_at < FORMER_SECONDS:
            # It may be gone already, and with it everybody who searched in it.
            with suppress(IndexUnavailableError), self._writing():
                self._bring(former.index, former.model_key, ids)

    def _as_former(self) -> FormerGeneration | None:
        """The generation in use, which is about to go; None where nobody searches in it."""
        return FormerGeneration(self.index, self.model_key) if self.complete else None

    def _has_gone_over(self, generation: int) -> bool:
        """Whether this process has left that generation, as soon as that is certain; False when it
        stays, or when the change takes too long to wait for."""
        until = time.monotonic() + FOLLOW_SECONDS
        while time.monotonic() < until:
            # In this order: the fence is there until the new generation is in use.
            is_fenced = leases.is_held(FENCE)
            self.refresh()
            if self.state.generation != generation:
                return True
            if not is_fenced and self._behind_since is None:
                return False
            time.sleep(FOLLOW_SECONDS / 50)
        return False

    def _apply(self, ids: Sequence[UUID]) -> tuple[int, bool]:
        """The generation that it was brought to, and whether that is written down for all."""
        with self.swap_lock:
            index, model_key, state = self.index, self.model_key, self.state
        try:
            written = self._bring(index, model_key, ids)
        except IndexUnavailableError:
            self.refresh()
            if self.index is index:
                raise
            return self._apply(ids)  # it was replaced by another process
        if (building := self._building) is not None:
            # Should it fail: the comparison before the flip finds it.
            with suppress(IndexUnavailableError):
                self._bring(building.index, building.model[0], ids)
        return state.generation, self._mark(written, state.generation) == len(written)

    def _bring(
        self,
        index: VectorIndex,
        model_key: str,
        ids: Sequence[UUID],
        wordless: set[UUID] | None = None,
    ) -> dict[UUID, int]:
        """Writes until nothing has changed meanwhile; the revisions that the index then has.

        Two processes that write the same memory both look again after writing: the one that wrote
        last sees what the other one saw, and so the last write is of the last state.
        """
        written: dict[UUID, int] = {}
        todo = list(dict.fromkeys(ids))
        for _ in range(ATTEMPTS):
            found = rows.read_rows(todo, model_key)
            write(index, todo, found)
            now = rows.read_revisions(todo, model_key)
            before = {row.id: row.stamp for row in found}
            written.update((row.id, row.rev) for row in found)
            if wordless is not None:
                wordless.update(row.id for row in found if row.point and row.point.vector is None)
            todo = [id_ for id_ in todo if now.get(id_) != before.get(id_)]
            if not todo:
                break
        # What does not come to rest is left to its last writer, and stays pending.
        for id_ in todo:
            written.pop(id_, None)
        return written

    def _mark(self, written: dict[UUID, int], generation: int) -> int:
        """Writes down what the index has, if it is the one in use and nobody is replacing it; of
        how many memories."""
        marked = 0
        in_use = Exists(IndexState.objects.filter(pk=self.state.pk, generation=generation))
        fenced = Exists(Lease.objects.filter(name=FENCE, until__gt=Now()))
        for rev, same in group_by_rev(written).items():
            for at in range(0, len(same), BATCH):
                held = Memory.objects.filter(in_use, ~fenced, id__in=same[at : at + BATCH], rev=rev)
                marked += held.update(indexed_rev=rev, claimed_until=None)
        return marked

    def drain(self) -> int:
        """Applies what is pending and nobody else is at; how many memories that were."""
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
        """Up to a batch of pending memories, for this process alone for a while."""
        now = timezone.now()
        # An import may date its memories: what is of the future is not young.
        young = Q(
            updated_at__gt=now - timedelta(seconds=YOUNG_SECONDS),
            updated_at__lte=now + timedelta(seconds=5),
        )
        free = Q(claimed_until=None) | Q(claimed_until__lt=Now())
        # First a look without a lock: most rounds find nothing.
        left = rows.filter_pending().filter(free).exclude(young)
        if not left.exists():
            return []
        with transaction.atomic():
            locked = left.select_for_update(skip_locked=True).values_list("id", flat=True)
            ids = list(locked[:BATCH])
            until = now + timedelta(seconds=CLAIM_SECONDS)
            Memory.objects.filter(id__in=ids).update(claimed_until=until)
        return ids

    @property
    def unsettled(self) -> int:
        """Nothing ever is: the server has what it acknowledged."""
        return 0

    def settle(self) -> None:
        """Nothing is left to do."""

    def tend(self) -> None:
        """Nothing: `rebuild_wanted` looks whether the server still has it."""

    # --- Rebuilding ------------------------------------------------------------------------------
    def rebuild_wanted(self) -> bool:
        """Whether the index has to be built, and nobody is at it."""
        self.refresh()
        self._look_for_it()
        wanted = self._insists or self.state.wants_rebuild
        return wanted and self._behind_since is None and not leases.is_held(BUILD)

    def _look_for_it(self) -> None:
        """A server that has lost its data answers as an empty one would: that is no answer."""
        if self.state.built_at is None or time.monotonic() - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = time.monotonic()
        generation = self.state.generation
        if self._collections.exists(generation):
            return
        self.refresh()
        lost = IndexState.objects.filter(pk=self.state.pk, generation=generation)
        if self.state.generation == generation and lost.update(built_at=None):
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
        """As the embedded index; ConflictError also when another process builds.

        Where another process has built meanwhile what is asked for here, this one goes over to it.
        """
        with self._only_build():
            if self._made_by_another(model, commit, swapped):
                return Memory.objects.filter(deleted_at=None).count()
            with leases.hold(BUILD) as lease:
                self._lease = lease
                wanted = model or self._model_to_build()
                return self._rebuild(progress, wanted, commit, swapped)

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
        wanted = model or (self.model_key, self.dims)
        newer = state.generation != self.state.generation and state.built_at is not None
        if not newer or self._model_of(state) != wanted:
            return False
        if commit is not None:
            with transaction.atomic():
                commit()
        self._go_over(state, swapped)
        return True

    def _begin(self, model: Model) -> GenerationBuild:
        started = timezone.now()
        live = IndexState.objects.get(pk=self.state.pk).generation
        # Never a number that was used: its collection may still be written to by somebody who does
        # not know yet that the lease is lost.
        generation = max([live, *self._collections.generations()]) + 1
        fresh = self._collections.create(generation, model[1])
        self._building = SharedGenerationBuild(fresh, generation, model, started, self._lease)
        return self._building

    def _give_up(self, building: GenerationBuild) -> None:
        self._building = None
        # A commit may go through unheard. Where nobody can be asked, whoever sweeps drops it.
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
        found = compare_all(building.index, pending_too=True, each=beat)
        self._catch_up(building, found.all, beat)
        self._catch_up(building, rows.ids_changed_since(since), beat)
        with leases.hold(FENCE, FENCE_SECONDS) as fence:
            # From here on what changes stays pending, and whoever changes it waits for the end of
            # this: so only what is not there already.
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
