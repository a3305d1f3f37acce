"""What an app asks for, and where it sends what it gets, in words.

Whatever an app says about itself is text that anybody can write: it is told as that, and cannot
pass itself off as words of ours.
"""

import re
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from core.principal import Scope
from oauth import redirects
from oauth.labels import clean_label

NAMELESS: Final = "An app without a name"
# A name that closes our quotation marks could go on in words of ours.
_QUOTES: Final = str.maketrans(dict.fromkeys("“”„‟«»", '"'))
_USUAL_PORTS: Final = frozenset({("https", 443), ("http", 80)})


class ScopeWords(NamedTuple):
    """A scope as the consent page offers it, and as the list of apps tells it."""

    title: str
    about: str
    word: str


# In the order of the page.
SCOPES: Final = {
    Scope.READ: ScopeWords("Read memories", "Search and list everything in the project", "read"),
    Scope.WRITE: ScopeWords("Write memories", "Add, edit and delete single memories", "write"),
    Scope.REVIEW: ScopeWords("Review memories", "Approve and reject in your name", "review"),
}


def permissions(scopes: Collection[Scope]) -> str:
    """Scopes in words: Read, write."""
    words = ", ".join(told.word for scope, told in SCOPES.items() if scope in scopes)
    return words[:1].upper() + words[1:] or "None"


def app_name(name: str) -> str:
    """An app's name for the space between two quotation marks."""
    return clean_label(name).translate(_QUOTES) or NAMELESS


def mark(name: str) -> str:
    """The two letters that stand for an app: Cc for Claude Code, Cu for Cursor."""
    first, second = [*re.findall(r"[^\W_]+", name), "", ""][:2]
    return f"{first[:1]}{second[:1].lower() or first[1:2]}" or "–"


class Destination(NamedTuple):
    """Where a redirect URI leads: the host, or the scheme of a program; what that means, and what
    to mind before allowing it, "" for nothing."""

    host: str
    note: str = ""
    warning: str = ""


def destination(uri: str) -> Destination:
    """In words. Hosts of other alphabets are Punycode by then: no other may be registered."""
    host = redirects.destination(uri)
    if redirects.is_on_this_machine(uri):
        return Destination(
            _with_port(uri, host),
            "A program on your computer",
            "Any program on your computer can claim to be this app. Allow it only if you started "
            "this yourself just now.",
        )
    if host.endswith(":"):
        return Destination(
            host,
            f"A program on your computer that opens {host} links",
            "Any program on your computer can claim these links. Allow it only if you started "
            "this yourself just now.",
        )
    return Destination(_with_port(uri, host))


def _with_port(uri: str, host: str) -> str:
    parts = urlsplit(uri)
    told = f"[{host}]" if ":" in host else host
    has_own = parts.port is not None and (parts.scheme, parts.port) not in _USUAL_PORTS
    return f"{told}:{parts.port}" if has_own else told


def destinations(hosts: Sequence[str]) -> str:
    """Where an app receives its access: its hosts, of many the first two. This computer has several
    names."""
    elsewhere = [host for host in hosts if host not in redirects.LOOPBACK]
    here = [host for host in hosts if host in redirects.LOOPBACK][:1]
    told = [*elsewhere, *(f"{host}, this computer" for host in here)]
    return "; ".join(told[:2]) + (f" and {len(told) - 2} more" if len(told) > 2 else "")
