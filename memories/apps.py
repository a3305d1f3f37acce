"""The domain: memories, how they are stored, found and served."""

from django.apps import AppConfig


class MemoriesConfig(AppConfig):
    name = "memories"

    def ready(self) -> None:
        # Importing them registers the SQL functions, and what mends the index of words.
        from memories.storage import sqlite, substring_index  # noqa: F401
