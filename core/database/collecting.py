"""Runs Python's garbage collector in a separate thread, which never holds a transaction.

By default it runs in the thread that allocates one object too many; in a write transaction that
would hold the database for as long as the collection takes.
"""

import gc
import threading
import time
from typing import Final

SECONDS: Final = 0.05
# A full collection visits every object and stops all threads meanwhile; it is only needed for the
# few cycles that survived two younger generations.
FULL_SECONDS: Final = 60.0


class Collector:
    """Decides which generation is due; see `start`."""

    def __init__(self) -> None:
        self._full_at = time.monotonic()

    def collect_due(self) -> int | None:
        """Collects the oldest generation that is due; returns its number, None for none. The
        young ones are due by Python's own thresholds, the oldest one after FULL_SECONDS."""
        counts, thresholds = gc.get_count(), gc.get_threshold()
        if counts[2] and time.monotonic() - self._full_at >= FULL_SECONDS:
            self._full_at = time.monotonic()
            due = 2
        elif counts[1] > thresholds[1]:
            due = 1
        elif counts[0] > thresholds[0]:
            due = 0
        else:
            return None
        gc.collect(due)
        return due


def start() -> None:
    """Takes over garbage collection for the lifetime of the process. Existing objects are exempt
    from now on, which keeps a full collection short."""
    gc.collect()
    gc.freeze()
    gc.disable()
    threading.Thread(target=_run, name="mem0dash-collector", daemon=True).start()


def _run() -> None:
    collector = Collector()
    pause = threading.Event()
    while not pause.wait(SECONDS):
        collector.collect_due()
