"""The endpoints for monitoring: health and metrics."""

from typing import Any, Final

from django.conf import settings
from django.db import Error as AnyDatabaseError
from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import APIException
from rest_framework.request import Request
from rest_framework.response import Response

from core.database import deadlines
from core.errors import Mem0dashError, PermissionDeniedError
from core.http import credentials
from core.http.waiting import ProviderWait, waits_for
from core.principal import Principal, Scope
from core.rest.schemas import ERROR, TEXT, TIME, Schema, list_of, object_of
from core.rest.shapes import instant_z
from core.rest.views import OssView
from core.version import VERSION
from operations import metrics
from operations.health import STATES, ComponentHealth, check_health

_YES: Schema = {"type": "boolean"}
_PART = object_of(
    {
        "name": TEXT,
        "ok": _YES,
        "state": {"type": "string", "enum": ["ok", "failing", *STATES.values()]},
        "problem": TEXT,
        "since": TIME,
        "ms": {"type": "number"},
    },
    "problem",
)
_HEALTH = object_of(
    {
        "ok": _YES,
        "version": TEXT,
        "qdrant": {"type": "string", "enum": ["reachable", "unreachable"]},
        "failing": list_of(TEXT),
        "parts": list_of(_PART),
    },
    "version",
    "failing",
    "parts",
)


# How long a request of a monitor waits for the database; after that the database counts as silent.
PATIENCE_SECONDS: Final = 1.7


class MonitorView(OssView):
    # Answers in time, whatever the database does. (A docstring would be published.)

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        with deadlines.within(PATIENCE_SECONDS):
            return super().dispatch(request, *args, **kwargs)


class HealthView(MonitorView):
    permission_classes = ()
    PASSES_NAMES_OVER = True

    @waits_for(ProviderWait.PARTS)
    @extend_schema(
        operation_id="health",
        summary="Whether every part answers; with a credential, the version and each part",
        responses={200: _HEALTH, 503: _HEALTH},
    )
    def get(self, request: Request) -> Response:
        parts = check_health()
        failing = [part.name for part in parts if not part.is_well]
        body: dict[str, Any] = {"ok": not failing}
        knows = isinstance(request.auth, Principal) or _has_static_key(request)
        may_know = settings.HEALTH_DETAILS or knows
        if may_know:
            body["version"] = VERSION
        body["qdrant"] = "unreachable" if "index" in failing else "reachable"
        if failing:
            body["failing"] = failing
        if may_know:
            body["parts"] = [_shape(part) for part in parts]
        answer = Response(body, status=503 if failing else 200)
        # The change has been logged already; Django would log every call.
        answer._has_been_logged = True  # type: ignore[attr-defined]
        return answer

    def perform_authentication(self, request: Request) -> None:
        # Monitors get an answer even with an invalid credential, or if no database can check it.
        try:
            super().perform_authentication(request)
        except (APIException, Mem0dashError, AnyDatabaseError):
            request.auth = None


class MetricsView(MonitorView):
    def get_authenticators(self) -> list[BaseAuthentication]:
        return [] if settings.METRICS_PUBLIC else list(super().get_authenticators())

    PASSES_NAMES_OVER = True

    def perform_authentication(self, request: Request) -> None:
        if not self._is_open(request):
            super().perform_authentication(request)

    def check_permissions(self, request: Request) -> None:
        if not self._is_open(request):
            super().check_permissions(request)

    def _is_open(self, request: Request) -> bool:
        return settings.METRICS_PUBLIC or _has_static_key(request)

    @waits_for(ProviderWait.PARTS)
    @extend_schema(
        operation_id="metrics",
        summary="Metrics of this process for Prometheus (scope admin)",
        responses={(200, "text/plain"): OpenApiTypes.STR, 401: ERROR, 403: ERROR, 404: ERROR},
    )
    def get(self, request: Request) -> HttpResponse:
        if not self._is_open(request):
            principal = self.caller()
            principal.require(Scope.ADMIN, "Admin role required.")
            if not principal.is_owner or principal.entity_limit is not None:
                raise PermissionDeniedError(
                    "Metrics are of the whole instance: they are for its owner's keys."
                )
        return HttpResponse(metrics.exposition(), content_type=metrics.CONTENT_TYPE)


def _has_static_key(request: Request) -> bool:
    """Whether the caller sends a key from the environment. The check needs no database, so it works
    during an outage."""
    credentials_sent = credentials.read_credentials(request.headers)
    if not credentials_sent or not credentials.is_static_key(credentials_sent[0].value):
        return False
    # For the logs.
    request._request.auth_type = "admin_api_key"  # type: ignore[attr-defined]
    return True


def _shape(part: ComponentHealth) -> dict[str, Any]:
    return {
        "name": part.name,
        "ok": part.is_well,
        "state": part.state,
        **({"problem": part.problem} if part.problem else {}),
        "since": instant_z(part.since),
        "ms": part.ms,
    }
