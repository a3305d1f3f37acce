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
# How long a migration waits for others' locks.
LOCK_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.2


def prepare_database() -> None:
    """Migrates, and checks that the encryption key is the right one (ConfigurationError)."""
    if settings.ENCRYPTION_KEY_LOST and _answers():
        raise ConfigurationError(settings.ENCRYPTION_KEY_LOST)
    if settings.DATABASE_FILE is not None:
        # The file may be old or copied; SQLite gives its other files the same rights.
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
    """Migrates, with retries while others hold a lock that it needs.

    Each try waits only briefly, because readers queue behind a waiting migration.
    """
    until, is_logged = time.monotonic() + LOCK_SECONDS, False
    while True:
        try:
            call_command("migrate", interactive=False, verbosity=0)
            return
        except DatabaseError as error:
            if not is_busy(error) or time.monotonic() >= until:
                raise
            if not is_logged:
                logger.warning("the migration waits for a lock that others hold")
                is_logged = True
        time.sleep(_LOOK_SECONDS)


def _answers() -> bool:
    """Whether the database answers. If not, that is the error to report."""
    try:
        connection.ensure_connection()
    except DatabaseError:
        return False
    return True


@contextmanager
def _alone() -> Iterator[None]:
    """Holds the lock for migrations; other starting processes wait here. SQLite has only one
    server.

    The lock belongs to a transaction on a separate connection: behind a pooler a session lock would
    stay on a connection that others get next, and migrations have their own transactions.
    """
    if connection.vendor != "postgresql":
        yield
        return
    holder = connection.copy()
    # Not from the pool, which may have a single connection.
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
    """Returns inside a transaction that has the lock; ConfigurationError if it stays taken.

    It polls, because a waiting statement would occupy a pooler's connection, and the migrating
    process may need the last one.
    """
    started, is_logged = time.monotonic(), False
    holder.set_autocommit(False)
    while not _got_lock(holder):
        who = _who_has_it(holder)
        # End the transaction, so that others can use the connection until the next try.
        holder.rollback()
        if time.monotonic() - started >= WAIT_SECONDS:
            raise ConfigurationError(
                f"Another process has been migrating this database for {WAIT_SECONDS:.0f} seconds: "
                f"{who} Start again once it is done. If it never ends, end it in PostgreSQL with "
                "pg_terminate_backend."
            )
        if not is_logged:
            logger.info(f"waiting for another process that migrates the database: {who}")
            is_logged = True
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
    session = (
        f"{name or 'it gives no name'}, from {address or 'this machine'}, {state or 'unknown'}"
    )
    return f"{session}; PostgreSQL's process {pid}."
