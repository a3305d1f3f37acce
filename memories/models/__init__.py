"""The tables of memories: `memory`, `bulk`, `server`."""

from memories.models.adds import AddInput, IngestClaim, SessionMessage
from memories.models.bulk import Operation, OperationItem
from memories.models.history import Revision
from memories.models.memory import (
    ENTITY_FIELDS,
    EXPIRY_FIELDS,
    FACET_FIELDS,
    LIVE,
    Collection,
    Confidence,
    Memory,
    MemoryRetrieval,
    MemoryTokens,
    MemoryVector,
    ReviewStatus,
)
from memories.models.saved_views import SavedView
from memories.models.server import EngineConfig, IndexState, Reembedding

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
    "Memory",
    "MemoryRetrieval",
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
