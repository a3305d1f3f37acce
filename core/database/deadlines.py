"""Deadlines for all database work of a thread, because monitors need an answer in time."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_of = threading.local()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Limits this thread's database work in the block to so many seconds; then it fails."""
    former = getattr(_of, "until", None)
    _of.until = time.monotonic() + seconds
    try:
        yield
    finally:
        _of.until = former


def left() -> float | None:
    """How many seconds this thread has left; None without a deadline."""
    until: float | None = getattr(_of, "until", None)
    return None if until is None else until - time.monotonic()
