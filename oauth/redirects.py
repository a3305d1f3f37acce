"""Where an app may be sent back to with its code.

OAuth 2.1 section 2.3.1: HTTPS, or HTTP on this very machine (RFC 8252 section 7.3), or a scheme of
the app's own (section 7.1). An operator may narrow that down by OAUTH_ALLOWED_REDIRECT_URIS, whose
grammar is mem0-server's: whole URIs, or the beginning of one with a `*` at its end.
"""

import re
from typing import Final
from urllib.parse import SplitResult, urlsplit

from django.conf import settings

MOST: Final = 20
LONGEST: Final = 512
LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
REFUSED: Final = (
    "A redirect URI is https, http on localhost, or has a scheme of the app's own; it has no "
    "user name, no fragment and no wildcard."
)
# RFC 8252 section 7.1 and RFC 3986 section 3.1.
_OWN_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]{2,40}")
# These run code in the browser, read files, or start something that is no app.
_FORBIDDEN: Final = frozenset(
    {
        *("javascript", "vbscript", "data", "blob", "file", "filesystem", "about", "view-source"),
        *("ftp", "ws", "wss", "mailto", "tel", "sms", "intent", "content", "chrome", "resource"),
        *("jar", "ms-appx", "urn", "x-javascript"),
    }
)


def may_register(uri: str) -> bool:
    """Whether a client may register this redirect URI, the operator's list included."""
    return _is_safe(uri) and is_listed(uri)


def _is_safe(uri: str) -> bool:
    parts = _split(uri)
    if parts is None or len(uri) > LONGEST or not (uri.isascii() and uri.isprintable()):
        return False
    if re.search(r"[\s\\#*<>\"]", uri) or "@" in parts.netloc:
        return False
    if parts.scheme == "https":
        return bool(parts.hostname)
    if parts.scheme == "http":
        return parts.hostname in LOOPBACK
    return parts.scheme not in _FORBIDDEN and _OWN_SCHEME.fullmatch(parts.scheme) is not None


def _split(uri: str) -> SplitResult | None:
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError:
        return None
    return parts


def is_listed(uri: str) -> bool:
    """Whether OAUTH_ALLOWED_REDIRECT_URIS has this URI; without a list every URI is."""
    allowed = settings.OAUTH_ALLOWED_REDIRECT_URIS
    return not allowed or any(_matches(uri, entry) for entry in allowed)


def _matches(uri: str, entry: str) -> bool:
    """Whether an entry of the list means this URI. A loopback address is meant with every port, for
    apps take the one that is free."""
    wanted, given = _split(entry.removesuffix("*")), _split(uri)
    if wanted is None or given is None or "@" in given.netloc:
        return False
    is_local = wanted.scheme == "http" and wanted.hostname in LOOPBACK
    if (wanted.scheme, wanted.hostname) != (given.scheme, given.hostname):
        return False
    if not is_local and wanted.port != given.port:
        return False
    if entry.endswith("*"):
        # Dots in a path would lead out of what the entry begins.
        steps = re.split(r"[/\\]|%2f|%5c", given.path.lower())
        inside = not any(step.replace("%2e", ".") in {".", ".."} for step in steps)
        begins = bool(wanted.hostname and wanted.path) and given.path.startswith(wanted.path)
        return begins and inside
    return (wanted.path, wanted.query) == (given.path, given.query)


def destination(uri: str) -> str:
    """The part of the URI by which people tell where it leads: its host, or its own scheme, behind
    which a host is nobody's."""
    parts = _split(uri)
    if parts is None:
        return ""
    return (parts.hostname or "") if parts.scheme in {"https", "http"} else f"{parts.scheme}:"


def is_on_this_machine(uri: str) -> bool:
    """Whether the code goes to a program on the machine of whoever grants it: any of them."""
    parts = _split(uri)
    return parts is not None and parts.hostname in LOOPBACK
