"""The domain: memories, their storage, search and interfaces."""

from django.apps import AppConfig


class MemoriesConfig(AppConfig):
    name = "memories"

    def ready(self) -> None:
        # Importing them registers the SQL functions and the repair of the index of words.
        from memories.storage import sqlite, substring_index  # noqa: F401
