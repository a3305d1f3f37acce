"""The door of OAuth: who calls with an access token, and which apps have access."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from django.db import connection
from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.utils import timezone

from accounts.audit import AuditAction
from accounts.models import ROLE_SCOPES
from accounts.queries import default_user_of, scopes_in, time_zone_of
from core.errors import NotFoundError
from core.principal import ALL_SCOPES, Principal, ProjectView, Scope
from oauth import grants, redirects, scopes, usage
from oauth.models import AppGrant, RefreshToken
from oauth.tokens import digest_of, is_access_token

# By hand, as for API keys: composing this with the ORM costs eight times what the database takes
# for it, and every call pays it.
_FIND_SQL: Final = """
SELECT g.*, t.scope AS token_scope, c.client_id, a.is_active, a.is_owner, a.session_epoch AS epoch,
       m.role, p.slug, p.default_user_id, p.hide_unreviewed, p.retention_days, p.time_zone
FROM oauth_accesstoken t
JOIN oauth_appgrant g ON g.id = t.app_grant_id
JOIN oauth_application c ON c.id = g.application_id
JOIN accounts_account a ON a.id = g.account_id
JOIN accounts_project p ON p.id = g.project_id
LEFT JOIN accounts_membership m ON m.account_id = g.account_id AND m.project_id = g.project_id
WHERE t.token_checksum = %s AND t.expires > %s
"""


def principal_of(
    token: str, *, request_id: str, client: str, address: str = ""
) -> Principal | None:
    """The caller of an access token, with what its account's role in the project allows now; no
    query for what cannot be one.

    None for one that is unknown, has expired or was revoked, is for another server, or whose
    account was deactivated, left the project, or has changed its password or its role since the
    consent.
    """
    if not is_access_token(token):
        return None
    now = connection.ops.adapt_datetimefield_value(timezone.now())
    found: Any = next(iter(AppGrant.objects.raw(_FIND_SQL, [digest_of(token), now])), None)
    if found is None or not found.is_active or found.epoch != found.session_epoch:
        return None
    most = ALL_SCOPES if found.is_owner else ROLE_SCOPES.get(found.role or "", frozenset())
    allowed = scopes.allowed(found.token_scope.split()) & most
    if not allowed or not grants.is_for_this_server(found.resource):
        return None
    usage.note_use(found.id, found.last_used_at, address=address, client=client)
    return Principal(
        project=ProjectView(
            id=found.project_id,
            slug=found.slug,
            default_user_id=default_user_of(found.slug, found.default_user_id),
            hide_unreviewed=bool(found.hide_unreviewed),
            retention_days=found.retention_days,
            time_zone=time_zone_of(found.time_zone),
        ),
        scopes=allowed,
        via="oauth",
        account_id=found.account_id,
        is_owner=bool(found.is_owner),
        request_id=request_id,
        client=client,
        app=found.client_id,
    )


# --- Connected apps ------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class ConnectedApp:
    """An app's access, as pages list it. `name` is the app's own word for itself, "" for none.

    `destinations` are the hosts that it is sent back to, `published_at` is the host of the document
    that describes it, "" for an app that registered itself.
    """

    id: UUID
    client_id: str
    name: str
    destinations: tuple[str, ...]
    published_at: str
    scopes: frozenset[Scope]
    project_id: UUID
    project: str
    account_id: UUID
    person: str
    since: datetime
    last_used_at: datetime | None
    last_address: str
    last_client: str


def connected_apps(principal: Principal) -> list[ConnectedApp]:
    """The apps that have access, the last used first: the caller's own, those in the project for
    its administrators, and all for the instance owner."""
    rows = _visible(principal).select_related("application", "account", "project")
    order = (F("last_used_at").desc(nulls_last=True), "-created_at", "id")
    return [_connected(row) for row in rows.order_by(*order)]


def revoke_app(principal: Principal, id_: UUID) -> None:
    """Ends the app's access at once, with every token that it has; NotFoundError for what the
    caller does not see."""
    grant = _visible(principal).filter(id=id_).first()
    if grant is None or not grants.end(grant, AuditAction.APP_REVOKED, principal.actor):
        raise NotFoundError("This app has no access any more.")


def _visible(principal: Principal) -> QuerySet[AppGrant]:
    if principal.entity_limit is not None:
        return AppGrant.objects.none()
    live = RefreshToken.objects.filter(app_grant=OuterRef("pk"), revoked=None)
    rows = AppGrant.objects.filter(
        Exists(live), account__is_active=True, session_epoch=F("account__session_epoch")
    )
    if principal.is_owner and Scope.ADMIN in principal.scopes:
        return rows
    own = Q(account_id=principal.account_id)
    if Scope.ADMIN in principal.scopes:
        own |= Q(project_id=principal.project.id)
    return rows.filter(own)


def _connected(row: AppGrant) -> ConnectedApp:
    app = row.application
    hosts = dict.fromkeys(redirects.destination(uri) for uri in app.redirect_uris.split())
    return ConnectedApp(
        id=row.id,
        client_id=app.client_id,
        name=app.name,
        destinations=tuple(hosts),
        published_at=app.published_at,
        scopes=scopes.allowed(row.scopes.split()) & scopes_in(row.account, row.project_id),
        project_id=row.project_id,
        project=row.project.name,
        account_id=row.account_id,
        person=row.account.name or row.account.email,
        since=row.created_at,
        last_used_at=row.last_used_at,
        last_address=row.last_address,
        last_client=row.last_client,
    )
