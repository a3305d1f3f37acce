"""The clients that the page Connect knows, and how their calls are recognised."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final


@dataclass(frozen=True, slots=True)
class Client:
    """A client of MCP or of the REST API. `mark` stands where others have a logo; `names` matches
    what it calls itself, in its User-Agent, in MCP's clientInfo or when it registers."""

    id: str
    name: str
    mark: str
    names: re.Pattern[str]


def _client(id_: str, name: str, mark: str, names: str) -> Client:
    return Client(id_, name, mark, re.compile(names, re.IGNORECASE))


# In the order of the page. The first one that matches counts: "claude-code" is not Claude.ai.
CLIENTS: Final = (
    _client("claude-code", "Claude Code", "Cc", r"claude[ _-]?code|claude-cli"),
    _client("claude", "Claude.ai and Claude Desktop", "Cl", r"\bclaude|anthropic"),
    _client("chatgpt", "ChatGPT and Codex", "Gp", r"openai|chatgpt|codex"),
    _client("vs-code", "VS Code", "Vs", r"visual[ -]studio[ -]code|vs[ -]?code(?!r)"),
    _client("cursor", "Cursor", "Cu", r"\bcursor"),
    _client("opencode", "OpenCode", "Oc", r"opencode"),
    _client("n8n", "n8n", "n8", r"\bn8n"),
    _client("curl", "REST API with curl", "$", r"^curl\b"),
)
BY_ID: Final[Mapping[str, Client]] = {client.id: client for client in CLIENTS}


def client_named(name: str) -> Client | None:
    """The client that calls itself so; None for another one."""
    return next((client for client in CLIENTS if client.names.search(name)), None)


def newest_by_client(calls: Iterable[tuple[str, datetime]]) -> dict[str, datetime]:
    """The newest call of each known client, by its id, from the names that clients give."""
    newest: dict[str, datetime] = {}
    for name, at in calls:
        client = client_named(name)
        if client is not None:
            newest[client.id] = max(at, newest.get(client.id, at))
    return newest
