"""Reads of accounts and projects."""

import contextlib
from collections.abc import Iterable
from uuid import UUID

from django.conf import settings
from django.db.models import Case, QuerySet, When

from accounts.models import ROLE_SCOPES, Account, Membership, Project
from core.errors import InvalidCredentialError, NotFoundError
from core.principal import ALL_SCOPES, Principal, ProjectView, Scope

DEFAULT_PROJECT = "default"


def project_view(project: Project) -> ProjectView:
    return ProjectView(
        id=project.id,
        slug=project.slug,
        default_user_id=default_user_of(project.slug, project.default_user_id),
        hide_unreviewed=project.hide_unreviewed,
        retention_days=project.retention_days,
        time_zone=time_zone_of(project.time_zone),
    )


def default_user_of(slug: str, own: str) -> str:
    """The user id for calls that name no entity: the project's `own`, else MEM0_DEFAULT_USER_ID in
    project Default; "" for none."""
    return own or (settings.MEM0_DEFAULT_USER_ID if slug == DEFAULT_PROJECT else "")


def time_zone_of(own: str) -> str:
    """The zone that a project's days are in: its `own` choice, else the instance's."""
    return own or settings.DEFAULT_TIME_ZONE


def operator_of(slug: str) -> Principal:
    """The operator at the machine's own command line, in the project `slug`; NotFoundError."""
    project = Project.objects.filter(slug=slug).first()
    if project is None:
        raise NotFoundError(f"There is no project {slug!r}.")
    return Principal(
        project=project_view(project), scopes=ALL_SCOPES, via="internal", is_owner=True
    )


def project_named(wanted: str) -> Project | None:
    """The project with this id or slug, Default for none; None when there is no such project."""
    projects = Project.objects.filter(slug=wanted or DEFAULT_PROJECT)
    with contextlib.suppress(ValueError):  # what is no id is a slug
        projects = Project.objects.filter(id=UUID(wanted)) if wanted else projects
    return projects.first()


def project_of(account: Account) -> Project | None:
    """The project that the account's pages start in: Default, or its first project."""
    return _projects_of(account).first()


def projects_of(account: Account) -> dict[Project, frozenset[Scope]]:
    """Every project that the account is a member of, with what it may do there today; first the one
    that `project_of` returns. An owner is in all of them."""
    projects = list(_projects_of(account))
    if account.is_owner:
        return dict.fromkeys(projects, ALL_SCOPES)
    roles = dict(Membership.objects.filter(account=account).values_list("project_id", "role"))
    return {
        project: ROLE_SCOPES.get(roles.get(project.id, ""), frozenset()) for project in projects
    }


def _projects_of(account: Account) -> QuerySet[Project]:
    projects = Project.objects.all()
    if not account.is_owner:
        projects = projects.filter(memberships__account=account)
    # Default before all others, then by age.
    rank = Case(When(slug=DEFAULT_PROJECT, then=0), default=1)
    return projects.order_by(rank, "created_at", "id")


def role_in(account: Account, project_id: UUID) -> str:
    """The account's role in the project, "" for none; an owner is admin everywhere."""
    if account.is_owner:
        return "admin"
    roles = Membership.objects.filter(account=account, project_id=project_id)
    return roles.values_list("role", flat=True).first() or ""


def scopes_in(account: Account, project_id: UUID) -> frozenset[Scope]:
    """What the account may do in the project today."""
    if account.is_owner:
        return ALL_SCOPES
    return ROLE_SCOPES.get(role_in(account, project_id), frozenset())


def role_name(account: Account, project_id: UUID | None = None) -> str:
    """The role as the dialects tell it: in this project or in Default; "member" for none."""
    if account.is_owner:
        return "admin"
    if project_id is None:
        projects = Project.objects.filter(slug=DEFAULT_PROJECT)
        project_id = projects.values_list("id", flat=True).first()
    return (role_in(account, project_id) if project_id else "") or "member"


def account_of(principal: Principal) -> Account:
    """Whose account a caller acts on: its own, or the oldest one for ADMIN_API_KEY and
    AUTH_DISABLED, which have none. InvalidCredentialError while there is no account."""
    accounts = Account.objects.filter(is_active=True)
    if principal.account_id is not None:
        accounts = accounts.filter(id=principal.account_id)
    account = accounts.order_by("created_at", "id").first()
    if account is None:
        raise InvalidCredentialError("Authentication required.")
    return account


def instructions_of(project_id: UUID) -> str:
    """The project's instructions for extracting memories."""
    found = Project.objects.filter(id=project_id).values_list("instructions", flat=True)
    return found.first() or ""


def names_of(ids: Iterable[UUID | None]) -> dict[UUID, str]:
    """The names of these accounts; a deleted account has none."""
    wanted = {id_ for id_ in ids if id_ is not None}
    return dict(Account.objects.filter(id__in=wanted).values_list("id", "name"))
