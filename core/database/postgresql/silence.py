"""Notices a PostgreSQL server that accepts connections and statements but answers none.

A stopped server, or a network that drops all packets, closes no connection, and libpq waits as long
as the kernel. The duration of a statement proves nothing, because some take minutes. So if one is
overdue, a new connection is tried: a server that does not answer this either is silent. Until a try
succeeds, overdue statements are cut off and new connections refused at once.
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

# After this time for one statement, the watch checks whether the server answers at all.
OVERDUE_SECONDS: Final = 2.5
# The time limit of that check. libpq allows no less.
PROBE_SECONDS: Final = 2
# The pause after a check: if the server answered, and if it was silent.
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
    """A statement that waits for the server. At `until` it is cut off in any case."""

    connection: psycopg.Connection[Any]
    until: float | None
    since: float = field(default_factory=time.monotonic)
    is_cut: bool = False


class Watch:
    """Watches the statements of this process that wait for a server, and whether it answers."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: set[_Statement] = set()
        self._thread: threading.Thread | None = None
        self._is_probing = False
        self._probe_at = 0.0
        self._parameters: Mapping[str, Any] = {}
        self.is_silent = False
        # A connection could not be opened in time, and the check is not over. Whoever else opens
        # one now would wait as long.
        self.is_in_doubt = False

    def begin(self, connection: psycopg.Connection[Any]) -> _Statement:
        """Starts to watch `connection`; SilentError if its thread has no time left."""
        seconds_left = deadlines.left()
        if seconds_left is not None and seconds_left <= 0:
            raise SilentError
        statement = _Statement(
            connection, None if seconds_left is None else time.monotonic() + seconds_left
        )
        with self._guard:
            self._waiting.add(statement)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._look, name="mem0dash-database-watch", daemon=True
                )
                self._thread.start()
        return statement

    def end(self, statement: _Statement) -> None:
        """Ends the watch over the statement."""
        with self._guard:
            self._waiting.discard(statement)

    def connects_to(self, parameters: Mapping[str, Any]) -> None:
        """Remembers the parameters of connections, for checks."""
        self._parameters = parameters

    def suspect(self) -> None:
        """Checks at once, because a connection could not be opened in time."""
        with self._guard:
            self.is_in_doubt = True
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
        except Exception:  # the watch must go on
            logger.exception("the database could not be looked at")
            is_silent = False
        if is_silent != self.is_silent:
            tell = logger.error if is_silent else logger.info
            tell("the database is silent" if is_silent else "the database answers again")
        with self._guard:
            self.is_silent = is_silent
            self.is_in_doubt = False
            pause = SILENT_SECONDS if is_silent else AGAIN_SECONDS
            self._probe_at = time.monotonic() + pause
            self._is_probing = False


def _cut(statement: _Statement) -> None:
    """Ends the wait: the thread sees a closed connection. The caller holds the guard, so that
    nobody reuses the descriptor meanwhile."""
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
    options = {**parameters, "connect_timeout": PROBE_SECONDS, "autocommit": True}
    try:
        with deadlines.within(2 * PROBE_SECONDS), Connection.connect(**options) as connection:
            # A pooler may answer although the server behind it does not.
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
