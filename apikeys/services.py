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
# For secret scanners as well: docs/api-keys.md publishes it.
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
    """A new key and its plain text, which is nowhere kept. `actor` makes it, where that is not the
    `maker`; None is the operator at the command line.

    `scopes` None gives all that the owner (and the `maker`, who makes it) has. A key needs scope
    `write` to make another one, never gives it more than it has, and never lets it last longer:
    PermissionDeniedError. InvalidInputError for a bad label or limit; ConflictError when the owner
    has MOST_KEYS live keys in the project; InvalidCredentialError when the maker was revoked since.
    """
    label = label.strip()
    if not label or len(label) > 150:
        raise InvalidInputError("A key needs a label of 1 to 150 characters.")
    wanted = _granted(owner, project, scopes, maker)
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
            scopes=sorted(wanted),
            expires_at=_checked_end(expires_at, maker),
            entity_limit=_checked_limit(entity_limit, maker),
            made_by=maker.key_id if maker else None,
            made_via=maker.via if maker else "",
        )
        history.record(AuditAction.KEY_MADE, row, actor or (maker.actor if maker else OPERATOR))
    return row, key


def _granted(
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
    wanted = most if scopes is None else frozenset(scopes)
    if not wanted:
        raise InvalidInputError("A key needs at least one scope.")
    if not wanted <= most:
        raise PermissionDeniedError("A key cannot be given more than its maker has.")
    return wanted


def _lock(owner: Account) -> None:
    """Until the transaction ends, nobody else makes or revokes keys of this account: a key that is
    being revoked makes no other one meanwhile, and two that come at once count each other."""
    Account.objects.select_for_update(no_key=True).get(pk=owner.pk)


def _check_count(owner: Account, project: Project) -> None:
    unended = Q(expires_at=None) | Q(expires_at__gt=timezone.now())
    live = ApiKey.objects.filter(unended, owner=owner, project=project, revoked_at=None)
    if live.count() >= MOST_KEYS:
        raise ConflictError(
            f"This account has {MOST_KEYS} live API keys in the project, which is the most it may "
            "have. Revoke one that is no longer used."
        )


def _checked_end(wanted: datetime | None, maker: Principal | None) -> datetime | None:
    """When the new key expires: as wanted, but not after the key that makes it."""
    if maker is None or maker.key_id is None:
        return wanted
    alive = ApiKey.objects.filter(id=maker.key_id, revoked_at=None)
    row = alive.values_list("expires_at").first()
    if row is None:  # revoked since the request began
        raise InvalidCredentialError("Invalid API key.")
    [latest] = row
    return min(wanted, latest) if wanted and latest else wanted or latest


def _checked_limit(
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
    """Ends the key and every key that it made, directly or through others, at once; how many.

    NotFoundError when it is not the owner's, InvalidInputError when it has been revoked before.
    """
    with transaction.atomic():
        _lock(owner)
        if not ApiKey.objects.filter(id=key_id, owner=owner).exists():
            raise NotFoundError("API key not found.")
        if ended := lineage.revoke_with_descendants(key_id, actor=actor):
            return ended
    raise InvalidInputError("API key is already revoked.")


def revoke_made_via(via: Via, *, owner: Account | None = None, actor: Actor = OPERATOR) -> int:
    """Ends all keys that callers of this kind made (of one account, or of all), each with what it
    made; how many. For what cannot be revoked key by key: a static key that leaked, sessions."""
    rows = ApiKey.objects.filter(made_via=via, revoked_at=None).select_related("owner")
    ended = 0
    for row in rows if owner is None else rows.filter(owner=owner):
        with transaction.atomic():
            _lock(row.owner)
            ended += lineage.revoke_with_descendants(row.id, actor=actor)
    return ended


def own_api_keys(principal: Principal, owner: Account) -> list[ApiKey]:
    """The owner's live keys in the caller's project, newest first.

    For a key, those that it did not make, itself or through others, do not exist. A session reaches
    all of its account's.
    """
    rows = ApiKey.objects.filter(owner=owner, project_id=principal.project.id, revoked_at=None)
    if principal.key_id is not None:
        rows = rows.filter(id__in=lineage.list_live_below(principal.key_id))
    return list(rows.order_by("-created_at", "-id"))


def create_own_api_key(principal: Principal, owner: Account, *, label: str) -> tuple[ApiKey, str]:
    """A key with all that the caller has, and its plain text; raises what create_api_key does."""
    project = Project.objects.get(id=principal.project.id)
    return create_api_key(owner=owner, project=project, label=label, maker=principal)


def revoke_own_api_key(principal: Principal, owner: Account, *, key_id: UUID) -> None:
    """Ends one of the owner's keys in the caller's project, with what it made. A key ends itself
    and what it made; raises what revoke_api_key does."""
    mine = ApiKey.objects.filter(id=key_id, owner=owner, project_id=principal.project.id)
    maker_id = principal.key_id
    if not mine.exists() or not (maker_id is None or lineage.is_below(key_id, maker_id)):
        raise NotFoundError("API key not found.")
    revoke_api_key(key_id=key_id, owner=owner, actor=principal.actor)


@dataclass(frozen=True, slots=True)
class FoundKey:
    """A key as a request needs it, read in one statement with its owner, project and role."""

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


# By hand: composing this with the ORM costs eight times what the database takes for it, and every
# request pays it.
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
# One that has been adopted just now, and whose digest could not be written yet.
_FIND_BY_ID: Final = _FIND_SQL.format("k.id")


def find_api_key(key: str, *, address: str = "") -> FoundKey | None:
    """What a well-formed key opens, None for an unknown one; no query for any other text.

    The first use of an imported key is verified at some cost, which is limited for each `address`:
    RateLimitedError beyond that.
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


def principal_of(found: FoundKey, *, request_id: str, client: str) -> Principal:
    """What the key may do now: its scopes, cut down to its owner's current role."""
    most = ALL_SCOPES if found.owner_is_owner else ROLE_SCOPES.get(found.role, frozenset())
    return Principal(
        project=found.project,
        scopes=found.scopes & most,
        via="api_key",
        account_id=found.owner_id,
        is_owner=found.owner_is_owner,
        key_id=found.id,
        key_prefix=found.prefix,
        entity_limit=found.entity_limit,
        request_id=request_id,
        client=client,
    )
