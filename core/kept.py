"""Answers that took long, for as long as they are good."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """Answers by what was asked.

    One that took longer than `long` seconds is given again for `times` as long, and at least for
    `least` seconds. There are at most `size`: those that were made longest ago go first.
    """

    def __init__(
        self, *, long: float, times: float = 10.0, least: float = 0.0, size: int = 256
    ) -> None:
        self.long, self.times, self.least, self.size = long, times, least, size
        self._found: OrderedDict[Hashable, tuple[Hashable, float, T]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, ask: Callable[[], T], *, state: Hashable = None) -> T:
        """The answer that is there, or the one that `ask` gives now. One of another `state` is not
        good any more."""
        started = time.monotonic()
        with self._lock:
            found = self._found.get(key)
        if found is not None and found[0] == state and started < found[1]:
            return found[2]
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
        """Whether there is an answer that is good."""
        found = self._found.get(key)
        return found is not None and time.monotonic() < found[1]

    def __len__(self) -> int:
        return len(self._found)

    def clear(self) -> None:
        """Forgets all answers."""
        with self._lock:
            self._found.clear()
