"""The OSS dialect's /api-keys: one's own keys in the project of the credential."""

from typing import Any
from uuid import UUID

from drf_spectacular.utils import extend_schema
from pydantic import StrictStr
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.queries import account_of
from apikeys import services
from apikeys.models import ApiKey
from core.errors import NotFoundError
from core.rest.bodies import NamedBody, body_of
from core.rest.schemas import (
    MESSAGE,
    TEXT,
    TIME,
    TIME_OR_NULL,
    UUID_TEXT,
    answers,
    list_of,
    object_of,
)
from core.rest.shapes import instant_z
from core.rest.views import OssView

_ROW = {"id": UUID_TEXT, "label": TEXT, "key_prefix": TEXT, "created_at": TIME}
KEYS = list_of(object_of({**_ROW, "last_used_at": TIME_OR_NULL}))
MADE = object_of({**_ROW, "key": {**TEXT, "description": "Shown this once"}})


class KeyCreate(NamedBody):
    """The new key."""

    # A request that asks for fewer scopes or an expiry must not get a key with everything.
    REFUSES = "all"

    label: StrictStr


def _shape(row: ApiKey) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "label": row.label,
        "key_prefix": row.prefix,
        "created_at": instant_z(row.created_at),
    }


class ApiKeysView(OssView):
    @extend_schema(
        operation_id="list_api_keys",
        summary="One's own live keys, newest first; for a key, itself and those that it made",
        responses=answers(KEYS),
    )
    def get(self, request: Request) -> Response:
        principal = self.caller()
        rows = services.own_api_keys(principal, account_of(principal))
        return Response(
            [
                {
                    **_shape(row),
                    "last_used_at": instant_z(row.last_used_at) if row.last_used_at else None,
                }
                for row in rows
            ]
        )

    @extend_schema(
        operation_id="create_api_key",
        summary="Make a key with all of one's own rights (scope write); it is shown once",
        request=KeyCreate,
        responses=answers(MADE, 409, status=201),
    )
    def post(self, request: Request) -> Response:
        body = body_of(request, KeyCreate)
        principal = self.caller()
        row, key = services.create_own_api_key(principal, account_of(principal), label=body.label)
        shape = _shape(row)
        return Response({"id": shape.pop("id"), "key": key, **shape}, status=201)


class ApiKeyView(OssView):
    @extend_schema(
        operation_id="revoke_api_key",
        summary="End one of one's own keys at once, with all keys that it made",
        responses=answers(MESSAGE),
    )
    def delete(self, request: Request, key_id: str) -> Response:
        principal = self.caller()
        account = account_of(principal)
        try:
            id_ = UUID(key_id)
        except ValueError:
            raise NotFoundError("API key not found.") from None
        services.revoke_own_api_key(principal, account, key_id=id_)
        return Response({"message": "API key revoked."})
