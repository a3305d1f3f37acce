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

# What was cut off by a stop and stored since: digest -> input, and until when its sender gets that
# answer when it sends the same again.
_resumed: dict[str, tuple[UUID, float]] = {}

_KEYS: Final = ("id", "memory", "event", "actor_id", "role")
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
    """An add's turn. `answer` is None where the add is to be stored now, under its input `kept`,
    and else what was answered to the same add before."""

    kept: AddInput
    answer: Results | None = None

    def finish(self, results: Results) -> None:
        """Writes the answer down and gives the claim up, in the caller's transaction.

        ConflictError, for the transaction to be undone, when the lease ran out and another request
        took the claim over: that one stores.
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
    """The claim on the request's content, or the answer of an identical request which is under way,
    or of a former one with the same idempotency key.

    The input is kept before anything else happens. Who has the claim ends with its `finish` inside
    their own transaction; when they raise, the input stays as failed with the reason.
    ConflictError when the idempotency key was used for something else.
    """
    digest = request.digest(principal)
    done = _take_resumed(digest)
    while done is None:
        if request.idempotency_key and (done := _answered(request, digest, principal)):
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
            done = _wait(theirs)
    yield Claim(done, _answer_of(done))


@contextmanager
def again(kept: AddInput) -> Iterator[Claim]:
    """As `once`, for the input of an add that failed.

    ConflictError when it, or an identical request, is under way, or when such a one has stored
    since.
    """
    with claims.working_on(kept.pk):
        with transaction.atomic():
            mine = AddInput.objects.filter(pk=kept.pk, outcome=AddInput.Outcome.FAILED).update(
                outcome=AddInput.Outcome.RUNNING, reason="", code="", cause=""
            )
            # The stored digest: a first caller who sends the request again must match this one.
            lease = claims.lease_from(timezone.now())
            if not mine or not claims.insert(kept.digest or kept.pk.hex, kept, lease):
                raise ConflictError("This add is under way already.")
            if has_succeeded_since(kept):
                raise ConflictError("An identical request has been stored since.")
        kept.outcome = AddInput.Outcome.RUNNING
        with claims.keeping(kept):
            yield Claim(kept)


def note_resumed(kept: AddInput) -> None:
    """Notes that an add which was cut off has been stored: who sent it was told to send it again,
    and is then given this answer, once."""
    while len(_resumed) >= _RESUMED:
        _resumed.pop(next(iter(_resumed)), None)
    _resumed[kept.digest] = kept.pk, time.monotonic() + _RESUMED_SECONDS


def _take_resumed(digest: str) -> AddInput | None:
    input_id, until = _resumed.pop(digest, (None, 0.0))
    if input_id is None or time.monotonic() > until:
        return None
    return AddInput.objects.filter(pk=input_id, outcome=AddInput.Outcome.STORED).first()


def has_succeeded_since(kept: AddInput) -> bool:
    """Whether an identical request has ended well since this one failed."""
    return AddInput.objects.filter(_made_good(), pk=kept.pk).exists()


def filter_failed(project_id: UUID) -> QuerySet[AddInput]:
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
    with transaction.atomic():
        if (other := _insert_input(kept)) is not None:
            return None, other
        if (claimed := claims.take(digest, kept, now)) is kept:
            return kept, None
        kept.delete()
    return None, claimed


def _insert_input(kept: AddInput) -> AddInput | None:
    """The add that holds the same idempotency key, which is to be waited for; None when this one
    is in. ConflictError when that one was asked something else."""
    try:
        # Without a key there is nothing that it could collide with, and nothing to go back to.
        with transaction.atomic(savepoint=bool(kept.idempotency_key)):
            kept.save(force_insert=True)
        return None
    except IntegrityError as error:
        if not kept.idempotency_key:
            raise
        named = AddInput.objects.filter(
            project_id=kept.project_id, idempotency_key=kept.idempotency_key
        )
        if (other := named.first()) is None:
            raise
        if other.digest != kept.digest:
            raise ConflictError("This Idempotency-Key was used for a different request.") from error
        return other


def _wait(theirs: AddInput) -> AddInput | None:
    """The request under way once it has ended well; None when it has to be claimed again.
    ProviderError when it has failed: so have all that waited."""
    polls = 0
    while claims.is_claimed(theirs):
        let_go_of_connection()
        time.sleep(_POLL_SECONDS[min(polls, len(_POLL_SECONDS) - 1)])
        polls += 1
    done = AddInput.objects.filter(pk=theirs.pk).first()
    if done is None:
        return None
    if done.outcome == AddInput.Outcome.RUNNING:
        # Nobody holds a claim on it: should it still be at work, it will find that out (`finish`).
        if not claims.is_claimed(done):
            claims.interrupt([done.pk])
        return None
    if done.outcome == AddInput.Outcome.FAILED and done.code == claims.INTERRUPTED:
        return None  # this one does it
    if done.outcome == AddInput.Outcome.FAILED:
        raise ProviderError(done.reason, code=done.code)
    return done
