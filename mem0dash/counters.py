"""Counters for the metrics of this process."""

import threading
from typing import Final

_lock = threading.Lock()


class Counter:
    """A number that only grows; `help` is a sentence for operators."""

    def __init__(self, name: str, help: str) -> None:  # noqa: A002  (as Prometheus calls it)
        self.name: Final = name
        self.help: Final = help
        self._value = 0
        counters.append(self)

    @property
    def value(self) -> int:
        return self._value

    def add(self, n: int = 1) -> None:
        """Adds `n`, which is not negative."""
        with _lock:
            self._value += n


# All counters, in the order of their creation.
counters: list[Counter] = []

BULK_DELETED: Final = Counter(
    "memories_bulk_deleted_total", "Memories deleted by POST /api/v1/memories/delete_bulk."
)
