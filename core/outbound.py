"""Restricts outbound connections: never to a cloud's metadata service, whoever opens the socket.

The SDKs of providers open their own sockets, and a name may resolve to another address each time.
So the check is on the address that a socket connects to.
"""

import errno
import ipaddress
import re
import socket
import sys
import unicodedata
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlsplit

from core.errors import InvalidInputError

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Link-local addresses, and clouds' other addresses. A metadata service hands out the machine's
# credentials.
_NETWORKS: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        "169.254.0.0/16",  # AWS, Google, Azure, Oracle, DigitalOcean …; ECS and EKS credentials
        "fe80::/10",
        "100.100.100.200/32",  # Alibaba
        "168.63.129.16/32",  # Azure's host
        "192.0.0.192/32",  # Oracle, first generation
        "fd00:ec2::254/128",  # AWS
        "fd00:ec2::23/128",  # EKS credentials
        "fd20:ce::254/128",  # Google
        "fd00:c1::a9fe:a9fe/128",  # Oracle
        "fd00:42::42/128",  # Scaleway
    )
)
# /96 prefixes with an IPv4 address in the last 32 bits: mapped, compatible, NAT64 (RFC 6052).
_WRAPPED: Final = tuple(ipaddress.IPv6Network(net) for net in ("::ffff:0:0/96", "::/96"))
_NAT64: Final = (
    ipaddress.IPv6Network("64:ff9b::/96"),
    ipaddress.IPv6Network("64:ff9b:1::/48"),  # for local use, RFC 8215
)
_SIX_TO_FOUR: Final = ipaddress.IPv6Network("2002::/16")
_TEREDO: Final = ipaddress.IPv6Network("2001::/32")
_URL_LENGTH: Final = 2000


class MetadataAddressError(PermissionError):
    """Connections to this address are refused. An OSError, so that clients treat it as
    unreachable."""


