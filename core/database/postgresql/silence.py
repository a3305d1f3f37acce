"""Notices a PostgreSQL that takes connections and statements and answers none of them.

A server that is stopped, or a network that drops everything, closes no connection, and libpq waits
for as long as the kernel does. How long a statement takes says nothing, for some take minutes. So
where one is overdue, a new connection is tried: a server that does not answer this either is
silent. Until a try succeeds, all that is overdue is cut off, and new connections are refused at
once.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg

from core.database import deadlines

logger = logging.getLogger(__name__)

# How long a statement takes before somebody looks whether the server answers at all.
OVERDUE_SECONDS: Final = 2.5
# How long a new connection may take then. libpq knows no less.
PROBE_SECONDS: Final = 2
# Between two looks, where the last one found that it answers; where it did not.
AGAIN_SECONDS: Final = 5.0
SILENT_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.25


class SilentError(psycopg.OperationalError):
    """The server does not answer."""

    is_silent = True

    def __init__(self) -> None:
        super().__init__("the server takes connections and does not answer")


@dataclass(eq=False, slots=True)
class _Statement:
    """One that waits for the server. `until` is when it is cut off whatever the server does."""

    connection: psycopg.Connection[Any]
    until: float | None
    since: float = field(default_factory=time.monotonic)
    is_cut: bool = False


class Watch:
    """What waits for the servers of this process, and whether they answer."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: set[_Statement] = set()
        self._thread: threading.Thread | None = None
        self._is_probing = False
        self._probe_at = 0.0
        self._parameters: Mapping[str, Any] = {}
        self.is_silent = False

    def begin(self, connection: psycopg.Connection[Any]) -> _Statement:
        """`connection` waits for its server from now on; SilentError where its thread has no time
        left."""
        left = deadlines.left()
        if left is not None and left <= 0:
            raise SilentError
        statement = _Statement(connection, None if left is None else time.monotonic() + left)
        with self._guard:
            self._waiting.add(statement)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._look, name="mem0dash-database-watch", daemon=True
                )
                self._thread.start()
        return statement

    def end(self, statement: _Statement) -> None:
        """It has its answer, or will have none."""
        with self._guard:
            self._waiting.discard(statement)

    def connects_to(self, parameters: Mapping[str, Any]) -> None:
        """How the server is reached."""
        self._parameters = parameters

    def suspect(self) -> None:
        """Somebody could not connect in time: looks at once."""
        self._probe_at = 0.0
        self._look_closer(time.monotonic())

    def _look(self) -> None:
        while True:
            time.sleep(_LOOK_SECONDS)
            now = time.monotonic()
            with self._guard:
                overdue = [one for one in self._waiting if now - one.since >= OVERDUE_SECONDS]
                late = [one for one in self._waiting if one.until is not None and now >= one.until]
                for one in {*late, *(overdue if self.is_silent else ())}:
                    _cut(one)
            if overdue or self.is_silent:
                self._look_closer(now)

    def _look_closer(self, now: float) -> None:
        with self._guard:
            if self._is_probing or now < self._probe_at:
                return
            self._is_probing = True
        threading.Thread(target=self._probe, name="mem0dash-database-probe", daemon=True).start()

    def _probe(self) -> None:
        try:
            is_silent = not _answers(self._parameters)
        except Exception:  # whatever it is, the watch goes on
            logger.exception("the database could not be looked at")
            is_silent = False
        if is_silent != self.is_silent:
            tell = logger.error if is_silent else logger.info
            tell("the database is silent" if is_silent else "the database answers again")
        with self._guard:
            self.is_silent = is_silent
            pause = SILENT_SECONDS if is_silent else AGAIN_SECONDS
            self._probe_at = time.monotonic() + pause
            self._is_probing = False


def _cut(statement: _Statement) -> None:
    """Ends the waiting: its thread finds a connection that was closed. The caller has the guard,
    so that nobody closes the descriptor and opens another one meanwhile."""
    if statement.is_cut:
        return
    statement.is_cut = True
    with (
        suppress(OSError, psycopg.Error),
        socket.socket(fileno=os.dup(statement.connection.fileno())) as line,
    ):
        line.shutdown(socket.SHUT_RDWR)


def _answers(parameters: Mapping[str, Any]) -> bool:
    """Whether the server answers a new connection, even if it refuses it."""
    wanted = {**parameters, "connect_timeout": PROBE_SECONDS, "autocommit": True}
    try:
        with deadlines.within(2 * PROBE_SECONDS), Connection.connect(**wanted) as connection:
            # A pooler answers by itself where the server behind it does not.
            connection.execute("SELECT 1")
    except (SilentError, psycopg.errors.ConnectionTimeout):
        return False
    except psycopg.Error:
        return True
    return True


class Connection(psycopg.Connection[Any]):
    """Every wait for the server goes through `wait`."""

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        statement = watch.begin(self)
        try:
            return super().wait(gen, *args, **kwargs)
        except psycopg.OperationalError as error:
            if statement.is_cut:
                raise SilentError from error
            raise
        finally:
            watch.end(statement)


watch: Final = Watch()
