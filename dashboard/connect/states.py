"""Which clients have connected, as far as this server knows."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from core.principal import Principal
from dashboard.connect.clients import CLIENTS, Client, newest_by_client
from operations.calls import last_calls


@dataclass(frozen=True, slots=True)
class ClientState:
    """Whether a client has called; `last` is when it did so last."""

    client: Client
    last: datetime | None = None
    is_awaited: bool = False

    @property
    def is_connected(self) -> bool:
        return self.last is not None

    @property
    def colour(self) -> str:
        if self.is_connected:
            return "ok"
        return "wait" if self.is_awaited else "none"

    @property
    def word(self) -> str:
        if self.is_connected:
            return "Connected"
        return "Waiting for the first call" if self.is_awaited else "Not connected"


def client_states(principal: Principal, *, waiting: Collection[str]) -> list[ClientState]:
    """Every client, in the order of the page. `waiting` has the ids of those whose snippets the
    caller has copied. Only the caller's own calls count."""
    newest = newest_by_client(last_calls(principal).items())
    return [
        ClientState(client, newest.get(client.id), is_awaited=client.id in waiting)
        for client in CLIENTS
    ]
