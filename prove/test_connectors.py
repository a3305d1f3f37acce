"""Clients of the Model Context Protocol as people have them: they sign in and call the memories.

The python SDK's client and mcp-remote (which brings Claude Desktop and others here) find everything
out from the address alone; a person allows them in a browser. Once against a single process, once
against two web processes on PostgreSQL, which take turns.
"""

import asyncio
import contextlib
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from mcp import Client
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from pydantic import AnyUrl

from mem0dash.tests.browser import Visit, chromium
from prove import connected_apps, npm
from prove.pair import Pair
from prove.postgres import Cluster
from prove.server import Server, free_port

__all__ = ["chromium"]

SECONDS: Final = 60.0
# Ends every access token, as time would.
EXPIRE: Final = (
    "from django.utils import timezone\n"
    "from oauth.models import AccessToken\n"
    "AccessToken.objects.update(expires=timezone.now())\n"
)


class Service:
    """What a person has: an address, and a browser in which they have signed in."""

    def __init__(self, url: str, server: Server, browser: Any) -> None:
        self.url, self._server = url, server
        self.visit = Visit(browser.new_context(), url).sign_in()
        self.consents = 0

    def allow(self, address: str) -> None:
        """Allows an app in the browser, which leads back to the app."""
        page = self.visit.page
        page.goto(address)
        page.get_by_role("button", name="Allow").click()
        page.wait_for_url(lambda url: not url.startswith(self.url))
        self.consents += 1

    def revoke(self, name: str) -> None:
        """Revokes an app on the page of the connected apps."""
        page = self.visit.page
        page.goto(f"{self.url}/dashboard/apps")
        row = page.get_by_role("row").filter(has_text=name)
        row.get_by_role("button", name="Revoke").click()
        row.wait_for(state="detached")

    def expire(self) -> None:
        """Ends every access token, as an hour would."""
        self._server.manage("shell", "--verbosity", "0", "--command", EXPIRE)


@pytest.fixture(scope="module", params=["one process", "two on PostgreSQL"])
def service(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    chromium: Any,
    model: str,
) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    if request.param == "one process":
        server = Server(folder / "data")
        try:
            server.start()
            server.bootstrap()
            yield Service(server.url, server, chromium)
        finally:
            server.kill9()
    else:
        cluster: Cluster = request.getfixturevalue("postgres")
        with Pair(folder, cluster.create_database("connectors")) as pair:
            yield Service(pair.url, pair.servers[0], chromium)


# --- What each client does ------------------------------------------------------------------------
Work = Callable[[Client], Coroutine[Any, Any, Any]]


async def remember(client: Client) -> None:
    """Stores a memory and finds it, as an agent does."""
    tools = {tool.name for tool in (await client.list_tools()).tools}
    assert {"add_memory", "search_memories", "delete_memory"} <= tools
    said = {"content": "Alice grows tomatoes", "user_id": "alice", "infer": False}
    [added] = await called(client, "add_memory", **said)
    asked = {"query": "what does she grow?", "user_id": "alice"}
    async with asyncio.timeout(SECONDS):
        while not (found := await called(client, "search_memories", **asked)):
            await asyncio.sleep(0.1)
    assert [hit["id"] for hit in found] == [added["id"]]
    assert (await client.call_tool("delete_memory", {"memory_id": added["id"]})).is_error is False


async def look(client: Client) -> None:
    """Lists who has memories: an answer is all that matters."""
    await called(client, "list_entities")


async def called(client: Client, tool: str, **arguments: Any) -> list[dict[str, Any]]:
    answer = await client.call_tool(tool, arguments)
    assert not answer.is_error, answer
    assert answer.structured_content is not None
    return list(answer.structured_content["results"])


