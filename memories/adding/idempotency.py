"""One add at a time per content: identical requests in flight share one piece of work."""

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final
from uuid import UUID, uuid4

import orjson
from django.db import IntegrityError, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from core.errors import ConflictError, ProviderError
from core.http.waiting import about_to_wait
from core.principal import Principal
from memories.adding import claims
from memories.models import AddInput, IngestClaim
from memories.storage.connections import let_go_of_connection
from memories.storage.rows import Draft

Results = list[dict[str, Any]]

# Adds that a stop interrupted and that have been stored since: digest -> input, and until when a
# repeated request gets its answer.
_resumed: dict[str, tuple[UUID, float]] = {}

_KEYS: Final = ("id", "memory", "event", "actor_id", "role")
# How many of these answers are kept, and for how long.
_RESUMED: Final = 1000
_RESUMED_SECONDS: Final = 3600.0
_POLL_SECONDS: Final = (0.01, 0.02, 0.05, 0.1, 0.25)


@dataclass(frozen=True, slots=True)
class AddRequest:
    """Everything that defines an add."""

    messages: list[dict[str, Any]]
    options: Mapping[str, Any]
    idempotency_key: str = ""
    # Stored with the options for a retry; not part of the digest.
    notes: Mapping[str, Any] = field(default_factory=dict)
    # For an add that may be stored only once: the user's id and the fingerprint of the text.
    once: tuple[str, str] | None = None

    def digest(self, principal: Principal) -> str:
        """SHA-256 over the whole request and the caller's scopes: equal digest, equal work. With
        `once`, over that alone, so that the second of two requests finds the first whatever else
        differs."""
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

    @property
    def template(self) -> Draft:
        """What all memories of the add have in common."""
        last_day = self.options["expiration_date"]
        return Draft(
            text="",
            entities=self.options["entities"],
            metadata=self.options["metadata"],
            memory_type=self.options["memory_type"] or "",
            expiration_date=date.fromisoformat(last_day) if last_day else None,
            collection=self.options["collection"],
            fingerprint=self.options.get("fingerprint", ""),
        )


@dataclass(frozen=True, slots=True)
class Claim:
    """An add's claim. `answer` is None if the add is to be stored now under its input `kept`;
    otherwise it is the answer that the same add got before."""

    kept: AddInput
    answer: Results | None = None

    def finish(self, results: Results) -> None:
        """Stores the answer and releases the claim, in the caller's transaction.

        ConflictError, which rolls the transaction back, if the lease ran out and another request
        has taken the claim over; that request stores instead.
        """
        given_up, _ = IngestClaim.objects.filter(input=self.kept).delete()
        if not given_up and self.kept.outcome == AddInput.Outcome.RUNNING:
            raise ConflictError("This took too long, and an identical request has taken over.")
        outcome = AddInput.Outcome.STORED if results else AddInput.Outcome.NOTHING_EXTRACTED
        self.kept.outcome = outcome
        AddInput.objects.filter(pk=self.kept.pk).update(
            outcome=outcome, results=results, finished_at=timezone.now()
        )


@contextmanager
def once(request: AddRequest, principal: Principal) -> Iterator[Claim]:
    """The claim on the request's content, or the answer of an identical request that is under way
    or of an earlier one with the same idempotency key.

    The input is stored before anything else happens. The holder of the claim calls its `finish`
    inside its own transaction; if it raises, the input stays as failed with the reason.
    ConflictError if the idempotency key was used for something else.
    """
    digest = request.digest(principal)
    previous = _take_resumed(digest)
    while previous is None:
        if request.idempotency_key and (previous := _find_answered(request, digest, principal)):
            break
        about_to_wait()
        own_id = uuid4()
        with claims.working_on(own_id):
            mine, theirs = _claim(request, digest, principal, own_id)
            if mine is not None:
                with claims.keeping(mine):
                    yield Claim(mine)
                return
        if theirs is not None and claims.is_left(theirs):
            claims.end_left()
        elif theirs is not None:
            previous = _wait(theirs)
    yield Claim(previous, _answer_of(previous))


@contextmanager
def again(input_: AddInput) -> Iterator[Claim]:
    """As `once`, for the input of a failed add.

    ConflictError if this add or an identical request is under way or has been stored since.
    """
    with claims.working_on(input_.pk):
        with transaction.atomic():
            mine = AddInput.objects.filter(pk=input_.pk, outcome=AddInput.Outcome.FAILED).update(
                outcome=AddInput.Outcome.RUNNING, reason="", code="", cause=""
            )
            # The stored digest, so that the original caller's repeated request matches this add.
            lease = claims.lease_from(timezone.now())
            if not mine or not claims.insert(input_.digest or input_.pk.hex, input_, lease):
                raise ConflictError("This add is under way already.")
            if has_succeeded_since(input_):
                raise ConflictError("An identical request has been stored since.")
        input_.outcome = AddInput.Outcome.RUNNING
        with claims.keeping(input_):
            yield Claim(input_)


def note_resumed(input_: AddInput) -> None:
    """Notes that an interrupted add has been stored. Its sender was told to send it again and then
    gets this answer, once."""
    while len(_resumed) >= _RESUMED:
        _resumed.pop(next(iter(_resumed)), None)
    _resumed[input_.digest] = input_.pk, time.monotonic() + _RESUMED_SECONDS


