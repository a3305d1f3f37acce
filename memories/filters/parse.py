"""Parses the filter objects that clients send into the filter language."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Final

from core.errors import InvalidInputError
from core.limits import check_value
from memories.filters.language import (
    DATE_FIELDS,
    FIELDS,
    MAX_KEYS,
    OPERATORS,
    TIME_FIELDS,
    AllOf,
    AnyOf,
    Comparison,
    Node,
    Not,
    Scalar,
)
from memories.models import ENTITY_FIELDS
from memories.texts import entity_id, parse_instant

MAX_DEPTH: Final = 16
MAX_CONDITIONS: Final = 200
MAX_NODES: Final = 1000
MAX_VALUES: Final = 500
_LOGIC: Final = {"AND": "AND", "OR": "OR", "NOT": "NOT", "$and": "AND", "$or": "OR", "$not": "NOT"}
_METADATA: Final = "metadata"
_ALIASES: Final = {"data": "text", "memory": "text"}
# A value that no column of the name could hold speaks of the metadata key of that name.
_PROMOTED: Final = frozenset({"source", "confidence", "review_status", "reviewed_by", "role"})


def parse_filters(filters: Mapping[str, Any]) -> Node:
    """The node for a flat-metadata filter object (OSS grammar, docs/filters.md).

    Keys are columns or metadata keys; values are scalars (equal), `"*"` (present), lists (one of)
    or `{operator: value}`; AND, OR and NOT nest. InvalidInputError says what is wrong.
    """
    parser = _Parser()
    return parser.mapping(filters, 0)


class _Parser:
    def __init__(self) -> None:
        self.count = self.nodes = self.values = 0

    def mapping(self, filters: object, depth: int) -> Node:
        if not isinstance(filters, Mapping):
            raise InvalidInputError("Invalid filters: each filter must be an object.")
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise InvalidInputError(f"Invalid filters: more than {MAX_NODES} filters.")
        if depth > MAX_DEPTH:
            raise InvalidInputError(f"Invalid filters: nested deeper than {MAX_DEPTH} levels.")
        parts = tuple(self.entry(key, value, depth) for key, value in filters.items())
        return parts[0] if len(parts) == 1 else AllOf(parts)

    def entry(self, key: str, value: object, depth: int) -> Node:
        logic = _LOGIC.get(key)
        if logic is None:
            return self.field(_ALIASES.get(key, key), value)
        branches = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        if not branches:
            raise InvalidInputError(f"Invalid filters: {key} needs at least one filter.")
        parts = tuple(self.mapping(branch, depth + 1) for branch in branches)
        if logic == "AND":
            return AllOf(parts)
        return AnyOf(parts) if logic == "OR" else Not(AnyOf(parts))

    def field(self, name: str, value: object) -> Node:
        check_value(name, "a field")
        if name == _METADATA or name.startswith(f"{_METADATA}."):
            # Nothing would fit, and under a NOT everything.
            raise InvalidInputError(
                "Invalid filters: name keys of the metadata by themselves, without “metadata”."
            )
        if isinstance(value, Mapping):
            if not value:
                raise InvalidInputError(f"Invalid filter for {name}: it names no operator.")
            parts = tuple(self.condition(name, op, operand) for op, operand in value.items())
            return parts[0] if len(parts) == 1 else AllOf(parts)
        if value == "*":
            return self.condition(name, "exists", None)
        if isinstance(value, list):
            return self.condition(name, "in", value)
        return self.condition(name, "eq", value)

    def condition(self, name: str, op: str, value: object) -> Comparison:
        self.count += 1
        if name.count(".") >= MAX_KEYS:
            raise InvalidInputError(f"Invalid filter for {name[:80]}: more than {MAX_KEYS} keys.")
        if self.count > MAX_CONDITIONS:
            raise InvalidInputError(f"Invalid filters: more than {MAX_CONDITIONS} conditions.")
        if op not in {*OPERATORS, "exists"}:
            inside = (
                "" if name in FIELDS else f" For the key {op} inside of {name}, write {name}.{op}."
            )
            raise InvalidInputError(
                f"Unsupported filter operator for {name}: {op}. "
                f"Supported operators: {', '.join(OPERATORS)}.{inside}"
            )
        if op in {"in", "nin"}:
            if not isinstance(value, list):
                raise InvalidInputError(f"Invalid filter for {name}: {op} needs a list.")
            self.values += len(value)
            if self.values > MAX_VALUES:
                raise InvalidInputError(f"Invalid filters: more than {MAX_VALUES} values in lists.")
            return _typed(name, op, tuple(_scalar(name, item) for item in value))
        if op == "icontains" and not isinstance(value, str):
            raise InvalidInputError(f"Invalid filter for {name}: icontains needs a string.")
        if op == "contains" and value is None:
            raise InvalidInputError(f"Invalid filter for {name}: contains needs a value.")
        if op in {"gt", "gte", "lt", "lte"} and (value is None or isinstance(value, bool)):
            raise InvalidInputError(f"Invalid filter for {name}: {op} needs a number or a string.")
        return _typed(name, op, _scalar(name, value))


def _scalar(name: str, value: object) -> Scalar:
    if value is None or isinstance(value, str | int | float | bool):
        if isinstance(value, str) and "\0" in value:
            raise InvalidInputError(f"Invalid filter for {name}: NUL characters are not allowed.")
        if isinstance(value, str):
            check_value(value, name)
        return value
    raise InvalidInputError(f"Invalid filter for {name}: a value must be a string, number or bool.")


def _typed(name: str, op: str, value: Scalar | tuple[Scalar, ...]) -> Comparison:
    """The condition on a column with its value checked, or on a metadata key."""
    values = value if isinstance(value, tuple) else (value,)
    all_text = all(isinstance(item, str) for item in values if item is not None)
    if name not in FIELDS or (
        name in _PROMOTED and op != "exists" and not all_text and value is not None
    ):
        return Comparison(name, op, value, metadata=True)
    if op == "exists" or value is None:
        return Comparison(name, op, value)
    if name in ENTITY_FIELDS and op in {"eq", "ne", "in", "nin"}:
        ids = tuple(entity_id(item, name) for item in values)
        return Comparison(name, op, ids if isinstance(value, tuple) else ids[0])
    if name in TIME_FIELDS:
        if not all(parse_instant(item) for item in values):
            raise InvalidInputError(
                f"Invalid filter for {name}: use ISO 8601, a day or a date and time."
            )
    elif name in DATE_FIELDS:
        if not all(_is_date(item) for item in values):
            raise InvalidInputError(f"Invalid filter for {name}: use a date, YYYY-MM-DD.")
    elif not all_text:
        raise InvalidInputError(f"Invalid filter for {name}: the value must be a string.")
    if (name in TIME_FIELDS or name in DATE_FIELDS) and op in {"contains", "icontains"}:
        raise InvalidInputError(f"Invalid filter for {name}: {op} does not go with a time.")
    return Comparison(name, op, value)


def _is_date(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(date.fromisoformat(value))
    except ValueError:
        return False
