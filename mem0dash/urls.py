"""Every mount of the service."""

from django.http import HttpRequest, HttpResponseRedirect
from django.urls import include, path, reverse
from django.utils.cache import patch_vary_headers
from django.views.decorators.http import require_safe
from drf_spectacular.views import SpectacularJSONAPIView, SpectacularSwaggerSplitView

from core.pages.answers import wants_html


@require_safe
def root(request: HttpRequest) -> HttpResponseRedirect:
    """A browser is sent to the dashboard; clients that probe `/` to the documentation, with a
    method-keeping redirect."""
    response = HttpResponseRedirect(
        reverse("dashboard:overview" if wants_html(request) else "docs")
    )
    response.status_code = 307
    patch_vary_headers(response, ["Accept"])
    return response


documentation = SpectacularSwaggerSplitView.as_view(
    url_name="openapi", template_name="api_documentation.html"
)

urlpatterns = [
    path("", root, name="root"),
    path("openapi.json", SpectacularJSONAPIView.as_view(), name="openapi"),
    path("docs", documentation, name="docs"),
    path("", include("dashboard.urls")),
    path("", include("setup_wizard.urls")),
    path("", include("accounts.urls")),
    path("", include("apikeys.urls")),
    path("", include("oauth.urls")),
    path("", include("jobs.urls")),
    path("", include("operations.urls")),
    path("", include("memories.urls")),
    path("", include("memories.api.urls")),
]

handler400 = "core.http.middleware.bad_request"
handler403 = "core.http.middleware.forbidden"
handler404 = "core.http.middleware.not_found"
handler500 = "core.http.middleware.server_error"