def _take_resumed(digest: str) -> AddInput | None:
    input_id, until = _resumed.pop(digest, (None, 0.0))
    if input_id is None or time.monotonic() > until:
        return None
    return AddInput.objects.filter(pk=input_id, outcome=AddInput.Outcome.STORED).first()


def has_succeeded_since(input_: AddInput) -> bool:
    """Whether an identical request has succeeded since this one failed."""
    return AddInput.objects.filter(_succeeded_since(), pk=input_.pk).exists()


def filter_failed(project_id: UUID) -> QuerySet[AddInput]:
    """The failed adds of a project that can be retried.

    Their input is still stored and no identical request has succeeded since. Of identical failed
    adds only the first is included.
    """
    failed = AddInput.objects.filter(
        project_id=project_id, outcome=AddInput.Outcome.FAILED
    ).exclude(messages=[])
    earlier = failed.filter(digest=OuterRef("digest"), created_at__lt=OuterRef("created_at"))
    first = ~Exists(earlier.exclude(_succeeded_since()))
    # Inputs from before digests existed are identical to nothing.
    return failed.filter(Q(digest="") | (~_succeeded_since() & first))


def _succeeded_since() -> Exists:
    """An identical request has succeeded since; a retry would store the add twice."""
    after = Q(finished_at__gte=OuterRef("created_at")) | Q(
        finished_at=None, created_at__gte=OuterRef("created_at")
    )
    stored = AddInput.objects.filter(
        after,
        project_id=OuterRef("project_id"),
        digest=OuterRef("digest"),
        outcome__in=[AddInput.Outcome.STORED, AddInput.Outcome.NOTHING_EXTRACTED],
    )
    return Exists(stored.exclude(digest=""))


def _answer_of(input_: AddInput) -> Results:
    """The stored answer with its keys in the original order, which PostgreSQL does not keep."""
    return [{name: row[name] for name in sorted(row, key=_key_position)} for row in input_.results]


def _key_position(name: str) -> int:
    return _KEYS.index(name) if name in _KEYS else len(_KEYS)


def _find_answered(request: AddRequest, digest: str, principal: Principal) -> AddInput | None:
    """The finished add with this idempotency key; a failed one gives the key up.

    ConflictError if the key was used for a different request.
    """
    with_key = AddInput.objects.filter(
        project_id=principal.project.id, idempotency_key=request.idempotency_key
    )
    former = with_key.first()
    if former is None or former.outcome == AddInput.Outcome.RUNNING:
        return None  # the caller waits for its claim
    if former.digest != digest:
        raise ConflictError("This Idempotency-Key was used for a different request.")
    if former.outcome == AddInput.Outcome.FAILED:
        with_key.filter(outcome=AddInput.Outcome.FAILED).update(idempotency_key="")
        return None
    return former


def _claim(
    request: AddRequest, digest: str, principal: Principal, own_id: UUID
) -> tuple[AddInput | None, AddInput | None]:
    """(the input that is ours to work on, None) or (None, the input that is under way)."""
    now = timezone.now()
    input_ = AddInput(
        id=own_id,
        project_id=principal.project.id,
        messages=request.messages,
        options={**request.options, **request.notes},
        digest=digest,
        idempotency_key=request.idempotency_key,
        created_at=now,
        **AddInput.columns(principal.actor),
    )
    with transaction.atomic():
        if (other := _insert_input(input_)) is not None:
            return None, other
        if (claimed := claims.take(digest, input_, now)) is input_:
            return input_, None
        input_.delete()
    return None, claimed


def _insert_input(input_: AddInput) -> AddInput | None:
    """Inserts the input; returns None, or the other add that has the same idempotency key and is
    waited for. ConflictError if that add was a different request."""
    try:
        # Without a key nothing can collide, so no savepoint is needed.
        with transaction.atomic(savepoint=bool(input_.idempotency_key)):
            input_.save(force_insert=True)
        return None
    except IntegrityError as error:
        if not input_.idempotency_key:
            raise
        with_key = AddInput.objects.filter(
            project_id=input_.project_id, idempotency_key=input_.idempotency_key
        )
        if (other := with_key.first()) is None:
            raise
        if other.digest != input_.digest:
            raise ConflictError("This Idempotency-Key was used for a different request.") from error
        return other


def _wait(theirs: AddInput) -> AddInput | None:
    """Waits for the request under way; returns it if it succeeded, None if it has to be claimed
    again. ProviderError if it failed, for all that waited."""
    polls = 0
    while claims.is_claimed(theirs):
        let_go_of_connection()
        time.sleep(_POLL_SECONDS[min(polls, len(_POLL_SECONDS) - 1)])
        polls += 1
    current = AddInput.objects.filter(pk=theirs.pk).first()
    if current is None:
        return None
    if current.outcome == AddInput.Outcome.RUNNING:
        # Nobody has a claim on it. If its process still works, `finish` will notice.
        if not claims.is_claimed(current):
            claims.interrupt([current.pk])
        return None
    if current.outcome == AddInput.Outcome.FAILED and current.code == claims.INTERRUPTED:
        return None  # the caller stores it
    if current.outcome == AddInput.Outcome.FAILED:
        raise ProviderError(current.reason, code=current.code)
    return current
