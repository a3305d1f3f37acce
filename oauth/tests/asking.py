"""Apps that ask for access, as they do: they register themselves, use PKCE, open the page."""

import html
import re
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs, urlencode, urlsplit

from django.test import Client

from oauth.tests import flow

REDIRECT: Final = flow.CALLBACK
VERIFIER: Final = "a-verifier-that-is-long-enough-for-rfc-7636-4711"
CHALLENGE: Final = flow.challenge_of(VERIFIER)


def register(client: Client, name: str = "Claude Code", *uris: str) -> str:
    """Registers an app; its client_id."""
    answer = flow.register(client, client_name=name, redirect_uris=list(uris) or [REDIRECT])
    return str(answer["client_id"])


def address(client_id: str, /, **changes: str | None) -> str:
    """Where an app sends its person; None leaves a parameter out."""
    said: dict[str, str | None] = {
        "client_id": client_id,
        "redirect_uri": REDIRECT,
        "response_type": "code",
        "scope": "memory:read memory:write",
        "state": "s-4711",
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
    }
    said |= changes
    query = {name: value for name, value in said.items() if value is not None}
    return f"/oauth/authorize?{urlencode(query)}"


@dataclass
class Page:
    """A consent page as a browser has it."""

    answer: Any
    client: Client
    url: str
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """What people read."""
        plain = re.sub(r"<(script|style|head)\b.*?</\1>", " ", self.html, flags=re.DOTALL)
        return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", plain)).split())

    @property
    def html(self) -> str:
        return str(self.answer.content.decode())

    def scopes(self) -> dict[str, bool]:
        """The permissions on offer, and whether each is ticked."""
        found = re.findall(r'name="grant" value="(\w+)"(\s+checked)?', self.html)
        return {value: bool(ticked) for value, ticked in found}

    def projects(self) -> list[str]:
        select = re.search(r'<select name="project".*?</select>', self.html, re.DOTALL)
        return re.findall(r">\s*([^<>]+?)</option>", select[0]) if select else []

    def ticket(self) -> str:
        found = re.search(r'name="ticket" value="([^"]+)"', self.html)
        assert found is not None, self.html
        return found[1]

    def chosen_project(self) -> str:
        found = re.search(r'name="project" value="([^"]+)"', self.html) or re.search(
            r'<option value="([^"]+)" selected', self.html
        )
        found = found or re.search(r'<option value="([^"]+)"', self.html)
        assert found is not None, self.html
        return found[1]

    def send(self, decision: str = "allow", client: Client | None = None, **changes: Any) -> Any:
        """Presses a button, with what stands there or `changes`."""
        body = {
            "ticket": self.ticket(),
            "project": self.chosen_project(),
            "grant": [value for value, ticked in self.scopes().items() if ticked],
            "decision": decision,
        }
        return (client or self.client).post(self.url, body | changes)


def open_page(client: Client, client_id: str, /, **changes: str | None) -> Page:
    url = address(client_id, **changes)
    return Page(client.get(url), client, url)


def told(answer: Any, redirect: str = REDIRECT) -> dict[str, str]:
    """What a redirect tells the app."""
    assert answer.status_code == 302, answer.content
    parts = urlsplit(answer["Location"])
    assert f"{parts.scheme}://{parts.netloc}{parts.path}" == redirect
    return {name: values[0] for name, values in parse_qs(parts.query).items()}


def exchange(client: Client, client_id: str, code: str, **changes: str) -> dict[str, Any]:
    """The tokens for a code."""
    body = {
        "grant_type": "authorization_code",
        "client_id": client_id,
        "code": code,
        "redirect_uri": REDIRECT,
        "code_verifier": VERIFIER,
        **changes,
    }
    answer = client.post("/oauth/token", urlencode(body), "application/x-www-form-urlencoded")
    assert answer.status_code == 200, answer.content
    return dict(answer.json())


def connect(client: Client, client_id: str, **changes: str | None) -> dict[str, Any]:
    """The whole way: asked, allowed, tokens."""
    page = open_page(client, client_id, **changes)
    assert page.answer.status_code == 200, page.html
    uri = changes.get("redirect_uri") or REDIRECT
    code = told(page.send(), uri)["code"]
    return exchange(Client(), client_id, code, redirect_uri=uri)
