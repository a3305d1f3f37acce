"""What a person is asked before an app gets access, and what they may answer."""

from dataclasses import dataclass
from typing import Final

from django.conf import settings
from django.core import signing
from django.utils.crypto import constant_time_compare, salted_hmac

from accounts.models import Account, Project
from accounts.queries import projects_of
from core.errors import ConflictError, PermissionDeniedError
from core.principal import Scope
from oauth import redirects
from oauth.models import AppGrant, Application

# The page of a request can be answered this long, in seconds.
OPEN_SECONDS: Final = 1800
_SALT: Final = "oauth.consent"
EXPIRED: Final = (
    "This page has expired. Go back to the app, and connect again. No access was given."
)
OTHER_SESSION: Final = (
    "You have signed in again since this page was opened. Go back to the app, and connect again. "
    "No access was given."
)


def seal(query: str, session_key: str) -> str:
    """A ticket: this authorization request was shown in this session. It names neither."""
    return signing.dumps(_digest(query, session_key), salt=_SALT)


def check_ticket(ticket: str, query: str, session_key: str) -> None:
    """ConflictError unless this authorization request was shown in this session, and lately: an
    answer counts for what its person has read, and for nobody else."""
    try:
        shown = signing.loads(ticket, salt=_SALT, max_age=OPEN_SECONDS)
    except signing.BadSignature as error:
        raise ConflictError(EXPIRED) from error
    if not constant_time_compare(shown, _digest(query, session_key)):
        raise ConflictError(OTHER_SESSION)


def _digest(query: str, session_key: str) -> str:
    return salted_hmac(_SALT, f"{session_key}\n{query}", algorithm="sha256").hexdigest()


def is_known(redirect_uri: str) -> bool:
    """Whether the operator has named where the access goes. Of a program on the person's own
    computer nobody knows which one it is."""
    is_named = bool(settings.OAUTH_ALLOWED_REDIRECT_URIS) and redirects.is_listed(redirect_uri)
    return is_named and redirect_uri.startswith("https://")


@dataclass(frozen=True, slots=True)
class Offer:
    """What a person may give an app: scopes that it asked for, in projects where they hold them."""

    projects: dict[Project, frozenset[Scope]]

    @classmethod
    def of(cls, account: Account, asked: frozenset[Scope]) -> "Offer":
        """PermissionDeniedError where the account may do nothing of it anywhere."""
        held = {project: held & asked for project, held in projects_of(account).items()}
        offered = {project: scopes for project, scopes in held.items() if scopes}
        if not offered:
            raise PermissionDeniedError(
                "The app asks for permissions that your role does not have in any project."
            )
        return cls(offered)

    @property
    def scopes(self) -> frozenset[Scope]:
        """All of it, in whichever project."""
        return frozenset().union(*self.projects.values())

    def project(self, id_: str) -> Project | None:
        """The project with this id, if it is offered."""
        return next((one for one in self.projects if str(one.id) == id_), None)

    def first_ticks(self, account: Account, application: Application) -> frozenset[Scope]:
        """What is ticked before the person has answered: all, but for reviewing when an app
        connects for the first time. Many ask for whatever there is; later they ask for what a call
        needed."""
        without = self.scopes - {Scope.REVIEW}
        is_connected = AppGrant.objects.filter(account=account, application=application).exists()
        return self.scopes if is_connected or not without else without

    def only_in(self, scope: Scope) -> list[Project]:
        """Where a scope is offered, if not everywhere."""
        there = [project for project, scopes in self.projects.items() if scope in scopes]
        return there if len(there) < len(self.projects) else []
