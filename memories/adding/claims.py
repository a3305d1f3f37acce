"""Claims on adds in flight, and the end of adds whose process has died."""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection, transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone

from core.database.datastore import explain
from core.errors import Mem0dashError, ProviderError
from memories.models import AddInput, IngestClaim

logger = logging.getLogger(__name__)

STOPPED: Final = "The server stopped before this was stored."
# The code of adds that a server stop interrupted. background.resuming retries them.
INTERRUPTED: Final = "interrupted"

# The inputs that this process works on, with the thread of each. An input is here before its claim
# is visible in SQL.
_active: dict[UUID, int] = {}
# The threads whose input is stored in the database.
_keeping: set[int] = set()
# The inputs that this process could not end because the database was unavailable. Nobody works on
# them any more. The claims of other processes may belong to a command that runs beside the server.
_left: set[UUID] = set()
_alone = threading.Event()


# --- Of this process -----------------------------------------------------------------------------
@contextmanager
def working_on(input_id: UUID) -> Iterator[None]:
    """Registers this thread as the one that claims the input and works on it."""
    _left.discard(input_id)
    _active[input_id] = thread = threading.get_ident()
    try:
        yield
    except (DatabaseError, InterfaceError):
        # The claim may or may not have been stored.
        _left.add(input_id)
        raise
    finally:
        _active.pop(input_id, None)
        _keeping.discard(thread)


@contextmanager
def keeping(input_: AddInput) -> Iterator[None]:
    """Marks the input as failed, with the reason, and drops its claim when the work raises."""
    _keeping.add(threading.get_ident())
    try:
        yield
    except BaseException as error:
        reason, code = "Internal error.", "internal_error"
        if isinstance(error, Mem0dashError):
            reason, code = error.message, error.code
        elif isinstance(error, DatabaseError | InterfaceError):
            explained = explain(error, "The database did not answer.")
            reason, code = explained.message, explained.code
        cause = error.cause if isinstance(error, ProviderError) else ""
        extra = {"input": str(input_.pk), "code": code}
        logger.warning("add failed, its input is kept", extra=extra)
        try:
            fail([input_.pk], reason, code=code, cause=cause)
        except (DatabaseError, InterfaceError):
            _left.add(input_.pk)  # `abandon_claims` ends it later
        raise


def is_working(thread: int) -> bool:
    """Whether the thread works on an add whose input is stored, which is retried after a
    restart."""
    return thread in _keeping


def is_left(input_: AddInput) -> bool:
    """Whether this process worked on the input but could not end it."""
    return input_.pk in _left


# --- In SQL --------------------------------------------------------------------------------------
def lease_from(now: datetime) -> datetime:
    """When the lease of a claim made at `now` ends."""
    return now + timedelta(seconds=settings.CLAIM_LEASE_SECONDS)


def insert(digest: str, input_: AddInput, lease: datetime) -> bool:
    """Inserts the claim; whether it is ours. Raw SQL, because the ORM does not report the
    insert."""
    sql = (
        "INSERT INTO memories_ingestclaim (digest, input_id, lease_until) "
        "VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"
    )
    own_id = AddInput._meta.pk.get_db_prep_value(input_.pk, connection)
    with connection.cursor() as cursor:
        until = connection.ops.adapt_datetimefield_value(lease)
        cursor.execute(sql, [digest, own_id, until])
        return bool(cursor.rowcount == 1)


def take(digest: str, input_: AddInput, now: datetime) -> AddInput | None:
    """Claims the digest for the input, in the caller's transaction, also if the holder's lease has
    run out. Returns the claim's input, which is another one if that is under way; None if the claim
    has gone."""
    lease = lease_from(now)
    if insert(digest, input_, lease):
        return input_
    claim = IngestClaim.objects.select_related("input").filter(digest=digest).first()
    # An expired lease means that the holder is gone; whoever updates the row takes over.
    taken_over = IngestClaim.objects.filter(digest=digest, lease_until__lte=now).update(
        input=input_, lease_until=lease
    )
    if taken_over:
        return input_
    return claim.input if claim else None


def is_claimed(input_: AddInput) -> bool:
    """Whether somebody works on this input."""
    return IngestClaim.objects.filter(input=input_, lease_until__gt=timezone.now()).exists()


def is_under_way(input_: AddInput) -> bool:
    """Whether somebody works on this input or an identical one."""
    now = timezone.now()
    return IngestClaim.objects.filter(digest=input_.digest, lease_until__gt=now).exists()


# --- Adds whose process has died -----------------------------------------------------------------
def fail(ids: Sequence[UUID], reason: str, *, code: str = "unknown", cause: str = "") -> int:
    """Ends these adds as failed, except those whose commit succeeded without a reply; how many."""
    with transaction.atomic():
        IngestClaim.objects.filter(input_id__in=ids).delete()
        return AddInput.objects.filter(id__in=ids, outcome=AddInput.Outcome.RUNNING).update(
            outcome=AddInput.Outcome.FAILED,
            reason=reason,
            code=code,
            cause=cause,
            finished_at=timezone.now(),
        )


def interrupt(ids: Sequence[UUID]) -> int:
    """Ends these adds as interrupted by a server stop; how many."""
    return fail(ids, STOPPED, code=INTERRUPTED) if ids else 0


def end_left() -> int:
    """Ends the adds that this process could not end during a database outage; how many."""
    ids = [id_ for id_ in list(_left) if id_ not in _active]
    count = fail(ids, "The database went away before this was stored.") if ids else 0
    _left.difference_update(ids)
    return count


def abandon_claims() -> int:
    """For a process that has the database to itself: ends the adds that it could not end during an
    outage, and those of a killed command once their claims run out."""
    if not _alone.is_set():
        return 0
    over = IngestClaim.objects.filter(lease_until__lte=timezone.now())
    ids = [id_ for id_ in over.values_list("input_id", flat=True) if id_ not in _active]
    return end_left() + interrupt(ids)


def end_all() -> int:
    """Ends the adds of this process before it exits; how many.

    An add that gets its answer after this does not store it (`idempotency.Claim.finish`).
    """
    return interrupt(list(_active))


def end_expired(*, of_all_times: bool = False) -> int:
    """Ends adds whose claim has run out, where several processes share the database; how many.

    Their process is gone, or will notice the lost claim when it stores. Adds that are older than a
    day and have no claim are included with `of_all_times` only.
    """
    end_left()
    now = timezone.now()
    lease = timedelta(seconds=settings.CLAIM_LEASE_SECONDS)
    running = AddInput.objects.filter(
        outcome=AddInput.Outcome.RUNNING, created_at__lt=now - lease
    ).exclude(Exists(IngestClaim.objects.filter(input=OuterRef("pk"), lease_until__gt=now)))
    if not of_all_times:
        running = running.filter(created_at__gt=now - timedelta(days=1))
    # A retried input is older than its claim, and may be older than a day.
    over = IngestClaim.objects.filter(lease_until__lte=now).values_list("input_id", flat=True)
    return interrupt([*{*running.values_list("id", flat=True), *over}])


def take_over() -> int:
    """Notes that this process has the database to itself, and fails adds that still count as
    running.

    Returns how many: they died with an earlier process.
    """
    _alone.set()
    running = AddInput.objects.filter(outcome=AddInput.Outcome.RUNNING)
    return interrupt([id_ for id_ in running.values_list("id", flat=True) if id_ not in _active])
