"""One add at a time per content: identical requests in flight share one piece of work."""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import orjson
from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection, transaction
from django.utils import timezone

from mem0dash.errors import ConflictError, EngineError, Mem0dashError
from mem0dash.principal import Principal
from memories.models import AddInput, IngestClaim

logger = logging.getLogger(__name__)

Results = list[dict[str, Any]]

# The inputs that this process works on, known here before their claims can be seen in SQL. In a
# process that is alone, every other claim is one that nobody works on any more.
_active: set[UUID] = set()
_alone = threading.Event()

_POLL_SECONDS: Final = (0.01, 0.02, 0.05, 0.1, 0.25)


@dataclass(frozen=True, slots=True)
class AddRequest:
    """Everything that an add was asked to do."""

    messages: list[dict[str, Any]]
    options: Mapping[str, Any]

    def digest(self, principal: Principal) -> str:
        """SHA-256 over the whole request and what its caller may do: equal digest, equal work."""
        parts = [
            str(principal.project.id),
            sorted(principal.scopes),
            self.messages,
            dict(self.options),
        ]
        data = orjson.dumps(parts, option=orjson.OPT_SORT_KEYS, default=str)
        return hashlib.sha256(data).hexdigest()


def run_once(
    request: AddRequest, principal: Principal, work: Callable[[AddInput], Results]
) -> Results:
    """`work`'s answer, or that of an identical request which is under way.

    The input is kept before anything else happens. `work` must end in `finish` inside its own
    transaction; when it raises, the input stays as failed with the reason, and the error goes on.
    """
    digest = request.digest(principal)
    while True:
        own_id = uuid4()
        _active.add(own_id)
        try:
            mine, theirs = _claim(request, digest, principal, own_id)
            if mine is not None:
                return _work(mine, work)
        finally:
            _active.discard(own_id)
        if theirs is not None and _is_abandoned(theirs.pk):
            abandon_claims()
            continue
        answer = _wait(theirs, digest)
        if answer is not None:
            return answer


def finish(kept: AddInput, results: Results) -> None:
    """Writes the answer down and gives the claim up, in the caller's transaction.

    ConflictError, for the transaction to be undone, when the lease ran out and another request took
    the claim over: that one stores.
    """
    given_up, _ = IngestClaim.objects.filter(input=kept).delete()
    if not given_up and kept.outcome == AddInput.Outcome.RUNNING:
        raise ConflictError("This took too long, and an identical request has taken over.")
    kept.outcome = AddInput.Outcome.STORED if results else AddInput.Outcome.NOTHING_EXTRACTED
    AddInput.objects.filter(pk=kept.pk).update(
        outcome=kept.outcome, results=results, finished_at=timezone.now()
    )


def _claim(
    request: AddRequest, digest: str, principal: Principal, own_id: UUID
) -> tuple[AddInput | None, AddInput | None]:
    """(the input that is ours to work on, None) or (None, the input that is under way)."""
    now = timezone.now()
    kept = AddInput(
        id=own_id,
        project_id=principal.project.id,
        messages=request.messages,
        options=dict(request.options),
        account_id=principal.account_id,
        key_id=principal.key_id,
        request_id=principal.request_id,
        created_at=now,
    )
    lease = now + timedelta(seconds=settings.CLAIM_LEASE_SECONDS)
    with transaction.atomic():
        kept.save(force_insert=True)
        if _insert_claim(digest, kept, lease):
            return kept, None
        claim = IngestClaim.objects.select_related("input").filter(digest=digest).first()
        # Its holder is gone when the lease has run out: whoever flips the row takes over.
        taken = IngestClaim.objects.filter(digest=digest, lease_until__lte=now).update(
            input=kept, lease_until=lease
        )
        if taken:
            return kept, None
        kept.delete()
    return None, claim.input if claim else None


def _insert_claim(digest: str, kept: AddInput, lease: datetime) -> bool:
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


def _work(kept: AddInput, work: Callable[[AddInput], Results]) -> Results:
    try:
        return work(kept)
    except BaseException as error:
        reason = error.message if isinstance(error, Mem0dashError) else "Internal error."
        logger.warning("add failed, its input is kept", extra={"input": str(kept.pk)})
        with suppress(DatabaseError, InterfaceError):  # then `abandon_claims` does it later
            _fail([kept.pk], reason)
        raise


def _fail(ids: Sequence[UUID], reason: str) -> int:
    """Ends these adds as failed, but for one whose commit went through unheard."""
    with transaction.atomic():
        IngestClaim.objects.filter(input_id__in=ids).delete()
        return AddInput.objects.filter(id__in=ids, outcome=AddInput.Outcome.RUNNING).update(
            outcome=AddInput.Outcome.FAILED, reason=reason, finished_at=timezone.now()
        )


def _wait(theirs: AddInput | None, digest: str) -> Results | None:
    """The answer of the request under way; None when it has to be claimed again."""
    if theirs is None:
        return None
    polls = 0
    while IngestClaim.objects.filter(digest=digest, input=theirs, lease_until__gt=timezone.now()):
        time.sleep(_POLL_SECONDS[min(polls, len(_POLL_SECONDS) - 1)])
        polls += 1
    done = AddInput.objects.filter(pk=theirs.pk).first()
    if done is None or done.outcome == AddInput.Outcome.RUNNING:
        return None
    if done.outcome == AddInput.Outcome.FAILED:
        raise EngineError(done.reason)
    return list(done.results)


def _is_abandoned(input_id: UUID) -> bool:
    return _alone.is_set() and input_id not in _active


def abandon_claims() -> int:
    """Ends what an outage of the database kept from ending, in a process that is alone."""
    if not _alone.is_set():
        return 0
    held = list(IngestClaim.objects.values_list("input_id", flat=True))
    abandoned = [id_ for id_ in held if id_ not in _active]
    return _fail(abandoned, "The database went away before this was stored.") if abandoned else 0


def take_over() -> int:
    """Tells that this process is alone: adds that still count as running died with another one.

    How many those were; they end as failed.
    """
    _alone.set()
    running = AddInput.objects.filter(outcome=AddInput.Outcome.RUNNING)
    ids = [id_ for id_ in running.values_list("id", flat=True) if id_ not in _active]
    return _fail(ids, "The server stopped before this was stored.")
