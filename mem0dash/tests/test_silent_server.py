"""A PostgreSQL that takes connections and answers none: who comes next does not wait as well."""

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from core.database.postgresql import base
from core.database.postgresql.silence import SilentError, Watch

pytestmark = pytest.mark.one_form


class MuteServer:
    """Takes every connection, says nothing, and counts them."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.taken: list[socket.socket] = []
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        while True:
            try:
                self.taken.append(self.listener.accept()[0])
            except OSError:
                return

    def close(self) -> None:
        self.listener.close()
        for one in self.taken:
            one.close()


@pytest.fixture
def mute() -> Iterator[MuteServer]:
    server = MuteServer()
    yield server
    server.close()


def wrapper_for(server: MuteServer) -> Any:
    return base.DatabaseWrapper(
        {
            **{"NAME": "mem0dash", "USER": "mem0dash", "PASSWORD": "", "HOST": "127.0.0.1"},
            **{"PORT": server.port, "OPTIONS": {"connect_timeout": 2}, "TIME_ZONE": None},
            **{"CONN_MAX_AGE": 0, "CONN_HEALTH_CHECKS": False, "AUTOCOMMIT": True},
        }
    )


def test_after_a_connection_that_nobody_answered_the_next_ones_are_refused_unopened(
    mute: MuteServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch()
    monkeypatch.setattr(base, "watch", watch)
    wrapper = wrapper_for(mute)
    parameters = wrapper.get_connection_params()
    for _ in range(20):
        with pytest.raises(SilentError):
            wrapper._opened(parameters)
    # The first of them, and the look at the server that it caused.
    assert len(mute.taken) <= 2
