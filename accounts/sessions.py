"""Signing in, and REST sessions with a short-lived access token and a single-use refresh token.

Both are JWTs in the shape of mem0's own server. The access token also has the account's session
epoch: raising the epoch ends every older session on its next request.
"""

import secrets
import time
from datetime import timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid4

import jwt
from django.conf import settings
from django.core import signing
from django.db import transaction
from django.utils import timezone

from accounts import audit, throttle
from accounts.audit import AuditAction, AuditTarget, account_target
from accounts.models import Account, RefreshToken
from accounts.queries import role_name
from core.errors import InvalidCredentialError
from core.principal import NOBODY, Actor

ALGORITHM: Final = "HS256"
ACCESS_LIFETIME: Final = timedelta(minutes=30)
REFRESH_LIFETIME: Final = timedelta(days=30)
# Our tokens have about 300 characters. A longer text is refused unread.
LONGEST_TOKEN: Final = 1024

INVALID: Final = "Invalid or expired token."
WRONG_TYPE: Final = "Invalid token type."
NO_ACCOUNT: Final = "User not found."
USED_UP: Final = "Refresh token is no longer valid."
_KNOWN: Final = "accounts.sessions.remember_browser"


class Tokens(NamedTuple):
    access: str
    refresh: str


def sign_in(
    *, email: str, password: str, address: str, browser: str = "", visitor: Actor = NOBODY
) -> Account:
    """Checks e-mail address and password, sent from `address` by `visitor`; returns the account.

    `browser` is the cookie from `remember_browser` if the account has signed in there before.
    Failures of others do not count there, so nobody can shut out an account's owner by failing, not
    even from the same address. Elsewhere even a right password has to wait after too many wrong
    ones, because guessing consists of checks; right ones are not counted. InvalidCredentialError
    with the same message, after the same work, for an unknown address, a wrong password and a
    deactivated account; RateLimitedError after too many of them.
    """
    email = email.strip().lower()
    account = Account.objects.filter(email=email, is_active=True).first()
    # Known and unknown addresses count alike, so that the limit does not reveal who has an account.
    target = account_target(account) if account else AuditTarget("account", "", email)
    try:
        attempts = _count_attempt(email, address, account, browser)
    except throttle.RateLimitedError:
        audit.record_refusal(
            AuditAction.SESSION_REFUSED, actor=visitor, target=target, address=address
        )
        raise
    if account is None:
        Account().set_password(password)  # takes as long as checking one
    if account is None or not account.check_password(password):
        audit.record_refusal(
            AuditAction.SESSION_REFUSED, actor=visitor, target=target, address=address
        )
        raise InvalidCredentialError("Invalid email or password.")
    for attempt in attempts:
        throttle.give_back(attempt)
    actor = visitor.signed_in(account.id)
    audit.record_sign_in(AuditAction.SESSION_OPENED, actor=actor, target=target, address=address)
    return account


def _count_attempt(
    email: str, address: str, account: Account | None, browser: str
) -> list[throttle.CountedAttempt]:
    if account is not None and (nonce := _nonce(browser, account)):
        return [throttle.take(throttle.WRONG_PASSWORDS_KNOWN, nonce)]
    attempts: list[throttle.CountedAttempt] = []
    try:
        for limit, subject in (
            (throttle.LOGIN, address),
            (throttle.WRONG_PASSWORDS_HERE, f"{email} {address}"),
            (throttle.WRONG_PASSWORDS, email),
        ):
            attempts.append(throttle.take(limit, subject))
    except throttle.RateLimitedError:
        for attempt in attempts:
            throttle.give_back(attempt)
        raise
    return attempts


def remember_browser(account: Account, browser: str = "") -> str:
    """The cookie that identifies this browser for the account; `browser` is its present cookie."""
    nonce = _nonce(browser, account) or secrets.token_urlsafe(12)
    return signing.dumps([str(account.pk), nonce], salt=_KNOWN)


def _nonce(browser: str, account: Account) -> str:
    """The subject that limits count for this browser; "" if the account is not known there."""
    try:
        account_id, nonce = signing.loads(browser, salt=_KNOWN)
    except (signing.BadSignature, ValueError, TypeError):
        return ""
    return str(nonce) if account_id == str(account.pk) else ""


def open_session(account: Account) -> Tokens:
    """A new pair of tokens for the epoch of `account`."""
    now = timezone.now()
    RefreshToken.objects.filter(account=account, expires_at__lte=now).delete()
    row = RefreshToken.objects.create(
        id=uuid4(),
        account=account,
        session_epoch=account.session_epoch,
        expires_at=now + REFRESH_LIFETIME,
    )
    issued = int(time.time())
    access = {
        "sub": str(account.id),
        "role": role_name(account),
        "exp": issued + int(ACCESS_LIFETIME.total_seconds()),
        "type": "access",
        "epoch": account.session_epoch,
    }
    refresh = {
        "sub": str(account.id),
        "exp": issued + int(REFRESH_LIFETIME.total_seconds()),
        "jti": str(row.id),
        "type": "refresh",
    }
    return Tokens(_encode(access), _encode(refresh))


def refresh_session(token: str, *, address: str = "", visitor: Actor = NOBODY) -> Tokens:
    """A new pair of tokens for a refresh token, which is used up.

    A token that is used twice was copied, so every refresh token of the account's present sessions
    is revoked. InvalidCredentialError for an invalid token.
    """
    claims = _claims(token, "refresh")
    account_id, jti = _uuid(claims.get("sub")), _uuid(claims.get("jti"))
    with transaction.atomic():
        # The lock serialises uses and replays of one account, so that a replay also revokes the
        # token of a concurrent use.
        account = Account.objects.select_for_update().filter(id=account_id).first()
        if account is None or not account.is_active:
            raise InvalidCredentialError(NO_ACCOUNT)
        mine = RefreshToken.objects.filter(account=account, session_epoch=account.session_epoch)
        now = timezone.now()
        if mine.filter(id=jti, used_at=None, expires_at__gt=now).update(used_at=now):
            return open_session(account)
        # A third use changes nothing and leaves no entry.
        if mine.filter(id=jti).exists() and mine.filter(used_at=None).update(used_at=now):
            target = account_target(account)
            audit.record(
                AuditAction.SESSION_REPLAYED, actor=visitor, target=target, address=address
            )
    raise InvalidCredentialError(USED_UP)


def account_of_access_token(token: str) -> Account:
    """The account of an access token, in its present state; InvalidCredentialError."""
    claims = _claims(token, "access")
    account = Account.objects.filter(id=_uuid(claims.get("sub"))).first()
    if account is None or not account.is_active:
        raise InvalidCredentialError(NO_ACCOUNT)
    if claims.get("epoch") != account.session_epoch:
        raise InvalidCredentialError(INVALID)
    return account


def _encode(claims: dict[str, Any]) -> str:
    return jwt.encode(claims, settings.JWT_SECRET, algorithm=ALGORITHM)


def _claims(token: str, token_type: str) -> dict[str, Any]:
    if len(token) > LONGEST_TOKEN:
        raise InvalidCredentialError(INVALID)
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            settings.JWT_SECRET,
            algorithms=[ALGORITHM],
            options={"require": ["exp", "sub", "type"]},
        )
    except jwt.InvalidTokenError:
        raise InvalidCredentialError(INVALID) from None
    if claims["type"] != token_type:
        raise InvalidCredentialError(WRONG_TYPE)
    return claims


def _uuid(value: object) -> UUID:
    try:
        return UUID(str(value))
    except ValueError:
        raise InvalidCredentialError(INVALID) from None
