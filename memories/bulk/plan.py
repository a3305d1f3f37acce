"""Which memories a bulk change is about, what was shown of them, and whether that still holds."""

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
# How long what was shown may be waited with.
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

    Of `count` memories `unchanged` are as wanted already; `sample` shows the newest of the others.
    """

    action: str
    value: str
    count: int
    unchanged: int
    sample: list[SampleChange]
    words: str
    token: str
    can_be_undone: bool
    # How long an undo is possible; 0 for never.
    undo_days: int

    @property
    def changing(self) -> int:
        return self.count - self.unchanged


@dataclass(frozen=True, slots=True)
class BulkMatch:
    """The memories of a list of ids, of a selection, or of an entity.

    `kept` is what the token and the operation keep of it: {"ids": [hex, …]}, {"params": {name:
    [value, …]}} or {"entity": [type, id]}.
    """

    kept: dict[str, Any]

    @classmethod
    def of_ids(cls, ids: Sequence[UUID]) -> "BulkMatch":
        """InvalidInputError for none or more than MAX_IDS."""
        wanted = sorted({id_.hex for id_ in ids})
        if not wanted:
            raise InvalidInputError("No memories are named.")
        if len(wanted) > MAX_IDS:
            raise InvalidInputError(f"At most {MAX_IDS:,} memories can be named at once.")
        return cls({"ids": wanted})

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

    def require(self, principal: Principal, wanted: BoundAction) -> None:
        """PermissionDeniedError without the scope that the action on these needs."""
        principal.require(Scope.ADMIN if "entity" in self.kept else wanted.scope)

    def words(self) -> str:
        """It in words, for people and the audit."""
        if (selection := self.selection) is not None:
            return selection.words()
        if "entity" in self.kept:
            type_, id_ = self.kept["entity"]
            return f"{type_} {id_}"
        count = len(self.kept["ids"])
        return "1 chosen memory" if count == 1 else f"{count:,} chosen memories"

    def rows(self, principal: Principal, wanted: BoundAction) -> QuerySet[Memory]:
        """The memories, unsorted: what the action cannot be about does not belong to them."""
        if (selection := self.selection) is not None:
            return _selected(principal, wanted, selection)
        if "entity" in self.kept:
            type_, id_ = self.kept["entity"]
            return visibility.filter_reachable(principal).filter(
                to_q(Comparison(visibility.ENTITY_TYPES[type_], "eq", id_), principal.project.zone)
            )
        return _named(principal, wanted).filter(id__in=self.ids)

    def check_ids(self, principal: Principal, wanted: BoundAction) -> None:
        """NotFoundError when some of the named ids are missing, or foreign, which is the same."""
        missing = len(self.ids) - self.rows(principal, wanted).count() if self.ids else 0
        if missing:
            raise NotFoundError(
                f"{missing:,} of these {len(self.ids):,} memories were not found. Nothing was done."
            )


def _named(principal: Principal, wanted: BoundAction) -> QuerySet[Memory]:
    """The caller's memories that the action can be about, to be narrowed by ids."""
    if wanted.action == RESTORE:
        return visibility.filter_restorable(principal, by_id=True)
    if wanted.action != ERASE:
        return visibility.filter_reachable(principal, by_id=True)
    rows = Memory.objects.filter(visibility.in_project(principal.project.id))
    return rows.filter(to_q(visibility.limit_of(principal), principal.project.zone))


def _selected(principal: Principal, wanted: BoundAction, selection: Selection) -> QuerySet[Memory]:
    if selection.deleted and wanted.action not in {RESTORE, ERASE}:
        raise InvalidInputError("Deleted memories can be restored or erased, nothing else.")
    if not selection.deleted and wanted.action == RESTORE:
        raise InvalidInputError("Only deleted memories can be restored.")
    return browse.filter_matching(principal, selection).order_by()


@dataclass(slots=True)
class MatchDigest:
    """How many memories there are, how many are as wanted, and the digest of ids and revisions."""

    count: int = 0
    unchanged: int = 0
    sum: int = 0

    def add(self, id_: UUID, rev: int) -> None:
        self.count += 1
        # A sum, for then they need not be sorted.
        content = id_.bytes + rev.to_bytes(8)
        hashed = hashlib.blake2b(content, digest_size=16).digest()
        self.sum = (self.sum + int.from_bytes(hashed)) % _DIGEST

    @property
    def digest(self) -> str:
        return f"{self.sum:032x}"


