"""How long the database may take in all for what a thread does: monitors need an answer in time."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_of = threading.local()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """What this thread asks of the database in here has so many seconds; then it fails."""
    former = getattr(_of, "until", None)
    _of.until = time.monotonic() + seconds
    try:
        yield
    finally:
        _of.until = former


def left() -> float | None:
    """How many seconds this thread has left; None where nothing presses."""
    until: float | None = getattr(_of, "until", None)
    return None if until is None else until - time.monotonic()
