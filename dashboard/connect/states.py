"""Which clients have connected, as far as this server knows."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime

from core.principal import Principal
from dashboard.connect.clients import CLIENTS, Client, client_named, newest_by_client
from oauth.service import connected_apps
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
    calls = [*last_calls(principal).items(), *_uses_of_apps(principal)]
    newest = newest_by_client(calls)
    return [
        ClientState(client, newest.get(client.id), is_awaited=client.id in waiting)
        for client in CLIENTS
    ]


def _uses_of_apps(principal: Principal) -> Iterator[tuple[str, datetime]]:
    """When each app of the caller's called last, under a name that this page knows. Some clients
    send the User-Agent of their HTTP library, and give their name when they register alone."""
    for app in connected_apps(principal):
        is_own = app.account_id == principal.account_id and app.project_id == principal.project.id
        if not is_own or app.last_used_at is None:
            continue
        # Claude Code publishes its document at claude.ai: what tells more comes first.
        for name in (app.name, app.client_id, app.last_client, *app.destinations):
            if client_named(name) is not None:
                yield name, app.last_used_at
                break
