"""Claims on adds in flight: what this process works on, and how adds end whose process is gone."""

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
# The code of what a stop of the server cut off: it is tried again by itself (background.resuming).
INTERRUPTED: Final = "interrupted"

# The inputs that this process works on, known here before their claims can be seen in SQL, each
# with the thread that does.
_active: dict[UUID, int] = {}
# The threads whose input is in the database.
_keeping: set[int] = set()
# And those that it worked on and could not end, for the database had gone away: nobody works on
# them any more. Claims of others may be those of a command that works beside the server.
_left: set[UUID] = set()
_alone = threading.Event()


# --- Of this process -----------------------------------------------------------------------------
@contextmanager
def working_on(input_id: UUID) -> Iterator[None]:
    """Says that this thread claims the input and, once it has it, works on it."""
    _left.discard(input_id)
    _active[input_id] = thread = threading.get_ident()
    try:
        yield
    except (DatabaseError, InterfaceError):
        # Whether its claim is there is not known.
        _left.add(input_id)
        raise
    finally:
        _active.pop(input_id, None)
        _keeping.discard(thread)


@contextmanager
def keeping(kept: AddInput) -> Iterator[None]:
    """When the work on the input raises, it stays as failed with the reason, without its claim."""
    _keeping.add(threading.get_ident())
    try:
        yield
    except BaseException as error:
        reason, code = "Internal error.", "internal_error"
        if isinstance(error, Mem0dashError):
            reason, code = error.message, error.code
        elif isinstance(error, DatabaseError | InterfaceError):
            told = explain(error, "The database did not answer.")
            reason, code = told.message, told.code
        cause = error.cause if isinstance(error, ProviderError) else ""
        extra = {"input": str(kept.pk), "code": code}
        logger.warning("add failed, its input is kept", extra=extra)
        try:
            fail([kept.pk], reason, code=code, cause=cause)
        except (DatabaseError, InterfaceError):
            _left.add(kept.pk)  # `abandon_claims` does it later
        raise


def is_working(thread: int) -> bool:
    """Whether the thread works on an add whose input is kept: should the server end now, it is
    tried again after the start."""
    return thread in _keeping


def is_left(kept: AddInput) -> bool:
    """Whether this process worked on it, and could not end it."""
    return kept.pk in _left


# --- In SQL --------------------------------------------------------------------------------------
def lease_from(now: datetime) -> datetime:
    """Until when a claim of now is its holder's."""
    return now + timedelta(seconds=settings.CLAIM_LEASE_SECONDS)


def insert(digest: str, kept: AddInput, lease: datetime) -> bool:
    """Whether the claim is ours; by hand, for the ORM does not tell whether it inserted."""
    sql = (
        "INSERT INTO memories_ingestclaim (digest, input_id, lease_until) "
        "VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"
    )
    own_id = AddInput._meta.pk.get_db_prep_value(kept.pk, connection)
    with connection.cursor() as cursor:
        until = connection.ops.adapt_datetimefield_value(lease)
        cursor.execute(sql, [digest, own_id, until])
        return bool(cursor.rowcount == 1)


def take(digest: str, kept: AddInput, now: datetime) -> AddInput | None:
    """Claims the digest for the input, in the caller's transaction, also when the lease of who has
    it ran out. The claim's input: another one is under way. None when there is no claim any more.
    """
    lease = lease_from(now)
    if insert(digest, kept, lease):
        return kept
    claim = IngestClaim.objects.select_related("input").filter(digest=digest).first()
    # Its holder is gone when the lease has run out: whoever flips the row takes over.
    taken = IngestClaim.objects.filter(digest=digest, lease_until__lte=now).update(
        input=kept, lease_until=lease
    )
    if taken:
        return kept
    return claim.input if claim else None


def is_claimed(kept: AddInput) -> bool:
    """Whether somebody works on this input."""
    return IngestClaim.objects.filter(input=kept, lease_until__gt=timezone.now()).exists()


def is_under_way(kept: AddInput) -> bool:
    """Whether somebody works on this input, or on one that is identical."""
    now = timezone.now()
    return IngestClaim.objects.filter(digest=kept.digest, lease_until__gt=now).exists()


# --- Whose process is gone -----------------------------------------------------------------------
def fail(ids: Sequence[UUID], reason: str, *, code: str = "unknown", cause: str = "") -> int:
    """Ends these adds as failed, but for one whose commit went through unheard; how many."""
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
    """Ends these adds as cut off by a stop of the server; how many."""
    return fail(ids, STOPPED, code=INTERRUPTED) if ids else 0


def end_left() -> int:
    """Ends what an outage of the database kept this process from ending; how many."""
    left = [id_ for id_ in list(_left) if id_ not in _active]
    count = fail(left, "The database went away before this was stored.") if left else 0
    _left.difference_update(left)
    return count


def abandon_claims() -> int:
    """Ends what an outage of the database kept from ending, in a process that is alone; and what a
    command left behind that has ended before its time, once its claim runs out."""
    if not _alone.is_set():
        return 0
    over = IngestClaim.objects.filter(lease_until__lte=timezone.now())
    ids = [id_ for id_ in over.values_list("input_id", flat=True) if id_ not in _active]
    return end_left() + interrupt(ids)


def end_all() -> int:
    """Ends what this process works on, before it ends itself; how many adds those were.

    Whoever of them comes to an answer after this will not store it (`idempotency.Claim.finish`).
    """
    return interrupt(list(_active))


def end_expired(*, of_all_times: bool = False) -> int:
    """Ends adds whose claim ran out, where several processes share the database; how many.

    Their process is gone, or will find the claim gone when it wants to store. What ran on without
    a claim for a day is looked for with `of_all_times` only.
    """
    end_left()
    now = timezone.now()
    lease = timedelta(seconds=settings.CLAIM_LEASE_SECONDS)
    running = AddInput.objects.filter(
        outcome=AddInput.Outcome.RUNNING, created_at__lt=now - lease
    ).exclude(Exists(IngestClaim.objects.filter(input=OuterRef("pk"), lease_until__gt=now)))
    if not of_all_times:
        running = running.filter(created_at__gt=now - timedelta(days=1))
    # An input that is run again is older than its claim, and may be older than a day.
    over = IngestClaim.objects.filter(lease_until__lte=now).values_list("input_id", flat=True)
    return interrupt([*{*running.values_list("id", flat=True), *over}])


def take_over() -> int:
    """Tells that this process is alone: adds that still count as running died with another one.

    How many those were; they end as failed.
    """
    _alone.set()
    running = AddInput.objects.filter(outcome=AddInput.Outcome.RUNNING)
    return interrupt([id_ for id_ in running.values_list("id", flat=True) if id_ not in _active])
