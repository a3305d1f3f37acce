"""Host names: the entries of ALLOWED_HOSTS, and the Host header of a request."""

import ipaddress
import re
from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

from django.conf import settings

from core.env import ConfigurationError

EVERY: Final = "*"
# What compose.yaml calls its services, and what container engines call the machine below. Nobody
# can register such a name: the first have no dot, and "internal" is set aside.
OWN_NAMES: Final = frozenset(
    {"mem0dash", "web", "host.docker.internal", "host.containers.internal"}
)
_SENT: Final = re.compile(r"(?P<name>[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")
_NAME: Final = re.compile(r"(?:\*?\.)?[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?")


def parse_host(variable: str, word: str) -> str:
    """The host that an entry of `variable` means: a name, "*" for every name, or ".example.org" and
    "*.example.org" for those below it (the first for itself as well). A scheme, a port and a dot at
    the end fall away. ConfigurationError for what names no host."""
    if word == EVERY:
        return EVERY
    name = _without_address(word)
    try:
        name = ipaddress.ip_address(name).compressed
    except ValueError:
        name = _ascii(name.rstrip("."))
        if not _NAME.fullmatch(name) or ".." in name:
            raise ConfigurationError(
                f"{variable} must list host names such as memory.example.org, .example.org for all "
                f"below it, or * for every name, not {word[:100]!r}."
            ) from None
    return name


def _without_address(word: str) -> str:
    """The host of what may be an address, or have a port."""
    scheme, found, rest = word.partition("://")
    if found and scheme.lower() in {"http", "https"}:
        try:
            parts = urlsplit(f"//{rest}")
            return (parts.hostname or "") if parts.username is None else word
        except ValueError:
            return word
    if found or "/" in word:
        return word
    return re.sub(r"(?<=[^:]):\d{1,5}\Z", "", word) if word.count(":") == 1 else _bracketed(word)


def _bracketed(word: str) -> str:
    """An IPv6 address without its brackets and the port behind them."""
    match = re.fullmatch(r"\[([0-9A-Fa-f:.]+)\](?::\d{1,5})?", word)
    return match[1] if match else word


def _ascii(name: str) -> str:
    """As browsers send it."""
    lowered = name.lower()
    if lowered.isascii():
        return lowered
    try:
        return lowered.encode("idna").decode()
    except UnicodeError:
        return lowered


class Hosts:
    """The hosts that requests may name, in their Host header.

    Loopback and addresses in digits always are: no name can be made to lead elsewhere that is none.
    """

    def __init__(self, named: Collection[str]) -> None:
        names = {name.lower() for name in named}
        self._every = EVERY in names
        self._names = frozenset(name.removeprefix(".") for name in names if name[:1] != "*")
        self._below = tuple(name.removeprefix("*") for name in names if name[:1] in {"*", "."})

    def accept(self, host: str) -> bool:
        """Whether `host`, a whole Host header, names one of them."""
        match = _SENT.fullmatch(host)
        if match is None:
            return False
        name = match["name"].strip("[]").lower()
        name = name.removesuffix(".") or name  # a name that is complete ends with a dot
        if self._every or name == "localhost" or name.endswith(".localhost"):
            return True
        if name in self._names or name.endswith(self._below):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def accepted_hosts() -> Hosts:
    """What the settings say about them.

    The names that container networks have for this server are accepted as well, unless
    AUTH_DISABLED is set. Within such a network somebody may let these names lead anywhere, and then
    a key is still needed.
    """
    own = frozenset() if settings.AUTH_DISABLED else OWN_NAMES
    return Hosts({*settings.NAMED_HOSTS, *own})
