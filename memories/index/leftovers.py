"""Removes leftovers from an index server: unused generations, interrupted builds, and the graves of
deleted memories."""

import time
from contextlib import suppress
from typing import Final

from core.errors import ConflictError
from jobs import leases
from memories.index.qdrant import Collections, QdrantIndex
from memories.models.server import INDEX_BUILD, IndexState

SWEEP_SECONDS: Final = 10.0
# Other processes notice a flip within a second or two, and running searches in the old index end.
KEEP_OLD_SECONDS: Final = 60.0
# How long the index remembers a deletion, because of late writes, and how often older graves are
# removed.
BURIED_SECONDS: Final = 3600.0
DIG_SECONDS: Final = 600.0


class Leftovers:
    """The leftovers on one server, as one process sees them."""

    def __init__(self, collections: Collections) -> None:
        self._collections = collections
        self._swept_at = -SWEEP_SECONDS
        self._dug_at = time.monotonic()
        self._unused_since: dict[int, float] = {}

    def sweep(self, index: QdrantIndex, state: IndexState) -> None:
        """Removes leftovers periodically. May raise IndexUnavailableError."""
        now = time.monotonic()
        if now - self._swept_at < SWEEP_SECONDS:
            return
        self._swept_at = now
        if now - self._dug_at >= DIG_SECONDS:
            self._dug_at = now
            index.sweep(time.time() - BURIED_SECONDS)
        unused = [g for g in self._collections.generations() if g != state.generation]
        self._unused_since = {g: self._unused_since.get(g, now) for g in unused}
        due = [g for g, since in self._unused_since.items() if now - since >= KEEP_OLD_SECONDS]
        if not due:
            return
        # Under the lease nobody builds, so none of these generations is about to be used.
        with suppress(ConflictError), leases.hold(INDEX_BUILD):
            live = IndexState.objects.get(pk=state.pk).generation
            for generation in due:
                if generation != live:
                    self._collections.drop(generation)
