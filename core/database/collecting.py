"""Python's collector in a thread of its own, which never holds a transaction.

By itself it runs in whatever thread allocates the object that is one too many: a write transaction
would hold the database for as long as that takes.
"""

import gc
import threading
import time
from typing import Final

SECONDS: Final = 0.05
# A full round looks at every object there is and holds up all threads meanwhile; what only it finds
# are the few cycles that outlived two younger rounds.
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
    """Takes the collector over for as long as the process runs. The objects that exist now are
    left out from now on, which makes a full round short."""
    gc.collect()
    gc.freeze()
    gc.disable()
    threading.Thread(target=_run, name="mem0dash-collector", daemon=True).start()


def _run() -> None:
    collector = Collector()
    pause = threading.Event()
    while not pause.wait(SECONDS):
        collector.collect_due()
