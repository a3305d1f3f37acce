"""Limits log entries of callers without a valid credential, so that they fill neither the log nor
the database. The rest is counted."""

import threading
import time
from typing import Final

# Lines in the log on standard error.
LINES_A_MINUTE: Final = 300


class Allowance:
    """A limited number of entries a minute."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Resets the counts."""
        self._minute, self._taken, self._passed = 0, 0, 0

    def take(self) -> tuple[bool, int]:
        """Whether an entry is allowed now, and how many were suppressed in the previous minute,
        reported once."""
        minute = int(time.monotonic() // 60)
        with self._lock:
            number = 0
            if minute != self._minute:
                number, self._passed = self._passed, 0
                self._minute, self._taken = minute, 0
            if self._taken < self._most:
                self._taken += 1
                return True, number
            self._passed += 1
            return False, number


lines: Final = Allowance(LINES_A_MINUTE)
