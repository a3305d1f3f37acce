"""The backend that settings.DATABASES names; see `silence` for a server that does not answer."""

from types import SimpleNamespace
from typing import Any, Final

import psycopg
from django.db.backends.postgresql import base
from django.db.backends.utils import CursorWrapper

from core.database import deadlines
from core.database.postgresql import sharing
from core.database.postgresql.silence import PROBE_SECONDS, Connection, SilentError, watch

# For locks of tables and rows: whoever waits for one holds a thread, and a client waits as well.
LOCK_SECONDS: Final = 5


class DatabaseWrapper(base.DatabaseWrapper):
    """Nothing waits long for the locks of others, and a pooler in transaction mode may stand
    between: it may give each transaction another connection of the server."""

    # The driver, with connections that notice a silent server. The ignore: Django looks up names in
    # it, whatever it is.
    Database = SimpleNamespace(  # type: ignore[assignment]
        **{**vars(psycopg), "connect": Connection.connect}
    )

    @property
    def pool(self) -> Any:
        # The same for those of a pool.
        if options := self.settings_dict["OPTIONS"].get("pool"):
            options.setdefault("connection_class", Connection)
        return super().pool

    # What this connection is one of.
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
        if watch.is_silent:
            raise SilentError
        if (left := deadlines.left()) is not None:
            if left < PROBE_SECONDS / 2:
                raise SilentError
            conn_params = {**conn_params, "connect_timeout": PROBE_SECONDS}
        try:
            return super().get_new_connection(conn_params)
        except psycopg.errors.ConnectionTimeout as error:
            watch.suspect()
            raise SilentError from error

    def _configure_connection(self, connection: Any) -> bool:
        """Says how long to wait. Not among the parameters of the connection itself: poolers refuse
        those that they do not know."""
        # The ignore: the stubs leave it out.
        changed = bool(super()._configure_connection(connection))  # type: ignore[misc]
        with connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
        # A connection of a pool begins with a transaction, which Django ends where this is true.
        return changed or not connection.autocommit

    def chunked_cursor(self) -> CursorWrapper:
        """A cursor of the server's inside a transaction. Outside of one it would belong to a
        session, so there all rows are read at once: memories.storage.connections.stream has
        both."""
        return super().chunked_cursor() if self.in_atomic_block else self.cursor()
