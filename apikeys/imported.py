"""Keys from mem0's own server, which keeps them as bcrypt hashes.

Verifying one takes a good part of a second, and is done once for each key: from then on the key has
a digest as every other. An unknown key gets so far only when an imported key that was never used
has its first 12 characters, and no more often than the limits here allow.
"""

import re
import threading
from datetime import datetime
from typing import Final

import bcrypt
from django.db import IntegrityError, transaction
from django.db.models import Q

from accounts import throttle
from accounts.audit import Action
from accounts.models import Account, Project
from accounts.queries import scopes_in
from accounts.throttle import Limit, RateLimitedError, Taken
from apikeys import history
from apikeys.models import ApiKey
from mem0dash.errors import InvalidInputError
from mem0dash.principal import OPERATOR, Actor

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
        history.record(Action.KEY_IMPORTED, row, actor)
    row.refresh_from_db()
    return row


def adopt(key: str, digest: str, *, address: str) -> bool:
    """Whether `key` is an imported one; if so, it has its digest from now on.

    RateLimitedError when there have been too many wrong keys or too many verifications run.
    """
    prefix = key[:PREFIX_LENGTH]
    unused = Q(prefix=prefix, digest=None, revoked_at=None)
    # Or one that another request has verified since this one looked.
    rows = ApiKey.objects.filter(unused | Q(digest=digest))
    candidates = list(rows.values_list("id", "bcrypt", "digest")[:MOST_ROWS])
    if any(found == digest for _, _, found in candidates):
        return True
    if not candidates:
        return False
    attempts = [throttle.take(WRONG_KEYS_OF_ADDRESS, throttle.address_subject(address))]
    try:
        attempts.append(throttle.take(WRONG_KEYS_OF_PREFIX, prefix))
        right = next((key_id for key_id, stored, _ in candidates if _verify(key, stored)), None)
    except RateLimitedError:
        _give_back(attempts)
        raise
    if right is None:
        return False
    _give_back(attempts)
    try:
        with transaction.atomic():
            ApiKey.objects.filter(id=right, digest=None).update(digest=digest, last4=key[-4:])
    except IntegrityError:
        pass  # the same key stands in two rows, and the other one has its digest
    return True


def _give_back(attempts: list[Taken]) -> None:
    for attempt in attempts:
        throttle.give_back(attempt)


def _verify(key: str, stored: str) -> bool:
    if not _slots.acquire(timeout=SLOT_SECONDS):
        raise RateLimitedError("Too many keys are being verified; try again.", retry_after=1)
    try:
        return bcrypt.checkpw(key.encode(), stored.encode())
    finally:
        _slots.release()
