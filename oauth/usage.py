"""Keeps when, and from where, each grant was last used, off the path of the requests."""

import logging
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

from django.db import Error as AnyDatabaseError
from django.db import transaction
from django.utils import timezone

from core import notes
from oauth.models import AppGrant

logger = logging.getLogger(__name__)

# A grant's last use is as exact as this, however often it is used.
RESOLUTION: Final = timedelta(minutes=1)


class Use(NamedTuple):
    """A call: when, from which address, and the name that the client gives itself."""

    at: datetime
    address: str
    client: str


def store_uses(noted: dict[UUID, Use]) -> int:
    """Writes the last uses."""
    with transaction.atomic():
        for grant_id, use in noted.items():
            AppGrant.objects.filter(id=grant_id).update(
                last_used_at=use.at, last_address=use.address[:45], last_client=use.client[:200]
            )
    return 0


uses: Final = notes.Notes("last uses of apps", store_uses)


def note_use(grant_id: UUID, last_used_at: datetime | None, *, address: str, client: str) -> None:
    """Takes note that the grant is used now, at most once a minute. Where no notes are kept, as in
    a command, it is written at once if that is possible."""
    now = timezone.now()
    if last_used_at is not None and last_used_at > now - RESOLUTION:
        return
    use = Use(now, address, client.replace("\0", ""))
    if notes.are_kept():
        uses.put(grant_id, use)
        return
    try:
        store_uses({grant_id: use})
    except AnyDatabaseError as error:
        logger.warning("last use of an app not written", extra={"cause": str(error).strip()[:300]})
