"""Makes, finds and revokes API keys."""

import hashlib
import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Q
from django.utils import timezone

from accounts.audit import AuditAction
from accounts.models import ROLE_SCOPES, Account, Project
from accounts.queries import default_user_of, scopes_in, time_zone_of
from apikeys import history, imported, lineage
from apikeys.models import ApiKey
from core.errors import (
    ConflictError,
    InvalidCredentialError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
)
from core.principal import ALL_SCOPES, OPERATOR, Actor, Principal, ProjectView, Scope, Via

PREFIX: Final = "m0sk_"
# Secret scanners use this pattern too; docs/api-keys.md publishes it.
KEY_PATTERN: Final = re.compile(r"m0sk_[A-Za-z0-9_-]{43}")
LIMITABLE: Final = ("user_id", "agent_id", "app_id", "run_id")
# Live keys of one account in one project.
MOST_KEYS: Final = 50


def digest_of(key: str) -> str:
    """SHA-256 of the key, 64 hex characters."""
    return hashlib.sha256(key.encode()).hexdigest()


def create_api_key(
    *,
    owner: Account,
    project: Project,
    label: str,
    scopes: Collection[Scope] | None = None,
    expires_at: datetime | None = None,
    entity_limit: Mapping[str, Collection[str]] | None = None,
    maker: Principal | None = None,
    actor: Actor | None = None,
) -> tuple[ApiKey, str]:
    """Creates a key; returns it with its plain text, which is stored nowhere. `actor` is who makes
    it, by default the `maker`, or the operator at the command line if that is None.

    `scopes` None grants all scopes of the owner and the `maker`. A key needs scope `write` to make
    another one, and can grant neither more scopes than it has nor a later expiry:
    PermissionDeniedError. InvalidInputError for a bad label or limit; ConflictError if the owner
    has MOST_KEYS live keys in the project; InvalidCredentialError if the maker has been revoked.
    """
    label = label.strip()
    if not label or len(label) > 150:
        raise InvalidInputError("A key needs a label of 1 to 150 characters.")
    granted = _check_scopes(owner, project, scopes, maker)
    key = PREFIX + secrets.token_urlsafe(32)
    with transaction.atomic():
        _lock(owner)
        _check_count(owner, project)
        row = ApiKey.objects.create(
            owner=owner,
            project=project,
            label=label,
            prefix=key[:12],
            last4=key[-4:],
            digest=digest_of(key),
            scopes=sorted(granted),
            expires_at=_expiry_of_new(expires_at, maker),
            entity_limit=_limit_of_new(entity_limit, maker),
            made_by=maker.key_id if maker else None,
            made_via=maker.via if maker else "",
        )
        history.record(AuditAction.KEY_MADE, row, actor or (maker.actor if maker else OPERATOR))
    return row, key


def _check_scopes(
    owner: Account,
    project: Project,
    scopes: Collection[Scope] | None,
    maker: Principal | None,
) -> frozenset[Scope]:
    """The scopes of a new key, as create_api_key says."""
    most = scopes_in(owner, project.id) & (maker.scopes if maker else ALL_SCOPES)
    if maker is not None and (
        maker.project.id != project.id or maker.account_id not in {None, owner.id}
    ):
        raise PermissionDeniedError("A key makes keys of its own account and project only.")
    if maker is not None and maker.key_id is not None:
        maker.require(Scope.WRITE)
    if not most:
        raise PermissionDeniedError("This account has no rights in the project to give to a key.")
    requested = most if scopes is None else frozenset(scopes)
    if not requested:
        raise InvalidInputError("A key needs at least one scope.")
    if not requested <= most:
        raise PermissionDeniedError("A key cannot be given more than its maker has.")
    return requested


def _lock(owner: Account) -> None:
    """Locks the account's keys until the transaction ends, so that a key cannot make another one
    while it is revoked, and concurrent creations count each other."""
    Account.objects.select_for_update(no_key=True).get(pk=owner.pk)


