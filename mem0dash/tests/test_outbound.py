"""No socket of this process connects to a metadata service; only one room may open connections."""

import ast
import asyncio
import http.client
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import pytest
import requests
import uvloop

from core import outbound
from core.errors import InvalidInputError
from core.outbound import MetadataAddressError, check_provider_url
from memories.tests.provider import Provider

pytestmark = pytest.mark.one_form

ROOT = Path(__file__).resolve().parent.parent.parent
# The discard port: should the guard fail, nobody is asked for anything.
PORT = 9

METADATA = (
    "169.254.169.254",
    "169.254.170.2",
    "169.254.170.23",
    "169.254.0.1",
    "100.100.100.200",
    "168.63.129.16",
    "fd00:ec2::254",
    "fd00:ec2::23",
    "fe80::1",
    "fe80::1%lo",
    "febf::1",
    "::ffff:169.254.169.254",
    "::ffff:6464:64c8",
    "::169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::168.63.129.16",
    "64:ff9b:1::a9fe:a9fe",
    "64:ff9b:1:a9fe:a9:fe00::",
    "2002:a9fe:a9fe::1",
    "2002:a83f:8110::",
    "2001:0:4136:e378:8000:63bf:5601:5601",
    "2001:db8::5efe:a9fe:a9fe",
)
HARMLESS = (
    *("127.0.0.1", "10.0.0.7", "192.168.1.20", "100.100.100.201", "168.63.129.17", "8.8.8.8"),
    *("::1", "fd00:ec2::253", "fec0::1", "2001:db8::1", "::ffff:10.0.0.1", "2002:0a00:1::"),
)


def _root_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        yield from getattr(error, "exceptions", ())
        yield from (arg for arg in error.args if isinstance(arg, BaseException))
        if (reason := getattr(error, "reason", None)) and isinstance(reason, BaseException):
            yield from _root_causes(reason)
        error = error.__cause__ or error.__context__


def _refused(call: Callable[[], Any]) -> bool:
    try:
        call()
    except Exception as error:  # noqa: BLE001  (each client has its own)
        return any(isinstance(cause, MetadataAddressError) for cause in _root_causes(error))
    return False


@pytest.mark.parametrize("address", METADATA)
def test_sockets_do_not_connect_to_metadata_addresses(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as opened:
        opened.settimeout(0.2)
        with pytest.raises(MetadataAddressError):
            opened.connect((address, PORT))
        with pytest.raises(MetadataAddressError):
            opened.connect_ex((address, PORT))
        with pytest.raises(MetadataAddressError):
            opened.connect((address.encode(), PORT))


@pytest.mark.parametrize("address", HARMLESS)
def test_other_addresses_are_not_in_the_way(address: str) -> None:
    outbound.check_address(address)


@pytest.mark.parametrize("host", ["2852039166", "0xa9.254.43518", "169.254.43518"])
def test_sockets_take_addresses_only_not_names(host: str) -> None:
    with socket.socket() as opened, pytest.raises(MetadataAddressError):
        opened.connect((host, PORT))


def test_other_families_are_left_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(path)
        server.listen()
        client.connect(path)


@pytest.fixture
def rebound(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """`rebound["address"]` is what every name resolves to from now on."""
    answer = {"address": "127.0.0.1"}

    def resolve(host: Any, port: Any, *_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answer["address"], int(port)))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return answer


def _aiohttp_like(url: str, loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def connect() -> None:
        host, _, port = url.removeprefix("http://").partition("/")[0].partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(connect())


CLIENTS: dict[str, Callable[[str], Any]] = {
    "httpx": lambda url: httpx.get(url, trust_env=False),
    "httpx2": lambda url: httpx2.get(url, trust_env=False),
    "requests": lambda url: requests.get(url, timeout=2),
    "urllib": lambda url: urllib.request.urlopen(url, timeout=2),
    "http.client": lambda url: http.client.HTTPConnection(
        url.removeprefix("http://").partition("/")[0], timeout=2
    ).request("GET", "/"),
    "asyncio": lambda url: _aiohttp_like(url, asyncio.new_event_loop),
}


@pytest.mark.parametrize("client", CLIENTS)
def test_a_name_that_resolves_to_another_address_later_is_caught(
    provider: Provider, rebound: dict[str, str], client: str
) -> None:
    port = provider.origin.rpartition(":")[2]
    url = f"http://provider.example:{port}/v1/models"
    check_provider_url(url)
    CLIENTS[client](url)
    rebound["address"] = "169.254.169.254"
    assert _refused(lambda: CLIENTS[client](url))


@pytest.mark.parametrize("address", ["169.254.169.254", "[::ffff:169.254.169.254]"])
def test_uvloop_connects_as_carefully(provider: Provider, address: str) -> None:
    def connect(host: str, port: int, **options: Any) -> None:
        async def run() -> None:
            _, writer = await asyncio.open_connection(host, port, **options)
            writer.close()

        uvloop.run(run())

    port = int(provider.origin.rpartition(":")[2])
    connect("127.0.0.1", port)
    connect("localhost", port)
    assert _refused(lambda: connect(address.strip("[]"), PORT))
    # A handshake without TLS at the other side: the name is handed on, and the error is its own.
    with pytest.raises(ssl.SSLError):
        connect("localhost", port, ssl=ssl.create_default_context())


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_do_not_lead_to_metadata(provider: Provider, status: int) -> None:
    for part in (provider.chat, provider.embeddings, provider.listing):
        part.redirect(f"http://169.254.169.254:{PORT}/latest/meta-data/", status=status)
    client = openai.OpenAI(api_key="k", base_url=provider.url, max_retries=0, timeout=5)
    assert _refused(client.models.list)
    assert _refused(lambda: client.embeddings.create(model="e", input="x"))
    assert _refused(lambda: requests.get(f"{provider.url}/models", timeout=5))
    assert _refused(lambda: httpx.get(f"{provider.url}/models", follow_redirects=True))


def test_the_guard_costs_next_to_nothing() -> None:
    hook = outbound._hook(outbound.check_address)
    address = (None, ("127.0.0.1", 80))

    def seconds(event: str, args: Any) -> float:
        started = time.perf_counter()
        for _ in range(20_000):
            hook(event, args)
        return (time.perf_counter() - started) / 20_000

    # Measured 0.05 and 0.3 µs; the limits leave room for a busy machine.
    assert min(seconds("builtins.id", (1,)) for _ in range(5)) < 1e-6
    assert min(seconds("socket.connect", address) for _ in range(5)) < 1e-5


@pytest.mark.parametrize(
    "url",
    [
        "https://api.openai.com/v1",
        "http://localhost:11434",
        "http://192.168.1.20:8080/v1",
        "http://[::1]:8000/v1",
        "http://[fd12:3456::1]/v1",
        "https://gateway.example.org/openai/v1?api-version=2024-10-21",
        "http://модель.example/v1",
    ],
)
def test_urls_of_providers_are_accepted(url: str) -> None:
    check_provider_url(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "begins with"),
        ("ftp://example.org", "begins with"),
        ("file:///etc/passwd", "begins with"),
        ("javascript:alert(1)", "begins with"),
        ("api.openai.com/v1", "begins with"),
        ("//api.openai.com/v1", "begins with"),
        ("https://", "names a host"),
        ("https:///v1", "names a host"),
        ("https://example.org:0/", "names a host"),
        ("https://example.org:port/", "not a URL"),
        ("https://[::1/v1", "not a URL"),
        ("https://key:secret@example.org/v1", "no user name"),
        ("https://@example.org/v1", "no user name"),
        ("https://example.org/v1#part", "no fragment"),
        ("https://example.org/v1#", "no fragment"),
        ("https://example.org /v1", "no spaces"),
        ("https://exam\tple.org/v1", "no spaces"),
        ("https://example.org\\@169.254.169.254/", "no spaces"),
        ("https://exa\u200bmple.org/", "no spaces"),
        ("https://" + "a" * 2000, "at most"),
        ("http://%31%36%39.254.169.254/", "percent"),
        *(
            (f"http://{host}/latest", "never connected to")
            for host in (
                "169.254.169.254",
                "169.254.169.254.",
                "169.254.169.254:80",
                "2852039166",
                "0xa9fea9fe",
                "0251.0376.0251.0376",
                "0xa9.0xfe.0xa9.0xfe",
                "169.254.43518",
                "169.16689662",
                "１６９.２５４.１６９.２５４",
                "169。254。169。254",
                "[::ffff:a9fe:a9fe]",
                "[64:ff9b::169.254.169.254]",
                "[2002:a9fe:a9fe::]",
                "[fd00:ec2::254]",
                "[FE80::1]",
                "100.100.100.200",
                "168.63.129.16",
            )
        ),
    ],
)
def test_other_urls_are_refused_with_a_sentence(url: str, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said) as caught:
        check_provider_url(url)
    assert "secret" not in caught.value.message


