"""One add at a time per content: identical requests in flight share one piece of work."""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import orjson
from django.conf import settings
from django.db import DatabaseError, IntegrityError, InterfaceError, connection, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from mem0dash.datastore import explained
from mem0dash.errors import ConflictError, Mem0dashError, ProviderError
from mem0dash.principal import Principal
from mem0dash.waiting import about_to_wait
from memories.connections import let_go_of_connection
from memories.models import AddInput, IngestClaim

logger = logging.getLogger(__name__)

Results = list[dict[str, Any]]

# The inputs that this process works on, known here before their claims can be seen in SQL, each
# with the thread that does.
_active: dict[UUID, int] = {}
# The threads whose input is in the database.
_keeping: set[int] = set()
# And those that it worked on and could not end, for the database had gone away: nobody works on
# them any more. Claims of others may be those of a command that works beside the server.
_left: set[UUID] = set()
# What was cut off by a stop and stored since: digest -> input, and until when its sender gets that
# answer when it sends the same again.
_resumed: dict[str, tuple[UUID, float]] = {}
_alone = threading.Event()

_KEYS: Final = ("id", "memory", "event", "actor_id", "role")
STOPPED: Final = "The server stopped before this was stored."
# The code of what a stop of the server cut off: it is tried again by itself (memories.resuming).
INTERRUPTED: Final = "interrupted"
# How many answers of such adds are kept for their senders, and for how long.
_RESUMED: Final = 1000
_RESUMED_SECONDS: Final = 3600.0
_POLL_SECONDS: Final = (0.01, 0.02, 0.05, 0.1, 0.25)


@dataclass(frozen=True, slots=True)
class AddRequest:
    """Everything that an add was asked to do."""

    messages: list[dict[str, Any]]
    options: Mapping[str, Any]
    idempotency_key: str = ""
    # Kept beside the options for another attempt; what is asked for does not depend on them.
    notes: Mapping[str, Any] = field(default_factory=dict)
    # Of what is not to be stored twice: whose memory it is, and the fingerprint of what was said.
    once: tuple[str, str] | None = None

    def digest(self, principal: Principal) -> str:
        """SHA-256 over the whole request and what its caller may do: equal digest, equal work. With
        `once`, over that alone: whatever else they say, the second of two finds the first's."""
        parts: list[Any] = [
            str(principal.project.id),
            sorted(principal.scopes),
            self.messages,
            dict(self.options),
        ]
        if self.once is not None:
            parts = [str(principal.project.id), "once", *self.once]
        data = orjson.dumps(parts, option=orjson.OPT_SORT_KEYS, default=str)
        return hashlib.sha256(data).hexdigest()


def run_once(
    request: AddRequest, principal: Principal, work: Callable[[AddInput], Results]
) -> Results:
    """`work`'s answer, or that of an identical request which is under way, or of a former one with
    the same idempotency key.

    The input is kept before anything else happens. `work` must end in `finish` inside its own
    transaction; when it raises, the input stays as failed with the reason, and the error goes on.
    """
    digest = request.digest(principal)
    if _resumed and (answer := _take_resumed(digest)) is not None:
        return answer
    while True:
        if request.idempotency_key and (former := _answered(request, digest, principal)):
            return _answer_of(former)
        about_to_wait()
        own_id = uuid4()
        with _working_on(own_id):
            mine, theirs = _claim(request, digest, principal, own_id)
            if mine is not None:
                return _work(mine, work)
        if theirs is not None and theirs.pk in _left:
            _end_left()
            continue
        answer = _wait(theirs)
        if answer is not None:
            return answer


@contextmanager
def _working_on(input_id: UUID) -> Iterator[None]:
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


def run_again(kept: AddInput, work: Callable[[AddInput], Results]) -> Results:
    """As `run_once`, for the input of an add that failed.

    ConflictError when it, or an identical request, is under way, or when such a one has stored
    since.
    """
    lease = timezone.now() + timedelta(seconds=settings.CLAIM_LEASE_SECONDS)
    with _working_on(kept.pk):
        with transaction.atomic():
            mine = AddInput.objects.filter(pk=kept.pk, outcome=AddInput.Outcome.FAILED).update(
                outcome=AddInput.Outcome.RUNNING, reason="", code="", cause=""
            )
            # Its own digest, not one made anew: identical is what the first caller sends again.
            if not mine or not _insert_claim(kept.digest or kept.pk.hex, kept, lease):
                raise ConflictError("This add is under way already.")
            if is_made_good(kept):
                raise ConflictError("An identical request has been stored since.")
        kept.outcome = AddInput.Outcome.RUNNING
        return _work(kept, work)


