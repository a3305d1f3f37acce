"""Token states that memories lack: made by the local model behind the scenes, batch by batch.

They come with the vectors where the local model makes those. Here is the rest: memories of before,
those of another `states_key`, and all of them where a provider makes the vectors.
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
# A few times as long as the largest batch takes on a slow machine.
LEASE_SECONDS: Final = 20.0
BATCH: Final = 32
MOST_REST_SECONDS: Final = 1.0
# Ids are random, so the first of them are a fair sample: sizes need not be read one by one.
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
    """Makes what live memories lack, in one pass by id; how many. What was made stays, so after a
    kill the next pass goes on where this one was.

    Ends when the engine has no reader any more. `gentle` rests after each batch as long as that
    took: a batch uses all cores, and they are the requests' first.
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
    """Makes the states of what this process has just stored without them; how many. Ids stay noted
    while there is nothing to read with."""
    total = 0
    while runtime.engine.reader is not None and (ids := runtime.take_unread(BATCH)):
        total += make_for(runtime, ids)
    return total


def make_for(runtime: Runtime, ids: Collection[UUID]) -> int:
    """Makes what these memories lack, all of them at once; how many."""
    reader = runtime.engine.reader
    if reader is None:
        return 0
    rows = list(filter_lacking(reader.states_key).filter(id__in=ids))
    return _make(rows, reader) if rows else 0


def _make(rows: Sequence[Memory], reader: "TokenReader") -> int:
    """Reads these memories and keeps the states of those that still say the same."""
    disk.check_room()
    texts = [text_to_embed(row) for row in rows]
    found = reader.read(texts)
    with transaction.atomic():
        if not configuration.current_configuration().late_interaction:
            return 0  # switched off meanwhile: what is kept may just be being removed
        # By id, as bulk changes lock them: two that lock the same rows never wait for each other.
        locked = Memory.objects.select_for_update().filter(id__in=[row.id for row in rows])
        now = {row.id: text_to_embed(row) for row in locked.order_by("id")}
        kept = [
            tokens_row(row, reading.tokens, reader.states_key)
            for row, text, reading in zip(rows, texts, found, strict=True)
            # Whoever changed the text has taken the old states away; revisions do not tell, for
            # they count other changes too.
            if reading.tokens is not None and now.get(row.id) == text
        ]
        insert_tokens(kept)
    return len(kept)


def check_texts(
    states_key: str, reader: "TokenReader | None", stop: threading.Event = _NEVER
) -> int:
    """Looks over all states that are kept, and takes away those of another text than the memory has
    now, as a version before this one leaves behind; how many. Then they are lacking, and made anew.

    States of which nobody knows are compared with the word pieces of the text, where there is a
    reader: a hundred times as fast as to read them anew.
    """
    dropped, last = 0, None
    while not stop.is_set():
        kept = MemoryTokens.objects.filter(states_key=states_key, memory__deleted_at=None)
        rows = kept.select_related("memory").defer("data").order_by("memory_id")
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
    """Of these, drops the wrong ones, and writes down what the unknown ones are of."""
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
        # Not what was made of the new text in the meantime.
        for row in wrong:
            MemoryTokens.objects.filter(pk=row.pk).exclude(
                text_sum=text_sum(row.memory.text)
            ).delete()
    return len(wrong)


def measure_progress(states_key: str) -> tuple[int, int]:
    """How many live memories have their states, of how many."""
    live = Memory.objects.filter(deleted_at=None).exclude(text="")
    return live.filter(token_states__states_key=states_key).count(), live.count()


def measure_stored() -> tuple[int, int]:
    """Of how many memories states are kept, those in the bin as well, and the bytes they take:
    exact up to 1,000 memories, beyond that an estimate by their mean."""
    sample = MemoryTokens.objects.order_by("memory_id").annotate(size=Length("data"))[:SAMPLE]
    mean = sample.aggregate(mean=Avg("size"))["mean"] or 0
    count = MemoryTokens.objects.count()
    return count, round(mean * count)


def drop_some() -> int:
    """Removes a portion of what is kept, whatever it is of; how many, 0 for none left."""
    rows = MemoryTokens.objects.order_by("memory_id").values_list("memory_id", flat=True)
    ids = list(rows[:_DROPPED_AT_ONCE])
    return MemoryTokens.objects.filter(memory_id__in=ids).delete()[0] if ids else 0
