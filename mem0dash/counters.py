"""What the rooms count for the metrics, in this process."""

import threading
from typing import Final

_lock = threading.Lock()


class Counter:
    """A number that only grows; `help` is a sentence for whoever looks after the server."""

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


# All of them, as they are made.
counters: list[Counter] = []

BULK_DELETED: Final = Counter(
    "memories_bulk_deleted_total", "Memories deleted by POST /api/v1/memories/delete_bulk."
)
