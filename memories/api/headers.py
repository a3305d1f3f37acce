"""Headers that all dialects answer with or read."""

from drf_spectacular.utils import OpenApiParameter

STORED_HEADER = "X-Mem0dash-Stored"
SEARCH_HEADER = "X-Mem0dash-Search"
PROBLEM_HEADER = "X-Mem0dash-Problem"
IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    str,
    OpenApiParameter.HEADER,
    description="Repeated with the same request it gives the first answer, and stores nothing.",
)
