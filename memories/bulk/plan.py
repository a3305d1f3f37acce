"""Which memories a bulk change affects, what the preview showed, and whether it is still
current."""

import hashlib
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from django.core import signing
from django.db.models import QuerySet
from django.utils import timezone

from core.errors import ConflictError, InvalidInputError, NotFoundError
from core.principal import Principal, Scope
from memories import visibility
from memories.browse import service as browse
from memories.browse.selection import Selection
from memories.editing.actions import ERASE, RESTORE, BoundAction, parse_action
from memories.filters import Comparison, to_q
from memories.models import Memory, Revision
from memories.storage.connections import stream

# The most ids in a list; a selection has no limit.
MAX_IDS: Final = 1000
SAMPLE: Final = 10
# How long a plan can be run after it was shown.
TOKEN_SECONDS: Final = 3600
_SALT: Final = "memories.bulk"
_DIGEST: Final = 2**128
_FETCH: Final = 5000


@dataclass(frozen=True, slots=True)
class SampleChange:
    """A memory of the sample, with what would change in words."""

    id: UUID
    text: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class BulkPlan:
    """What a bulk change would do. `token` runs exactly this, for an hour.

    `unchanged` of the `count` memories have the new value already; `sample` shows the newest of the
    others.
    """

    action: str
    value: str
    count: int
    unchanged: int
    sample: list[SampleChange]
    words: str
    token: str
    can_be_undone: bool
    # How many days an undo is possible; 0 for never.
    undo_days: int

    @property
    def changing(self) -> int:
        return self.count - self.unchanged


@dataclass(frozen=True, slots=True)
class BulkMatch:
    """The memories of a list of ids, of a selection, or of an entity.

    `kept` is its stored form, in the token and in the operation: {"ids": [hex, …]}, {"params":
    {name: [value, …]}} or {"entity": [type, id]}.
    """

    kept: dict[str, Any]

    @classmethod
    def of_ids(cls, ids: Sequence[UUID]) -> "BulkMatch":
        """InvalidInputError for none or more than MAX_IDS."""
        unique_ids = sorted({id_.hex for id_ in ids})
        if not unique_ids:
            raise InvalidInputError("No memories are named.")
        if len(unique_ids) > MAX_IDS:
            raise InvalidInputError(f"At most {MAX_IDS:,} memories can be named at once.")
        return cls({"ids": unique_ids})

    @classmethod
    def of_selection(cls, selection: Selection) -> "BulkMatch":
        return cls({"params": selection.to_storage()})

    @classmethod
    def of_entity(cls, type_: str, id_: str) -> "BulkMatch":
        """InvalidInputError for another type than user, agent, app and run, or an empty id."""
        if type_ not in visibility.ENTITY_TYPES or not id_ or "\0" in id_:
            raise InvalidInputError("Name a user, an agent, an app or a run.")
        return cls({"entity": [type_, id_]})

    @property
    def selection(self) -> Selection | None:
        if "params" not in self.kept:
            return None
        return Selection.of(self.kept["params"])

    @property
    def ids(self) -> list[UUID]:
        return [UUID(hex_) for hex_ in self.kept.get("ids", ())]

    def require(self, principal: Principal, action: BoundAction) -> None:
        """PermissionDeniedError unless the caller has the scope that the action needs here."""
        principal.require(Scope.ADMIN if "entity" in self.kept else action.scope)

    def words(self) -> str:
        """The match in words, for pages and the audit."""
        if (selection := self.selection) is not None:
            return selection.words()
        if "entity" in self.kept:
            type_, id_ = self.kept["entity"]
            return f"{type_} {id_}"
        count = len(self.kept["ids"])
        return "1 chosen memory" if count == 1 else f"{count:,} chosen memories"

    def rows(self, principal: Principal, action: BoundAction) -> QuerySet[Memory]:
        """The memories that the action can apply to, unsorted."""
        if (selection := self.selection) is not None:
            return _selected(principal, action, selection)
        if "entity" in self.kept:
            type_, id_ = self.kept["entity"]
            return visibility.filter_reachable(principal).filter(
                to_q(Comparison(visibility.ENTITY_TYPES[type_], "eq", id_), principal.project.zone)
            )
        return _named(principal, action).filter(id__in=self.ids)

    def check_ids(self, principal: Principal, action: BoundAction) -> None:
        """NotFoundError if any of the ids is missing or belongs to another project."""
        missing = len(self.ids) - self.rows(principal, action).count() if self.ids else 0
        if missing:
            raise NotFoundError(
                f"{missing:,} of these {len(self.ids):,} memories were not found. Nothing was done."
            )


def _named(principal: Principal, action: BoundAction) -> QuerySet[Memory]:
    """The caller's memories that the action can apply to, before the filter by id."""
    if action.action == RESTORE:
        return visibility.filter_restorable(principal, by_id=True)
    if action.action != ERASE:
        return visibility.filter_reachable(principal, by_id=True)
    rows = Memory.objects.filter(visibility.in_project(principal.project.id))
    return rows.filter(to_q(visibility.limit_of(principal), principal.project.zone))


