"""SQL functions that SQLite lacks, registered on every new connection."""

import sqlite3
from typing import Any

from django.db.backends.signals import connection_created
from django.dispatch import receiver


def casefold(text: str | None) -> str | None:
    """Unicode case folding; SQLite's own lower() knows ASCII only."""
    return text.casefold() if isinstance(text, str) else text


@receiver(connection_created, dispatch_uid="memories.sqlite.functions")
def register_functions(connection: Any, **kwargs: Any) -> None:
    if connection.vendor == "sqlite":
        raw: sqlite3.Connection = connection.connection
        raw.create_function("mem0dash_casefold", 1, casefold, deterministic=True)
