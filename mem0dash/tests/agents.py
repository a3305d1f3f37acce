"""A client of /mcp in this process: it drives the application as a server would, without a
socket."""

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from django.db import connection

from mem0dash.asgi import agents as connector
from mem0dash.asgi import application

# The era of the handshake, which needs none here, and the one without.
HANDSHAKE = "2025-11-25"
MODERN = "2026-07-28"
ACCEPT = "application/json, text/event-stream"
_numbers = itertools.count(1)


@dataclass
class Reply:
    """An answer: its head, and the pieces of its body."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    pieces: list[bytes] = field(default_factory=list)
    is_over: bool = False
    # The server's stop, and the client's: for what goes on beside an open call.
    stop: Callable[[], object] = lambda: None
    hang_up: Callable[[], object] = lambda: None

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def messages(self) -> list[Any]:
        """The messages of the protocol in it, whether it is a stream or a document."""
        if not self.headers.get("content-type", "").startswith("text/event-stream"):
            return [self.json]
        lines = self.body.decode().splitlines()
        return [json.loads(line[5:]) for line in lines if line.startswith("data:")]

    @property
    def result(self) -> Any:
        """What was answered to the call."""
        return self.messages[-1]["result"]

    @property
    def error(self) -> Any:
        return self.messages[-1]["error"]

    @property
    def found(self) -> Any:
        """What a tool answered, where it did not fail."""
        assert not self.result.get("isError"), self.result
        return self.result["structuredContent"]

    @property
    def failure(self) -> str:
        """What a tool says that failed."""
        assert self.result["isError"]
        return str(self.result["content"][0]["text"])


def message(method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": next(_numbers), "method": method, "params": params or {}}


def call_of(tool: str, **arguments: Any) -> dict[str, Any]:
    return message("tools/call", {"name": tool, "arguments": arguments})


def in_era(body: dict[str, Any], era: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The message and its headers as clients of this era send them."""
    headers = {"mcp-protocol-version": era}
    if era != MODERN:
        return body, headers
    prefix = "io.modelcontextprotocol"
    meta = {
        f"{prefix}/protocolVersion": era,
        f"{prefix}/clientCapabilities": {},
        f"{prefix}/clientInfo": {"name": "tests", "version": "1"},
    }
    params = {**body["params"], "_meta": {**body["params"].get("_meta", {}), **meta}}
    headers["mcp-method"] = body["method"]
    if name := params.get("name") or params.get("uri"):
        headers["mcp-name"] = name
    return {**body, "params": params}, headers


async def aside(work: Callable[..., Any], *given: Any) -> Any:
    """What `work` gives, in a thread that keeps no connection to the database."""

    def closing() -> Any:
        try:
            return work(*given)
        finally:
            connection.close()

    return await asyncio.to_thread(closing)


async def until(condition: Callable[[], Any]) -> None:
    """Waits for a condition, not for a clock."""
    async with asyncio.timeout(20):
        while not await aside(condition):
            await asyncio.sleep(0.01)


Meanwhile = Callable[[Reply], Awaitable[None]]


class Agent:
    """Calls with one key, or with whatever headers it is given."""

    def __init__(self, key: str | None = None, era: str = HANDSHAKE, **headers: str) -> None:
        self.era = era
        self.headers = {"host": "localhost", "accept": ACCEPT, "content-type": "application/json"}
        self.headers |= {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            self.headers["authorization"] = f"Bearer {key}"

    def call(self, tool: str, **arguments: Any) -> Reply:
        return self.ask(call_of(tool, **arguments))

    def ask(self, body: dict[str, Any], **rest: Any) -> Reply:
        return asyncio.run(self.asking(body, **rest))

    async def asking(self, body: dict[str, Any], **rest: Any) -> Reply:
        """The same beside other calls, which keep the server running where `runs` is False."""
        sent, headers = in_era(body, self.era)
        return await self.sending(json.dumps(sent).encode(), headers=headers, **rest)

    def send(self, body: bytes = b"", **rest: Any) -> Reply:
        return asyncio.run(self.sending(body, **rest))

    async def sending(
        self,
        body: bytes,
        *,
        method: str = "POST",
        path: str = "/mcp",
        headers: dict[str, str] | None = None,
        meanwhile: Meanwhile | None = None,
        runs: bool = True,
    ) -> Reply:
        """One request. `meanwhile` goes on beside it, with what has been answered so far."""
        every = {**self.headers, **(headers or {}), "content-length": str(len(body))}
        return await _exchange(method, path, every, body, meanwhile, runs)


async def _exchange(
    method: str,
    path: str,
    headers: dict[str, str],
    body: bytes,
    meanwhile: Meanwhile | None,
    runs: bool,
) -> Reply:
    reply, whole, gone = Reply(), [body], asyncio.Event()

    async def receive() -> dict[str, Any]:
        if whole:
            return {"type": "http.request", "body": whole.pop(), "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(part: Any) -> None:
        assert not reply.is_over, "something was sent after the end"
        if part["type"] == "http.response.start":
            assert not reply.status, "it began twice"
            reply.status = part["status"]
            reply.headers = {k.decode(): v.decode() for k, v in part["headers"]}
        else:
            reply.pieces.append(part.get("body", b""))
            reply.is_over = not part.get("more_body", False)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }

    async def request() -> None:
        await application(scope, receive, send)

    async def both() -> None:
        running = asyncio.ensure_future(request())
        reply.stop, reply.hang_up = running.cancel, gone.set
        if meanwhile is not None:
            await meanwhile(reply)
        await running
        assert reply.is_over or gone.is_set(), "it was not answered"

    if runs:
        async with connector.running():
            await both()
    else:
        await both()
    return reply