# --- Who may open connections ---------------------------------------------------------------------
ROOMS = ("core", "mem0dash", "accounts", "jobs", "apikeys", "oauth", "operations", "memories")
GENERAL = {
    *("requests", "httpx", "httpx2", "urllib.request", "urllib3", "aiohttp", "http.client"),
    *("ftplib", "smtplib", "telnetlib", "websockets", "pycurl", "xmlrpc.client"),
}
# Imports that open nothing.
HARMLESS_IMPORTS = {
    ("memories/index/qdrant.py", "httpx"),  # the size of qdrant-client's pool
    ("memories/index/patience.py", "httpx"),  # the requests that qdrant-client makes
    ("core/first_start.py", "psycopg"),  # the database, before Django knows of it
}
# What opens sockets of its own, and the only room that may import it. All but those that connect
# outside Python (psycopg, Qdrant Edge, which opens none) pass the guard above.
SDKS = {
    **dict.fromkeys(("mem0", "openai", "anthropic", "ollama", "google", "groq"), "memories/engine"),
    "qdrant_client": "memories/index",
    "qdrant_edge": "memories/index",
    "psycopg": "core/database/postgresql",
    "oauth2_provider.cimd": "oauth",
}


def _imports() -> Iterator[tuple[str, str]]:
    """(file, module) of every import in our code, those inside functions as well."""
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    for path in files:
        name = path.relative_to(ROOT).as_posix()
        if "/tests/" in name or "/migrations/" in name:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((name, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield name, node.module
                yield from ((name, f"{node.module}.{alias.name}") for alias in node.names)


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def test_only_the_outbound_module_may_use_a_general_http_client() -> None:
    found = [
        f"{name}: {module}"
        for name, module in _imports()
        if name != "core/outbound.py"
        and (name, module) not in HARMLESS_IMPORTS
        and any(_within(module, package) for package in GENERAL)
    ]
    assert not found


def test_clients_with_sockets_of_their_own_are_in_their_rooms() -> None:
    found = [
        f"{name}: {module}"
        for name, module in _imports()
        for package, room in SDKS.items()
        if _within(module, package)
        and not name.startswith(f"{room}/")
        and (name, module) not in HARMLESS_IMPORTS
    ]
    assert not found
