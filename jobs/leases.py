"""Work that one process at a time does: who holds a lease renews it, who is gone loses it.

Times are the database's, so that the clocks of the machines need not agree.
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
    """The lease ran out, and with it the right to go on."""


def acquire(name: str, seconds: float = SECONDS, *, holder: str = HOLDER) -> bool:
    """Whether the lease is ours for the next `seconds`: newly, or still."""
    if _take(name, seconds, holder):
        return True
    # Already over when it is made: it is got by the same update that the others race for.
    over = timezone.now() - timedelta(days=1)
    made = Lease(name=name, holder="", until=over)
    Lease.objects.bulk_create([made], ignore_conflicts=True)
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
    """Whether the lease was still ours, and is again for `seconds`."""
    ours = Lease.objects.filter(name=name, holder=HOLDER, until__gt=Now())
    return bool(ours.update(until=_in(seconds)))


def release(name: str) -> None:
    """Gives the lease up, if it is ours."""
    Lease.objects.filter(name=name, holder=HOLDER).update(until=Now())


def is_held(name: str) -> bool:
    """Whether anybody, this process included, holds the lease now. One whose process is known to
    be gone holds nothing: who asks before trying would otherwise wait until it runs out."""
    held = Lease.objects.filter(name=name, until__gt=Now())
    holder = held.values_list("holder", flat=True).first()
    if holder is None:
        return False
    if not is_dead(holder):
        return True
    held.filter(holder=holder).update(until=Now())
    return held.exists()


class HeldLease:
    """A lease that this process holds."""

    def __init__(self, name: str, seconds: float) -> None:
        self.name, self.seconds = name, seconds
        self._renewed_at = time.monotonic()

    def renew(self) -> None:
        """Keeps it; called often, it asks the database now and then. LeaseLostError when it has
        run out."""
        if time.monotonic() - self._renewed_at < min(_RENEW_SECONDS, self.seconds / 4):
            return
        if not renew(self.name, self.seconds):
            raise LeaseLostError(f"Another process has taken over: {self.name}.")
        self._renewed_at = time.monotonic()

    def lock(self) -> None:
        """Makes sure of it until the end of the caller's transaction; LeaseLostError."""
        ours = Lease.objects.select_for_update().filter(
            name=self.name, holder=HOLDER, until__gt=Now()
        )
        if ours.first() is None:
            raise LeaseLostError(f"Another process has taken over: {self.name}.")


@contextmanager
def hold(name: str, seconds: float = SECONDS) -> Iterator[HeldLease]:
    """Holds the lease; ConflictError when another process does. Threads of one process have to
    agree among themselves."""
    if not acquire(name, seconds):
        raise ConflictError(f"Another process is at work: {name}.")
    try:
        yield HeldLease(name, seconds)
    finally:
        # What cannot be given up runs out by itself, and must not look like the work's failure.
        with suppress(AnyDatabaseError):
            release(name)
