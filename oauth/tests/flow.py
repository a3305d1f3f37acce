"""A client that signs in: it registers, gets its code from a consent, and exchanges tokens."""

import base64
import hashlib
import json
import secrets
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from django.test import Client, RequestFactory
from oauth2_provider.exceptions import OAuthToolkitError

from accounts.models import Account, Project
from oauth.library import get_server
from oauth.models import Application

CALLBACK = "https://app.example/callback"
FORM = "application/x-www-form-urlencoded"


def challenge_of(verifier: str) -> str:
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def register(client: Client, status: int = 201, **said: Any) -> dict[str, Any]:
    """Registers an app; the answer."""
    body = {
        "client_name": "Notes",
        "redirect_uris": [CALLBACK],
        "token_endpoint_auth_method": "none",
        **said,
    }
    body = {name: value for name, value in body.items() if value is not ...}
    answer = client.post("/oauth/register", json.dumps(body), "application/json")
    assert answer.status_code == status, answer.content
    return dict(answer.json())


@dataclass
class App:
    """A client with its secrets, and the tokens that it was given last."""

    client: Client
    client_id: str
    secret: str = ""
    callback: str = CALLBACK
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(48))
    tokens: dict[str, Any] = field(default_factory=dict)

    @property
    def request(self) -> dict[str, Any]:
        """What it asks for in the address of the consent."""
        return {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": self.callback,
            "code_challenge": challenge_of(self.verifier),
            "code_challenge_method": "S256",
            "state": "xyz",
            "scope": "memory:read memory:write",
        }

    def validate(self, **changes: Any) -> tuple[list[str], dict[str, Any]]:
        """What the consent's page asks before it shows itself; OAuthToolkitError."""
        asked = {
            name: value for name, value in (self.request | changes).items() if value is not ...
        }
        request = RequestFactory().get("/oauth/authorize", asked)
        scopes, credentials = get_server().validate_authorization_request(request)
        return scopes, credentials

    def consent(self, account: Account, project: Project, **changes: Any) -> str:
        """The code that a person's consent gives."""
        asked = self.request | changes
        scopes, credentials = self.validate(**changes)
        credentials["project"] = project
        credentials["resource"] = asked.get("resource", [])
        request = RequestFactory().post("/oauth/authorize")
        request.user = account
        uri, *_ = get_server().create_authorization_response(request, scopes, credentials, True)
        answer = {name: values[0] for name, values in parse_qs(urlsplit(uri).query).items()}
        assert (answer["state"], answer["iss"]) == ("xyz", "http://testserver"), uri
        return answer["code"]

    def post(self, status: int = 200, path: str = "/oauth/token", **fields: Any) -> Any:
        sent = {"client_id": self.client_id, **fields}
        if self.secret:
            sent.setdefault("client_secret", self.secret)
        body = {name: value for name, value in sent.items() if value is not ...}
        headers = body.pop("headers", {})

        answer = self.client.post(path, urlencode(body, doseq=True), FORM, headers=headers)
        assert answer.status_code == status, (answer.status_code, answer.content)
        return answer

    def exchange(self, code: str, status: int = 200, **fields: Any) -> Any:
        """Exchanges the code; the answer."""
        answer = self.post(
            status,
            **{
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": self.callback,
                "code_verifier": self.verifier,
                **fields,
            },
        ).json()
        if status == 200:
            self.tokens = answer
        return answer

    def refresh(self, token: str = "", status: int = 200, **fields: Any) -> Any:
        """Refreshes, with the refresh token it has or with another one; the answer."""
        token = token or self.tokens["refresh_token"]
        fields = {"grant_type": "refresh_token", "refresh_token": token, **fields}
        answer = self.post(status, **fields).json()
        if status == 200:
            self.tokens = answer
        return answer

    def connect(self, account: Account, project: Project, **changes: Any) -> dict[str, Any]:
        """The tokens of a new consent."""
        self.exchange(self.consent(account, project, **changes))
        return self.tokens


def make_app(client: Client, **said: Any) -> App:
    """An app that has registered itself."""
    answer = register(client, **said)
    return App(
        client,
        answer["client_id"],
        answer.get("client_secret", ""),
        answer["redirect_uris"][0],
    )


def app_row(app: App) -> Application:
    return Application.objects.get(client_id=app.client_id)


def refusal_of(error: OAuthToolkitError) -> str:
    return str(error.oauthlib_error.error)
