"""Keys from mem0's own server, which keeps them as bcrypt hashes.

Verifying one takes a good part of a second, and is done once for each key: from then on the key has
a digest as every other. An unknown key gets so far only when an imported key that was never used
has its first 12 characters. After some wrong ones, the next have to queue for one verification at a
time: the right key still passes, and guessing keeps one thread busy at most.
"""

import logging
import re
import threading
from contextlib import suppress
from datetime import datetime
from typing import Final
from uuid import UUID

import bcrypt
from django.db import Error as AnyDatabaseError
from django.db import IntegrityError, OperationalError, transaction
from django.db.models import Q

from accounts import throttle
from accounts.audit import AuditAction
from accounts.models import Account, Project
from accounts.queries import scopes_in
from accounts.throttle import CountedAttempt, Limit, RateLimitedError
from apikeys import history
from apikeys.models import ApiKey
from core.database.sqlite3.turns import at_most
from core.errors import InvalidInputError
from core.principal import OPERATOR, Actor

logger = logging.getLogger(__name__)

PREFIX_LENGTH: Final = 12
# Cost factors up to 16: beyond that one verification takes many seconds.
HASH_PATTERN: Final = re.compile(r"\$2[aby]\$(?:0[4-9]|1[0-6])\$[./A-Za-z0-9]{53}")
WRONG_KEYS_OF_ADDRESS: Final = Limit("wrong-imported-keys", 10, 60, 60)
WRONG_KEYS_OF_PREFIX: Final = Limit("wrong-imported-prefix", 60, 60, 60)
# More rows than one share a prefix only by a rare accident.
MOST_ROWS: Final = 3
# Verifications at the same time in this process: the other threads stay free for other requests.
_slots: Final = threading.BoundedSemaphore(2)
SLOT_SECONDS: Final = 5.0
# How long a request with such a key waits for others that write, each time.
WRITING_SECONDS: Final = 1.0
# The same for those beyond a limit, and how many of them may wait for it.
_late_slot: Final = threading.BoundedSemaphore(1)
_late_places: Final = threading.BoundedSemaphore(3)


def import_api_key(
    *,
    owner: Account,
    project: Project,
    label: str,
    prefix: str,
    bcrypt_hash: str,
    created_at: datetime,
    last_used_at: datetime | None,
    actor: Actor = OPERATOR,
) -> ApiKey:
    """Takes over a key of mem0's own server: with all its owner's scopes and without an end.

    A key that was imported before is left as it is and given back. InvalidInputError for a prefix
    or a hash that cannot be one, and for an owner without a role in the project.
    """
    if len(prefix) != PREFIX_LENGTH or not HASH_PATTERN.fullmatch(bcrypt_hash):
        raise InvalidInputError(
            f"An imported key has a prefix of {PREFIX_LENGTH} characters and a bcrypt hash with a "
            "cost of 4 to 16."
        )
    scopes = scopes_in(owner, project.id)
    if not scopes:
        raise InvalidInputError("The owner of an imported key needs a role in the project.")
    with transaction.atomic():
        # Rows with the owner's lock, so that two imports at once make one key.
        Account.objects.select_for_update().get(pk=owner.pk)
        known = ApiKey.objects.filter(prefix=prefix, bcrypt=bcrypt_hash).first()
        if known is not None:
            return known
        row = ApiKey.objects.create(
            owner=owner,
            project=project,
            label=label.strip()[:150] or prefix,
            prefix=prefix,
            digest=None,
            bcrypt=bcrypt_hash,
            scopes=sorted(scopes),
            last_used_at=last_used_at,
        )
        # The field sets itself when a row is made.
        ApiKey.objects.filter(pk=row.pk).update(created_at=created_at)
        history.record(AuditAction.KEY_IMPORTED, row, actor)
    row.refresh_from_db()
    return row


def adopt(key: str, digest: str, *, address: str) -> UUID | None:
    """The imported key that `key` is; it has its digest from now on, where that can be written.

    RateLimitedError when there have been too many wrong keys or too many verifications run.
    """
    prefix = key[:PREFIX_LENGTH]
    unused = Q(prefix=prefix, digest=None, revoked_at=None)
    # Or one that another request has verified since this one looked.
    rows = ApiKey.objects.filter(unused | Q(digest=digest))
    candidates = list(rows.values_list("id", "bcrypt", "digest")[:MOST_ROWS])
    if known := [key_id for key_id, _, found in candidates if found == digest]:
        return known[0]
    if not candidates:
        return None
    with at_most(WRITING_SECONDS):
        attempts, limited = _counted(address, prefix)
        try:
            right = _right_one(key, candidates, limited)
        except RateLimitedError:
            _give_back(attempts)
            raise
        if right is not None:
            _give_back(attempts)
            _keep(right, digest, key[-4:])
        elif limited is not None:
            raise limited
    return right


def _keep(key_id: UUID, digest: str, last4: str) -> None:
    try:
        with transaction.atomic():
            ApiKey.objects.filter(id=key_id, digest=None).update(digest=digest, last4=last4)
    except IntegrityError:
        pass  # the same key stands in two rows, and the other one has its digest
    except AnyDatabaseError:
        logger.warning("a key is verified again with its next use", exc_info=True)


def _counted(address: str, prefix: str) -> tuple[list[CountedAttempt], RateLimitedError | None]:
    """The attempts, where they can be counted, and the limit that this one is beyond. A right key
    holds also while nothing can be written: the slots bound what wrong ones cost."""
    attempts: list[CountedAttempt] = []
    try:
        attempts.append(throttle.take(WRONG_KEYS_OF_ADDRESS, throttle.address_subject(address)))
        attempts.append(throttle.take(WRONG_KEYS_OF_PREFIX, prefix))
    except RateLimitedError as error:
        _give_back(attempts)
        return [], error
    except AnyDatabaseError:
        logger.warning("the verification of a key could not be counted", exc_info=True)
    return attempts, None


def _right_one(
    key: str, candidates: list[tuple[UUID, str, str | None]], limited: RateLimitedError | None
) -> UUID | None:
    """The id of the row that the key opens; RateLimitedError where too many are being verified."""
    if limited is None:
        return next((key_id for key_id, stored, _ in candidates if _verify(key, stored)), None)
    if not _late_places.acquire(blocking=False):
        raise limited
    try:
        if not _late_slot.acquire(timeout=SLOT_SECONDS):
            raise limited
        try:
            return next((key_id for key_id, stored, _ in candidates if _verify(key, stored)), None)
        finally:
            _late_slot.release()
    finally:
        _late_places.release()


def _give_back(attempts: list[CountedAttempt]) -> None:
    with suppress(OperationalError):  # they end by themselves
        for attempt in attempts:
            throttle.give_back(attempt)


def _verify(key: str, stored: str) -> bool:
    if not _slots.acquire(timeout=SLOT_SECONDS):
        raise RateLimitedError("Too many keys are being verified; try again.", retry_after=1)
    try:
        return bcrypt.checkpw(key.encode(), stored.encode())
    finally:
        _slots.release()
