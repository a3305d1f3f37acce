"""The operators' routes."""

from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_safe

from operations.health import failing_parts


@require_safe
def healthz(request: HttpRequest) -> JsonResponse:
    """200 when every part answers, 503 with the names of those that do not. No credential."""
    failing = failing_parts()
    qdrant = "unreachable" if "index" in failing else "reachable"
    body: dict[str, object] = {"ok": not failing, "qdrant": qdrant}
    if failing:
        body["failing"] = failing
    return JsonResponse(body, status=503 if failing else 200, headers={"Cache-Control": "no-store"})
