"""What the frame of every page shows: links to other pages, the account, the theme."""

from dataclasses import dataclass
from typing import Any, Final

from django.http import HttpRequest
from django.urls import reverse

from accounts.models import Account
from core.pages.answers import theme_of
from core.principal import Principal, Scope
from dashboard.condition import count_problems


@dataclass(frozen=True, slots=True)
class Link:
    """A page in the rail: its route, its words, its icon, the scope without which it is not
    shown, and the routes of the pages that one gets to from there."""

    route: str
    label: str
    icon: str
    scope: Scope = Scope.READ
    below: tuple[str, ...] = ()


_OF_MEMORIES: Final = (
    "memories:filters",
    "memories:memory-add",
    "memories:memory-edit",
    "memories:views",
    "memories:view-save",
    "memories:bulk-plan",
    "memories:bulk-run",
    "memories:operations",
    "memories:operation",
)
# Group by group, in the order of the rail. A new page adds its line here.
NAVIGATION: Final[tuple[tuple[str, tuple[Link, ...]], ...]] = (
    (
        "",
        (
            Link("dashboard:overview", "Overview", "layout-dashboard"),
            Link("memories:browse", "Memories", "stack-2", below=_OF_MEMORIES),
            Link("memories:entities", "Entities", "users", below=("memories:entity-delete",)),
            Link("memories:activity", "Activity", "clock"),
            Link("requests-page", "Requests", "activity", Scope.ADMIN),
            Link("jobs:jobs", "Jobs", "list-check", Scope.ADMIN, below=("jobs:job-cancel",)),
        ),
    ),
    (
        "Access",
        (
            Link("dashboard:connect", "Connect", "plug-connected"),
            Link("connected-apps", "Connected apps", "apps"),
        ),
    ),
    (
        "Server",
        (
            Link(
                "dashboard:settings",
                "Settings",
                "settings",
                Scope.ADMIN,
                below=("dashboard:late-interaction-remove", "dashboard:time-zone"),
            ),
        ),
    ),
)


def shell(request: HttpRequest) -> dict[str, Any]:
    """The context processor of every page."""
    context: dict[str, Any] = {"theme": theme_of(request)}
    principal: Principal | None = getattr(request, "principal", None)
    if principal is not None:
        account: Account | None = getattr(request, "account", None)
        context |= {
            "navigation": _navigation(request, principal),
            "who": account.name if account else "Nobody is signed in",
            "initials": _initials(account.name if account else ""),
            "role": _role(principal) if account else "Sign-in is switched off",
            "account": account,
            "project": getattr(request, "project", None),
            "attention": count_problems(),
        }
    return context


def _navigation(request: HttpRequest, principal: Principal) -> list[dict[str, Any]]:
    groups = []
    for title, links in NAVIGATION:
        shown = [_shown(link, request) for link in links if link.scope in principal.scopes]
        if shown:
            groups.append({"title": title, "links": shown})
    return groups


def _shown(link: Link, request: HttpRequest) -> dict[str, Any]:
    match = request.resolver_match
    route = match.view_name if match is not None else ""
    # As aria-current has it: this page, or the one that this page belongs to.
    current = "page" if route == link.route else "true" if route in link.below else ""
    return {
        "url": reverse(link.route),
        "label": link.label,
        "icon": link.icon,
        "current": current,
    }


def _initials(name: str) -> str:
    words = name.replace("@", " ").split()
    return "".join(word[0] for word in [*words[:1], *words[1:][-1:]]).upper() or "–"


def _role(principal: Principal) -> str:
    if principal.is_owner:
        return "Owner"
    if Scope.ADMIN in principal.scopes:
        return "Administrator"
    return "Reviewer" if Scope.REVIEW in principal.scopes else "Member"
