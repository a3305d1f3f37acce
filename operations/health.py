"""Health of the components. Each one is asked; nothing is assumed."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.conf import settings
from django.db import DatabaseError, OperationalError, connection, transaction
from django.utils import timezone
from django.utils.module_loading import import_string

from core.database.datastore import LOST, READ_ONLY, explain, is_busy, problem_of
from core.database.sqlite3.turns import WriteQueue, at_most
from core.errors import (
    DatastoreBusyError,
    DatastoreLostError,
    DatastoreUnavailableError,
    DiskFullError,
    EngineError,
    Mem0dashError,
    ReadOnlyError,
    StorageError,
)

logger = logging.getLogger(__name__)


# Seconds for which the result of a test write is kept: after success, and after failure.
WROTE_SECONDS: Final = 5.0
REFUSED_SECONDS: Final = 2.0
# Seconds that a test write waits for other writers.
TRY_SECONDS: Final = 0.5
# States with a name of their own, beside "does not answer".
STATES: Final = {
    DatastoreBusyError.code: "locked",
    DiskFullError.code: "full",
    ReadOnlyError.code: "read-only",
    DatastoreLostError.code: "lost",
}


def check_database() -> None:
    """Raises when the database does not answer, or cannot be written."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        if connection.vendor == "sqlite":
            # Checked every time, because it is cheap and writes to replaced files would be lost.
            connection.check_files()  # type: ignore[attr-defined]  # core.database.sqlite3
    except DatabaseError as error:
        if problem_of(error) != "lost":
            raise
        raise explain(error, LOST) from error
    writing.check()


class WriteProbe:
    """Tests periodically whether the database can be written. More frequent callers, with or
    without a credential, get the last result."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._until = 0.0
        self._error: EngineError | None = None

    def check(self) -> None:
        """Raises the error that a write would raise."""
        # Of several callers at once, one tests; the others get the last result.
        if time.monotonic() >= self._until and self._guard.acquire(blocking=False):
            try:
                self._error = self._try_write()
                good_for = REFUSED_SECONDS if self._error else WROTE_SECONDS
                self._until = time.monotonic() + good_for
            finally:
                self._guard.release()
        if (error := self._error) is not None:
            raise type(error)(error.message, retry_after=error.retry_after)

    def forget(self) -> None:
        """Forgets the last result, so that the next call tests again."""
        self._until, self._error = 0.0, None

    def _try_write(self) -> EngineError | None:
        try:
            if connection.vendor == "sqlite":
                # Opened read-only at the start, because nobody could write it then.
                if "mode=ro" in str(connection.settings_dict["NAME"]):
                    return ReadOnlyError(READ_ONLY, retry_after=60)
                _try_file()
            elif _is_read_only_server():
                return ReadOnlyError(READ_ONLY, retry_after=60)
            else:
                _try_server()
        except DatabaseError as error:
            return explain(error, "The database cannot be written.")
        return None


def _try_file() -> None:
    turns: WriteQueue = connection.turns  # type: ignore[attr-defined]  # core.database.sqlite3
    if time.monotonic() - turns.wrote_at < WROTE_SECONDS:
        return
    try:
        with at_most(TRY_SECONDS), transaction.atomic(), connection.cursor() as cursor:
            # A number for applications in the file's header, which nothing here reads. Writing an
            # unchanged row would change no page.
            number = cursor.execute("PRAGMA user_version").fetchone()[0]
            cursor.execute(f"PRAGMA user_version = {(number + 1) % 1000}")
    except OperationalError as error:
        # A long write by this process is not a problem.
        if not is_busy(error) or turns.blocked_since is not None:
            raise


def _is_read_only_server() -> bool:
    """Whether the server refuses our writes: as a replica, or by a setting of the server, the
    database or the role."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('transaction_read_only')")
        return bool(cursor.fetchone()[0] == "on")


def _try_server() -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        # Writes nothing and does not wait: a lock against all writers shows at once.
        table = connection.ops.quote_name(settings.HEALTH_TABLE)
        cursor.execute(f"LOCK TABLE {table} IN ROW EXCLUSIVE MODE NOWAIT")


writing: Final = WriteProbe()


@dataclass(frozen=True, slots=True)
class ComponentHealth:
    """The result of one check of settings.HEALTH_CHECKS. `since` is when this process first saw the
    present state; `state` is ok, failing, or one of STATES; `problem` says what is wrong; `ms` is
    the duration of the check."""

    name: str
    is_well: bool
    since: datetime
    ms: float
    problem: str = ""
    state: str = "ok"


_since: dict[str, tuple[str, datetime]] = {}


def check_health() -> list[ComponentHealth]:
    """Runs every check in settings.HEALTH_CHECKS; the quiet ones are included only while they
    fail."""
    results = [_check_component(name, path) for name, path in settings.HEALTH_CHECKS.items()]
    return [c for c in results if not (c.is_well and c.name in settings.QUIET_HEALTH_CHECKS)]


def _check_component(name: str, path: str) -> ComponentHealth:
    check: Callable[[], None] = import_string(path)
    started, problem, cause, state = time.perf_counter(), "", "", "ok"
    try:
        check()
    except (DatastoreUnavailableError, StorageError) as error:
        problem = cause = error.message
        state = STATES.get(error.code, "failing")
    except Mem0dashError as error:
        problem, state = error.message, "failing"
        # A known condition, such as an index that is being built, needs no traceback.
        cause = f"{error.message} {error.__cause__ or ''}".strip()
    except Exception as error:  # noqa: BLE001  (any error means that the component fails)
        problem, state = "It does not answer.", "failing"
        cause = f"{type(error).__name__}: {error}".strip()
    ms = round((time.perf_counter() - started) * 1000, 1)
    return ComponentHealth(name, state == "ok", _since_when(name, state, cause), ms, problem, state)


def _since_when(name: str, state: str, cause: str) -> datetime:
    """Since when the component is in this state. Logs only changes, because monitors ask every few
    seconds."""
    previous = _since.get(name)
    if previous is not None and previous[0] == state:
        return previous[1]
    # Of two threads at once either may write it, because both have just seen the change.
    _since[name] = (state, timezone.now())
    if state != "ok":
        logger.error("health check failed", extra={"part": name, "cause": cause[:500]})
    elif previous is not None:
        logger.info("health check passes again", extra={"part": name})
    return _since[name][1]
