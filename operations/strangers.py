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

# This many a minute get their own row in the request log.
ROWS_A_MINUTE: Final = 60
# Further addresses in an hour are counted together, under "".
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
# The addresses that are counted separately in `_hour`.
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
    """The number of refused requests in a period, and the most frequent addresses."""

    total: int
    addresses: list[tuple[str, int]]


def count_refused(since: datetime) -> RefusedSummary:
    """Refused requests since the hour of `since`, for the whole instance, because their project is
    unknown."""
    refused = RefusedRequests.objects.filter(hour__gt=since - timedelta(hours=1))
    total = refused.aggregate(total=Sum("count"))["total"] or 0
    by_address = refused.values("address").annotate(number=Sum("count")).order_by("-number")
    busiest = by_address.values_list("address", "number")[:SHOWN]
    return RefusedSummary(total, list(busiest))
