"""Routes of OAuth, all without a slash at the end: a redirect would lose what a client posts."""

from django.conf import settings
from django.urls import URLPattern, include, path

from oauth.views import apps, consent, endpoints, metadata

_WELL_KNOWN = ".well-known/oauth"
_PREFIX = (settings.FORCE_SCRIPT_NAME or "").strip("/")


def _documents() -> list[URLPattern]:
    """Clients put the path of what they look for behind the well-known one (RFC 8414 section 3.1),
    and mem0-server answers at these with and without a slash."""
    places = ["/mcp", "/mcp/"]
    if _PREFIX:
        places += [f"/{_PREFIX}", f"/{_PREFIX}/mcp"]
    return [
        route
        for number, place in enumerate(places, 1)
        for route in (
            path(
                f"{_WELL_KNOWN}-authorization-server{place}",
                metadata.authorization_server,
                name=f"oauth-server-metadata-{number}",
            ),
            path(
                f"{_WELL_KNOWN}-protected-resource{place}",
                metadata.protected_resource,
                name=f"oauth-resource-metadata-{number}",
            ),
        )
    ]


# The library looks its own routes up by these names.
library = (
    [
        path(
            f"{_WELL_KNOWN}-authorization-server",
            metadata.authorization_server,
            name="oauth-server-metadata",
        ),
        path(
            f"{_WELL_KNOWN}-protected-resource",
            metadata.protected_resource,
            name="oauth-resource-metadata",
        ),
        path("oauth/authorize", consent.authorize, name="authorize"),
        path("oauth/token", endpoints.token, name="token"),
        path("oauth/revoke", endpoints.revoke, name="revoke-token"),
        path("oauth/register", endpoints.registration, name="dcr-register"),
        *_documents(),
    ],
    "oauth2_provider",
)
urlpatterns = [
    path("dashboard/apps", apps.apps, name="connected-apps"),
    path("dashboard/apps/<uuid:id_>/revoke", apps.revoke, name="app-revoke"),
    path("", include(library)),
]
