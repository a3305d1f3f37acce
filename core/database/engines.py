"""The database backends of our own, by those of Django that URLs lead to."""

from typing import Final

OWN: Final = {
    "django.db.backends.sqlite3": "core.database.sqlite3",
    "django.db.backends.postgresql": "core.database.postgresql",
}
