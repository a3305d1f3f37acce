"""Makes, finds and revokes API keys."""

import hashlib
import re
import secrets
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from accounts.audit import Action
from accounts.models import ROLE_SCOPES, Account, Project
from accounts.queries import default_user_of, scopes_in
from apikeys import history, imported
from apikeys.models import ApiKey
from mem0dash.errors import InvalidInputError, NotFoundError, PermissionDeniedError
from mem0dash.principal import ALL_SCOPES, OPERATOR, Actor, Principal, ProjectView, Scope

PREFIX: Final = "m0sk_"
# For secret scanners as well: docs/api-keys.md publishes it.
KEY_PATTERN: Final = re.compile(r"m0sk_[A-Za-z0-9_-]{43}")
LAST_USED_RESOLUTION: Final = timedelta(minutes=1)
LIMITABLE: Final = ("user_id", "agent_id", "app_id", "run_id")


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

    `scopes` None gives all that the owner (and the `maker`, the key that makes it) has. A key never
    makes a key with more than it has, nor one that lasts longer: PermissionDeniedError.
    InvalidInputError for a bad label or limit.
    """
    label = label.strip()
    if not label or len(label) > 150:
        raise InvalidInputError("A key needs a label of 1 to 150 characters.")
    most = scopes_in(owner, project.id) & (maker.scopes if maker else ALL_SCOPES)
    if maker is not None and (
        maker.project.id != project.id or maker.account_id not in {None, owner.id}
    ):
        raise PermissionDeniedError("A key makes keys of its own account and project only.")
    if not most:
        raise PermissionDeniedError("This account has no rights in the project to give to a key.")
    wanted = most if scopes is None else frozenset(scopes)
    if not wanted:
        raise InvalidInputError("A key needs at least one scope.")
    if not wanted <= most:
        raise PermissionDeniedError("A key cannot be given more than its maker has.")
    key = PREFIX + secrets.token_urlsafe(32)
    row = ApiKey(
        owner=owner,
        project=project,
        label=label,
        prefix=key[:12],
        last4=key[-4:],
        digest=digest_of(key),
        scopes=sorted(wanted),
        expires_at=_checked_end(expires_at, maker),
        entity_limit=_checked_limit(entity_limit, maker),
    )
    with transaction.atomic():
        row.save(force_insert=True)
        history.record(Action.KEY_MADE, row, actor or (maker.actor if maker else OPERATOR))
    return row, key


def _checked_end(wanted: datetime | None, maker: Principal | None) -> datetime | None:
    """When the new key ends: as wanted, and with the key that makes it at the latest."""
    if maker is None or maker.key_id is None:
        return wanted
    latest = ApiKey.objects.values_list("expires_at", flat=True).get(id=maker.key_id)
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


def revoke_api_key(*, key_id: UUID, owner: Account, actor: Actor = OPERATOR) -> None:
    """Ends the key at once; NotFoundError when it is not the owner's, InvalidInputError when it has
    been revoked before."""
    mine = ApiKey.objects.filter(id=key_id, owner=owner)
    with transaction.atomic():
        if mine.filter(revoked_at=None).update(revoked_at=timezone.now()):
            history.record(Action.KEY_REVOKED, mine.select_related("owner").get(), actor)
            return
    if mine.exists():
        raise InvalidInputError("API key is already revoked.")
    raise NotFoundError("API key not found.")


def own_api_keys(principal: Principal, owner: Account) -> list[ApiKey]:
    """The owner's live keys in the caller's project, newest first.

    For a key, keys that may do more than itself do not exist.
    """
    rows = ApiKey.objects.filter(owner=owner, project_id=principal.project.id, revoked_at=None)
    return _within_reach(rows.order_by("-created_at", "-id"), principal, owner)


def create_own_api_key(principal: Principal, owner: Account, *, label: str) -> tuple[ApiKey, str]:
    """A key with all that the caller has, and its plain text; raises what create_api_key does."""
    project = Project.objects.get(id=principal.project.id)
    return create_api_key(owner=owner, project=project, label=label, maker=principal)


def revoke_own_api_key(principal: Principal, owner: Account, *, key_id: UUID) -> None:
    """Ends one of the owner's keys in the caller's project; raises what revoke_api_key does."""
    rows = ApiKey.objects.filter(id=key_id, owner=owner, project_id=principal.project.id)
    if not _within_reach(rows, principal, owner):
        raise NotFoundError("API key not found.")
    revoke_api_key(key_id=key_id, owner=owner, actor=principal.actor)


def _within_reach(rows: Iterable[ApiKey], principal: Principal, owner: Account) -> list[ApiKey]:
    """The keys that may do no more than the caller. A session reaches all of its account's."""
    if principal.via != "api_key":
        return list(rows)
    most = scopes_in(owner, principal.project.id)
    return [
        row
        for row in rows
        if most.intersection(row.scopes) <= principal.scopes
        and _is_narrower(row.entity_limit or {}, principal.entity_limit or {})
    ]


def _is_narrower(
    limit: Mapping[str, Collection[str]], other: Mapping[str, Collection[str]]
) -> bool:
    return all(name in limit and set(limit[name]) <= set(other[name]) for name in other)


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


def find_api_key(key: str, *, address: str = "") -> FoundKey | None:
    """What a well-formed key opens, None for an unknown one; no query for any other text.

    The first use of an imported key is verified at some cost, which is limited for each `address`:
    RateLimitedError beyond that.
    """
    if not KEY_PATTERN.fullmatch(key):
        return None
    digest = digest_of(key)
    row: Any = next(iter(ApiKey.objects.raw(_FIND_SQL, [digest])), None)
    if row is None and imported.adopt(key, digest, address=address):
        row = next(iter(ApiKey.objects.raw(_FIND_SQL, [digest])), None)
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