def _embedded(address: ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses that gateways may read from an IPv6 address."""
    number = int(address)
    low, numbers = number & 0xFFFFFFFF, []
    if any(address in net for net in (*_WRAPPED, *_NAT64)):
        numbers.append(low)
    if address in _NAT64[1]:
        # RFC 6052 puts it around bits 64 to 71 when the prefix has 48 bits.
        numbers.append(((number >> 64 & 0xFFFF) << 16) | (number >> 40 & 0xFFFF))
    if address in _SIX_TO_FOUR:
        numbers.append(number >> 80 & 0xFFFFFFFF)
    if address in _TEREDO:
        numbers.append(low ^ 0xFFFFFFFF)
    if number >> 32 & 0xFFFFFFFF in {0x00005EFE, 0x02005EFE}:  # ISATAP, RFC 5214
        numbers.append(low)
    return [ipaddress.IPv4Address(number) for number in numbers]


def is_metadata(address: _Address) -> bool:
    """Whether the address, in any of its forms, belongs to a metadata service."""
    forms: list[_Address] = [address]
    if isinstance(address, ipaddress.IPv6Address):
        forms += _embedded(address)
    return any(form in network for form in forms for network in _NETWORKS)


@lru_cache(maxsize=1024)
def _refusal(host: str) -> str:
    """Why a socket must not connect to `host`, an address as sockets take it; "" if it may."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        # The socket would resolve this name unseen. HTTP clients resolve names first and connect to
        # the address.
        return "" if host in {"localhost", ""} else f"{host} has to be resolved before connecting."
    return f"{host} is a metadata address." if is_metadata(address) else ""


def check_address(host: Any) -> None:
    """Raises MetadataAddressError if a socket must not connect to `host`."""
    if isinstance(host, bytes | bytearray):
        host = bytes(host).decode("ascii", "replace")
    if isinstance(host, str) and (reason := _refusal(host)):
        raise MetadataAddressError(errno.EACCES, reason)


def _hook(check: Callable[[Any], None]) -> Callable[[str, tuple[Any, ...]], None]:
    # Every audit event of the process comes here, even `id()`, so this only compares one word: 0.15
    # µs per event, and 1 µs of the 9 or more that a connection takes. Everything it needs is in the
    # closure, because at exit modules are gone before the last events.
    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "socket.connect":
            address = args[1]
            # Families other than IP have paths and numbers here.
            if isinstance(address, tuple) and address:
                check(address[0])

    return hook


_installed = False


def install() -> None:
    """Checks all connections that this process opens from now on. This cannot be undone."""
    global _installed
    if not _installed:
        _installed = True
        sys.addaudithook(_hook(check_address))
        _guard_uvloop()


def _guard_uvloop() -> None:
    """Patches uvloop, which connects in C unseen by audit hooks: resolves and checks names here."""
    try:
        import uvloop
    except ImportError:
        return
    connect = uvloop.Loop.create_connection

    async def create_connection(
        self: Any, factory: Any, host: Any = None, port: Any = None, **options: Any
    ) -> Any:
        if host is None:
            return await connect(self, factory, host, port, **options)
        hints = {key: options[key] for key in ("family", "proto", "flags") if key in options}
        addresses = await self.getaddrinfo(host, port, type=socket.SOCK_STREAM, **hints)
        if options.get("ssl"):
            options.setdefault("server_hostname", host)
        failure = OSError(f"{host} has no address.")
        for *_, address in addresses:
            try:
                check_address(address[0])
                return await connect(self, factory, address[0], address[1], **options)
            except OSError as error:
                failure = error
        raise failure

    uvloop.Loop.create_connection = create_connection  # type: ignore[assignment, method-assign]


# --- Our own HTTP client -------------------------------------------------------------------------
def call(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    json: Any = None,
    timeout: float,
) -> tuple[int, str]:
    """One request, without redirects, proxies or retries: the answer's status and text.

    Returns status 0 and the error if no answer came within `timeout` seconds.
    """
    import httpx  # imported here, because it takes a tenth of a second

    try:
        with httpx.Client(trust_env=False, timeout=timeout) as client:
            answer = client.request(method, url, headers=dict(headers), json=json)
            return answer.status_code, answer.text
    except httpx.HTTPError as error:
        return 0, str(error) or type(error).__name__


# --- URLs that people enter ----------------------------------------------------------------------
def check_provider_url(url: str) -> None:
    """Raises InvalidInputError with a sentence if `url` cannot be a provider's.

    Addresses of the local network and of this machine are allowed, because models run there.
    """
    if len(url) > _URL_LENGTH:
        raise InvalidInputError(f"A provider's URL has at most {_URL_LENGTH} characters.")
    # urlsplit drops some of these silently, and clients interpret others differently.
    if re.search(r"[\s\\\x00-\x20\x7f]", url) or not url.isprintable():
        raise InvalidInputError("A provider's URL holds no spaces, backslashes or control signs.")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise InvalidInputError("This is not a URL such as https://api.example.org/v1.") from error
    if parts.scheme not in {"http", "https"}:
        raise InvalidInputError("A provider's URL begins with https:// or http://.")
    if not host or port == 0:
        raise InvalidInputError("A provider's URL names a host, as https://api.example.org/v1.")
    if "@" in parts.netloc:
        raise InvalidInputError(
            "A provider's URL holds no user name or password: put the key into the API key field."
        )
    if "#" in url:
        raise InvalidInputError("A provider's URL holds no fragment (#…).")
    _check_host(host)


def _check_host(host: str) -> None:
    # Full-width digits and dots become ASCII, as clients do it.
    plain = unicodedata.normalize("NFKC", host).replace("。", ".").rstrip(".")
    if "%" in plain:
        raise InvalidInputError("The host in a provider's URL holds no percent sign.")
    try:
        address: _Address = ipaddress.ip_address(plain)
    except ValueError:
        try:
            # Decimal, octal, hexadecimal and shortened notations of IPv4, as libc reads them.
            address = ipaddress.IPv4Address(socket.inet_aton(plain))
        except (OSError, ValueError):
            return
    if is_metadata(address):
        raise InvalidInputError(
            "This is a link-local or cloud metadata address, which is never connected to."
        )
