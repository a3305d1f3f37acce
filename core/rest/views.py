"""The base of every REST view."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from core.principal import Principal
from core.rest.bodies import check_names, query_of
from core.rest.errors import oss_exception_handler

Query = TypeVar("Query", bound=BaseModel)


class OssView(APIView):
    # A comment, for a docstring would be published with every route: a view of the OSS dialect,
    # whose errors have that dialect's shapes.

    # What each method understands in its address: read by `asked`, published, and everything else
    # refused. A method that is not named here understands nothing.
    QUERY: ClassVar[Mapping[str, type[BaseModel]]] = {}
    # For routes whose answer no name could narrow: what monitors and sign-ins add is passed over.
    PASSES_NAMES_OVER: ClassVar[bool] = False

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        method = request.method or ""
        if not self.PASSES_NAMES_OVER and hasattr(self, method.lower()):
            check_names(request, self.QUERY.get("GET" if method == "HEAD" else method))

    def asked(self, model: type[Query]) -> Query:
        """The query as the model that is declared for this method; BodyError."""
        assert model in self.QUERY.values()  # noqa: S101  (what is not declared is refused)
        return query_of(self.request, model)

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
    PASSES_NAMES_OVER = True
