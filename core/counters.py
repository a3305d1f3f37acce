"""Counters for the metrics of this process."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]  # the library is untyped

# The metrics of this process. The library's own registry also describes Python and the platform.
registry: Final = CollectorRegistry()

BULK_DELETED: Final = Counter(
    "memories_bulk_deleted_total",
    "Memories deleted by POST /api/v1/memories/delete_bulk.",
    registry=registry,
)
