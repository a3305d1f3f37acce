"""The tables of memories: `memory`, `bulk`, `server`."""

from memories.models.bulk import Operation, OperationItem
from memories.models.memory import (
    ENTITY_FIELDS,
    EXPIRY_FIELDS,
    FACET_FIELDS,
    LIVE,
    AddInput,
    Collection,
    Confidence,
    IngestClaim,
    Memory,
    MemoryTokens,
    MemoryVector,
    ReviewStatus,
    Revision,
    SavedView,
    SessionMessage,
)
from memories.models.server import EngineConfig, IndexState, Lease, Reembedding

__all__ = [
    "ENTITY_FIELDS",
    "EXPIRY_FIELDS",
    "FACET_FIELDS",
    "LIVE",
    "AddInput",
    "Collection",
    "Confidence",
    "EngineConfig",
    "IndexState",
    "IngestClaim",
    "Lease",
    "Memory",
    "MemoryTokens",
    "MemoryVector",
    "Operation",
    "OperationItem",
    "Reembedding",
    "ReviewStatus",
    "Revision",
    "SavedView",
    "SessionMessage",
]
