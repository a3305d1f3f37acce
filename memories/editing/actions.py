"""The actions of review and bulk changes: what each sets on a memory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final

from django.db.models import Q

from core.errors import InvalidInputError
from core.principal import Scope
from memories.models import Confidence, Memory, ReviewStatus
from memories.texts import parse_instant

# The only action that cannot be undone.
ERASE: Final = "erase"
DELETE: Final = "delete"
RESTORE: Final = "restore"
# The column Operation.value.
VALUE_LENGTH: Final = 64
_STATUS: Final = {
    "approve": ReviewStatus.APPROVED,
    "reject": ReviewStatus.REJECTED,
    "stale": ReviewStatus.STALE,
    "unreview": ReviewStatus.UNREVIEWED,
}
ACTIONS: Final = (*_STATUS, "expire", "unexpire", "confidence", DELETE, RESTORE, ERASE)
_NEVER: Final = {"expires_at": None, "expiration_date": None}


@dataclass(frozen=True, slots=True)
class BoundAction:
    """An action with its value, checked.

    `columns` decide whether a memory has the new value already: `is_same` checks their values,
    `same` is the same check as a query. `event` is the name in the history.
    """

    action: str
    value: str
    event: str
    scope: Scope
    columns: tuple[str, ...]
    same: Q
    is_same: Callable[[tuple[Any, ...]], bool]
    _values: Mapping[str, Any]

    def values(self, reviewer: str, now: datetime) -> dict[str, Any]:
        """The columns that the action sets, equal for every memory. Erasing does more than this."""
        if self.action in _STATUS:
            if self.action == "unreview":
                return {**self._values, "reviewed_by": "", "reviewed_at": None}
            return {**self._values, "reviewed_by": reviewer, "reviewed_at": now}
        if self.action in {DELETE, ERASE}:
            return {"deleted_at": now}
        return dict(self._values)

    def shown(self, memory: Memory) -> tuple[str, str]:
        """The values before and after, in words."""
        if self.action in _STATUS:
            return memory.review_status, str(self._values["review_status"])
        if self.action == "confidence":
            return memory.confidence, self.value
        if self.action in {"expire", "unexpire"}:
            expiry = {**_NEVER, **self._values}
            return _expiry(memory.expires_at, memory.expiration_date), _expiry(
                expiry["expires_at"], expiry["expiration_date"]
            )
        after = {DELETE: "deleted", RESTORE: "live", ERASE: "erased"}[self.action]
        return ("deleted" if memory.deleted_at else "live"), after

    @property
    def can_be_undone(self) -> bool:
        return self.action != ERASE


def parse_action(action: str, value: str = "") -> BoundAction:
    """The action by its name. `expire` takes a day ("2026-12-01": the last one, UTC) or an instant
    in ISO 8601, `confidence` one of its words; the others take none. InvalidInputError."""
    if action not in ACTIONS:
        raise InvalidInputError(f"There is no such action: {action[:40]}.")
    if value and action not in {"expire", "confidence"}:
        raise InvalidInputError(f"The action {action} takes no value.")
    if action in _STATUS:
        return _setting(action, "", {"review_status": _STATUS[action]})
    if action == "confidence":
        if value not in Confidence.values:
            raise InvalidInputError(f"Confidence is one of {', '.join(Confidence.values)}.")
        return _setting(action, value, {"confidence": value})
    if action in {"expire", "unexpire"}:
        return _setting(action, value, _expiry_of(value) if action == "expire" else _NEVER)
    if action == ERASE:
        # The empty row of an erased memory stays until the index has dropped it.
        return BoundAction(
            action=action,
            value="",
            event="ERASE",
            scope=Scope.ADMIN,
            columns=("fingerprint",),
            same=Q(fingerprint=""),
            is_same=lambda state: state[0] == "",
            _values={},
        )
    deletes = action == DELETE
    return BoundAction(
        action=action,
        value="",
        event=action.upper(),
        scope=Scope.REVIEW,
        columns=("deleted_at",),
        same=Q(deleted_at__isnull=not deletes),
        is_same=lambda state: (state[0] is not None) == deletes,
        _values={"deleted_at": None},
    )


def _setting(action: str, value: str, values: Mapping[str, Any]) -> BoundAction:
    new_values = tuple(values.values())
    return BoundAction(
        action=action,
        value=value,
        event="UPDATE",
        scope=Scope.REVIEW,
        columns=tuple(values),
        same=Q(**values),
        is_same=lambda state: state == new_values,
        _values=values,
    )


def _expiry_of(value: str) -> dict[str, Any]:
    """The columns for an expiry: a day (the last valid one) or an ISO 8601 time."""
    try:
        return {**_NEVER, "expiration_date": date.fromisoformat(value)}
    except ValueError:
        pass
    instant = parse_instant(value)
    # Fractions of a second can have any length, but Operation.value is limited.
    if instant is None or len(value) > VALUE_LENGTH:
        raise InvalidInputError("Give the expiry as a day, 2026-12-01, or as an ISO 8601 time.")
    return {**_NEVER, "expires_at": instant}


def _expiry(at: datetime | None, day: date | None) -> str:
    words = [f"expires {at:%Y-%m-%d %H:%M} UTC"] if at else []
    if day:
        words.append(f"expires after {day.isoformat()}")
    return ", ".join(words) or "never expires"
