"""Every mount of the service."""

from django.http import HttpRequest, HttpResponseRedirect
from django.urls import include, path
from django.views.decorators.http import require_safe
from drf_spectacular.views import SpectacularJSONAPIView, SpectacularSwaggerSplitView

from operations.views import healthz


@require_safe
def root(request: HttpRequest) -> HttpResponseRedirect:
    """Clients that probe `/` are sent to the documentation, with a method-keeping redirect."""
    response = HttpResponseRedirect("/docs")
    response.status_code = 307
    return response


documentation = SpectacularSwaggerSplitView.as_view(
    url_name="openapi", template_name="api_documentation.html"
)

urlpatterns = [
    path("", root, name="root"),
    path("healthz", healthz, name="healthz"),
    path("openapi.json", SpectacularJSONAPIView.as_view(), name="openapi"),
    path("docs", documentation, name="docs"),
    path("", include("memories.api.urls")),
]

handler400 = "mem0dash.middleware.bad_request"
handler404 = "mem0dash.middleware.not_found"
handler500 = "mem0dash.middleware.server_error"
