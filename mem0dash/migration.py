"""Brings the database up to date at the start of a process, one process at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from django.conf import settings
from django.core.management import call_command
from django.db import OperationalError, connection

from accounts.services import check_encryption_key
from mem0dash.env import ConfigurationError
from mem0dash.folders import tighten

# Any number that nobody else in this database uses.
_LOCK: Final = 0x6D656D30


def prepare_database() -> None:
    """Migrates, and checks that the encryption key is the right one (ConfigurationError)."""
    if settings.ENCRYPTION_KEY_LOST and _answers():
        raise ConfigurationError(settings.ENCRYPTION_KEY_LOST)
    if settings.DATABASE_FILE is not None:
        # Of before, or copied; what SQLite makes beside the database gets the same rights.
        tighten(settings.DATABASE_FILE)
    try:
        with _alone():
            call_command("migrate", interactive=False, verbosity=0)
    except OperationalError as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigurationError(
            f"DATABASE_URL: the database does not answer ({reason})."
        ) from error
    check_encryption_key()


def _answers() -> bool:
    """Whether the database does; where it does not, that is what has to be said."""
    try:
        connection.ensure_connection()
    except OperationalError:
        return False
    return True


@contextmanager
def _alone() -> Iterator[None]:
    """Other processes that start at the same time wait here; SQLite's have one server only."""
    if connection.vendor != "postgresql":
        yield
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [_LOCK])
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [_LOCK])
