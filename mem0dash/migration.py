"""Brings the database up to date at the start of a process, one process at a time."""

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from django.conf import settings
from django.core.management import call_command
from django.db import DatabaseError, connection
from django.db import Error as AnyDatabaseError
from django.db.backends.base.base import BaseDatabaseWrapper

from accounts.services import check_encryption_key
from core.database.datastore import is_busy, is_trouble
from core.env import ConfigurationError
from core.folders import tighten

logger = logging.getLogger(__name__)

# An arbitrary number that nothing else in this database uses.
_LOCK: Final = 0x6D656D30
WAIT_SECONDS: Final = 300.0
# How long the migrations wait for locks of others.
LOCK_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.2


def prepare_database() -> None:
    """Migrates, and checks that the encryption key is the right one (ConfigurationError)."""
    if settings.ENCRYPTION_KEY_LOST and _answers():
        raise ConfigurationError(settings.ENCRYPTION_KEY_LOST)
    if settings.DATABASE_FILE is not None:
        # Of before, or copied; what SQLite makes beside the database gets the same rights.
        tighten(settings.DATABASE_FILE)
    try:
        with _alone():
            _migrate()
    except DatabaseError as error:
        if not is_trouble(error):
            raise
        if is_busy(error):
            raise ConfigurationError(
                f"The migration of the database has waited {LOCK_SECONDS:.0f} seconds for a lock "
                "that others hold. No migration is half done: stop the other programs that use the "
                "database, or what holds the lock, and start again."
            ) from error
        reason = str(error).strip().splitlines()[0]
        raise ConfigurationError(
            f"DATABASE_URL: the database does not answer ({reason})."
        ) from error
    check_encryption_key()


def _migrate() -> None:
    """Migrates, and again where others hold a lock that it needs.

    Each try waits as short as any statement: whoever reads stands in the line behind it.
    """
    until, told = time.monotonic() + LOCK_SECONDS, False
    while True:
        try:
            call_command("migrate", interactive=False, verbosity=0)
            return
        except DatabaseError as error:
            if not is_busy(error) or time.monotonic() >= until:
                raise
            if not told:
                logger.warning("the migration waits for a lock that others hold")
                told = True
        time.sleep(_LOOK_SECONDS)


def _answers() -> bool:
    """Whether the database does; where it does not, that is what has to be said."""
    try:
        connection.ensure_connection()
    except DatabaseError:
        return False
    return True


@contextmanager
def _alone() -> Iterator[None]:
    """Other processes that start at the same time wait here. SQLite has one server only.

    The lock is a transaction's, on a connection of its own: behind a pooler a session's lock would
    stay on a connection that others get next, and the migrations have transactions of their own.
    """
    if connection.vendor != "postgresql":
        yield
        return
    holder = connection.copy()
    # A pool has its connections for the threads, and may have a single one.
    holder.settings_dict["OPTIONS"].pop("pool", None)
    try:
        _wait_for_lock(holder)
        yield
    finally:
        # Closing the connection releases the lock as well.
        with suppress(AnyDatabaseError):
            holder.rollback()
        holder.close()


def _wait_for_lock(holder: BaseDatabaseWrapper) -> None:
    """Returns inside a transaction that has the lock; ConfigurationError when nobody gives it up.

    It asks again and again: a statement that waits would keep a pooler's connection, of which the
    process that migrates may need the last one.
    """
    started, told = time.monotonic(), False
    holder.set_autocommit(False)
    while not _got_lock(holder):
        who = _who_has_it(holder)
        # The transaction is over, and the connection free for others, until the next look.
        holder.rollback()
        if time.monotonic() - started >= WAIT_SECONDS:
            raise ConfigurationError(
                f"Another process has been migrating this database for {WAIT_SECONDS:.0f} seconds: "
                f"{who} Start again once it is done. If it never ends, end it in PostgreSQL with "
                "pg_terminate_backend."
            )
        if not told:
            logger.info(f"waiting for another process that migrates the database: {who}")
            told = True
        time.sleep(_LOOK_SECONDS)


def _got_lock(holder: BaseDatabaseWrapper) -> bool:
    # Who waits reads the name, also where all connections come from a pooler.
    name = f"mem0dash migrate, {socket.gethostname()[:30]}, process {os.getpid()}"
    with holder.cursor() as cursor:
        cursor.execute("SELECT set_config('application_name', %s, true)", [name])
        # The connection idles during the migrations.
        cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [_LOCK])
        return bool(cursor.fetchone()[0])


def _who_has_it(holder: BaseDatabaseWrapper) -> str:
    """A sentence about who holds the lock, as far as PostgreSQL tells this user."""
    with holder.cursor() as cursor:
        cursor.execute(
            "SELECT a.pid, a.application_name, a.client_addr, a.state FROM pg_locks l"
            " JOIN pg_stat_activity a ON a.pid = l.pid JOIN pg_database d ON d.oid = l.database"
            " WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 0 AND l.objid = %s"
            " AND l.objsubid = 1 AND d.datname = current_database()",
            [_LOCK],
        )
        row = cursor.fetchone()
    if row is None:
        return "It has just ended."
    pid, name, address, state = row
    told = f"{name or 'it gives no name'}, from {address or 'this machine'}, {state or 'unknown'}"
    return f"{told}; PostgreSQL's process {pid}."
