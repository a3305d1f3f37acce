"""A cache of answers that took long to compute."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """Answers by key.

    An answer that took longer than `long` seconds is reused for `times` its duration, and at least
    for `least` seconds. At most `size` answers are cached; the oldest are dropped first.
    """

    def __init__(
        self, *, long: float, times: float = 10.0, least: float = 0.0, size: int = 256
    ) -> None:
        self.long, self.times, self.least, self.size = long, times, least, size
        self._found: OrderedDict[Hashable, tuple[Hashable, float, T]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, ask: Callable[[], T], *, state: Hashable = None) -> T:
        """The cached answer, or a new one from `ask`. An answer of another `state` is stale."""
        started = time.monotonic()
        with self._lock:
            entry = self._found.get(key)
        if entry is not None and entry[0] == state and started < entry[1]:
            return entry[2]
        answer = ask()
        now = time.monotonic()
        if (took := now - started) > self.long:
            with self._lock:
                self._found[key] = state, now + max(self.least, self.times * took), answer
                self._found.move_to_end(key)
                while len(self._found) > self.size:
                    self._found.popitem(last=False)
        return answer

    def has(self, key: Hashable) -> bool:
        """Whether a valid answer is cached."""
        entry = self._found.get(key)
        return entry is not None and time.monotonic() < entry[1]

    def __len__(self) -> int:
        return len(self._found)

    def clear(self) -> None:
        """Forgets all answers."""
        with self._lock:
            self._found.clear()
