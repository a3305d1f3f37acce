"""What people granted apps: made at the consent, ended by deleting it."""

from collections.abc import Iterable

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet

from accounts.audit import AuditAction
from accounts.models import Account, Project
from accounts.queries import scopes_in
from core.principal import Actor
from oauth import history, scopes
from oauth.models import AppGrant, Application


def open_grant(
    *,
    account: Account,
    project: Project,
    application: Application,
    granted: Iterable[str],
    resource: str,
    actor: Actor,
    address: str,
) -> AppGrant | None:
    """A new grant of these scopes, in the caller's transaction; None where the account's role in
    the project allows none of them."""
    names = scopes.known(granted)
    if not account.is_active or not scopes.allowed(names) & scopes_in(account, project.id):
        return None
    grant = AppGrant.objects.create(
        account=account,
        project=project,
        application=application,
        scopes=" ".join(names),
        resource=resource,
        session_epoch=account.session_epoch,
    )
    history.record(AuditAction.APP_CONNECTED, grant, actor, address=address)
    return grant


def holds(grant: AppGrant) -> bool:
    """Whether the grant still holds: since the consent the account has changed neither its password
    nor its role, and is a member of the project."""
    account = grant.account
    return (
        account.is_active
        and account.session_epoch == grant.session_epoch
        and is_for_this_server(grant.resource)
        and bool(scopes.allowed(grant.scopes.split()) & scopes_in(account, grant.project_id))
    )


def is_for_this_server(resource: str) -> bool:
    """Whether tokens for `resource` are for /mcp here (RFC 8707). Without PUBLIC_URL a server has
    as many addresses as ways lead to it, and has made tokens for no other."""
    return not settings.PUBLIC_URL or resource == f"{settings.PUBLIC_URL}/mcp"


def locked(grants: QuerySet[AppGrant]) -> QuerySet[AppGrant]:
    """The grants, each held until the transaction ends: its tokens are exchanged one after the
    other, and never while it ends."""
    return grants.select_for_update(no_key=True, of=("self",)).select_related(
        "account", "application"
    )


def end(grant: AppGrant, action: AuditAction, actor: Actor, *, address: str = "") -> bool:
    """Ends the grant and every token of it; False where it has ended before."""
    with transaction.atomic():
        found = locked(AppGrant.objects.filter(pk=grant.pk)).first()
        if found is None:
            return False
        history.record(action, found, actor, address=address)
        found.delete()
    return True