def keep_resumed(kept: AddInput) -> None:
    """Notes that an add which was cut off has been stored: who sent it was told to send it again,
    and is then given this answer, once."""
    while len(_resumed) >= _RESUMED:
        _resumed.pop(next(iter(_resumed)), None)
    _resumed[kept.digest] = kept.pk, time.monotonic() + _RESUMED_SECONDS


def _take_resumed(digest: str) -> Results | None:
    input_id, until = _resumed.pop(digest, (None, 0.0))
    if input_id is None or time.monotonic() > until:
        return None
    done = AddInput.objects.filter(pk=input_id, outcome=AddInput.Outcome.STORED).first()
    return _answer_of(done) if done else None


def is_made_good(kept: AddInput) -> bool:
    """Whether an identical request has ended well since this one failed."""
    return AddInput.objects.filter(_made_good(), pk=kept.pk).exists()


def waiting(project_id: UUID) -> QuerySet[AddInput]:
    """The failed adds of a project that wait for another attempt.

    Their input is still there, and nobody has sent the same again with success. Of identical ones
    only the first is to be stored.
    """
    failed = AddInput.objects.filter(
        project_id=project_id, outcome=AddInput.Outcome.FAILED
    ).exclude(messages=[])
    earlier = failed.filter(digest=OuterRef("digest"), created_at__lt=OuterRef("created_at"))
    first = ~Exists(earlier.exclude(_made_good()))
    # What was kept before digests were is identical to nothing.
    return failed.filter(Q(digest="") | (~_made_good() & first))


def _made_good() -> Exists:
    """An identical request has ended well since. Tried once more, it would be stored twice."""
    after = Q(finished_at__gte=OuterRef("created_at")) | Q(
        finished_at=None, created_at__gte=OuterRef("created_at")
    )
    done = AddInput.objects.filter(
        after,
        project_id=OuterRef("project_id"),
        digest=OuterRef("digest"),
        outcome__in=[AddInput.Outcome.STORED, AddInput.Outcome.NOTHING_EXTRACTED],
    )
    return Exists(done.exclude(digest=""))


def _answer_of(done: AddInput) -> Results:
    """The answer as it was given: PostgreSQL keeps no order of keys."""
    return [{name: row[name] for name in sorted(row, key=_place)} for row in done.results]


def _place(name: str) -> int:
    return _KEYS.index(name) if name in _KEYS else len(_KEYS)


def _answered(request: AddRequest, digest: str, principal: Principal) -> AddInput | None:
    """The finished add with this idempotency key; a failed one lets go of it.

    ConflictError when it was something else that was asked with this key.
    """
    named = AddInput.objects.filter(
        project_id=principal.project.id, idempotency_key=request.idempotency_key
    )
    former = named.first()
    if former is None or former.outcome == AddInput.Outcome.RUNNING:
        return None  # what is under way is waited for by its claim
    if former.digest != digest:
        raise ConflictError("This Idempotency-Key was used for a different request.")
    if former.outcome == AddInput.Outcome.FAILED:
        named.filter(outcome=AddInput.Outcome.FAILED).update(idempotency_key="")
        return None
    return former


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
        options={**request.options, **request.notes},
        digest=digest,
        idempotency_key=request.idempotency_key,
        created_at=now,
        **AddInput.columns(principal.actor),
    )
    lease = now + timedelta(seconds=settings.CLAIM_LEASE_SECONDS)
    with transaction.atomic():
        if (other := _insert_input(kept)) is not None:
            return None, other
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


def _insert_input(kept: AddInput) -> AddInput | None:
    """The add that holds the same idempotency key, which is to be waited for; None when this one
    is in. ConflictError when that one was asked something else."""
    try:
        with transaction.atomic():
            kept.save(force_insert=True)
        return None
    except IntegrityError as error:
        named = AddInput.objects.filter(
            project_id=kept.project_id, idempotency_key=kept.idempotency_key
        )
        other = named.first() if kept.idempotency_key else None
        if other is None:
            raise
        if other.digest != kept.digest:
            raise ConflictError("This Idempotency-Key was used for a different request.") from error
        return other


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
    _keeping.add(threading.get_ident())
    try:
        return work(kept)
    except BaseException as error:
        reason, code = "Internal error.", "internal_error"
        if isinstance(error, Mem0dashError):
            reason, code = error.message, error.code
        elif isinstance(error, DatabaseError | InterfaceError):
            told = explained(error, "The database did not answer.")
            reason, code = told.message, told.code
        cause = error.cause if isinstance(error, ProviderError) else ""
        extra = {"input": str(kept.pk), "code": code}
        logger.warning("add failed, its input is kept", extra=extra)
        try:
            _fail([kept.pk], reason, code=code, cause=cause)
        except (DatabaseError, InterfaceError):
            _left.add(kept.pk)  # `abandon_claims` does it later
        raise


