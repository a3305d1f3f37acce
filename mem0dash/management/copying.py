"""Copies every row of one database into another, empty one: all of them, or none."""

import hashlib
import json
from collections.abc import Callable, Iterator
from copy import deepcopy as copy_of
from dataclasses import dataclass
from datetime import UTC, date, datetime
from graphlib import TopologicalSorter
from typing import Any, Final
from uuid import UUID

import dj_database_url
from django.apps import apps
from django.conf import settings
from django.core.management import call_command
from django.core.management.color import no_style
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections, transaction
from django.db.migrations.executor import MigrationExecutor
from django.db.models import Model
from django.db.models.sql import InsertQuery

from accounts import audit
from accounts.audit import AuditAction
from accounts.models import InstanceState, Project
from accounts.queries import DEFAULT_PROJECT
from core.database import engines
from core.database.datastore import is_busy
from core.principal import OPERATOR
from jobs.models import Lease
from memories.models import Memory
from memories.models.server import IndexState
from memories.storage import substring_index as fulltext

ROOMS: Final = ("accounts", "jobs", "apikeys", "operations", "memories")
# Who of the running processes does what: they are not running.
LEFT_BEHIND: Final = {Lease}
BATCH_ROWS: Final = 500
# What an add was given may be as large as a request.
BATCH_BYTES: Final = 4 * 2**20
_FETCH: Final = 50
_LOCK_SECONDS: Final = 20
_DIGEST: Final = 2**256


class CopyError(Exception):
    """Why nothing was copied; one sentence for the operator."""


@dataclass
class TableDigest:
    """What was found in a table: its rows, and a digest of them all in any order."""

    name: str
    rows: int = 0
    digest: int = 0

    def add(self, content: bytes) -> None:
        self.rows += 1
        # A sum, for the databases sort texts differently.
        self.digest = (self.digest + int.from_bytes(hashlib.sha256(content).digest())) % _DIGEST


Progress = Callable[[TableDigest], object]


def register(alias: str, url: str | None) -> None:
    """Makes the database at `url`, or the one in DATABASE_URL, known as `alias`.

    CopyError when it cannot be one.
    """
    if url is None:
        known: dict[str, Any] = copy_of(settings.DATABASES[DEFAULT_DB_ALIAS])
        # One connection is enough, and those of a pool would look like a running server's.
        known.get("OPTIONS", {}).pop("pool", None)
        connections.settings[alias] = known
        return
    try:
        parsed = dj_database_url.parse(url)
    except (ValueError, KeyError) as error:
        raise CopyError(
            "The URL must look like postgres://user:password@host:5432/name "
            "or sqlite:////path/to/file."
        ) from error
    if parsed["ENGINE"] == "django.db.backends.sqlite3" and parsed["NAME"] not in {"", ":memory:"}:
        parsed["OPTIONS"] = {
            "timeout": _LOCK_SECONDS,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;",
        }
    elif parsed["ENGINE"] != "django.db.backends.postgresql":
        raise CopyError("The URL must name a SQLite file or a PostgreSQL database.")
    parsed["ENGINE"] = engines.OWN[parsed["ENGINE"]]
    defaults = connections.configure_settings({DEFAULT_DB_ALIAS: parsed})
    connections.settings[alias] = defaults[DEFAULT_DB_ALIAS]


def models_in_order() -> list[type[Model]]:
    """All tables of ours, each after those that it refers to."""
    found = {m for room in ROOMS for m in apps.get_app_config(room).get_models(True)}
    order: TopologicalSorter[type[Model]] = TopologicalSorter()
    for model in sorted(found, key=lambda m: m._meta.label):
        targets: set[Any] = {
            field.related_model for field in model._meta.concrete_fields if field.is_relation
        }
        order.add(model, *sorted((targets & found) - {model}, key=lambda m: m._meta.label))
    return [model for model in order.static_order() if model not in LEFT_BEHIND]


# --- Before --------------------------------------------------------------------------------------
def check_source(alias: str, *, ignore_connections: bool = False) -> None:
    """CopyError when the source is of another version or in use."""
    connection = connections[alias]
    try:
        executor = MigrationExecutor(connection)
    except DatabaseError as error:
        raise CopyError(f"The source database does not answer ({_line(error)}).") from error
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        raise CopyError(
            "The source is empty or of an earlier version: start this version on it once, "
            "stop it, and copy then."
        )
    if connection.vendor != "postgresql" or ignore_connections:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() AND usename IS NOT NULL "
            "AND backend_type IS DISTINCT FROM 'parallel worker'"
        )
        if count := cursor.fetchone()[0]:
            raise CopyError(
                f"{count} other connections to the source are open: stop all servers and workers. "
                "If they are none of mem0dash, add --ignore-connections."
            )


def prepare_target(alias: str) -> None:
    """Makes the tables in the target. CopyError when it is not empty, before anything is made."""
    connection = connections[alias]
    try:
        with connection.cursor() as cursor:
            present = set(connection.introspection.table_names(cursor))
            if connection.vendor == "postgresql":
                cursor.execute("SELECT current_setting('server_encoding')")
                if (encoding := cursor.fetchone()[0]) != "UTF8":
                    raise CopyError(f"The target has encoding {encoding}, it has to be UTF8.")
    except DatabaseError as error:
        raise CopyError(f"The target database does not answer ({_line(error)}).") from error
    ours = set(connection.introspection.django_table_names()) | {"django_migrations"}
    ours |= fulltext.TABLES
    if strangers := present - ours:
        raise CopyError(
            f"The target holds tables of something else: {', '.join(sorted(strangers))}."
        )
    if present:
        check_empty(alias, present)
    call_command("migrate", database=alias, interactive=False, verbosity=0)


