"""Work that one process at a time does: who holds a lease renews it, who is gone loses it.

Times are the database's, so that the clocks of the machines need not agree.
"""

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from django.db import Error as AnyDatabaseError
from django.db.models import DateTimeField, ExpressionWrapper, Q
from django.db.models.functions import Now
from django.utils import timezone

from mem0dash.errors import ConflictError
from memories.models.server import Lease

SECONDS: Final = 30.0
# Building a new generation of the index.
INDEX_BUILD: Final = "index-build"


def _place() -> str:
    """Where process ids mean the same: this machine since it was started, and in it this
    container. "" where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        inside = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return ""
    return hashlib.sha256(f"{boot}/{inside}".encode()).hexdigest()[:24]


def _stat(pid: int) -> tuple[str, str]:
    """A process's state, and when it was started: a number may be given to another one."""
    # The name before the last parenthesis may hold anything.
    told = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    fields = told.rpartition(")")[2].split()
    return fields[0], fields[19]


def _holder(pid: int) -> str:
    try:
        return f"{_PLACE}:{pid}:{_stat(pid)[1]}"
    except (OSError, IndexError):
        return f"{_PLACE}:{pid}:"


_PLACE: Final = _place()
# This process; a restarted one is another holder.
HOLDER: Final = _holder(os.getpid())
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
    if held_by and _is_dead(held_by):
        free |= Q(holder=held_by)
    until = _in(seconds)
    return bool(Lease.objects.filter(free, name=name).update(holder=holder, until=until))


def _is_dead(holder: str) -> bool:
    """Whether the holder was a process of this place that is no more: nobody waits for it. In
    doubt it lives."""
    place, _, process = holder.partition(":")
    pid, _, started = process.partition(":")
    if not _PLACE or place != _PLACE or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
        state, begun = _stat(int(pid))
    except ProcessLookupError:
        return True
    except (OSError, IndexError):
        return False
    # One that was killed and that its parent has not taken note of is still listed.
    return state in {"Z", "X"} or started not in {"", begun}


def _in(seconds: float) -> Any:
    return ExpressionWrapper(Now() + timedelta(seconds=seconds), output_field=DateTimeField())


def renew(name: str, seconds: float = SECONDS) -> bool:
    """Whether the lease was still ours, and is again for `seconds`."""
    ours = Lease.objects.filter(name=name, holder=HOLDER, until__gt=Now())
    return bool(ours.update(until=_in(seconds)))


def release(name: str) -> None:
    """Gives the lease up, if it is ours."""
    Lease.objects.filter(name=name, holder=HOLDER).update(until=Now())


def is_taken(name: str) -> bool:
    """Whether anybody, this process included, holds the lease now. One whose process is known to
    be gone holds nothing: who asks before trying would otherwise wait until it runs out."""
    held = Lease.objects.filter(name=name, until__gt=Now())
    holder = held.values_list("holder", flat=True).first()
    if holder is None:
        return False
    if not _is_dead(holder):
        return True
    held.filter(holder=holder).update(until=Now())
    return held.exists()


class Held:
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
def held(name: str, seconds: float = SECONDS) -> Iterator[Held]:
    """Holds the lease; ConflictError when another process does. Threads of one process have to
    agree among themselves."""
    if not acquire(name, seconds):
        raise ConflictError(f"Another process is at work: {name}.")
    try:
        yield Held(name, seconds)
    finally:
        # What cannot be given up runs out by itself, and must not look like the work's failure.
        with suppress(AnyDatabaseError):
            release(name)