def survey(rows: QuerySet[Memory], wanted: BoundAction) -> MatchDigest:
    """Reads all that match, without keeping it."""
    found = MatchDigest()
    columns = rows.values_list("id", "rev", *wanted.columns)
    for id_, rev, *state in stream(columns, _FETCH):
        found.add(id_, rev)
        found.unchanged += wanted.is_same(tuple(state))
    return found


def survey_of(pairs: Iterable[tuple[UUID, int]]) -> MatchDigest:
    """As `survey`, of ids and revisions."""
    found = MatchDigest()
    for id_, rev in pairs:
        found.add(id_, rev)
    return found


@dataclass(frozen=True, slots=True)
class ShownPlan:
    """What was shown, as its token tells it. `id` becomes that of the operation, so that it is run
    once."""

    id: UUID
    act: BoundAction
    match: BulkMatch
    count: int
    digest: str
    at: datetime = field(default_factory=timezone.now)

    def token(self, principal: Principal) -> str:
        """Signed, for this caller alone."""
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
    """What the token tells. ConflictError when it is too old; InvalidInputError when it is another
    caller's or none."""
    try:
        told = signing.loads(token, salt=_SALT, max_age=TOKEN_SECONDS)
    except signing.SignatureExpired:
        raise ConflictError(
            "This was shown more than an hour ago. Nothing was done; look at it again."
        ) from None
    except signing.BadSignature:
        told = {}
    if told.get("who") != _who(principal):
        raise InvalidInputError("This plan is not valid. Nothing was done.")
    return ShownPlan(
        id=UUID(told["id"]),
        act=parse_action(*told["do"]),
        match=BulkMatch(told["match"]),
        count=told["count"],
        digest=told["digest"],
        at=datetime.fromisoformat(told["at"]),
    )


def _who(principal: Principal) -> list[str]:
    limit = {name: sorted(ids) for name, ids in (principal.entity_limit or {}).items()}
    caller = principal.key_id or principal.account_id or principal.via
    return [str(principal.project.id), str(caller), repr(sorted(limit.items()))]


def make_plan(principal: Principal, wanted: BoundAction, match: BulkMatch) -> BulkPlan:
    """The dry run; errors as `bulk.plan`."""
    match.require(principal, wanted)
    match.check_ids(principal, wanted)
    at = timezone.now()
    rows = match.rows(principal, wanted)
    found = survey(rows, wanted)
    newest = rows.exclude(wanted.same).order_by("-created_at", "-id")[:SAMPLE]
    shown = ShownPlan(uuid.uuid4(), wanted, match, found.count, found.digest, at)
    return BulkPlan(
        action=wanted.action,
        value=wanted.value,
        count=found.count,
        unchanged=found.unchanged,
        sample=[SampleChange(row.id, row.text, *wanted.shown(row)) for row in newest],
        words=match.words(),
        token=shown.token(principal),
        can_be_undone=wanted.can_be_undone,
        undo_days=principal.project.retention_days if wanted.can_be_undone else 0,
    )


def describe_drift(principal: Principal, shown: ShownPlan) -> str:
    """What became of the match since it was shown, in a sentence."""
    rows = shown.match.rows(principal, shown.act)
    now = rows.count()
    at = Revision.objects.filter(project_id=principal.project.id, at__gte=shown.at)
    touched = rows.filter(id__in=at.values("memory_id"))
    added = touched.filter(id__in=at.filter(event="ADD").values("memory_id")).count()
    changed = touched.count() - added
    gone = max(0, shown.count + added - now)
    told = [
        *([f"{added:,} added"] if added else []),
        *([f"{changed:,} changed"] if changed else []),
        *([f"{gone:,} gone"] if gone else []),
    ]
    why = f" ({', '.join(told)})" if told else ""
    return (
        f"What matches has changed since it was shown: {shown.count:,} then, {now:,} now{why}. "
        "Nothing was done; look at it again."
    )
