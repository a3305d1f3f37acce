"""Keys from mem0's own server, which stores them as bcrypt hashes.

Verifying one takes a good part of a second and happens once per key; after that the key has a
digest like every other. An unknown key is verified only if an unused imported key has the same
first 12 characters. After some wrong keys, the next ones queue for a single verification at a time,
so that the right key still passes and guessing occupies at most one thread.
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
# Two rows with the same prefix are rare.
MOST_ROWS: Final = 3
# Concurrent verifications in this process; the other threads stay free for other requests.
_slots: Final = threading.BoundedSemaphore(2)
SLOT_SECONDS: Final = 5.0
# How long each write of such a request waits for other writers.
WRITING_SECONDS: Final = 1.0
# The slot for requests beyond a limit, and how many of them may wait for it.
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
    """Imports a key of mem0's own server, with all its owner's scopes and without an expiry.

    A key that was imported before is returned unchanged. InvalidInputError for an invalid prefix or
    hash, and for an owner without a role in the project.
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
        # Under the owner's lock, so that two imports at once make one key.
        Account.objects.select_for_update().get(pk=owner.pk)
        existing = ApiKey.objects.filter(prefix=prefix, bcrypt=bcrypt_hash).first()
        if existing is not None:
            return existing
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
        # auto_now_add overwrites the value on creation.
        ApiKey.objects.filter(pk=row.pk).update(created_at=created_at)
        history.record(AuditAction.KEY_IMPORTED, row, actor)
    row.refresh_from_db()
    return row


def adopt(key: str, digest: str, *, address: str) -> UUID | None:
    """Finds the imported row of `key` and stores the key's digest if the database can be written.

    RateLimitedError after too many wrong keys, or while too many verifications run.
    """
    prefix = key[:PREFIX_LENGTH]
    unused = Q(prefix=prefix, digest=None, revoked_at=None)
    # Or one that another request has verified since this one looked.
    rows = ApiKey.objects.filter(unused | Q(digest=digest))
    candidates = list(rows.values_list("id", "bcrypt", "digest")[:MOST_ROWS])
    if adopted := [key_id for key_id, _, key_digest in candidates if key_digest == digest]:
        return adopted[0]
    if not candidates:
        return None
    with at_most(WRITING_SECONDS):
        attempts, limited = _count_attempt(address, prefix)
        try:
            right = _right_one(key, candidates, limited)
        except RateLimitedError:
            _give_back(attempts)
            raise
        if right is not None:
            _give_back(attempts)
            _store_digest(right, digest, key[-4:])
        elif limited is not None:
            raise limited
    return right


def _store_digest(key_id: UUID, digest: str, last4: str) -> None:
    try:
        with transaction.atomic():
            ApiKey.objects.filter(id=key_id, digest=None).update(digest=digest, last4=last4)
    except IntegrityError:
        pass  # two rows have the same key, and the other one has its digest
    except AnyDatabaseError:
        logger.warning("a key is verified again with its next use", exc_info=True)


def _count_attempt(
    address: str, prefix: str
) -> tuple[list[CountedAttempt], RateLimitedError | None]:
    """Counts the attempt; returns the counted attempts and the exceeded limit, if any. A right key
    works even if nothing can be written; the slots bound the cost of wrong ones."""
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
    """The id of the row that matches the key; RateLimitedError while too many are being
    verified."""
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
    with suppress(OperationalError):  # attempts expire by themselves
        for attempt in attempts:
            throttle.give_back(attempt)


def _verify(key: str, stored: str) -> bool:
    if not _slots.acquire(timeout=SLOT_SECONDS):
        raise RateLimitedError("Too many keys are being verified; try again.", retry_after=1)
    try:
        return bcrypt.checkpw(key.encode(), stored.encode())
    finally:
        _slots.release()
