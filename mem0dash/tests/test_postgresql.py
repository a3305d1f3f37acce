"""What PostgreSQL alone does: one process migrates at a time, and no statement needs a session."""

import os
import threading
from collections.abc import Iterator

import psycopg
import pytest
from django.core.management import call_command
from django.db import connection, transaction

from accounts.models import Project
from core.env import ConfigurationError
from mem0dash import migration
from memories.storage.connections import stream

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(
        os.environ.get("TEST_DATABASE") != "postgresql", reason="it is about PostgreSQL"
    ),
]


@pytest.fixture
def other() -> Iterator[psycopg.Connection]:
    """Another process's connection to the same database, which has the migration's lock."""
    params = connection.get_connection_params()
    known = {name: params[name] for name in ("host", "port", "user", "dbname")}
    with psycopg.connect(**known, autocommit=True, application_name="another one") as made:
        made.execute("SELECT pg_advisory_lock(%s)", [migration._LOCK])
        yield made


def locks() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        return cursor.fetchone()[0]


def test_who_waits_too_long_to_migrate_is_told_who_is_at_it(other, monkeypatch, caplog):
    monkeypatch.setattr(migration, "WAIT_SECONDS", 0.3)
    with caplog.at_level("INFO"), pytest.raises(ConfigurationError) as caught:
        migration.prepare_database()
    said = str(caught.value)
    assert "Another process has been migrating this database" in said
    assert "another one" in said
    assert f"process {other.info.backend_pid}." in said
    assert "waiting for another process" in caplog.text


def test_bootstrap_migrates_by_the_same_door_as_the_server(other, monkeypatch):
    monkeypatch.setattr(migration, "WAIT_SECONDS", 0.0)
    arguments = ("--email", "alice@example.org", "--password", "correct horse battery")
    with pytest.raises(ConfigurationError, match="Another process has been migrating"):
        call_command("bootstrap", *arguments)


def test_who_waits_to_migrate_holds_no_connection_busy_and_goes_on_when_the_other_is_done(
    other, monkeypatch
):
    looked = threading.Event()
    sleep = migration.time.sleep
    monkeypatch.setattr(migration.time, "sleep", lambda s: (looked.set(), sleep(s)))
    states = []

    def release() -> None:
        looked.wait(timeout=60)
        states.extend(
            other.execute(
                "SELECT state FROM pg_stat_activity WHERE application_name LIKE 'mem0dash mig%'"
            ).fetchall()
        )
        other.execute("SELECT pg_advisory_unlock_all()")

    thread = threading.Thread(target=release)
    thread.start()
    migration.prepare_database()
    thread.join(timeout=60)
    # Neither a statement nor a transaction: the connection could be another client's meanwhile.
    assert looked.is_set()
    assert states == []
    assert locks() == 0


def test_the_lock_ends_with_the_migration_even_if_that_fails(monkeypatch):
    held = []

    def fail(*args, **kwargs):
        held.append(locks())
        raise RuntimeError("a migration that fails")

    monkeypatch.setattr(migration, "call_command", fail)
    with pytest.raises(RuntimeError):
        migration.prepare_database()
    assert held == [1]
    assert locks() == 0


def test_a_migration_waits_for_locks_of_others_and_says_so_when_they_last(other, monkeypatch):
    other.execute("SELECT pg_advisory_unlock_all()")
    with connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = '50ms'")
    with other.transaction():
        other.execute("LOCK TABLE django_migrations IN ACCESS EXCLUSIVE MODE")
        monkeypatch.setattr(migration, "LOCK_SECONDS", 0.0)
        with pytest.raises(ConfigurationError, match="a lock that others hold") as refused:
            migration.prepare_database()
        assert "canceling statement" not in str(refused.value)
    released = threading.Event()
    sleep = migration.time.sleep

    def release(seconds: float) -> None:
        if not released.is_set():
            other.execute("ROLLBACK")
            released.set()
        sleep(seconds)

    other.execute("BEGIN")
    other.execute("LOCK TABLE django_migrations IN ACCESS EXCLUSIVE MODE")
    monkeypatch.setattr(migration, "LOCK_SECONDS", 60.0)
    monkeypatch.setattr(migration.time, "sleep", release)
    migration.prepare_database()
    assert released.is_set()
    connection.close()


def test_rows_are_read_with_a_cursor_of_the_server_inside_a_transaction_alone():
    def cursors() -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_cursors")
            return cursor.fetchone()[0]

    Project.objects.bulk_create(Project(slug=f"p{n}", name=f"P{n}") for n in range(3))
    rows = Project.objects.iterator(chunk_size=1)
    next(rows)
    assert cursors() == 0
    with transaction.atomic():
        rows = Project.objects.iterator(chunk_size=1)
        next(rows)
        assert cursors() == 1
        rows.close()
    rows = stream(Project.objects.order_by("id"), 1)
    next(rows)
    assert cursors() == 1
    assert len(list(rows)) >= 3
    assert not connection.in_atomic_block
