"""Where clients find out how to sign in: the documents of RFC 8414 and RFC 9728."""

from django.conf import settings
from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_safe

from core.http.public import base_url
from oauth.assertions import ALGORITHMS
from oauth.metadata import GRANT_TYPES, METHODS
from oauth.scopes import WIRE


@require_safe
def authorization_server(request: HttpRequest) -> JsonResponse:
    """The authorization server, RFC 8414 section 2. Clients compare `issuer` letter by letter with
    what the other document says."""
    base = base_url(request)
    document = {
        "issuer": base,
        "authorization_endpoint": f"{base}/oauth/authorize",
        "token_endpoint": f"{base}/oauth/token",
        "revocation_endpoint": f"{base}/oauth/revoke",
        "scopes_supported": list(WIRE),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": list(GRANT_TYPES),
        "token_endpoint_auth_methods_supported": list(METHODS),
        "token_endpoint_auth_signing_alg_values_supported": list(ALGORITHMS),
        "revocation_endpoint_auth_methods_supported": list(METHODS),
        "revocation_endpoint_auth_signing_alg_values_supported": list(ALGORITHMS),
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": True,
        "client_id_metadata_document_supported": settings.OAUTH_CLIENT_DOCUMENTS,
    }
    if settings.OAUTH_REGISTRATION:
        document["registration_endpoint"] = f"{base}/oauth/register"
    return JsonResponse(document)


@require_safe
def protected_resource(request: HttpRequest) -> JsonResponse:
    """What tokens are for, RFC 9728 section 2: /mcp, without a slash at its end."""
    base = base_url(request)
    return JsonResponse(
        {
            "resource": f"{base}/mcp",
            "authorization_servers": [base],
            "scopes_supported": list(WIRE),
            "bearer_methods_supported": ["header"],
            "resource_name": "mem0dash",
        }
    )
