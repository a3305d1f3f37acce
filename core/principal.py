"""The caller of a request, in one shape for every kind of credential."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import tzinfo
from enum import StrEnum
from typing import Any, Final, Literal
from uuid import UUID

from core import zones
from core.errors import PermissionDeniedError


class Scope(StrEnum):
    """What a credential allows; the table is in docs/rights.md."""

    READ = "read"
    WRITE = "write"
    REVIEW = "review"
    ADMIN = "admin"


ALL_SCOPES: Final = frozenset(Scope)

Via = Literal["api_key", "oauth", "session", "admin_api_key", "auth_disabled", "internal"]


@dataclass(frozen=True, slots=True)
class ProjectView:
    """The facts of a project that reads and writes need, fetched together with the credential."""

    id: UUID
    slug: str
    default_user_id: str = ""
    hide_unreviewed: bool = False
    retention_days: int = 30
    # An IANA name; a day without a time is that day there.
    time_zone: str = zones.UNIVERSAL

    @property
    def zone(self) -> tzinfo:
        return zones.zone_named(self.time_zone)


@dataclass(frozen=True, slots=True)
class Actor:
    """Who did something, and how they signed in, as every record names them.

    `via` is "" for a caller without a credential. accounts.actor has the columns for it.
    """

    account_id: UUID | None = None
    via: Via | Literal[""] = ""
    key_id: UUID | None = None
    key_prefix: str = ""
    client: str = field(default="", repr=False)
    request_id: str = ""

    def signed_in(self, account_id: UUID) -> "Actor":
        """The same actor, now with this account."""
        return replace(self, account_id=account_id, via="session")

    def plain(self) -> dict[str, str]:
        """The actor as JSON, without empty fields."""
        values = {name: getattr(self, name) for name in ACTOR_FIELDS}
        return {name: str(value) for name, value in values.items() if value}

    @classmethod
    def of_plain(cls, kept: Mapping[str, Any]) -> "Actor":
        """The actor from what `plain` returned."""
        values: dict[str, Any] = {name: kept[name] for name in ACTOR_FIELDS if kept.get(name)}
        for name in {"account_id", "key_id"} & set(values):
            values[name] = UUID(values[name])
        return cls(**values)


ACTOR_FIELDS: Final = tuple(Actor.__dataclass_fields__)
NOBODY: Final = Actor()
# The operator at the server's command line, and the server itself.
OPERATOR: Final = Actor(via="internal")


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller inside one project.

    `entity_limit` maps an entity field to the only values that exist for this caller; None is no
    limit. `account_id` is None for ADMIN_API_KEY and AUTH_DISABLED, which act as instance owner.
    """

    project: ProjectView
    scopes: frozenset[Scope]
    via: Via
    account_id: UUID | None = None
    is_owner: bool = False
    key_id: UUID | None = None
    key_prefix: str = ""
    entity_limit: Mapping[str, frozenset[str]] | None = None
    request_id: str = ""
    client: str = field(default="", repr=False)
    # The client_id of the app that calls with an access token; "" for every other caller.
    app: str = ""

    @classmethod
    def standing_in(
        cls,
        actor: Actor,
        project: ProjectView,
        entity_limit: Mapping[str, frozenset[str]] | None = None,
    ) -> "Principal":
        """For work that runs later in the name of `actor`. Their rights were checked when they
        asked for it."""
        return cls(
            project=project,
            scopes=ALL_SCOPES,
            via=actor.via or "internal",
            account_id=actor.account_id,
            key_id=actor.key_id,
            key_prefix=actor.key_prefix,
            entity_limit=entity_limit,
            request_id=actor.request_id,
            client=actor.client,
        )

    @property
    def actor(self) -> Actor:
        """The caller as records name them."""
        return Actor(
            account_id=self.account_id,
            via=self.via,
            key_id=self.key_id,
            key_prefix=self.key_prefix,
            client=self.client[:200],
            request_id=self.request_id,
        )

    def require(self, scope: Scope, message: str = "") -> None:
        """Raises PermissionDeniedError unless the caller holds `scope`."""
        if scope not in self.scopes:
            raise PermissionDeniedError(
                message or f"This credential lacks the scope '{scope.value}'."
            )

    def require_project(self, what: str) -> None:
        """Raises PermissionDeniedError unless the caller may change `what` for the whole project:
        with scope `admin`, and without an entity limit."""
        self.require(Scope.ADMIN, "Admin role required.")
        self.require_unlimited(what)

    def require_unlimited(self, what: str) -> None:
        """Raises PermissionDeniedError for a caller with an entity limit."""
        if self.entity_limit is not None:
            raise PermissionDeniedError(
                f"A credential limited to some entities may not change {what} for everyone."
            )

    def require_instance(self, what: str) -> None:
        """Raises PermissionDeniedError unless the caller may change `what` for the whole instance:
        an instance owner, with scope `admin`, and without an entity limit."""
        self.require(Scope.ADMIN, "Admin role required.")
        if not self.is_owner:
            raise PermissionDeniedError(f"Only the instance owner may change {what}.")
        self.require_unlimited(what)

    def may_use(self, entity: str, value: str) -> bool:
        """Whether the entity limit leaves room for `value` in the field `entity`."""
        limit = self.entity_limit
        return limit is None or entity not in limit or value in limit[entity]
