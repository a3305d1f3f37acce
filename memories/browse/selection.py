"""What the memory browser's address says: one object for its list, bulk actions, export and views.

An address names a field as often as it has values: `?user_id=mara&user_id=jonas&source=cli` asks
for any of the values of a field, and for all fields at once. An empty value means "none".
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, Literal, cast
from urllib.parse import urlencode

from django.utils import timezone

from core import names
from core.errors import InvalidInputError
from memories.browse.words import AGO, LABELS, WORDS
from memories.filters import AllOf, AnyOf, Comparison, Node, Not
from memories.models import ENTITY_FIELDS, Confidence, ReviewStatus
from memories.models import Collection as MemoryCollection

Mode = Literal["meaning", "words"]

FIELDS: Final = (
    "collection",
    *ENTITY_FIELDS,
    "source",
    "confidence",
    "review_status",
    "expiry",
    "created",
    "updated",
    "metadata",
    "deleted",
)
NAMES: Final = frozenset({"q", "mode", "sort", *FIELDS})
SORTS: Final = (
    *("newest", "oldest", "updated", "expiring"),
    *("most_retrieved", "last_retrieved", "best"),
)
EXPIRY: Final = ("expired", "soon", "later", "never")
SOON: Final = timedelta(days=7)
# The only value of the field `deleted`: what was deleted and can still be restored.
DELETED: Final = "yes"
MAX_VALUES: Final = 100
MAX_QUERY: Final = 1000
_MAX_LENGTH: Final = 300
_CHOICES: Final[Mapping[str, Sequence[str]]] = {
    "collection": MemoryCollection.values,
    "confidence": Confidence.values,
    "review_status": ReviewStatus.values,
    "expiry": EXPIRY,
    "deleted": (DELETED,),
}


@dataclass(frozen=True, slots=True)
class Selection:
    """A set of memories as people describe it, and the order to show it in.

    `fields` maps a name of FIELDS to the values that are asked for, any of them; metadata values
    are `key` or `key=value`, of which those with the same key are alternatives and different keys
    must all hold. `sort` is one of SORTS; "best" goes with a search by meaning alone.
    """

    q: str = ""
    mode: Mode = "meaning"
    fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sort: str = "newest"

    @classmethod
    def of(cls, params: Mapping[str, Any], *, beside: Collection[str] = ()) -> "Selection":
        """From a QueryDict or from what `to_storage` gave: names with lists of values.

        Only names in `beside`, such as `page`, are passed over. InvalidInputError, with a sentence,
        for a name that is none of ours, which would narrow nothing, and for values that a name
        cannot have.
        """
        names.check_page(params, {*NAMES, *beside})
        lists = _lists(params)
        names.check_once(lists, ("q", "mode", "sort"))
        q = _one(lists, "q").strip()
        if len(q) > MAX_QUERY:
            raise InvalidInputError(f"The search text is longer than {MAX_QUERY} characters.")
        if "\0" in q:
            raise InvalidInputError("The search text holds a NUL character.")
        mode = _one(lists, "mode") or "meaning"
        if mode not in {"meaning", "words"}:
            raise InvalidInputError("The mode of a search is 'meaning' or 'words'.")
        by_meaning = bool(q) and mode == "meaning"
        sort = _one(lists, "sort") or ("best" if by_meaning else "newest")
        if sort not in SORTS:
            raise InvalidInputError(f"Memories are sorted by {', '.join(SORTS)}.")
        if sort == "best" and not by_meaning:
            sort = "newest"
        fields = {name: _checked(name, lists[name]) for name in FIELDS if lists.get(name)}
        return cls(q, cast(Mode, mode) if q else "meaning", fields, sort)

    # --- Its forms -------------------------------------------------------------------------------
    def params(self) -> list[tuple[str, str]]:
        """Names and values in one order for the same selection; what is the default is left out."""
        pairs = [("q", self.q)] if self.q else []
        if self.q and self.mode == "words":
            pairs.append(("mode", self.mode))
        pairs += [(name, value) for name in FIELDS for value in self.fields.get(name, ())]
        if self.sort != ("best" if self.by_meaning else "newest"):
            pairs.append(("sort", self.sort))
        return pairs

    def to_storage(self) -> dict[str, list[str]]:
        """The same for JSON: what `of` reads again."""
        lists: dict[str, list[str]] = {}
        for name, value in self.params():
            lists.setdefault(name, []).append(value)
        return lists

    def query_string(self, **changes: object) -> str:
        """The address's query, without "?", with some names changed.

        A change is a value, a sequence of values, or None to leave the name out; names that are
        none of the selection's (`page`, `id`) are added. Nothing is checked.
        """
        pairs = [(name, value) for name, value in self.params() if name not in changes]
        for name, change in changes.items():
            if change is None:
                continue
            values = change if isinstance(change, list | tuple) else (change,)
            pairs += [(name, str(value)) for value in values]
        return urlencode(pairs)

    def plus(self, name: str, value: str) -> "Selection":
        """With one more value of a field."""
        values = _checked(name, (*self.fields.get(name, ()), value))
        return replace(self, fields={**self.fields, name: values})

    def minus(self, name: str, value: str | None = None) -> "Selection":
        """Without a value of a field, or without the field."""
        remaining = tuple(v for v in self.fields.get(name, ()) if value is not None and v != value)
        fields = {k: v for k, v in self.fields.items() if k != name}
        return replace(self, fields={**fields, name: remaining} if remaining else fields)

    # --- What it asks for ------------------------------------------------------------------------
    @property
    def by_meaning(self) -> bool:
        return bool(self.q) and self.mode == "meaning"

    @property
    def by_words(self) -> bool:
        return bool(self.q) and self.mode == "words"

    @property
    def deleted(self) -> bool:
        """Whether it selects deleted memories instead of live ones."""
        return bool(self.fields.get("deleted"))

    @property
    def is_everything(self) -> bool:
        """Whether it selects every live memory."""
        return not self.q and not self.fields

    def where(self, *, without: str = "") -> Node:
        """The fields in the filter language, save `deleted`, which it does not know, and the search
        text. `without` leaves one field out, for the counts of its other values."""
        return AllOf(
            tuple(
                _node(name, values)
                for name, values in self.fields.items()
                if name not in {"deleted", without}
            )
        )

    def words(self) -> str:
        """In words, such as "user mara or jonas, unreviewed, with “django”"."""
        parts = [WORDS[name](self.fields[name]) for name in FIELDS if self.fields.get(name)]
        if self.q:
            parts.append(f"{'about' if self.by_meaning else 'with'} “{self.q}”")
        return ", ".join(parts) or "all memories"


# --- Reading -------------------------------------------------------------------------------------
def _lists(params: Mapping[str, Any]) -> Mapping[str, Sequence[str]]:
    """Lists of text: of a QueryDict, which gives single values otherwise, or of stored JSON."""
    pairs: Iterable[tuple[str, Any]] = getattr(params, "lists", params.items)()
    lists = {name: [value] if isinstance(value, str) else value for name, value in pairs}
    for name in ("q", "mode", "sort", *FIELDS):
        values = lists.get(name, [])
        if not isinstance(values, list | tuple) or not all(isinstance(v, str) for v in values):
            raise InvalidInputError(f"{name} must be a list of texts.")
    return lists


def _one(lists: Mapping[str, Sequence[str]], name: str) -> str:
    values = lists.get(name) or [""]
    return values[-1]


def _checked(name: str, values: Iterable[str]) -> tuple[str, ...]:
    """The values in one order, each once; InvalidInputError for one that the field cannot have."""
    label = LABELS[name]
    distinct = tuple(sorted({value.strip() for value in values}))
    if len(distinct) > MAX_VALUES:
        raise InvalidInputError(f"{label}: at most {MAX_VALUES} values at once.")
    for value in distinct:
        if len(value) > _MAX_LENGTH or "\0" in value:
            raise InvalidInputError(f"{label}: a value is too long or holds a NUL character.")
        if name in _CHOICES and value not in _CHOICES[name]:
            raise InvalidInputError(
                f"{label} is {' or '.join(_CHOICES[name])}, not {value[:40] or 'empty'}."
            )
        if name in {"created", "updated"}:
            _period(label, value, timezone.now())
        if name == "metadata" and not value.partition("=")[0].strip():
            raise InvalidInputError("Metadata: name a key, or key=value.")
    return distinct


def _period(label: str, value: str, now: datetime) -> dict[str, str]:
    """What holds for its times: "gte" an instant or a day, "lte" a day. A day is a whole one, in
    the zone of the project. InvalidInputError for what is no period."""
    if ago := AGO.fullmatch(value):
        number = int(ago[1])
        since = now - (timedelta(hours=number) if ago[2] == "h" else timedelta(days=number))
        return {"gte": since.isoformat()}
    first, dots, last = value.partition("..")
    try:
        start = date.fromisoformat(first) if first else None
        end = date.fromisoformat(last) if last else None if dots else start
    except ValueError:
        start = end = None
    if start is None and end is None:
        raise InvalidInputError(
            f"{label}: write 24h, 7d, 2026-11-01..2026-11-20, or one end of it, "
            f"not {value[:40] or 'nothing'}."
        )
    if start and end and start > end:
        raise InvalidInputError(f"{label}: {value} ends before it begins.")
    return {op: day.isoformat() for op, day in (("gte", start), ("lte", end)) if day}


# --- The filter language -------------------------------------------------------------------------
def _node(name: str, values: tuple[str, ...]) -> Node:
    now = timezone.now()
    if name in {"created", "updated"}:
        periods = (_period(LABELS[name], value, now) for value in values)
        return _any(
            AllOf(tuple(Comparison(f"{name}_at", op, at) for op, at in period.items()))
            for period in periods
        )
    if name == "expiry":
        return _any(_expiry(value, now) for value in values)
    if name == "metadata":
        return _metadata(values)
    if name in ENTITY_FIELDS and "" in values:
        # None at all is a condition of its own: the others are read from indexes without it.
        entities = tuple(value for value in values if value)
        none = Comparison(name, "eq", None)
        return AnyOf((Comparison(name, "in", entities), none)) if entities else none
    return Comparison(name, "in", values)


def _any(parts: Iterable[Node]) -> Node:
    nodes = tuple(parts)
    return nodes[0] if len(nodes) == 1 else AnyOf(nodes)


def _ended(at: datetime) -> Node:
    """Expired at that instant; a date is the last day on which the memory is valid."""
    return AnyOf(
        (
            Comparison("expires_at", "lte", at.isoformat()),
            Comparison("expiration_date", "lt", at.astimezone(UTC).date().isoformat()),
        )
    )


def _expiry(value: str, now: datetime) -> Node:
    ends = AnyOf((Comparison("expires_at", "exists"), Comparison("expiration_date", "exists")))
    if value == "never":
        return AllOf((Comparison("expires_at", "eq"), Comparison("expiration_date", "eq")))
    if value == "expired":
        return _ended(now)
    if value == "soon":
        return AllOf((_ended(now + SOON), Not(_ended(now))))
    return AllOf((ends, Not(_ended(now + SOON))))


def _metadata(values: tuple[str, ...]) -> Node:
    keys: dict[str, list[Node]] = {}
    for value in values:
        key, equals, text = (part.strip() for part in value.partition("="))
        tests = keys.setdefault(key, [])
        if not equals:
            tests.append(Comparison(key, "exists", metadata=True))
        else:
            tests += [Comparison(key, "eq", form, metadata=True) for form in _forms(text)]
    return AllOf(tuple(_any(tests) for tests in keys.values()))


def _forms(text: str) -> list[str | int | float | bool]:
    """The JSON values that a text in an address may stand for: itself, a number, a boolean."""
    forms: list[str | int | float | bool] = [text]
    if text in {"true", "false"}:
        forms.append(text == "true")
    elif re.fullmatch(r"-?\d{1,15}", text):
        forms.append(int(text))
    elif re.fullmatch(r"-?\d{1,15}\.\d{1,15}", text):
        forms.append(float(text))
    return forms


# --- Words ---------------------------------------------------------------------------------------