def _fail(ids: Sequence[UUID], reason: str, *, code: str = "unknown", cause: str = "") -> int:
    """Ends these adds as failed, but for one whose commit went through unheard."""
    with transaction.atomic():
        IngestClaim.objects.filter(input_id__in=ids).delete()
        return AddInput.objects.filter(id__in=ids, outcome=AddInput.Outcome.RUNNING).update(
            outcome=AddInput.Outcome.FAILED,
            reason=reason,
            code=code,
            cause=cause,
            finished_at=timezone.now(),
        )


def _wait(theirs: AddInput | None) -> Results | None:
    """The answer of the request under way; None when it has to be claimed again."""
    if theirs is None:
        return None
    polls = 0
    while _is_claimed(theirs):
        let_go_of_connection()
        time.sleep(_POLL_SECONDS[min(polls, len(_POLL_SECONDS) - 1)])
        polls += 1
    done = AddInput.objects.filter(pk=theirs.pk).first()
    if done is None:
        return None
    if done.outcome == AddInput.Outcome.RUNNING:
        # Nobody holds a claim on it: should it still be at work, it will find that out (`finish`).
        if not _is_claimed(done):
            _fail([done.pk], STOPPED, code=INTERRUPTED)
        return None
    if done.outcome == AddInput.Outcome.FAILED and done.code == INTERRUPTED:
        return None  # this one does it
    if done.outcome == AddInput.Outcome.FAILED:
        raise ProviderError(done.reason, code=done.code)
    return _answer_of(done)


def is_under_way(kept: AddInput) -> bool:
    """Whether somebody works on this input, or on one that is identical."""
    now = timezone.now()
    return IngestClaim.objects.filter(digest=kept.digest, lease_until__gt=now).exists()


def _is_claimed(kept: AddInput) -> bool:
    return IngestClaim.objects.filter(input=kept, lease_until__gt=timezone.now()).exists()


def _end_left() -> int:
    left = [id_ for id_ in list(_left) if id_ not in _active]
    count = _fail(left, "The database went away before this was stored.") if left else 0
    _left.difference_update(left)
    return count


def abandon_claims() -> int:
    """Ends what an outage of the database kept from ending, in a process that is alone; and what a
    command left behind that has ended before its time, once its claim runs out."""
    if not _alone.is_set():
        return 0
    over = IngestClaim.objects.filter(lease_until__lte=timezone.now())
    ids = [id_ for id_ in over.values_list("input_id", flat=True) if id_ not in _active]
    return _end_left() + (_fail(ids, STOPPED, code=INTERRUPTED) if ids else 0)


def is_kept_by(thread: int) -> bool:
    """Whether the thread works on an add whose input is kept: should the server end now, it is
    tried again after the start."""
    return thread in _keeping


def end_all() -> int:
    """Ends what this process works on, before it ends itself; how many adds those were.

    Whoever of them comes to an answer after this will not store it (`finish`).
    """
    under_way = list(_active)
    return _fail(under_way, STOPPED, code=INTERRUPTED) if under_way else 0


def end_expired(*, of_all_times: bool = False) -> int:
    """Ends adds whose claim ran out, where several processes share the database; how many.

    Their process is gone, or will find the claim gone when it wants to store (`finish`). What ran
    on without a claim for a day is looked for with `of_all_times` only.
    """
    _end_left()
    now = timezone.now()
    lease = timedelta(seconds=settings.CLAIM_LEASE_SECONDS)
    running = AddInput.objects.filter(
        outcome=AddInput.Outcome.RUNNING, created_at__lt=now - lease
    ).exclude(Exists(IngestClaim.objects.filter(input=OuterRef("pk"), lease_until__gt=now)))
    if not of_all_times:
        running = running.filter(created_at__gt=now - timedelta(days=1))
    # An input that is run again is older than its claim, and may be older than a day.
    over = IngestClaim.objects.filter(lease_until__lte=now).values_list("input_id", flat=True)
    ids = {*running.values_list("id", flat=True), *over}
    return _fail(list(ids), STOPPED, code=INTERRUPTED) if ids else 0


def take_over() -> int:
    """Tells that this process is alone: adds that still count as running died with another one.

    How many those were; they end as failed.
    """
    _alone.set()
    running = AddInput.objects.filter(outcome=AddInput.Outcome.RUNNING)
    ids = [id_ for id_ in running.values_list("id", flat=True) if id_ not in _active]
    return _fail(ids, STOPPED, code=INTERRUPTED)
