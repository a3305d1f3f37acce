"""Our own database backends, by the Django backends that URLs select."""

from typing import Final

OWN: Final = {
    "django.db.backends.sqlite3": "core.database.sqlite3",
    "django.db.backends.postgresql": "core.database.postgresql",
}
