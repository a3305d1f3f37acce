"""Stores when each key was last used, in the background."""

import logging
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from django.db import Error as AnyDatabaseError
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from apikeys.models import ApiKey
from core import notes

logger = logging.getLogger(__name__)

# The precision of a key's last use.
RESOLUTION: Final = timedelta(minutes=1)


def store_uses(uses: dict[UUID, datetime]) -> int:
    """Writes those last uses that are at least a minute newer than the stored ones."""
    with transaction.atomic():
        for key_id, at in uses.items():
            stale = Q(last_used_at=None) | Q(last_used_at__lte=at - RESOLUTION)
            ApiKey.objects.filter(stale, id=key_id).update(last_used_at=at)
    return 0


uses: Final = notes.Notes("last uses of keys", store_uses)


def note_use(key_id: UUID, last_used_at: datetime | None) -> None:
    """Notes that the key is used now, at most once a minute. Where no notes are kept, as in a
    command, it is written at once if possible."""
    now = timezone.now()
    if last_used_at is not None and last_used_at > now - RESOLUTION:
        return
    if notes.are_kept():
        uses.put(key_id, now)
        return
    try:
        store_uses({key_id: now})
    except AnyDatabaseError as error:
        logger.warning("last use of a key not written", extra={"cause": str(error).strip()[:300]})
