"""What the memory browser reads: pages, counts per field, and one memory with all about it."""

from memories.browse.detail import Detail, Entry, Similar, one
from memories.browse.facets import FACETS, NEWEST, Facet, facets, more_facets
from memories.browse.pages import BEST, LAST, PER_PAGE, Page, ends_at, matching, page, rows_of

__all__ = [
    "BEST",
    "FACETS",
    "LAST",
    "NEWEST",
    "PER_PAGE",
    "Detail",
    "Entry",
    "Facet",
    "Page",
    "Similar",
    "ends_at",
    "facets",
    "matching",
    "more_facets",
    "one",
    "page",
    "rows_of",
]
