"""The base of every REST view."""

from collections.abc import Callable
from typing import Any

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from mem0dash.principal import Principal
from mem0dash.rest.errors import oss_exception_handler


class OssView(APIView):
    # A comment, for a docstring would be published with every route: a view of the OSS dialect,
    # whose errors have that dialect's shapes.

    def get_exception_handler(self) -> Callable[[Exception, dict[str, Any]], Response | None]:
        return oss_exception_handler

    def finalize_response(
        self, request: Request, response: Response, *args: Any, **kwargs: Any
    ) -> Response:
        final = super().finalize_response(request, response, *args, **kwargs)
        # A shared cache knows that Authorization makes an answer private, not that X-API-Key does.
        final.headers.setdefault("Cache-Control", "no-store")
        return final

    def caller(self) -> Principal:
        principal = self.request.auth
        assert isinstance(principal, Principal)  # noqa: S101  (HasPrincipal let the request in)
        return principal


class OpenView(OssView):
    # For everybody: a credential that comes along is not looked at.
    authentication_classes = ()
    permission_classes = ()
