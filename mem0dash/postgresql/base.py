"""The backend that settings.DATABASES names."""

from typing import Any, Final

from django.db.backends.postgresql import base

# For the locks of tables and rows. Who waits holds a thread of the server, and his client waits.
LOCK_SECONDS: Final = 5


class DatabaseWrapper(base.DatabaseWrapper):
    """Says so to each connection that is made. Not among the parameters of the connection itself:
    poolers refuse those that they do not know."""

    def _configure_connection(self, connection: Any) -> bool:
        # The ignore: the stubs leave it out.
        changed = bool(super()._configure_connection(connection))  # type: ignore[misc]
        with connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
        # A connection of a pool begins with a transaction, which Django ends where this is true.
        return changed or not connection.autocommit
