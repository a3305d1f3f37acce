"""Makes, finds and revokes API keys."""

import hashlib
import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.db.models import Q
from django.utils import timezone

from accounts.models import ROLE_SCOPES, Account, Membership, Project
from apikeys.models import ApiKey
from mem0dash.errors import InvalidInputError, NotFoundError, PermissionDeniedError
from mem0dash.principal import ALL_SCOPES, Principal, ProjectView, Scope

PREFIX: Final = "m0sk_"
# For secret scanners as well: docs/api-keys.md publishes it.
KEY_PATTERN: Final = re.compile(r"m0sk_[A-Za-z0-9_-]{43}")
LAST_USED_RESOLUTION: Final = timedelta(minutes=1)
LIMITABLE: Final = ("user_id", "agent_id", "app_id", "run_id")


def digest_of(key: str) -> str:
    """SHA-256 of the key, 64 hex characters."""
    return hashlib.sha256(key.encode()).hexdigest()


def owner_scopes(account: Account, project: Project) -> frozenset[Scope]:
    """What the account may do in the project today."""
    if account.is_owner:
        return ALL_SCOPES
    role = Membership.objects.filter(account=account, project=project).values_list(
        "role", flat=True
    )
    return ROLE_SCOPES.get(role[0], frozenset()) if role else frozenset()


def create_api_key(
    *,
    owner: Account,
    project: Project,
    label: str,
    scopes: Collection[Scope] | None = None,
    expires_at: datetime | None = None,
    entity_limit: Mapping[str, Collection[str]] | None = None,
    maker: Principal | None = None,
) -> tuple[ApiKey, str]:
    """A new key and its plain text, which is nowhere kept.

    `scopes` None gives all that the owner (and the `maker`, the key that makes it) has. A key never
    makes a key with more than it has: PermissionDeniedError. InvalidInputError for a bad label or
    limit.
    """
    label = label.strip()
    if not label or len(label) > 150:
        raise InvalidInputError("A key needs a label of 1 to 150 characters.")
    most = owner_scopes(owner, project) & (maker.scopes if maker else ALL_SCOPES)
    if maker is not None and (
        maker.project.id != project.id or maker.account_id not in {None, owner.id}
    ):
        raise PermissionDeniedError("A key makes keys of its own account and project only.")
    wanted = most if scopes is None else frozenset(scopes)
    if not wanted:
        raise InvalidInputError("A key needs at least one scope.")
    if not wanted <= most:
        raise PermissionDeniedError("A key cannot be given more than its maker has.")
    key = PREFIX + secrets.token_urlsafe(32)
    row = ApiKey.objects.create(
        owner=owner,
        project=project,
        label=label,
        prefix=key[:12],
        last4=key[-4:],
        digest=digest_of(key),
        scopes=sorted(wanted),
        expires_at=expires_at,
        entity_limit=_checked_limit(entity_limit, maker),
    )
    return row, key


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


def revoke_api_key(*, key_id: UUID, owner: Account) -> None:
    """Ends the key at once; NotFoundError when the owner has no such live key."""
    if not ApiKey.objects.filter(id=key_id, owner=owner, revoked_at=None).update(
        revoked_at=timezone.now()
    ):
        raise NotFoundError("API key not found.")


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
       p.slug AS project_slug, p.default_user_id, p.hide_unreviewed, p.retention_days
FROM apikeys_apikey k
JOIN accounts_account o ON o.id = k.owner_id
JOIN accounts_project p ON p.id = k.project_id
LEFT JOIN accounts_membership m ON m.account_id = k.owner_id AND m.project_id = k.project_id
WHERE k.digest = %s
"""


def find_api_key(key: str) -> FoundKey | None:
    """What a well-formed key opens, None for an unknown one; no query for any other text."""
    if not KEY_PATTERN.fullmatch(key):
        return None
    row: Any = next(iter(ApiKey.objects.raw(_FIND_SQL, [digest_of(key)])), None)
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
            default_user_id=row.default_user_id,
            hide_unreviewed=bool(row.hide_unreviewed),
            retention_days=row.retention_days,
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


def note_use(row: FoundKey) -> None:
    """Writes when the key was last used, at most once a minute."""
    now = timezone.now()
    if row.last_used_at is None or row.last_used_at <= now - LAST_USED_RESOLUTION:
        stale = Q(last_used_at=None) | Q(last_used_at__lte=now - LAST_USED_RESOLUTION)
        ApiKey.objects.filter(stale, id=row.id).update(last_used_at=now)
