"""Makes missing token states with the local model, in the background, batch by batch.

The local model makes them together with its vectors. This module covers the rest: older memories,
those with another `states_key`, and all memories if a provider makes the vectors.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Final
from uuid import UUID

import numpy as np
from django.db import transaction
from django.db.models import Avg, QuerySet
from django.db.models.functions import Length

from core import disk
from memories.engine import configuration
from memories.models import Memory, MemoryTokens
from memories.readings import text_sum, unpack_states
from memories.runtime import Runtime
from memories.storage.rows import insert_tokens, text_to_embed, tokens_row

if TYPE_CHECKING:
    from memories.engine.token_reader import TokenReader

logger = logging.getLogger(__name__)

LEASE: Final = "token-states"
# A few times the duration of the largest batch on a slow machine.
LEASE_SECONDS: Final = 20.0
BATCH: Final = 32
MOST_REST_SECONDS: Final = 1.0
# Ids are random, so the first rows are a fair sample and not every size has to be read.
SAMPLE: Final = 1000
_DROPPED_AT_ONCE: Final = 2000
_CHECKED_AT_ONCE: Final = 500
_NEVER: Final = threading.Event()
Progress = Callable[[int], object]


def filter_lacking(states_key: str) -> QuerySet[Memory]:
    """Live memories without token states of this key."""
    return (
        Memory.objects.filter(deleted_at=None)
        .exclude(text="")
        .exclude(token_states__states_key=states_key)
        .only("id", "project", "text", "role", "session", "created_at")
    )


def make_missing(
    runtime: Runtime,
    stop: threading.Event = _NEVER,
    *,
    gentle: bool = True,
    show: Progress = lambda made: None,
) -> int:
    """Makes the states that live memories lack, in one pass by id; how many. Each batch is stored,
    so after a kill the next pass continues where this one stopped.

    Ends when the engine has no reader any more. `gentle` rests after each batch for as long as the
    batch took, because a batch uses all cores and requests take precedence.
    """
    total = 0
    last: UUID | None = None
    while not stop.is_set():
        make_for_new(runtime)
        reader = runtime.engine.reader
        if reader is None:
            break
        started = time.monotonic()
        rows = filter_lacking(reader.states_key).order_by("id")
        page = list((rows.filter(id__gt=last) if last else rows)[:BATCH])
        if not page:
            break
        total += _make(page, reader)
        last = page[-1].id
        show(total)
        if gentle:
            stop.wait(min(time.monotonic() - started, MOST_REST_SECONDS))
    if total:
        logger.info("made missing token states", extra={"memories": total})
    return total


def make_for_new(runtime: Runtime) -> int:
    """Makes the states of memories that this process has just stored without them; how many. The
    ids stay queued while there is no reader."""
    total = 0
    while runtime.engine.reader is not None and (ids := runtime.take_unread(BATCH)):
        total += make_for(runtime, ids)
    return total


def make_for(runtime: Runtime, ids: Collection[UUID]) -> int:
    """Makes the states that these memories lack, all at once; how many."""
    reader = runtime.engine.reader
    if reader is None:
        return 0
    rows = list(filter_lacking(reader.states_key).filter(id__in=ids))
    return _make(rows, reader) if rows else 0


def _make(rows: Sequence[Memory], reader: "TokenReader") -> int:
    """Reads these memories and stores the states of those whose text has not changed meanwhile."""
    disk.check_room()
    texts = [text_to_embed(row) for row in rows]
    readings = reader.read(texts)
    with transaction.atomic():
        if not configuration.current_configuration().late_interaction:
            return 0  # switched off meanwhile: stored states may be under removal
        # In id order, as bulk changes lock them, so that the two cannot deadlock.
        locked = Memory.objects.select_for_update().filter(id__in=[row.id for row in rows])
        now = {row.id: text_to_embed(row) for row in locked.order_by("id")}
        rows_to_store = [
            tokens_row(row, reading.tokens, reader.states_key)
            for row, text, reading in zip(rows, texts, readings, strict=True)
            # A change of the text has removed the old states. `rev` is no criterion, because it
            # counts other changes too.
            if reading.tokens is not None and now.get(row.id) == text
        ]
        insert_tokens(rows_to_store)
    return len(rows_to_store)


def check_texts(
    states_key: str, reader: "TokenReader | None", stop: threading.Event = _NEVER
) -> int:
    """Checks all stored states and removes those whose memory has another text now, as an earlier
    version may leave them; how many. The next pass makes them again.

    With a reader, states without a checksum are compared with the word pieces of the text, which is
    a hundred times faster than reading them again.
    """
    dropped, last = 0, None
    while not stop.is_set():
        states = MemoryTokens.objects.filter(states_key=states_key, memory__deleted_at=None)
        rows = states.select_related("memory").defer("data").order_by("memory_id")
        page = list((rows.filter(memory_id__gt=last) if last else rows)[:_CHECKED_AT_ONCE])
        if not page:
            break
        last = page[-1].memory_id
        started = time.monotonic()
        dropped += _check(page, reader)
        stop.wait(min(time.monotonic() - started, MOST_REST_SECONDS))
    if dropped:
        logger.warning("token states of former texts are made anew", extra={"memories": dropped})
    return dropped


def _check(page: Sequence[MemoryTokens], reader: "TokenReader | None") -> int:
    """Removes the wrong states of this page, and stores the checksum of the unknown ones."""
    unknown = [row.memory_id for row in page if row.text_sum is None] if reader else []
    data = dict(MemoryTokens.objects.filter(pk__in=unknown).values_list("memory_id", "data"))
    wrong: list[MemoryTokens] = []
    right: list[MemoryTokens] = []
    for row in page:
        now = text_sum(row.memory.text)
        if row.text_sum is None and reader is not None and row.memory_id in data:
            pieces = reader.pieces(text_to_embed(row.memory))
            same = np.array_equal(unpack_states(data[row.memory_id]).pieces, pieces)
            row.text_sum = now
            (right if same else wrong).append(row)
        elif row.text_sum not in {None, now}:
            wrong.append(row)
    with transaction.atomic():
        MemoryTokens.objects.bulk_update(right, ["text_sum"])
        # Keep states that were made of the new text meanwhile.
        for row in wrong:
            MemoryTokens.objects.filter(pk=row.pk).exclude(
                text_sum=text_sum(row.memory.text)
            ).delete()
    return len(wrong)


def measure_progress(states_key: str) -> tuple[int, int]:
    """How many live memories have their states, and how many live memories there are."""
    live = Memory.objects.filter(deleted_at=None).exclude(text="")
    return live.filter(token_states__states_key=states_key).count(), live.count()


def measure_stored() -> tuple[int, int]:
    """How many memories have stored states, deleted ones included, and their size in bytes: exact
    up to 1,000 memories, an estimate from the mean beyond."""
    sample = MemoryTokens.objects.order_by("memory_id").annotate(size=Length("data"))[:SAMPLE]
    mean = sample.aggregate(mean=Avg("size"))["mean"] or 0
    count = MemoryTokens.objects.count()
    return count, round(mean * count)


def drop_some() -> int:
    """Removes a portion of the stored states; how many, 0 when none is left."""
    rows = MemoryTokens.objects.order_by("memory_id").values_list("memory_id", flat=True)
    ids = list(rows[:_DROPPED_AT_ONCE])
    return MemoryTokens.objects.filter(memory_id__in=ids).delete()[0] if ids else 0
