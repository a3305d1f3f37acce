"""The setup token: its holder may create the first owner over the network."""

import hmac
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

from django.conf import settings

from accounts import audit, throttle
from accounts.audit import AuditAction
from accounts.models import InstanceState
from core import env
from core.errors import PermissionDeniedError
from core.principal import NOBODY, Actor

TOKEN_FILE: Final = "setup_token"  # noqa: S105  (the name of a file)
CLOSED: Final = "Registration is closed. An admin account already exists."
HOW_TO_REGISTER: Final = (
    "Registration needs the setup token, as the header X-Setup-Token or the field setup_token. "
    "The server shows it when it starts and keeps it in the file setup_token of its data "
    "directory, unless SETUP_TOKEN is configured."
)


class SetupClosedError(PermissionDeniedError):
    """The instance has an owner already."""


def needs_setup() -> bool:
    """Whether no owner was ever created. Deleting accounts does not open set-up again."""
    return InstanceState.objects.filter(id=1, owner_created_at=None).exists()


def is_complete() -> bool:
    """Whether set-up was completed. This never becomes false again."""
    return InstanceState.objects.filter(id=1, setup_completed_at__isnull=False).exists()


def offer_setup_token() -> str | None:
    """Makes a setup token while there is no owner, and removes it after that.

    Returns the token if the server generated it; None if SETUP_TOKEN is set, which the operator
    knows, or if set-up is closed.
    """
    if not needs_setup():
        forget_setup_token()
        return None
    if settings.SETUP_TOKEN:
        return None
    return env.load_secret("SETUP_TOKEN", _path(), make=secrets.token_urlsafe(32))


def is_setup_token(token: str) -> bool:
    """Whether `token` is the setup token, compared in constant time; False while there is none."""
    expected = settings.SETUP_TOKEN or _read_token()
    return bool(expected) and hmac.compare_digest(token.encode(), expected.encode())


def require_setup_token(token: str, *, address: str, visitor: Actor = NOBODY) -> None:
    """Accepts the setup token while the instance has no owner.

    SetupClosedError once there is an owner, PermissionDeniedError for a wrong token,
    RateLimitedError after too many of either from this address (throttle.address_subject). The
    right token always passes, whatever others at the address have tried.
    """
    if needs_setup() and is_setup_token(token.strip()):
        return
    throttle.take(throttle.REGISTER, address)
    if not needs_setup():
        raise SetupClosedError(CLOSED)
    throttle.take(throttle.WRONG_SETUP_TOKENS, address)
    audit.record_refusal(AuditAction.SETUP_REFUSED, actor=visitor, address=address)
    raise PermissionDeniedError(HOW_TO_REGISTER)


def forget_setup_token() -> None:
    """Removes the stored token."""
    # On a read-only disk the file stays. The token no longer opens anything.
    with suppress(OSError):
        _path().unlink(missing_ok=True)


def _path() -> Path:
    return Path(settings.DATA_DIR) / TOKEN_FILE


def _read_token() -> str:
    try:
        return _path().read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