def _check_count(owner: Account, project: Project) -> None:
    unended = Q(expires_at=None) | Q(expires_at__gt=timezone.now())
    live = ApiKey.objects.filter(unended, owner=owner, project=project, revoked_at=None)
    if live.count() >= MOST_KEYS:
        raise ConflictError(
            f"This account has {MOST_KEYS} live API keys in the project, which is the most it may "
            "have. Revoke one that is no longer used."
        )


def _expiry_of_new(requested: datetime | None, maker: Principal | None) -> datetime | None:
    """The expiry of the new key: the requested one, but not later than its maker's."""
    if maker is None or maker.key_id is None:
        return requested
    alive = ApiKey.objects.filter(id=maker.key_id, revoked_at=None)
    row = alive.values_list("expires_at").first()
    if row is None:  # revoked since the request began
        raise InvalidCredentialError("Invalid API key.")
    [latest] = row
    return min(requested, latest) if requested and latest else requested or latest


def _limit_of_new(
    limit: Mapping[str, Collection[str]] | None, maker: Principal | None
) -> dict[str, list[str]] | None:
    if limit is not None:
        for field, values in limit.items():
            if field not in LIMITABLE or not values or not all(values):
                raise InvalidInputError(
                    f"An entity limit maps one of {', '.join(LIMITABLE)} to a list of ids."
                )
    if maker is None or maker.entity_limit is None:
        return {field: sorted(values) for field, values in limit.items()} if limit else None
    merged = {field: set(values) for field, values in maker.entity_limit.items()}
    for field, values in (limit or {}).items():
        merged[field] = merged[field] & set(values) if field in merged else set(values)
        if not merged[field]:
            raise PermissionDeniedError("A key cannot be given more than its maker has.")
    return {field: sorted(values) for field, values in merged.items()}


def revoke_api_key(*, key_id: UUID, owner: Account, actor: Actor = OPERATOR) -> int:
    """Revokes the key and all its descendants at once; how many.

    NotFoundError if it is not the owner's; InvalidInputError if it is revoked already.
    """
    with transaction.atomic():
        _lock(owner)
        if not ApiKey.objects.filter(id=key_id, owner=owner).exists():
            raise NotFoundError("API key not found.")
        if ended := lineage.revoke_with_descendants(key_id, actor=actor):
            return ended
    raise InvalidInputError("API key is already revoked.")


def revoke_made_via(via: Via, *, owner: Account | None = None, actor: Actor = OPERATOR) -> int:
    """Revokes all keys that this kind of caller made (for one account or for all), with their
    descendants; how many. For cases such as a leaked static key, or sessions."""
    rows = ApiKey.objects.filter(made_via=via, revoked_at=None).select_related("owner")
    ended = 0
    for row in rows if owner is None else rows.filter(owner=owner):
        with transaction.atomic():
            _lock(row.owner)
            ended += lineage.revoke_with_descendants(row.id, actor=actor)
    return ended


def own_api_keys(principal: Principal, owner: Account) -> list[ApiKey]:
    """The owner's live keys in the caller's project, newest first.

    A key sees only itself and its descendants. A session sees all keys of its account.
    """
    rows = ApiKey.objects.filter(owner=owner, project_id=principal.project.id, revoked_at=None)
    if principal.key_id is not None:
        rows = rows.filter(id__in=lineage.list_live_below(principal.key_id))
    return list(rows.order_by("-created_at", "-id"))


def create_own_api_key(principal: Principal, owner: Account, *, label: str) -> tuple[ApiKey, str]:
    """Creates a key with all scopes of the caller; returns it with its plain text. Errors as
    `create_api_key`."""
    project = Project.objects.get(id=principal.project.id)
    return create_api_key(owner=owner, project=project, label=label, maker=principal)


