"""Answers of /mcp that are none of the protocol's: refusals, and the challenges of OAuth."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from django.conf import settings
from django.http import HttpRequest

from core.http.middleware import Refusal
from core.principal import Scope
from core.rest import json

# The scopes as they are called on the wire, in the order in which challenges name them.
WIRE: Final = {
    Scope.READ: "memory:read",
    Scope.WRITE: "memory:write",
    Scope.REVIEW: "memory:review",
}
# What a client asks for that has nothing yet.
FIRST: Final = (Scope.READ, Scope.WRITE)


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, a body of JSON, and headers beside those that every answer has."""

    status: int
    body: dict[str, object] | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def encoded(self) -> bytes:
        """The body as bytes; none for an answer without one."""
        return b"" if self.body is None else json.dumps(self.body)


def problem(status: int, code: str, sentence: str, **headers: str) -> Answer:
    """A refusal with a word for machines, as RFC 6749 spells errors, and a sentence for people."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {"error": code, "error_description": sentence}, named)


def broken() -> Answer:
    """What is this server's own fault; the log has it under the request's id."""
    return problem(500, "internal_error", "Internal server error.")


def refused(refusal: Refusal) -> Answer:
    """What the rules for bodies refuse."""
    found = problem(refusal.status, refusal.code or "invalid_request", refusal.detail)
    return Answer(found.status, found.body, refusal.headers())


def unparsed(sentence: str) -> Answer:
    """JSON-RPC 2.0 section 5.1, "Parse error"."""
    error = {"code": -32700, "message": f"Parse error: {sentence}"}
    return Answer(400, {"jsonrpc": "2.0", "id": None, "error": error})


def unauthorised(request: HttpRequest, sentence: str = "") -> Answer:
    """401. `sentence` says what is wrong with the credential that was sent: RFC 6750 section 3.1
    names an error only then."""
    if not sentence:
        told = "Sign in, or send an API key as a bearer token."
        return problem(401, "unauthorized", told, WWW_Authenticate=_challenge(request, FIRST))
    return problem(
        401,
        "invalid_token",
        sentence,
        WWW_Authenticate=_challenge(request, FIRST, "invalid_token", sentence),
    )


def insufficient(request: HttpRequest, held: Collection[Scope], needed: Scope) -> Answer:
    """403 for a grant that does not reach: it names what is held beside what is needed, because a
    client that asks for less would lose the rest."""
    sentence = f"This takes the scope {WIRE[needed]}."
    wanted = [scope for scope in WIRE if scope in held or scope is needed]
    challenge = _challenge(request, wanted, "insufficient_scope", sentence)
    return problem(403, "insufficient_scope", sentence, WWW_Authenticate=challenge)


def _challenge(
    request: HttpRequest, scopes: Collection[Scope], error: str = "", sentence: str = ""
) -> str:
    metadata = f"{public_base(request)}/.well-known/oauth-protected-resource/mcp"
    parts = []
    if error:
        parts = [f'error="{error}"', f'error_description="{sentence}"']
    parts.append(f'resource_metadata="{metadata}"')
    parts.append(f'scope="{" ".join(WIRE[scope] for scope in scopes)}"')
    return f"Bearer {', '.join(parts)}"


def public_base(request: HttpRequest) -> str:
    """Where this server is reached: PUBLIC_URL, else as the request's host says, which has been
    checked."""
    return settings.PUBLIC_URL or request.build_absolute_uri("/").rstrip("/")
