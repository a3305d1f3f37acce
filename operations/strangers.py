"""Counts refused requests without a valid credential, by address."""

import operator
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.db import connection, transaction
from django.db.models import Sum

from accounts.throttle import address_subject
from core import notes
from core.http.finished import FinishedRequest
from core.http.strangers import Allowance
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

rows: Final = Allowance(ROWS_A_MINUTE)


def store(counts: dict[tuple[datetime, str], int]) -> int:
    """Adds what has been counted to the database."""
    values = [
        [connection.ops.adapt_datetimefield_value(hour), address, number]
        for (hour, address), number in counts.items()
    ]
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.executemany(_ADD, values)
    return 0


counts: Final = notes.Notes("refused requests", store, join=operator.add, seconds=10.0)
_lock: Final = threading.Lock()
# The addresses that are counted one by one, in the hour that they are of.
_named: set[str] = set()
_hour: datetime | None = None


def count(handled: FinishedRequest) -> None:
    """Counts a refused request."""
    global _hour
    hour = handled.at.replace(minute=0, second=0, microsecond=0)
    address = address_subject(handled.address)[:45]
    with _lock:
        if hour != _hour:
            _hour = hour
            _named.clear()
        if len(_named) < ADDRESSES:
            _named.add(address)
        counts.put((hour, address if address in _named else ""), 1)


@dataclass(frozen=True, slots=True)
class RefusedSummary:
    """How many there were in a time, and the addresses that most of them came from."""

    total: int
    addresses: list[tuple[str, int]]


def count_refused(since: datetime) -> RefusedSummary:
    """Those since the hour of `since`, of all projects: nobody knows whose they would have been."""
    found = RefusedRequests.objects.filter(hour__gt=since - timedelta(hours=1))
    total = found.aggregate(total=Sum("count"))["total"] or 0
    by_address = found.values("address").annotate(number=Sum("count")).order_by("-number")
    busiest = by_address.values_list("address", "number")[:SHOWN]
    return RefusedSummary(total, list(busiest))
