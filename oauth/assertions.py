"""Clients that sign instead of sending a secret: private_key_jwt (RFC 7523 section 3)."""

import time
from typing import Any, Final

import jwt

from accounts.throttle import RateLimitedError
from oauth import limits
from oauth.documents import keys_of
from oauth.library import CIMDError
from oauth.models import Application
from oauth.tokens import digest_of

JWT_BEARER: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ALGORITHMS: Final = ("RS256", "PS256", "ES256", "EdDSA")
LONGEST: Final = 8 * 1024
# Seconds that an assertion may last: used ones are remembered for an hour (oauth.limits), and
# clocks may differ by so much.
LEEWAY: Final = 60
LIFETIME: Final = 3600 - 2 * LEEWAY


def client_id_of(assertion: str) -> str:
    """Whose assertion it says it is; "" where that cannot be read."""
    try:
        claims = jwt.decode(assertion, options={"verify_signature": False})
    except jwt.PyJWTError:
        return ""
    return str(claims.get("sub", ""))


def is_signed_by(app: Application, assertion: str, *, audience: list[str], address: str) -> bool:
    """Whether the app signed this assertion, for one of the audiences, and has not used it yet."""
    if len(assertion) > LONGEST:
        return False
    try:
        header = jwt.get_unverified_header(assertion)
        if header.get("alg") not in ALGORITHMS:
            return False
        claims = jwt.decode(
            assertion,
            _key(app, header, address=address),
            algorithms=list(ALGORITHMS),
            issuer=app.client_id,
            audience=audience,
            leeway=LEEWAY,
            options={"require": ["exp", "iss", "sub", "aud"]},
        )
    except (jwt.PyJWTError, CIMDError, RateLimitedError, ValueError, TypeError):
        return False
    if claims["sub"] != app.client_id or float(claims["exp"]) > time.time() + LIFETIME + LEEWAY:
        return False
    # Without an id the assertion itself is what comes once.
    name = str(claims.get("jti") or digest_of(assertion))
    return limits.is_first_use(f"{app.client_id} {name}")


def _key(app: Application, header: dict[str, Any], *, address: str) -> jwt.PyJWK:
    """The key that the assertion names. Where it is unknown, the client may have a new one."""
    kid = header.get("kid")
    for again in (False, True) if app.client_jwks_uri else (False,):
        found = jwt.PyJWKSet.from_dict(keys_of(app, address=address, again=again)).keys
        for key in found:
            if key.key_id == kid or (kid is None and len(found) == 1):
                return key
    raise jwt.InvalidTokenError("unknown key")
