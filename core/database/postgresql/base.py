"""The backend for settings.DATABASES; see `silence` for a server that does not answer."""

from types import SimpleNamespace
from typing import Any, Final

import psycopg
from django.db.backends.postgresql import base
from django.db.backends.utils import CursorWrapper

from core.database import deadlines
from core.database.postgresql import sharing
from core.database.postgresql.silence import PROBE_SECONDS, Connection, SilentError, watch

# For locks of tables and rows. A waiting statement occupies a thread, and its client waits too.
LOCK_SECONDS: Final = 5


class DatabaseWrapper(base.DatabaseWrapper):
    """Bounds waits for others' locks, and works behind a pooler in transaction mode, which may give
    each transaction another connection."""

    # The driver, with connections that notice a silent server. The ignore: Django only looks up
    # names in it.
    Database = SimpleNamespace(  # type: ignore[assignment]
        **{**vars(psycopg), "connect": Connection.connect}
    )

    @property
    def pool(self) -> Any:
        # Connections of a pool notice it too.
        if options := self.settings_dict["OPTIONS"].get("pool"):
            options.setdefault("connection_class", Connection)
        return super().pool

    # The shared connections that this one counts among.
    _few: sharing.Few | None = None

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        few = None if self.pool else sharing.shared()
        if few is None:
            return self._opened(conn_params)
        few.take()
        try:
            opened = self._opened(conn_params)
        except BaseException:
            few.give()
            raise
        self._few = few
        return opened

    def _close(self) -> None:
        try:
            super()._close()  # type: ignore[misc]  # the stubs leave it out
        finally:
            if (few := self._few) is not None:
                self._few = None
                few.give()

    def _opened(self, conn_params: dict[str, Any]) -> Any:
        watch.connects_to(conn_params)
        if watch.is_silent or watch.is_in_doubt:
            raise SilentError
        if (seconds_left := deadlines.left()) is not None:
            if seconds_left < PROBE_SECONDS / 2:
                raise SilentError
            conn_params = {**conn_params, "connect_timeout": PROBE_SECONDS}
        try:
            return super().get_new_connection(conn_params)
        except psycopg.errors.ConnectionTimeout as error:
            watch.suspect()
            raise SilentError from error

    def _configure_connection(self, connection: Any) -> bool:
        """Sets the limit for waits. Not as a connection parameter, because poolers refuse unknown
        ones."""
        # The ignore: the stubs leave it out.
        changed = bool(super()._configure_connection(connection))  # type: ignore[misc]
        with connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
        # A pool's connection starts in a transaction, which Django ends if this is true.
        return changed or not connection.autocommit

    def chunked_cursor(self) -> CursorWrapper:
        """A server-side cursor inside a transaction. Outside it would belong to a session, so all
        rows are read at once there; see memories.storage.connections.stream."""
        return super().chunked_cursor() if self.in_atomic_block else self.cursor()
