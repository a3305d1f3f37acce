"""How the browser calls what filters and memories have: fields, values, icons."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from core.templatetags.ui import exact
from memories.models import ReviewStatus
from memories.texts import parse_instant


@dataclass(frozen=True, slots=True)
class FieldWords:
    """A field of the filter: its name in the address, its words, its icon.

    `kind`: "values" are counted and ticked, "time" is a span, "metadata" a key with a value.
    """

    name: str
    label: str
    icon: str
    kind: str = "values"
    # Whether somebody may type a value that is not listed.
    free: bool = False


FIELDS: Final = (
    FieldWords("user_id", "User", "user", free=True),
    FieldWords("agent_id", "Agent", "robot", free=True),
    FieldWords("app_id", "App", "apps", free=True),
    FieldWords("run_id", "Run", "route", free=True),
    FieldWords("review_status", "Status", "checks"),
    FieldWords("confidence", "Confidence", "target"),
    FieldWords("source", "Source", "link", free=True),
    FieldWords("expiry", "Expiry", "hourglass"),
    FieldWords("collection", "Collection", "folders"),
    FieldWords("created", "Created", "calendar", kind="time"),
    FieldWords("updated", "Updated", "clock", kind="time"),
    FieldWords("metadata", "Metadata", "code", kind="metadata"),
    FieldWords("deleted", "Deleted", "trash"),
)
BY_NAME: Final = {field.name: field for field in FIELDS}

_VALUES: Final[dict[str, dict[str, str]]] = {
    "review_status": {
        "unreviewed": "Unreviewed",
        "approved": "Approved",
        "rejected": "Rejected",
        "stale": "Stale",
    },
    "confidence": {"high": "High", "medium": "Medium", "low": "Low", "unknown": "Unknown"},
    "expiry": {
        "expired": "Expired",
        "soon": "In the next 7 days",
        "later": "Later",
        "never": "Never",
    },
    "collection": {"conversational": "Conversations", "knowledge": "Knowledge"},
}
SPANS: Final = {"24h": "the last 24 hours", "7d": "the last 7 days", "30d": "the last 30 days"}
_AGO: Final = re.compile(r"(\d+)([hd])")
STATES: Final[Mapping[str, str]] = {
    ReviewStatus.APPROVED: "ok",
    ReviewStatus.REJECTED: "bad",
    ReviewStatus.STALE: "warn",
    ReviewStatus.UNREVIEWED: "",
}
SORTS: Final = {
    "newest": "Newest first",
    "oldest": "Oldest first",
    "updated": "Last changed first",
    "expiring": "Expiring first",
    "most_retrieved": "Most retrieved first",
    "last_retrieved": "Last retrieved first",
    "best": "Best first",
}
# Event of a memory -> (its word, its colour).
EVENTS: Final = {
    "ADD": ("Added", "add"),
    "UPDATE": ("Changed", "update"),
    "DELETE": ("Deleted", "delete"),
    "RESTORE": ("Restored", "add"),
    "ERASE": ("Erased", "delete"),
}


def value_word(field: str, value: str) -> str:
    """One value of a filter in words; "" is none."""
    if BY_NAME[field].kind == "time":
        return span_word(value)
    if field == "deleted":
        return "yes"
    return _VALUES.get(field, {}).get(value, value) or "none"


def span_word(value: str) -> str:
    """A span of time as addresses have it: a while back, a day, or "from..to", one end of which
    may be left out."""
    if ago := _AGO.fullmatch(value):
        unit = "hour" if ago[2] == "h" else "day"
        return f"the last {ago[1]} {unit}s" if ago[1] != "1" else f"the last {unit}"
    first, dots, last = value.partition("..")
    if not dots:
        return first
    if first and last:
        return f"{first} to {last}"
    return f"since {first}" if first else f"up to {last}"


def values_word(field: str, values: Sequence[str]) -> str:
    """What a chip says: the value, or how many."""
    return value_word(field, values[0]) if len(values) == 1 else f"any of {len(values)}"


_CHANGED: Final = {
    "metadata": "Metadata",
    "review_status": "Status",
    "reviewed_by": "Reviewed by",
    "confidence": "Confidence",
    "expires_at": "Expires",
    "expiration_date": "Last day",
    "source": "Source",
    "app_id": "App",
    "user_id": "User",
    "agent_id": "Agent",
    "run_id": "Run",
    "categories": "Categories",
}


def changes_words(changes: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What a revision changed beside the text: (field, before, after), in words."""
    rows = []
    for name, label in _CHANGED.items():
        change = changes.get(name)
        if isinstance(change, list) and len(change) == 2:
            rows.append((label, _said(name, change[0]), _said(name, change[1])))
    return rows


def _said(name: str, value: Any) -> str:
    if value is None or value in ("", {}, []):
        return "none"
    if name == "expires_at" and (at := parse_instant(value)) is not None:
        return exact(at)
    if isinstance(value, str):
        return _VALUES.get(name, {}).get(value, value)
    return json.dumps(value, ensure_ascii=False)
