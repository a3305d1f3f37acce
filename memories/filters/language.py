"""The one filter language: conditions on fields and metadata, joined by AND, OR and NOT."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from memories.models import ENTITY_FIELDS

Scalar = str | int | float | bool | None

OPERATORS: Final = ("eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "contains", "icontains")
TEXT_FIELDS: Final = frozenset(
    {
        *ENTITY_FIELDS,
        "actor_id",
        "role",
        "source",
        "confidence",
        "review_status",
        "reviewed_by",
        "memory_type",
        "attributed_to",
        "collection",
        "text",
    }
)
TIME_FIELDS: Final = frozenset({"created_at", "updated_at", "expires_at", "reviewed_at"})
DATE_FIELDS: Final = frozenset({"expiration_date"})
LIST_FIELDS: Final = frozenset({"categories"})
# Each is one more table of a join, of which SQLite takes 64.
MAX_KEYS: Final = 8
FIELDS: Final = TEXT_FIELDS | TIME_FIELDS | DATE_FIELDS | LIST_FIELDS


@dataclass(frozen=True, slots=True)
class Comparison:
    """`field op value`. `metadata` says that the field is a metadata key, not a column: `a.b` is
    the key of that name, or the key `b` of the object that is the value of `a` (see `path`).

    Beside OPERATORS there is `exists` (value ignored): present and not null or empty.
    """

    field: str
    op: str
    value: Scalar | tuple[Scalar, ...] = None
    metadata: bool = False


def path(field: str) -> tuple[str, ...]:
    """The keys that lead to a value inside of objects, where a metadata key is written with dots;
    none where it can only be a key itself, as with more than MAX_KEYS."""
    keys = tuple(field.split("."))
    return keys if 1 < len(keys) <= MAX_KEYS and all(keys) else ()


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every part holds; with no parts, always."""

    parts: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one part holds; with no parts, never."""

    parts: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold."""

    part: "Node"


Node = Comparison | AllOf | AnyOf | Not
EVERYTHING: Final = AllOf(())


def conditions(node: Node, *, negated: bool = False) -> Iterator[tuple[Comparison, bool]]:
    """Every condition in the tree, with whether it stands under an odd number of NOTs."""
    if isinstance(node, Comparison):
        yield node, negated
    elif isinstance(node, Not):
        yield from conditions(node.part, negated=not negated)
    else:
        for part in node.parts:
            yield from conditions(part, negated=negated)


def names_an_entity(node: Node) -> bool:
    """Whether some condition asks, positively, for a user, agent, app or run."""
    return any(
        c.field in ENTITY_FIELDS
        and not c.metadata
        and not negated
        and (c.op == "exists" or (c.op in {"eq", "in"} and c.value is not None))
        for c, negated in conditions(node)
    )


def mentions(node: Node, field: str) -> bool:
    """Whether any condition speaks of the column `field`."""
    return any(c.field == field and not c.metadata for c, _ in conditions(node))
