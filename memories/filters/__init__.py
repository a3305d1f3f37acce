"""One filter language: parsed from what clients send, compiled to SQL and to the index."""

from memories.filters.language import EVERYTHING, AllOf, AnyOf, Comparison, Node, Not
from memories.filters.parse import parse_filters
from memories.filters.pushdown import pushdown
from memories.filters.sql import to_q

__all__ = [
    "EVERYTHING",
    "AllOf",
    "AnyOf",
    "Comparison",
    "Node",
    "Not",
    "parse_filters",
    "pushdown",
    "to_q",
]
