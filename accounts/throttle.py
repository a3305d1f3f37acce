"""Counts attempts in the database, so that limits hold across processes and restarts.

Attempts are counted in buckets of whole seconds since 1970; a limit sums the buckets of its period.
One bucket as long as the period is a fixed window, many short ones are a sliding window. Neither
addresses nor e-mail addresses are stored: the key of a row is a keyed digest of limit and subject.
"""

import ipaddress
import time
from dataclasses import dataclass, replace
from typing import Final

from django.db import connection
from django.db.models import F
from django.utils.crypto import salted_hmac

from accounts.models import Attempt
from core.errors import Mem0dashError

KEEP_SECONDS: Final = 3600


class RateLimitedError(Mem0dashError):
    """Too many attempts; `retry_after` says how long to wait."""

    status = 429
    code = "rate_limited"


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `most` attempts in `seconds` for each subject, counted in buckets of `bucket`."""

    name: str
    most: int
    seconds: int
    bucket: int

    def __str__(self) -> str:
        minutes = self.seconds // 60
        return f"{self.most} per {minutes} minute{'' if minutes == 1 else 's'}"


# Per address, whatever account it tries. Only failures count.
REGISTER: Final = Limit("register", 5, 60, 60)
LOGIN: Final = Limit("login", 10, 60, 60)
REFRESH: Final = Limit("refresh", 20, 60, 60)
# Per account: from one address, and from all together. The first is lower, so that failures at one
# address leave the account's owner at another one room to sign in.
WRONG_PASSWORDS_HERE: Final = Limit("wrong-passwords-here", 10, 900, 60)
WRONG_PASSWORDS: Final = Limit("wrong-passwords", 14, 900, 60)
# For a browser in which the account signed in before. Failures elsewhere do not count there.
WRONG_PASSWORDS_KNOWN: Final = Limit("wrong-passwords-known", 10, 900, 60)
# For a signed-in account that gives a wrong current password when changing it.
WRONG_PRESENT_PASSWORDS: Final = Limit("wrong-present-passwords", 10, 900, 60)
WRONG_SETUP_TOKENS: Final = Limit("wrong-setup-tokens", 10, 900, 60)


@dataclass(frozen=True, slots=True)
class CountedAttempt:
    """A counted attempt; `left` is how many more are allowed now."""

    key: str
    starts: int
    left: int = 0


def take(limit: Limit, subject: str) -> CountedAttempt:
    """Counts an attempt of `subject`; RateLimitedError if it is beyond the limit, and then it does
    not count.

    The attempt is counted before the check, so that no more than the limit pass, however many come
    at once.
    """
    now = int(time.time())
    attempt = CountedAttempt(_key(limit, subject), now - now % limit.bucket)
    counts = {attempt.starts: _add_one(attempt)}
    if limit.bucket < limit.seconds:
        older = Attempt.objects.filter(
            key=attempt.key, starts__gt=now - limit.seconds, starts__lt=attempt.starts
        )
        counts.update(older.values_list("starts", "count"))
    total = sum(counts.values())
    if total > limit.most:
        # A refused attempt does not count, so retrying does not make the wait longer.
        give_back(attempt)
        raise RateLimitedError(
            f"Rate limit exceeded: {limit}", retry_after=_wait(limit, counts, total - 1, now)
        )
    return replace(attempt, left=limit.most - total)


def give_back(attempt: CountedAttempt) -> None:
    """Removes an attempt from the count, such as one that succeeded."""
    Attempt.objects.filter(key=attempt.key, starts=attempt.starts, count__gt=0).update(
        count=F("count") - 1
    )


def forget(limit: Limit, subject: str) -> None:
    """Deletes the count of `subject`."""
    Attempt.objects.filter(key=_key(limit, subject)).delete()


def address_subject(address: str) -> str:
    """The subject for a caller's address. An IPv6 network of 64 bits counts as one."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if ip.version == 4:
        return str(ip)
    mapped = ip.ipv4_mapped
    return str(mapped or ipaddress.ip_network((ip, 64), strict=False).network_address)


def _key(limit: Limit, subject: str) -> str:
    value = f"{limit.name}:{subject}"
    return salted_hmac("accounts.throttle", value, algorithm="sha256").hexdigest()


def _add_one(attempt: CountedAttempt) -> int:
    """The count of the bucket with this attempt in it, in one statement."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO accounts_attempt (key, starts, count) VALUES (%s, %s, 1) "
            "ON CONFLICT (key, starts) DO UPDATE SET count = accounts_attempt.count + 1 "
            "RETURNING count",
            [attempt.key, attempt.starts],
        )
        count = int(
            cursor.fetchall()[0][0]
        )  # fetch all, because SQLite ends the statement with its last row
    if count == 1:  # a new bucket: often enough to delete old ones
        Attempt.objects.filter(starts__lt=attempt.starts - KEEP_SECONDS).delete()
    return count


def _wait(limit: Limit, counts: dict[int, int], total: int, now: int) -> int:
    """Seconds until enough old attempts have left the period for another one."""
    for starts in sorted(counts):
        total -= counts[starts]
        if total < limit.most:
            return max(1, starts + limit.seconds - now)
    return limit.seconds
