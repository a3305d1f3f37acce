"""Django's PostgreSQL, without what outlives a transaction: a pooler may give each transaction
another connection of the server."""

from django.db.backends.postgresql import base
from django.db.backends.utils import CursorWrapper


class DatabaseWrapper(base.DatabaseWrapper):
    """As Django's; a pooler in transaction mode may stand between."""

    def chunked_cursor(self) -> CursorWrapper:
        """A cursor of the server's inside a transaction. Outside of one it would belong to a
        session, so there all rows are read at once: memories.connections.streamed has both."""
        return super().chunked_cursor() if self.in_atomic_block else self.cursor()
