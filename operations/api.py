"""The OSS dialect's /requests: what keys did in the project."""

from typing import Annotated, Any, ClassVar

from drf_spectacular.utils import extend_schema
from pydantic import BaseModel, ConfigDict, Field
from rest_framework.request import Request
from rest_framework.response import Response

from core.principal import Scope
from core.rest.schemas import TEXT, TIME, answers, list_of, object_of
from core.rest.shapes import instant_z
from core.rest.views import OssView
from operations.models import RequestLog
from operations.queries import SHOWN_AUTH_TYPES, recent_requests

REQUESTS = list_of(
    object_of(
        {
            "id": TEXT,
            "method": TEXT,
            "path": TEXT,
            "status_code": {"type": "integer"},
            "latency_ms": {"type": "number"},
            "auth_type": {"type": "string", "enum": list(SHOWN_AUTH_TYPES)},
            "created_at": TIME,
        }
    )
)


class RequestsQuery(BaseModel):
    """The query string of GET /requests."""

    model_config = ConfigDict(extra="ignore")

    limit: Annotated[int, Field(ge=1, le=200)] = 50


def _shape(row: RequestLog) -> dict[str, Any]:
    return {
        "id": str(row.pk),
        "method": row.method,
        "path": row.path,
        "status_code": row.status_code,
        "latency_ms": row.latency_ms,
        "auth_type": row.auth_type,
        "created_at": instant_z(row.created_at),
    }


class RequestsView(OssView):
    QUERY: ClassVar = {"GET": RequestsQuery}

    @extend_schema(
        operation_id="list_requests",
        summary="The newest requests that were made with a key (scope admin)",
        responses=answers(REQUESTS),
    )
    def get(self, request: Request) -> Response:
        principal = self.caller()
        principal.require(Scope.ADMIN, "Admin role required.")
        query = self.read_query(RequestsQuery)
        return Response([_shape(row) for row in recent_requests(principal, limit=query.limit)])
