"""Leases for work that one process at a time does: the holder renews its lease or loses it.

Times come from the database, so that the machines' clocks need not agree.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Final

from django.db import Error as AnyDatabaseError
from django.db.models import DateTimeField, ExpressionWrapper, Q
from django.db.models.functions import Now
from django.utils import timezone

from core.errors import ConflictError
from jobs.holders import HOLDER, is_dead
from jobs.models import Lease

SECONDS: Final = 30.0
_RENEW_SECONDS: Final = 5.0


class LeaseLostError(ConflictError):
    """The lease ran out, and with it the right to continue."""


def acquire(name: str, seconds: float = SECONDS, *, holder: str = HOLDER) -> bool:
    """Acquires or renews the lease for `seconds`; whether it is ours."""
    if _take(name, seconds, holder):
        return True
    # The new row has expired already, so that all processes race for it with the same update.
    over = timezone.now() - timedelta(days=1)
    expired = Lease(name=name, holder="", until=over)
    Lease.objects.bulk_create([expired], ignore_conflicts=True)
    return _take(name, seconds, holder)


def _take(name: str, seconds: float, holder: str) -> bool:
    free = Q(holder=holder) | Q(until__lte=Now())
    held_by = Lease.objects.filter(name=name).values_list("holder", flat=True).first()
    if held_by and is_dead(held_by):
        free |= Q(holder=held_by)
    until = _in(seconds)
    return bool(Lease.objects.filter(free, name=name).update(holder=holder, until=until))


def _in(seconds: float) -> Any:
    return ExpressionWrapper(Now() + timedelta(seconds=seconds), output_field=DateTimeField())


def renew(name: str, seconds: float = SECONDS) -> bool:
    """Renews the lease for `seconds`; whether it was still ours."""
    ours = Lease.objects.filter(name=name, holder=HOLDER, until__gt=Now())
    return bool(ours.update(until=_in(seconds)))


def release(name: str) -> None:
    """Releases the lease if it is ours."""
    Lease.objects.filter(name=name, holder=HOLDER).update(until=Now())


def is_held(name: str) -> bool:
    """Whether any process, including this one, holds the lease now. A holder whose process is known
    to be dead does not count, so that callers need not wait until its lease runs out."""
    leases = Lease.objects.filter(name=name, until__gt=Now())
    holder = leases.values_list("holder", flat=True).first()
    if holder is None:
        return False
    if not is_dead(holder):
        return True
    leases.filter(holder=holder).update(until=Now())
    return leases.exists()


class HeldLease:
    """A lease that this process holds."""

    def __init__(self, name: str, seconds: float) -> None:
        self.name, self.seconds = name, seconds
        self._renewed_at = time.monotonic()

    def renew(self) -> None:
        """Renews the lease; only some of frequent calls reach the database. LeaseLostError if the
        lease has run out."""
        if time.monotonic() - self._renewed_at < min(_RENEW_SECONDS, self.seconds / 4):
            return
        if not renew(self.name, self.seconds):
            raise LeaseLostError(f"Another process has taken over: {self.name}.")
        self._renewed_at = time.monotonic()

    def lock(self) -> None:
        """Locks the lease until the end of the caller's transaction; LeaseLostError if it is
        lost."""
        ours = Lease.objects.select_for_update().filter(
            name=self.name, holder=HOLDER, until__gt=Now()
        )
        if ours.first() is None:
            raise LeaseLostError(f"Another process has taken over: {self.name}.")


@contextmanager
def hold(name: str, seconds: float = SECONDS) -> Iterator[HeldLease]:
    """Holds the lease; ConflictError if another process holds it. The threads of one process share
    it and need their own lock."""
    if not acquire(name, seconds):
        raise ConflictError(f"Another process is at work: {name}.")
    try:
        yield HeldLease(name, seconds)
    finally:
        # An unreleased lease runs out by itself, and must not look like a failure of the work.
        with suppress(AnyDatabaseError):
            release(name)