def _selected(principal: Principal, action: BoundAction, selection: Selection) -> QuerySet[Memory]:
    if selection.deleted and action.action not in {RESTORE, ERASE}:
        raise InvalidInputError("Deleted memories can be restored or erased, nothing else.")
    if not selection.deleted and action.action == RESTORE:
        raise InvalidInputError("Only deleted memories can be restored.")
    return browse.filter_matching(principal, selection).order_by()


@dataclass(slots=True)
class MatchDigest:
    """How many memories match, how many need no change, and a digest over ids and revisions."""

    count: int = 0
    unchanged: int = 0
    sum: int = 0

    def add(self, id_: UUID, rev: int) -> None:
        self.count += 1
        # A sum does not depend on the order of the memories.
        content = id_.bytes + rev.to_bytes(8)
        hashed = hashlib.blake2b(content, digest_size=16).digest()
        self.sum = (self.sum + int.from_bytes(hashed)) % _DIGEST

    @property
    def digest(self) -> str:
        return f"{self.sum:032x}"


def survey(rows: QuerySet[Memory], action: BoundAction) -> MatchDigest:
    """Digests all matching rows without holding them in memory."""
    digest = MatchDigest()
    columns = rows.values_list("id", "rev", *action.columns)
    for id_, rev, *state in stream(columns, _FETCH):
        digest.add(id_, rev)
        digest.unchanged += action.is_same(tuple(state))
    return digest


def survey_of(pairs: Iterable[tuple[UUID, int]]) -> MatchDigest:
    """As `survey`, for pairs of id and revision."""
    digest = MatchDigest()
    for id_, rev in pairs:
        digest.add(id_, rev)
    return digest


@dataclass(frozen=True, slots=True)
class ShownPlan:
    """A plan as its token describes it. The operation gets the same `id`, so that a plan runs only
    once."""

    id: UUID
    act: BoundAction
    match: BulkMatch
    count: int
    digest: str
    at: datetime = field(default_factory=timezone.now)

    def token(self, principal: Principal) -> str:
        """A signed token, valid for this caller only."""
        return signing.dumps(
            {
                "id": self.id.hex,
                "do": [self.act.action, self.act.value],
                "match": self.match.kept,
                "count": self.count,
                "digest": self.digest,
                "at": self.at.isoformat(),
                "who": _who(principal),
            },
            salt=_SALT,
            compress=True,
        )


def read_token(principal: Principal, token: str) -> ShownPlan:
    """The plan in the token. ConflictError if the token is too old; InvalidInputError if it is
    invalid or belongs to another caller."""
    try:
        payload = signing.loads(token, salt=_SALT, max_age=TOKEN_SECONDS)
    except signing.SignatureExpired:
        raise ConflictError(
            "This was shown more than an hour ago. Nothing was done; look at it again."
        ) from None
    except signing.BadSignature:
        payload = {}
    if payload.get("who") != _who(principal):
        raise InvalidInputError("This plan is not valid. Nothing was done.")
    return ShownPlan(
        id=UUID(payload["id"]),
        act=parse_action(*payload["do"]),
        match=BulkMatch(payload["match"]),
        count=payload["count"],
        digest=payload["digest"],
        at=datetime.fromisoformat(payload["at"]),
    )


def _who(principal: Principal) -> list[str]:
    limit = {name: sorted(ids) for name, ids in (principal.entity_limit or {}).items()}
    caller = principal.key_id or principal.account_id or principal.via
    return [str(principal.project.id), str(caller), repr(sorted(limit.items()))]


def make_plan(principal: Principal, action: BoundAction, match: BulkMatch) -> BulkPlan:
    """The dry run; errors as `bulk.plan`."""
    match.require(principal, action)
    match.check_ids(principal, action)
    at = timezone.now()
    rows = match.rows(principal, action)
    digest = survey(rows, action)
    newest = rows.exclude(action.same).order_by("-created_at", "-id")[:SAMPLE]
    plan = ShownPlan(uuid.uuid4(), action, match, digest.count, digest.digest, at)
    return BulkPlan(
        action=action.action,
        value=action.value,
        count=digest.count,
        unchanged=digest.unchanged,
        sample=[SampleChange(row.id, row.text, *action.shown(row)) for row in newest],
        words=match.words(),
        token=plan.token(principal),
        can_be_undone=action.can_be_undone,
        undo_days=principal.project.retention_days if action.can_be_undone else 0,
    )


def describe_drift(principal: Principal, plan: ShownPlan) -> str:
    """How the matching memories have changed since the plan was shown, in a sentence."""
    rows = plan.match.rows(principal, plan.act)
    now = rows.count()
    revisions = Revision.objects.filter(project_id=principal.project.id, at__gte=plan.at)
    touched = rows.filter(id__in=revisions.values("memory_id"))
    added = touched.filter(id__in=revisions.filter(event="ADD").values("memory_id")).count()
    changed = touched.count() - added
    gone = max(0, plan.count + added - now)
    differences = [
        *([f"{added:,} added"] if added else []),
        *([f"{changed:,} changed"] if changed else []),
        *([f"{gone:,} gone"] if gone else []),
    ]
    why = f" ({', '.join(differences)})" if differences else ""
    return (
        f"What matches has changed since it was shown: {plan.count:,} then, {now:,} now{why}. "
        "Nothing was done; look at it again."
    )
