"""Database connections: waiting threads keep none, and long results stream."""

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import QuerySet

from core.database.postgresql import sharing


def let_go_of_connection() -> None:
    """Returns this thread's connection to the pool, or to the other threads where they share a few;
    the next query takes one again. Does nothing inside a transaction."""
    if settings.DATABASE_POOL_SIZE and not connection.in_atomic_block:
        connection.close()
    sharing.let_go_if_scarce()


def stream(rows: QuerySet[Any, Any], size: int) -> Iterator[Any]:
    """The rows, with at most `size` of them in memory at a time.

    PostgreSQL streams inside a transaction, because a pooler may give the next statement another
    connection, without the cursor. SQLite needs no transaction, and one would keep writers waiting.
    """
    if connection.vendor != "postgresql":
        yield from rows.iterator(chunk_size=size)
        return
    with transaction.atomic():
        yield from rows.iterator(chunk_size=size)