def check_empty(alias: str, present: set[str] | None = None) -> None:
    """CopyError when the target holds more than what a migration makes."""
    for model in models_in_order():
        if present is not None and model._meta.db_table not in present:
            continue
        rows = model._base_manager.using(alias)
        if model is Project:
            rows = rows.exclude(slug=DEFAULT_PROJECT)
        elif model is InstanceState:
            rows = rows.exclude(owner_created_at=None, encryption_check="")
        if count := rows.count():
            raise CopyError(
                f"The target is not empty: {count} rows in {model._meta.db_table}. "
                "Nothing has been changed; name an empty database."
            )


# --- Copying -------------------------------------------------------------------------------------
def copy(source: str, target: str, progress: Progress) -> list[TableDigest]:
    """Copies all rows in one transaction, so that an interrupted copy leaves the target empty.

    The source cannot be written meanwhile. What was written is read again and compared; CopyError
    when it differs or the target refuses it.
    """
    copied = []
    with transaction.atomic(using=source), transaction.atomic(using=target):
        _hold_still(source)
        check_empty(target)
        # What the migration made: the source has its own.
        Project._base_manager.using(target).all().delete()
        InstanceState._base_manager.using(target).all().delete()
        for model in models_in_order():
            try:
                table = _copy_table(model, source, target)
            except (DatabaseError, ValueError) as error:
                raise CopyError(f"{model._meta.db_table}: {_line(error)}") from error
            if table != (arrived := digest(model, target)):
                raise CopyError(
                    f"{table.name} has not arrived as it was: {table.rows} rows were read, "
                    f"{arrived.rows} arrived, or what is in them differs."
                )
            copied.append(table)
            progress(table)
        _set_sequences(target)
        rows = sum(table.rows for table in copied)
        audit.record(
            AuditAction.DATABASE_COPIED, actor=OPERATOR, details={"rows": rows}, using=target
        )
    if connections[target].vendor == "postgresql":
        # Queries are planned by what it knows of the tables.
        with connections[target].cursor() as cursor:
            cursor.execute("ANALYZE")
    return copied


def _hold_still(alias: str) -> None:
    """Lets nobody write to the source until the transaction ends, and shows one state of it."""
    connection = connections[alias]
    if connection.vendor != "postgresql":
        return  # BEGIN IMMEDIATE does both
    quote = connection.ops.quote_name
    tables = ", ".join(quote(model._meta.db_table) for model in models_in_order())
    try:
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'")
            cursor.execute(f"LOCK TABLE {tables} IN SHARE MODE")
    except DatabaseError as error:
        held = f"others have held a lock for {_LOCK_SECONDS} seconds"
        why = held if is_busy(error) else _line(error)
        raise CopyError(f"The source is being written to ({why}).") from error


def _copy_table(model: type[Model], source: str, target: str) -> TableDigest:
    table = TableDigest(model._meta.db_table)
    batch: list[Model] = []
    size = 0
    for row in _rows(model, source):
        _anew(row)
        content = _content(row)
        table.add(content)
        batch.append(row)
        size += len(content)
        if len(batch) >= BATCH_ROWS or size >= BATCH_BYTES:
            _insert(model, batch, target)
            batch, size = [], 0
    _insert(model, batch, target)
    return table


def _rows(model: type[Model], alias: str) -> Iterator[Model]:
    return model._base_manager.using(alias).order_by("pk").iterator(chunk_size=_FETCH)


def _anew(row: Model) -> None:
    """Takes away what is about the running of the source: the target's index is yet to be made."""
    if isinstance(row, Memory):
        row.indexed_rev = 0
        row.claimed_until = None
    elif isinstance(row, IndexState):
        row.generation += 1
        row.built_at = row.rebuild_wanted_at = None


def _insert(model: type[Model], rows: list[Model], alias: str) -> None:
    fields = list(model._meta.concrete_fields)
    at_once = max(connections[alias].ops.bulk_batch_size(fields, rows), 1)
    for at in range(0, len(rows), at_once):
        query = InsertQuery(model)
        # Raw: as it is, also where a field would set the time of its making.
        query.insert_values(fields, rows[at : at + at_once], raw=True)
        query.get_compiler(using=alias).execute_sql()


def digest(model: type[Model], alias: str) -> TableDigest:
    """What is in a table."""
    table = TableDigest(model._meta.db_table)
    for row in _rows(model, alias):
        table.add(_content(row))
    return table


def _content(row: Model) -> bytes:
    """A row's columns, the same for the same content in every database."""
    values = [_plain(getattr(row, field.attname)) for field in row._meta.concrete_fields]
    return json.dumps(values, sort_keys=True).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)  # PostgreSQL's JSON has one kind of number: 1e22 comes back without e
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    return str(value) if isinstance(value, date | UUID) else value


def _set_sequences(alias: str) -> None:
    """Ids that the database gives go on after those that were copied."""
    connection = connections[alias]
    with connection.cursor() as cursor:
        for statement in connection.ops.sequence_reset_sql(no_style(), models_in_order()):
            cursor.execute(statement)


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
