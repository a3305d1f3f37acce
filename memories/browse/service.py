"""What the memory browser reads: pages, counts per field, and one memory with all about it."""

from memories.browse.detail import HistoryEntry, MemoryDetail, SimilarMemory, get_detail
from memories.browse.facets import FACETS, NEWEST, FacetValue, facets, more_facets
from memories.browse.pages import (
    BEST,
    LAST,
    PER_PAGE,
    MemoryPage,
    ends_at,
    filter_matching,
    read_page,
    rows_of,
)

__all__ = [
    "BEST",
    "FACETS",
    "LAST",
    "NEWEST",
    "PER_PAGE",
    "FacetValue",
    "HistoryEntry",
    "MemoryDetail",
    "MemoryPage",
    "SimilarMemory",
    "ends_at",
    "facets",
    "filter_matching",
    "get_detail",
    "more_facets",
    "read_page",
    "rows_of",
]