def revoke_own_api_key(principal: Principal, owner: Account, *, key_id: UUID) -> None:
    """Revokes one of the owner's keys in the caller's project, with its descendants. A key can
    revoke only itself and its descendants. Errors as `revoke_api_key`."""
    mine = ApiKey.objects.filter(id=key_id, owner=owner, project_id=principal.project.id)
    maker_id = principal.key_id
    if not mine.exists() or not (maker_id is None or lineage.is_below(key_id, maker_id)):
        raise NotFoundError("API key not found.")
    revoke_api_key(key_id=key_id, owner=owner, actor=principal.actor)


@dataclass(frozen=True, slots=True)
class FoundKey:
    """A key with the owner, project and role that a request needs, read in one statement."""

    id: UUID
    prefix: str
    scopes: frozenset[Scope]
    entity_limit: Mapping[str, frozenset[str]] | None
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    owner_id: UUID
    owner_is_active: bool
    owner_is_owner: bool
    role: str
    project: ProjectView


# Raw SQL: the ORM takes eight times as long to compose it as the database to run it, and every
# request needs it.
_FIND_SQL: Final = """
SELECT k.*, o.is_active AS owner_is_active, o.is_owner AS owner_is_owner, m.role AS role,
       p.slug AS project_slug, p.default_user_id, p.hide_unreviewed, p.retention_days,
       p.time_zone
FROM apikeys_apikey k
JOIN accounts_account o ON o.id = k.owner_id
JOIN accounts_project p ON p.id = k.project_id
LEFT JOIN accounts_membership m ON m.account_id = k.owner_id AND m.project_id = k.project_id
WHERE {} = %s
"""
_FIND_BY_DIGEST: Final = _FIND_SQL.format("k.digest")
# For a key that was adopted just now, whose digest may not be stored yet.
_FIND_BY_ID: Final = _FIND_SQL.format("k.id")


def find_api_key(key: str, *, address: str = "") -> FoundKey | None:
    """The row of a key, None for an unknown one; runs no query for malformed text.

    The first use of an imported key needs an expensive verification, which is limited per
    `address`: RateLimitedError.
    """
    if not KEY_PATTERN.fullmatch(key):
        return None
    digest = digest_of(key)
    row: Any = next(iter(ApiKey.objects.raw(_FIND_BY_DIGEST, [digest])), None)
    if row is None and (key_id := imported.adopt(key, digest, address=address)):
        own_id = ApiKey._meta.pk.get_db_prep_value(key_id, connection)
        row = next(iter(ApiKey.objects.raw(_FIND_BY_ID, [own_id])), None)
    if row is None:
        return None
    limit = row.entity_limit
    return FoundKey(
        id=row.id,
        prefix=row.prefix,
        scopes=frozenset(Scope(scope) for scope in row.scopes),
        entity_limit={f: frozenset(values) for f, values in limit.items()} if limit else None,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
        owner_id=row.owner_id,
        owner_is_active=bool(row.owner_is_active),
        owner_is_owner=bool(row.owner_is_owner),
        role=row.role or "",
        project=ProjectView(
            id=row.project_id,
            slug=row.project_slug,
            default_user_id=default_user_of(row.project_slug, row.default_user_id),
            hide_unreviewed=bool(row.hide_unreviewed),
            retention_days=row.retention_days,
            time_zone=time_zone_of(row.time_zone),
        ),
    )


def principal_of(key: FoundKey, *, request_id: str, client: str) -> Principal:
    """The principal of a key: its scopes, limited to its owner's current role."""
    most = ALL_SCOPES if key.owner_is_owner else ROLE_SCOPES.get(key.role, frozenset())
    return Principal(
        project=key.project,
        scopes=key.scopes & most,
        via="api_key",
        account_id=key.owner_id,
        is_owner=key.owner_is_owner,
        key_id=key.id,
        key_prefix=key.prefix,
        entity_limit=key.entity_limit,
        request_id=request_id,
        client=client,
    )
