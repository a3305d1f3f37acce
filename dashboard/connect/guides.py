"""How each client is connected, step by step, with what can be copied."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from apikeys.snippets import snippets

# Where a key stands in what is copied. Keys are never filled in: the page is not the place for one.
KEY: Final = "m0sk_…"
SIGNING_IN: Final = "By signing in"
WITH_A_KEY: Final = "With an API key"
_ASK: Final = "Ask: “What do you remember about me?”"


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction; `code` in backticks is shown as code. `snippet` can be copied, and `label`
    says what it is; `kind` is its format, "" for a command or an address."""

    text: str
    snippet: str = ""
    label: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to connect."""

    title: str
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Guide:
    """All ways to connect one client. `cloud` is who calls from elsewhere, and so needs a server
    with a public address; "" for a client on the person's own machine."""

    ways: tuple[Way, ...]
    cloud: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where this server is: its address without a slash at the end."""

    base: str

    @property
    def mcp(self) -> str:
        """As it is registered: clients compare it letter by letter, so without a slash."""
        return f"{self.base}/mcp"

    @property
    def is_encrypted(self) -> bool:
        return self.base.startswith("https://")


def guides(base_url: str) -> dict[str, Guide]:
    """The guides by the id of the client. `base_url` holds no quotes: a checked host has none."""
    place = Place(base_url)
    return {client: write(place) for client, write in _GUIDES.items()}


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2)


def _key_step() -> Step:
    return Step(
        "Keep an API key in the environment of the shell that starts the client.",
        f"export MEM0_API_KEY={KEY}",
        "Environment variable",
    )


def _claude_code(place: Place) -> Guide:
    add = f"claude mcp add --scope user --transport http mem0dash {place.mcp}"
    header = '--header "Authorization: Bearer $MEM0_API_KEY"'
    signing_in = (
        Step("Add the server.", add, "Command for Claude Code"),
        Step("Type `/mcp` in Claude Code and sign in."),
        Step(_ASK),
    )
    with_a_key = (
        _key_step(),
        Step(
            "Add the server with the key.", f"{add} {header}", "Command for Claude Code with a key"
        ),
        Step(_ASK),
    )
    return Guide((Way(SIGNING_IN, signing_in), Way(WITH_A_KEY, with_a_key)))


def _claude(place: Place) -> Guide:
    signing_in = (
        Step("In Claude, open Settings, then Connectors, and choose “Add custom connector”."),
        Step("Paste this address.", place.mcp, "Address for Claude"),
        Step("Choose Connect, sign in here, and allow access."),
    )
    # A header with a space in its argument arrives in pieces on Windows: the value is a variable.
    arguments = ["-y", "mcp-remote", place.mcp, "--header", "Authorization:${MEM0_AUTHORIZATION}"]
    if not place.is_encrypted:
        arguments.append("--allow-http")
    bridge = {
        "command": "npx",
        "args": arguments,
        "env": {"MEM0_AUTHORIZATION": f"Bearer {KEY}"},
    }
    with_a_key = (
        Step("In Claude Desktop, open Settings, then Developer, and choose “Edit Config”."),
        Step(
            "Add the server to `claude_desktop_config.json`. mcp-remote needs Node.js.",
            _json({"mcpServers": {"mem0dash": bridge}}),
            "Configuration for Claude Desktop",
            "json",
        ),
        Step("Restart Claude Desktop."),
    )
    ways = (Way(SIGNING_IN, signing_in), Way(f"{WITH_A_KEY}, in Claude Desktop", with_a_key))
    return Guide(ways, cloud="Claude")


def _chatgpt(place: Place) -> Guide:
    signing_in = (
        Step("In ChatGPT, open Settings, Apps, Advanced settings, and turn on Developer mode."),
        Step(
            "Choose “Create app” and paste this address. Choose OAuth.",
            place.mcp,
            "Address for ChatGPT",
        ),
        Step("Sign in here and allow access."),
    )
    codex = (
        Step(
            "Add the server to Codex.",
            f"codex mcp add mem0dash --url {place.mcp}\ncodex mcp login mem0dash",
            "Commands for Codex",
        ),
        Step("Sign in on the page that opens."),
    )
    toml = f'[mcp_servers.mem0dash]\nurl = "{place.mcp}"\nbearer_token_env_var = "MEM0_API_KEY"'
    with_a_key = (
        _key_step(),
        Step("Add the server to `~/.codex/config.toml`.", toml, "Configuration for Codex", "toml"),
    )
    ways = (
        Way("ChatGPT, by signing in", signing_in),
        Way("Codex, by signing in", codex),
        Way("Codex, with an API key", with_a_key),
    )
    return Guide(ways, cloud="ChatGPT")


def _vs_code(place: Place) -> Guide:
    server: dict[str, Any] = {"type": "http", "url": place.mcp}
    where = "Save this as `.vscode/mcp.json` in a project, or run “MCP: Open User Configuration”."
    signing_in = (
        Step(where, _json({"servers": {"mem0dash": server}}), "Configuration for VS Code", "json"),
        Step("Choose Start above the server's name, and sign in on the page that opens."),
        Step(_ASK),
    )
    # VS Code asks for the key once and keeps it in the operating system's store.
    question = {
        "type": "promptString",
        "id": "mem0dash-key",
        "description": "API key of mem0dash",
        "password": True,
    }
    keyed = {**server, "headers": {"Authorization": "Bearer ${input:mem0dash-key}"}}
    with_a_key = (
        Step(
            where,
            _json({"inputs": [question], "servers": {"mem0dash": keyed}}),
            "Configuration for VS Code with a key",
            "json",
        ),
        Step("Choose Start. VS Code asks for the key and stores it safely."),
    )
    return Guide((Way(SIGNING_IN, signing_in), Way(WITH_A_KEY, with_a_key)))


def _cursor(place: Place) -> Guide:
    server = {"url": place.mcp}
    keyed = {**server, "headers": {"Authorization": "Bearer ${env:MEM0_API_KEY}"}}
    where = "Save this as `~/.cursor/mcp.json`, or as `.cursor/mcp.json` in one project."
    signing_in = (
        Step(
            where, _json({"mcpServers": {"mem0dash": server}}), "Configuration for Cursor", "json"
        ),
        Step("Open Cursor Settings, then MCP, choose “Needs login”, and sign in."),
        Step(_ASK),
    )
    with_a_key = (
        _key_step(),
        Step(
            where,
            _json({"mcpServers": {"mem0dash": keyed}}),
            "Configuration for Cursor with a key",
            "json",
        ),
    )
    return Guide((Way(SIGNING_IN, signing_in), Way(WITH_A_KEY, with_a_key)))


def _opencode(place: Place) -> Guide:
    server: dict[str, Any] = {"type": "remote", "url": place.mcp, "enabled": True}
    keyed = {**server, "oauth": False, "headers": {"Authorization": "Bearer {env:MEM0_API_KEY}"}}
    schema = "https://opencode.ai/config.json"
    signing_in = (
        Step(
            "Add the server to `~/.config/opencode/opencode.json`.",
            _json({"$schema": schema, "mcp": {"mem0dash": server}}),
            "Configuration for OpenCode",
            "json",
        ),
        Step("Sign in.", "opencode mcp auth mem0dash", "Command for OpenCode"),
    )
    newer = (
        Step(
            "Add the server.",
            f"opencode mcp add mem0dash --global --url {place.mcp}",
            "Command for OpenCode 2",
        ),
        Step("In OpenCode, type `/mcps`, choose mem0dash, and sign in."),
    )
    with_a_key = (
        _key_step(),
        Step(
            "Add the server to `~/.config/opencode/opencode.json`.",
            _json({"$schema": schema, "mcp": {"mem0dash": keyed}}),
            "Configuration for OpenCode with a key",
            "json",
        ),
    )
    return Guide(
        (
            Way(SIGNING_IN, signing_in),
            Way("OpenCode 2, by signing in", newer),
            Way(WITH_A_KEY, with_a_key),
        )
    )


def _n8n(place: Place) -> Guide:
    node = Step(
        "Add the node “MCP Client Tool” to your AI agent, with this endpoint.",
        place.mcp,
        "Endpoint for n8n",
    )
    transport = Step("Choose “HTTP Streamable” as its server transport.")
    signing_in = (
        node,
        transport,
        Step("Choose “MCP OAuth2” as its authentication, and connect the credential."),
    )
    with_a_key = (
        node,
        transport,
        Step("Choose “Bearer Auth” as its authentication, and paste an API key as the token."),
    )
    return Guide((Way(SIGNING_IN, signing_in), Way(WITH_A_KEY, with_a_key)))


def _curl(place: Place) -> Guide:
    [rest] = [
        made for made in snippets(base_url=place.base, key=KEY, user_id="mara") if made.id == "curl"
    ]
    steps = (
        Step(
            "Add a memory, then find it by what it means.", rest.code.strip(), "Commands for curl"
        ),
        Step("The whole REST API is documented under API documentation."),
    )
    return Guide((Way(WITH_A_KEY, steps),))


_GUIDES: Final[dict[str, Callable[[Place], Guide]]] = {
    "claude-code": _claude_code,
    "claude": _claude,
    "chatgpt": _chatgpt,
    "vs-code": _vs_code,
    "cursor": _cursor,
    "opencode": _opencode,
    "n8n": _n8n,
    "curl": _curl,
}
