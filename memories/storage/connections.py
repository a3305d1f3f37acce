"""How the database's connections are used: what waits keeps none, what is long needs no memory."""

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import QuerySet

from core.database.postgresql import sharing


def let_go_of_connection() -> None:
    """Back to the pool with this thread's connection, where there is a pool, and to the others
    where they share a few; the next query takes one again. Nothing inside a transaction."""
    if settings.DATABASE_POOL_SIZE and not connection.in_atomic_block:
        connection.close()
    sharing.let_go_if_scarce()


def stream(rows: QuerySet[Any, Any], size: int) -> Iterator[Any]:
    """The rows, `size` of them in memory at a time, however many there are.

    PostgreSQL streams inside a transaction: a cursor that outlives it is lost where a pooler gives
    the next statement another connection. SQLite does so anyway, and a transaction there would
    keep writers waiting.
    """
    if connection.vendor != "postgresql":
        yield from rows.iterator(chunk_size=size)
        return
    with transaction.atomic():
        yield from rows.iterator(chunk_size=size)
