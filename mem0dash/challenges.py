"""Answers of /mcp that are none of the protocol's: refusals, and the challenges of OAuth."""

from collections.abc import Collection
from dataclasses import dataclass, field

from django.http import HttpRequest

from core.http.middleware import Refusal
from core.http.public import base_url
from core.principal import Scope
from core.rest import json
from oauth import scopes


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
        return problem(
            401, "unauthorized", told, WWW_Authenticate=_challenge(request, scopes.DEFAULT)
        )
    return problem(
        401,
        "invalid_token",
        sentence,
        WWW_Authenticate=_challenge(request, scopes.DEFAULT, "invalid_token", sentence),
    )


def insufficient(request: HttpRequest, held: Collection[Scope], needed: Scope) -> Answer:
    """403 for a grant that does not reach: it names what is held beside what is needed, because a
    client that asks for less would lose the rest."""
    [name] = scopes.wire([needed])
    sentence = f"This takes the scope {name}."
    wanted = scopes.wire({*held, needed})
    challenge = _challenge(request, wanted, "insufficient_scope", sentence)
    return problem(403, "insufficient_scope", sentence, WWW_Authenticate=challenge)


def _challenge(
    request: HttpRequest, wanted: Collection[str], error: str = "", sentence: str = ""
) -> str:
    metadata = f"{base_url(request)}/.well-known/oauth-protected-resource/mcp"
    parts = []
    if error:
        parts = [f'error="{error}"', f'error_description="{sentence}"']
    parts.append(f'resource_metadata="{metadata}"')
    parts.append(f'scope="{" ".join(wanted)}"')
    return f"Bearer {', '.join(parts)}"
