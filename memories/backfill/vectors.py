"""Makes missing vectors in batches, for the model in use or for the next one."""

import logging
import threading
from collections.abc import Sequence
from typing import Final

from django.db import transaction
from django.db.models import QuerySet

from core import disk
from memories.engine.engine import Engine
from memories.models import Memory
from memories.runtime import Runtime
from memories.storage.rows import insert_readings, text_to_embed

logger = logging.getLogger(__name__)

EMBED_BATCH: Final = 32
_NEVER: Final = threading.Event()


def filter_lacking(model_key: str) -> QuerySet[Memory]:
    """Live memories without a vector of this model."""
    return (
        Memory.objects.filter(deleted_at=None)
        .exclude(text="")
        .exclude(vectors__model_key=model_key)
        .only("id", "project", "text", "rev", "role", "session", "created_at")
    )


def embed_missing(runtime: Runtime, stop: threading.Event = _NEVER) -> int:
    """Makes the vectors that live memories lack, for example after adds without an embedder; how
    many.

    ProviderError if the embedder fails; finished batches are stored.
    """
    total = 0
    while not stop.is_set():
        engine = runtime.engine
        rows = list(filter_lacking(engine.model_key)[:EMBED_BATCH]) if engine.embedder else []
        if not rows:
            break
        embed_and_store(rows, engine)
        # Pending again, so that the next round applies them if the index is unavailable now.
        Memory.objects.filter(id__in=[row.id for row in rows]).update(indexed_rev=0)
        runtime.apply(rows)
        total += len(rows)
    if total:
        logger.info("made missing vectors", extra={"memories": total})
    return total


def embed_and_store(rows: Sequence[Memory], engine: Engine) -> None:
    """Embeds these memories with `engine` and stores the vectors beside those of other models.

    DiskFullError, before the embedder is called.
    """
    disk.check_room(len(rows) * 4 * engine.dims)
    readings = engine.read([text_to_embed(row) for row in rows])
    with transaction.atomic():
        # A text that changed meanwhile got its vector with that change.
        current = dict(
            Memory.objects.select_for_update()
            .filter(id__in=[row.id for row in rows])
            .values_list("id", "rev")
        )
        same = [
            (row, reading)
            for row, reading in zip(rows, readings, strict=True)
            if current.get(row.id) == row.rev
        ]
        insert_readings(
            [row for row, _ in same],
            [reading for _, reading in same],
            engine.model_key,
            engine.states_key,
            others_may_have=True,
        )
