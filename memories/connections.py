"""What waits keeps no database connection from those that work."""

from django.conf import settings
from django.db import connection


def let_go_of_connection() -> None:
    """Back to the pool with this thread's connection, where there is a pool; the next query takes
    one again. Nothing inside a transaction."""
    if settings.DATABASE_POOL_SIZE and not connection.in_atomic_block:
        connection.close()
