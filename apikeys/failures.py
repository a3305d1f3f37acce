"""Slows down guessing of keys: an address that fails too often gets 429 for a while.

A request with a valid credential always passes: many callers may share one address, and one that
fails must not lock out the others. Only failures count, in the database, so that the limit holds
across processes and restarts. This process also remembers which addresses have to wait, so that
their further failures cost no statement. Another process learns of an address with its next
failure.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from django.conf import settings
from django.db import Error as AnyDatabaseError
from django.http import HttpRequest, JsonResponse
from django.http.response import HttpResponseBase

from accounts.throttle import Limit, RateLimitedError, address_subject, take
from core.database.sqlite3.turns import at_most
from core.http.middleware import client_address

logger = logging.getLogger(__name__)

DETAIL: Final = "Too many failed authentication attempts; try again later."
# What stands below these is limited, each for itself: path -> the limit's name.
SURFACES: Final = {"/api/v1/": "failures-rest"}
KNOWN: Final = 10_000
# How long a refusal waits for others that write, to be counted.
COUNTING_SECONDS: Final = 1.0


class WaitingRoom:
    """Who has to wait until when, as this process knows it; seconds since 1970."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    def seconds_left(self, surface: str, address: str) -> int:
        """How long the address still has to wait; 0 for not at all."""
        if not self._until:  # nearly always
            return 0
        until = self._until.get((surface, address_subject(address)), 0.0)
        left = until - time.time()
        return max(1, round(left)) if left > 0 else 0

    def put(self, surface: str, address: str, seconds: float) -> None:
        """Makes the address wait from now on."""
        now = time.time()
        with self._lock:
            if len(self._until) >= KNOWN:
                # Those that are over, and at the worst the oldest: the database knows all of them.
                kept = sorted((until, who) for who, until in self._until.items() if until > now)
                self._until = {who: until for until, who in kept[-KNOWN // 2 :]}
            self._until[surface, address_subject(address)] = now + seconds

    def clear(self) -> None:
        """Forgets all addresses."""
        with self._lock:
            self._until = {}


waiting = WaitingRoom()


class FailureLimitMiddleware:
    """429 instead of 401 for an address that failed to authenticate too often, until the window
    ends."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        surface = _surface(request.path_info)
        if not surface or not settings.RATE_LIMIT_AUTH_FAILURES:
            return self.get_response(request)
        response = self.get_response(request)
        if response.status_code != 401:
            return response
        left = count_failure(surface, client_address(request))
        return _refusal(left) if left else response


def count_failure(surface: str, address: str) -> int:
    """Counts a failed authentication; the seconds that the address has to wait, 0 for not at all.

    Who has to wait is not counted: whoever keeps trying does not shut the door for longer.
    """
    if not settings.RATE_LIMIT_AUTH_FAILURES:
        return 0
    return waiting.seconds_left(surface, address) or _count(surface, address)


def _surface(path: str) -> str:
    return next((name for below, name in SURFACES.items() if path.startswith(below)), "")


def _count(surface: str, address: str) -> int:
    """Counts a failure; the seconds to wait where it is one too many, else 0."""
    seconds = settings.RATE_LIMIT_AUTH_WINDOW_SECONDS
    limit = Limit(surface, settings.RATE_LIMIT_AUTH_FAILURES, seconds, seconds)
    try:
        with at_most(COUNTING_SECONDS):
            taken = take(limit, address_subject(address))
    except RateLimitedError as error:
        # It failed elsewhere before: another process has counted that.
        wait = error.retry_after or seconds
        waiting.put(surface, address, wait)
        return wait
    except AnyDatabaseError:
        logger.warning("a failed authentication could not be counted", exc_info=True)
        return 0
    if taken.left == 0:
        waiting.put(surface, address, max(1.0, taken.starts + seconds - time.time()))
    return 0


def _refusal(seconds: int) -> JsonResponse:
    headers = {"Retry-After": str(seconds), "Cache-Control": "no-store"}
    return JsonResponse({"detail": DETAIL}, status=429, headers=headers)
