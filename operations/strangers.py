"""Counts refused requests without a valid credential, by address."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.db import connection, transaction
from django.db.models import Sum
from django.utils import timezone

from accounts.throttle import address_subject
from mem0dash.middleware import Handled
from mem0dash.strangers import Allowance
from operations.models import RefusedRequests

# So many of them have a row of their own in the request log.
ROWS_A_MINUTE: Final = 60
# More addresses than this in an hour are counted together, as those of nobody: "".
ADDRESSES: Final = 50
SHOWN: Final = 5
_ADD: Final = (
    "INSERT INTO operations_refusedrequests (hour, address, count) VALUES (%s, %s, %s) "
    "ON CONFLICT (hour, address) DO UPDATE "
    "SET count = operations_refusedrequests.count + excluded.count"
)
Counts = Mapping[tuple[datetime, str], int]

rows: Final = Allowance(ROWS_A_MINUTE)


class Strangers:
    """The counts of this process that are not written yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hour = timezone.now()
        self._addresses: set[str] = set()
        self._counts: dict[tuple[datetime, str], int] = {}

    def count(self, handled: Handled) -> None:
        """Counts a refused request."""
        hour = handled.at.replace(minute=0, second=0, microsecond=0)
        address = address_subject(handled.address)[:45]
        with self._lock:
            if hour != self._hour:
                self._hour, self._addresses = hour, set()
            if len(self._addresses) < ADDRESSES:
                self._addresses.add(address)
            named = address if address in self._addresses else ""
            self._counts[hour, named] = self._counts.get((hour, named), 0) + 1

    def take(self) -> Counts:
        """Takes out the counts since the last call."""
        with self._lock:
            counts, self._counts = self._counts, {}
        return counts

    def give_back(self, counts: Counts) -> None:
        """Puts counts back that could not be written."""
        with self._lock:
            for key, number in counts.items():
                self._counts[key] = self._counts.get(key, 0) + number


def write(strangers: Strangers) -> None:
    """Adds what has been counted to the database; errors of the database rise, and nothing of it
    is lost."""
    counts = strangers.take()
    if not counts:
        return
    values = [
        [connection.ops.adapt_datetimefield_value(hour), address, number]
        for (hour, address), number in counts.items()
    ]
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.executemany(_ADD, values)
    except BaseException:
        strangers.give_back(counts)
        raise


@dataclass(frozen=True, slots=True)
class Refused:
    """How many there were in a time, and the addresses that most of them came from."""

    total: int
    addresses: list[tuple[str, int]]


def refused(since: datetime) -> Refused:
    """Those since the hour of `since`, of all projects: nobody knows whose they would have been."""
    found = RefusedRequests.objects.filter(hour__gt=since - timedelta(hours=1))
    total = found.aggregate(total=Sum("count"))["total"] or 0
    by_address = found.values("address").annotate(number=Sum("count")).order_by("-number")
    busiest = by_address.values_list("address", "number")[:SHOWN]
    return Refused(total, list(busiest))
