"""Keeps when each key was last used, off the path of the requests.

A request that only reads never waits for a write: it leaves a note, and one thread per process
writes the notes that have gathered. While the database cannot be written, the notes wait.
"""

import logging
import threading
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from django.db import Error as AnyDatabaseError
from django.db import close_old_connections, connection, transaction
from django.db.models import Q
from django.utils import timezone

from apikeys.models import ApiKey

logger = logging.getLogger(__name__)

# A key's last use is as exact as this, however often it is used.
RESOLUTION: Final = timedelta(minutes=1)
GATHER_SECONDS: Final = 1.0
AGAIN_SECONDS: Final = 5.0


class UsageWriter:
    """The notes and the thread of one process."""

    def __init__(self) -> None:
        self._noted: dict[UUID, datetime] = {}
        self._guard = threading.Lock()
        self._some = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mem0dash-key-usage", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after it has written what is left."""
        self._stop.set()
        self._some.set()
        self._thread.join(timeout=15)

    def put(self, key_id: UUID, at: datetime) -> None:
        """Notes a use, without waiting."""
        with self._guard:
            self._noted[key_id] = at
        self._some.set()

    def write(self) -> bool:
        """Writes the notes; False if that was not possible. Then they stay."""
        with self._guard:
            noted, self._noted = self._noted, {}
        try:
            if noted:
                store(noted)
            return True
        except AnyDatabaseError as error:
            with self._guard:
                self._noted = {**noted, **self._noted}
            extra = {"keys": len(noted), "cause": str(error).strip()[:300]}
            logger.warning("last uses of keys not written; trying again", extra=extra)
            return False

    def _run(self) -> None:
        while not self._stop.is_set():
            self._some.wait()
            self._some.clear()
            self._stop.wait(GATHER_SECONDS)
            close_old_connections()
            if not self.write():
                self._stop.wait(AGAIN_SECONDS)
                self._some.set()
        self.write()
        connection.close()


def store(noted: dict[UUID, datetime]) -> None:
    """Writes last uses that are at least a minute newer than the stored ones."""
    with transaction.atomic():
        for key_id, at in noted.items():
            stale = Q(last_used_at=None) | Q(last_used_at__lte=at - RESOLUTION)
            ApiKey.objects.filter(stale, id=key_id).update(last_used_at=at)


def note(key_id: UUID, last_used_at: datetime | None) -> None:
    """Takes note that the key is used now, at most once a minute. Without the thread, as in a
    command, it is written at once where that is possible."""
    now = timezone.now()
    if last_used_at is not None and last_used_at > now - RESOLUTION:
        return
    if _writer is not None:
        _writer.put(key_id, now)
        return
    try:
        store({key_id: now})
    except AnyDatabaseError as error:
        logger.warning("last use of a key not written", extra={"cause": str(error).strip()[:300]})


_writer: UsageWriter | None = None


def start() -> None:
    """Starts storing last uses in this process."""
    global _writer
    _writer = UsageWriter()
    _writer.start()


def stop() -> None:
    """Writes the remaining notes."""
    global _writer
    writer, _writer = _writer, None
    if writer is not None:
        writer.stop()
