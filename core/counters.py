"""Counters for the metrics of this process."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]  # that is how the library has it

# The metrics of this process. The library's own registry tells of Python and the platform as well.
registry: Final = CollectorRegistry()

BULK_DELETED: Final = Counter(
    "memories_bulk_deleted_total",
    "Memories deleted by POST /api/v1/memories/delete_bulk.",
    registry=registry,
)