def in_a_thread(
    work: Coroutine[Any, Any, None], service: Service, asked: Callable[[], str | None]
) -> None:
    """Runs a client in a thread of its own, for the browser's has an event loop already; the person
    allows whatever is asked for."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(asyncio.run, work)
        while not running.done():
            if (address := asked()) is not None:
                service.allow(address)
        running.result()


# --- The SDK's own client -------------------------------------------------------------------------
class Storage:
    """Where the client keeps what it has got."""

    tokens: OAuthToken | None = None
    info: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.info

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.info = client_info


def listening(tell: Callable[[str], None]) -> int:
    """The port at which a browser is sent back to an app, which is told with what."""

    class Callback(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            if "?" in self.path:
                tell(self.path)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Callback)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return int(server.server_address[1])


class PythonAgent:
    """The python client; `era` is how it speaks: "auto" without a handshake, "legacy" with one."""

    def __init__(self, service: Service, era: str) -> None:
        self.service, self.era, self.storage = service, era, Storage()
        self.name = f"Python agent ({era})"
        self._asked: queue.Queue[str] = queue.Queue()
        self._answered: queue.Queue[str] = queue.Queue()
        callback = f"http://127.0.0.1:{listening(self._answered.put)}/callback"
        self._provider = OAuthClientProvider(
            server_url=f"{service.url}/mcp",
            client_metadata=OAuthClientMetadata(
                client_name=self.name, redirect_uris=[AnyUrl(callback)]
            ),
            storage=self.storage,
            redirect_handler=self._ask,
            callback_handler=self._wait,
        )

    async def _ask(self, address: str) -> None:
        self._asked.put(address)

    async def _wait(self) -> AuthorizationCodeResult:
        answer = await asyncio.to_thread(self._answered.get, timeout=SECONDS)
        said = {name: values[0] for name, values in parse_qs(urlsplit(answer).query).items()}
        return AuthorizationCodeResult(code=said["code"], state=said["state"], iss=said.get("iss"))

    def expire(self) -> None:
        """An hour passes, for the client as well."""
        self.service.expire()
        self._provider.context.token_expiry_time = time.time() - 1

    def run(self, work: Work) -> None:
        def asked() -> str | None:
            with contextlib.suppress(queue.Empty):
                return self._asked.get(timeout=0.05)
            return None

        in_a_thread(self._connected(work), self.service, asked)

    async def _connected(self, work: Work) -> None:
        url = f"{self.service.url}/mcp"
        async with httpx2.AsyncClient(
            auth=self._provider, timeout=SECONDS, trust_env=False
        ) as http:
            transport = streamable_http_client(url, http_client=http)
            async with Client(transport, mode=self.era) as client:
                await work(client)


@pytest.mark.parametrize("era", ["auto", "legacy"])
def test_the_python_client_signs_in_calls_refreshes_and_asks_again_once_revoked(
    service: Service, era: str
) -> None:
    agent, before = PythonAgent(service, era), service.consents
    agent.run(remember)
    first = agent.storage.tokens
    assert service.consents == before + 1
    agent.expire()
    agent.run(look)
    second = agent.storage.tokens
    assert service.consents == before + 1, "an expired token cost the person a second consent"
    assert first is not None
    assert second is not None
    assert (second.access_token, second.refresh_token) != (first.access_token, first.refresh_token)
    service.revoke(agent.name)
    assert connected_apps.call(service.url, second.access_token) == 401
    agent.run(look)
    assert service.consents == before + 2, "a revoked app has to ask again"


# --- mcp-remote -----------------------------------------------------------------------------------
class Remote:
    """mcp-remote, which an agent starts as a program and speaks to by its input and output."""

    name = "MCP CLI Proxy"

    def __init__(self, service: Service, modules: Path, home: Path) -> None:
        self.service, self._log = service, home / "log"
        self._program = StdioServerParameters(
            command=str(modules / ".bin" / "node"),
            args=[
                str(modules / "mcp-remote" / "dist" / "proxy.js"),
                f"{service.url}/mcp",
                str(free_port()),
                "--allow-http",
            ],
            # It opens no browser of this machine.
            env={"HOME": str(home), "PATH": os.environ["PATH"], "BROWSER": "true"},
        )

    def run(self, work: Work) -> None:
        seen = self._asked()

        def asked() -> str | None:
            time.sleep(0.05)
            new = self._asked()[len(seen) :]
            seen.extend(new)
            return new[-1] if new else None

        in_a_thread(self._connected(work), self.service, asked)

    def _asked(self) -> list[str]:
        """The addresses that it has sent its person to."""
        text = self._log.read_text() if self._log.exists() else ""
        return re.findall(rf"^{re.escape(self.service.url)}/oauth/authorize\S+$", text, re.M)

    async def _connected(self, work: Work) -> None:
        with self._log.open("a") as log:
            async with Client(stdio_client(self._program, errlog=log), mode="legacy") as client:
                await work(client)


def test_mcp_remote_signs_in_calls_refreshes_and_asks_again_once_revoked(
    service: Service, tmp_path: Path
) -> None:
    modules = npm.installed(npm.NODE, npm.CONFORMANCE, npm.REMOTE)
    remote, before = Remote(service, modules, tmp_path), service.consents
    remote.run(remember)
    assert service.consents == before + 1
    service.expire()
    remote.run(look)
    assert service.consents == before + 1, "an expired token cost the person a second consent"
    service.revoke(remote.name)
    remote.run(look)
    assert service.consents == before + 2, "a revoked app has to ask again"
