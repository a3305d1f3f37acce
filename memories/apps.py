"""The domain: memories, how they are stored, found and served."""

from django.apps import AppConfig


class MemoriesConfig(AppConfig):
    name = "memories"

    def ready(self) -> None:
        from memories import sqlite  # noqa: F401  (importing registers the SQL functions)
