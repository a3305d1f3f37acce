"""Python's collector in a thread of its own, which never holds a transaction.

By itself it runs in whatever thread allocates the object that is one too many: a write transaction
would hold the database for as long as that takes.
"""

import gc
import threading
from typing import Final

SECONDS: Final = 0.05


def start() -> None:
    """Takes over garbage collection for the rest of the process. Objects that exist by now are
    frozen: later rounds skip them and are short."""
    gc.collect()
    gc.freeze()
    gc.disable()
    threading.Thread(target=_run, name="mem0dash-collector", daemon=True).start()


def _run() -> None:
    pause = threading.Event()
    while not pause.wait(SECONDS):
        collect_due()


def collect_due() -> int | None:
    """Collects the oldest generation whose turn it is by Python's own thresholds; which one."""
    counts, thresholds = gc.get_count(), gc.get_threshold()
    for generation in (2, 1, 0):
        if counts[generation] > thresholds[generation]:
            gc.collect(generation)
            return generation
    return None
