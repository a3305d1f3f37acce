"""How credentials appear in the published OpenAPI document."""

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension


class CredentialScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # no types there
    target_class = "apikeys.authentication.CredentialAuthentication"
    name = ["APIKeyHeader", "HTTPBearer"]  # noqa: RUF012  (the base class fixes the type)

    def get_security_definition(self, auto_schema: Any) -> list[dict[str, Any]]:
        return [
            {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            {"type": "http", "scheme": "bearer", "bearerFormat": "m0sk_… or JWT"},
        ]


def either_credential(result: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
    """Postprocessing hook: one of the schemes is enough, where the generator asks for both."""
    for operations in result["paths"].values():
        for operation in operations.values():
            if security := operation.get("security"):
                operation["security"] = [{name: []} for both in security for name in both]
    return result
