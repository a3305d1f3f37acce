"""The backend that settings.DATABASES names."""

from typing import Any, Final

from django.db.backends.postgresql import base
from django.db.backends.utils import CursorWrapper

# For locks of tables and rows: whoever waits for one holds a thread, and a client waits as well.
LOCK_SECONDS: Final = 5


class DatabaseWrapper(base.DatabaseWrapper):
    """Nothing waits long for the locks of others, and a pooler in transaction mode may stand
    between: it may give each transaction another connection of the server."""

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
        session, so there all rows are read at once: memories.storage.connections.streamed has
        both."""
        return super().chunked_cursor() if self.in_atomic_block else self.cursor()
