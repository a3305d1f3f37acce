"""Tells which part of a filter the index can answer by itself."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from memories.filters.language import EVERYTHING, AllOf, AnyOf, Comparison, Node, Not, Scalar, path
from memories.models import ENTITY_FIELDS

# What the index carries with every point; everything else is checked in SQL alone.
INDEXED_FIELDS: Final = (
    "project",
    "collection",
    *ENTITY_FIELDS,
    "actor_id",
    "role",
    "source",
    "confidence",
    "review_status",
)
# Every scalar of the metadata as one word, so that equality needs no field of its own.
METADATA_WORDS: Final = "meta"


def metadata_word(key: str, value: object) -> str | None:
    """The word for a scalar, None where the value is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 1 and 1.0 are the same number in JSON
    if value is None or not isinstance(value, str | int | float | bool):
        return None
    word = f"{key}={json.dumps(value, ensure_ascii=False)}"
    # A digest, for equality needs no more and the index is not to keep what an erasure takes away.
    return hashlib.blake2b(word.encode(), digest_size=12).hexdigest()


def metadata_words(metadata: Mapping[str, Any]) -> list[str]:
    """The words of a whole metadata object."""
    return [w for k, v in metadata.items() if (w := metadata_word(k, v)) is not None]


def pushdown(node: Node) -> tuple[Node, bool]:
    """The part of `node` that the index can answer, and whether that is all of it.

    The part never excludes anything that `node` lets through.
    """
    if isinstance(node, AllOf):
        parts = [pushdown(part) for part in node.parts]
        return AllOf(tuple(part for part, _ in parts if part != EVERYTHING)), all(
            e for _, e in parts
        )
    if isinstance(node, AnyOf):
        parts = [pushdown(part) for part in node.parts]
        if any(part == EVERYTHING for part, _ in parts):
            return EVERYTHING, all(exact for _, exact in parts)
        return AnyOf(tuple(part for part, _ in parts)), all(exact for _, exact in parts)
    if isinstance(node, Not):
        part, exact = pushdown(node.part)
        return (Not(part), True) if exact else (EVERYTHING, False)
    return _condition(node)


def _condition(c: Comparison) -> tuple[Node, bool]:
    if c.op in {"ne", "nin"}:
        return pushdown(
            Not(Comparison(c.field, "eq" if c.op == "ne" else "in", c.value, c.metadata))
        )
    if c.op not in {"eq", "in"}:
        return EVERYTHING, False
    values: tuple[Scalar, ...] = c.value if isinstance(c.value, tuple) else (c.value,)
    if c.metadata and path(c.field):
        return EVERYTHING, False  # the index has words of the outermost keys alone
    if c.metadata:
        words = tuple(metadata_word(c.field, value) for value in values)
        if None in words:
            return EVERYTHING, False
        return Comparison(METADATA_WORDS, "in", words), True
    if c.field in INDEXED_FIELDS and None not in values and "" not in values:
        return Comparison(c.field, "in", values), True
    return EVERYTHING, False
