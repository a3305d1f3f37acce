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
    # A view of the OSS dialect, whose errors have that dialect's shapes. (A docstring would be
    # published with every route.)

    # The query of each method: read by `read_query`, published, and checked for unknown names. A
    # method that is not listed takes no parameters.
    QUERY: ClassVar[Mapping[str, type[BaseModel]]] = {}
    # For routes whose answer no parameter could narrow: ignores what monitors and sign-ins add.
    PASSES_NAMES_OVER: ClassVar[bool] = False

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        method = request.method or ""
        if not self.PASSES_NAMES_OVER and hasattr(self, method.lower()):
            check_names(request, self.QUERY.get("GET" if method == "HEAD" else method))

    def read_query(self, model: type[Query]) -> Query:
        """The query as the model that is declared for this method; BodyError."""
        assert model in self.QUERY.values()  # noqa: S101  (undeclared names are refused)
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
        assert isinstance(principal, Principal)  # noqa: S101  (HasPrincipal has checked it)
        return principal


class OpenView(OssView):
    # For everybody; ignores credentials.
    authentication_classes = ()
    permission_classes = ()
    PASSES_NAMES_OVER = True
