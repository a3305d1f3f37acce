"""Documents of clients, as the web would serve them, and clients that sign."""

import time
from collections.abc import Callable
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from oauth.library import CIMDError

VS_CODE_ID = "https://vscode.dev/oauth/client-metadata.json"
VS_CODE = {
    "client_id": VS_CODE_ID,
    "client_name": "Visual Studio Code",
    "client_uri": "https://vscode.dev/product",
    "grant_types": [
        "authorization_code",
        "refresh_token",
        "urn:ietf:params:oauth:grant-type:device_code",
    ],
    "response_types": ["code"],
    "redirect_uris": ["http://127.0.0.1:33418/", "https://vscode.dev/redirect"],
    "token_endpoint_auth_method": "none",
    "application_type": "native",
}
CHATGPT_ID = "https://chatgpt.com/oauth/c1/client.json"
CHATGPT_KEYS = "https://chatgpt.com/oauth/jwks.json"
CHATGPT = {
    "client_id": CHATGPT_ID,
    "client_name": "ChatGPT",
    "grant_types": ["authorization_code", "refresh_token"],
    "redirect_uris": ["https://chatgpt.com/connector/oauth/c1"],
    "token_endpoint_auth_method": "private_key_jwt",
    "token_endpoint_auth_signing_alg": "RS256",
    "jwks_uri": CHATGPT_KEYS,
}
CLAUDE_CODE_ID = "https://claude.ai/oauth/claude-code-client-metadata"
CLAUDE_CODE = {
    "client_id": CLAUDE_CODE_ID,
    "client_name": "Claude Code",
    "redirect_uris": ["http://localhost/callback", "http://127.0.0.1/callback"],
    "grant_types": ["authorization_code", "refresh_token"],
    "response_types": ["code"],
    "token_endpoint_auth_method": "none",
}


class Web:
    """What can be fetched: address -> document. `fetched` lists what was."""

    def __init__(self) -> None:
        self.pages: dict[str, Any] = {}
        self.fetched: list[str] = []
        self.seconds = 300

    def put(self, document: dict[str, Any], **changes: Any) -> None:
        said = {key: v for key, v in (document | changes).items() if v is not ...}
        self.pages[document["client_id"]] = said

    def fetch(self, url: str) -> tuple[dict[str, Any], int]:
        self.fetched.append(url)
        if url not in self.pages:
            raise CIMDError("HTTP 404")
        page = self.pages[url]
        if isinstance(page, Exception):
            raise page
        return dict(page), self.seconds


class Signer:
    """A client's key pair."""

    def __init__(self, kid: str = "k1") -> None:
        self.kid = kid
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    @property
    def jwks(self) -> dict[str, Any]:
        public = jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        return {"keys": [{**public, "kid": self.kid, "use": "sig", "alg": "RS256"}]}

    def sign(self, client_id: str = CHATGPT_ID, headers: Any = None, **changes: Any) -> str:
        claims = {
            "iss": client_id,
            "sub": client_id,
            "aud": "http://testserver/oauth/token",
            "exp": int(time.time()) + 300,
            "jti": f"j{time.time_ns()}",
        } | changes
        claims = {name: value for name, value in claims.items() if value is not ...}
        return jwt.encode(
            claims, self.key, algorithm="RS256", headers={"kid": self.kid, **(headers or {})}
        )


Change = Callable[["Signer"], dict[str, Any]]
