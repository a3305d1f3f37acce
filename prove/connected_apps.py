"""Apps that people connect by OAuth, and the people who allow it, over plain HTTP."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx

EMAIL: Final = "owner@example.org"
PASSWORD: Final = "long enough"
REDIRECT: Final = "http://127.0.0.1:7777/callback"
VERIFIER: Final = "a-verifier-that-is-long-enough-for-rfc-7636-4711"
CHALLENGE: Final = (
    base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
)
# The last revision with a handshake, which most clients speak.
REVISION: Final = "2025-11-25"
ACCEPT: Final = "application/json, text/event-stream"
_FORM: Final = re.compile(r"<form.*?</form>", re.DOTALL)


class Person:
    """Somebody who has signed in, and presses the buttons of pages."""

    def __init__(self, url: str, email: str = EMAIL, password: str = PASSWORD) -> None:
        self.url = url
        self._http = httpx.Client(base_url=url, timeout=60, trust_env=False)
        page = self._http.get("/login").text
        fields = {"email": email, "password": password}
        answer = self._http.post("/login", data=_hidden(page) | fields)
        assert answer.status_code == 302, f"{email} could not sign in: {answer.status_code}"

    def decide(self, address: str, decision: str = "allow", *, tick: Sequence[str] = ()) -> str:
        """Answers a consent page, with what is ticked on it and `tick`; where that leads to."""
        page = self._http.get(address)
        assert page.status_code == 200, f"{page.status_code} {page.headers} {page.text[:2000]}"
        granted = re.findall(r'name="grant" value="(\w+)" checked', page.text)
        [form] = [one for one in _FORM.findall(page.text) if 'name="decision"' in one]
        sent = _hidden(form) | {"grant": [*granted, *tick], "decision": decision}
        answer = self._http.post(address, data=sent)
        assert answer.status_code == 302, f"{answer.status_code} {_text(answer.text)} {sent}"
        return answer.headers["Location"]

    def open(self, address: str) -> None:
        """Goes to an address, such as one that a page has led to."""
        assert httpx.get(address, timeout=60, trust_env=False).status_code == 200, address

    def revoke_apps(self) -> int:
        """Presses every button of the page of the connected apps; how many there were."""
        page = self._http.get("/dashboard/apps").text
        actions = re.findall(r'action="(/dashboard/apps/[^"]+)"', page)
        for action in actions:
            answer = self._http.post(action, data=_hidden(page))
            assert answer.status_code == 302, f"{answer.status_code} {answer.text[:2000]}"
        return len(actions)


def _text(page: str) -> str:
    """What people read on a page."""
    main = page[page.find("<main") :]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", main)).split())


def _hidden(page: str) -> dict[str, Any]:
    """The hidden fields of a page, and its select's first choice."""
    found: dict[str, Any] = {}
    for tag in re.findall(r'<input[^>]*type="hidden"[^>]*>', page):
        name, value = re.search(r'name="([^"]*)"', tag), re.search(r'value="([^"]*)"', tag)
        if name is not None:
            found[name[1]] = html.unescape(value[1]) if value is not None else ""
    for name, options in re.findall(r'<select[^>]*name="(\w+)"[^>]*>(.*?)</select>', page, re.S):
        values = re.findall(r'<option value="([^"]*)"', options)
        found.setdefault(name, values[0])
    return found


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the token endpoint gives."""

    access: str
    refresh: str
    scope: str

    @classmethod
    def of(cls, answer: httpx.Response) -> "Tokens":
        assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
        body = answer.json()
        return cls(body["access_token"], body["refresh_token"], body["scope"])


class App:
    """A public client that has registered itself at a server."""

    def __init__(self, url: str, *, redirect: str = REDIRECT) -> None:
        self.url, self.redirect = url, redirect
        self.http = httpx.Client(timeout=60, trust_env=False)
        body = {
            "client_name": "A proof's app",
            "redirect_uris": [redirect],
            "token_endpoint_auth_method": "none",
        }
        answer = self.http.post(f"{url}/oauth/register", json=body)
        assert answer.status_code == 201, f"{answer.status_code} {answer.text}"
        self.client_id = str(answer.json()["client_id"])

    def address(self, scope: str) -> str:
        """Where the app sends its person."""
        query = {
            "client_id": self.client_id,
            "redirect_uri": self.redirect,
            "response_type": "code",
            "scope": scope,
            "state": "s-4711",
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
            "resource": f"{self.url}/mcp",
        }
        return f"{self.url}/oauth/authorize?{urlencode(query)}"

    def connect(self, person: Person, *scopes: str) -> Tokens:
        """The whole way: asked for these scopes (none for read and write), allowed, tokens."""
        asked = scopes or ("read", "write")
        wire = " ".join(f"memory:{scope}" for scope in asked)
        location = person.decide(self.address(wire), tick=[s for s in asked if s == "review"])
        assert location.startswith(self.redirect), location
        code = parse_qs(urlsplit(location).query)["code"][0]
        return Tokens.of(
            self._token(
                grant_type="authorization_code",
                code=code,
                redirect_uri=self.redirect,
                code_verifier=VERIFIER,
            )
        )

    def refresh(self, token: str, url: str = "") -> httpx.Response:
        """What the token endpoint, perhaps of another process, says to a refresh token."""
        return self._token(url, grant_type="refresh_token", refresh_token=token)

    def revoke(self, token: str) -> int:
        body = {"client_id": self.client_id, "token": token}
        return self.http.post(f"{self.url}/oauth/revoke", data=body).status_code

    def _token(self, url: str = "", **fields: str) -> httpx.Response:
        fields |= {"client_id": self.client_id, "resource": f"{self.url}/mcp"}
        return self.http.post(f"{url or self.url}/oauth/token", data=fields)


def headers(token: str) -> dict[str, str]:
    """What a client of MCP sends with each message."""
    return {
        "Authorization": f"Bearer {token}",
        "Accept": ACCEPT,
        "MCP-Protocol-Version": REVISION,
    }


def message(method: str, **params: Any) -> dict[str, Any]:
    """A request of the protocol."""
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def call(url: str, token: str, tool: str = "list_entities", **arguments: Any) -> int:
    """Calls a tool; the status, which is 502 also where the tool says that the database is away.
    AssertionError for any other error of the tool."""
    body = message("tools/call", name=tool, arguments=arguments)
    answer = httpx.post(
        f"{url}/mcp", json=body, headers=headers(token), timeout=60, trust_env=False
    )
    if answer.status_code == 200:
        told = json.loads(answer.text.partition("data: ")[2] or answer.text)
        if "datastore_unavailable" in answer.text:
            return 502
        assert not told["result"].get("isError"), told
    return answer.status_code
