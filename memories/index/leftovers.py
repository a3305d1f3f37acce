"""Takes away what nobody uses any more: generations, builds that broke off, what is left of
memories that are gone."""

import time
from contextlib import suppress
from typing import Final

from core.errors import ConflictError
from jobs import leases
from memories.index.qdrant import Collections, QdrantIndex
from memories.models.server import INDEX_BUILD, IndexState

SWEEP_SECONDS: Final = 10.0
# The other processes see a flip within a second or two; a search under way in the old index ends.
KEEP_OLD_SECONDS: Final = 60.0
# So long the index remembers that a memory is gone, for the sake of writes that are late; and so
# often it is looked for those that are older.
BURIED_SECONDS: Final = 3600.0
DIG_SECONDS: Final = 600.0


class Leftovers:
    """Of one server, as one process sees them."""

    def __init__(self, collections: Collections) -> None:
        self._collections = collections
        self._swept_at = -SWEEP_SECONDS
        self._dug_at = time.monotonic()
        self._unused_since: dict[int, float] = {}

    def sweep(self, index: QdrantIndex, state: IndexState) -> None:
        """Now and then, beside the index in use; IndexUnavailableError may rise."""
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
        # With the lease nobody builds, so that none of these is about to come into use.
        with suppress(ConflictError), leases.hold(INDEX_BUILD):
            live = IndexState.objects.get(pk=state.pk).generation
            for generation in due:
                if generation != live:
                    self._collections.drop(generation)
