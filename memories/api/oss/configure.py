"""The OSS dialect: which providers are used, instructions, and the reset of a project."""

from typing import Any

from drf_spectacular.utils import extend_schema
from pydantic import BaseModel, ConfigDict, StrictStr
from rest_framework.request import Request
from rest_framework.response import Response

from core.errors import InvalidInputError
from core.http.waiting import ProviderWait, waits_for
from core.principal import Principal, Scope
from core.rest.bodies import body_of, check_no_body
from core.rest.schemas import ANY_OBJECT, MESSAGE, TEXT, TEXT_OR_NULL, answers, object_of
from core.rest.views import OssView
from memories.editing import service as editing
from memories.providers import service as providers

_PROVIDER = object_of({"provider": TEXT, "config": ANY_OBJECT})
_CONFIGURATION = object_of(
    {
        "version": TEXT,
        "llm": _PROVIDER,
        "embedder": _PROVIDER,
        "fallback_llm": {**_PROVIDER, "type": ["object", "null"]},
        "vector_store": _PROVIDER,
        "custom_instructions": TEXT_OR_NULL,
    }
)
_NAMES = {"type": "array", "items": TEXT}


class UseCase(BaseModel):
    """What the memories are for."""

    model_config = ConfigDict(extra="ignore")

    use_case: StrictStr


class ConfigureView(OssView):
    @extend_schema(
        operation_id="get_configuration",
        summary="The providers in use, without their secrets",
        responses=answers(_CONFIGURATION),
    )
    def get(self, request: Request) -> Response:
        return Response(_shape(self.caller()))

    @waits_for(ProviderWait.PROVIDERS)
    @extend_schema(
        operation_id="configure",
        summary="Change providers (instance owner) or instructions (scope admin); no entity limit",
        request={"application/json": ANY_OBJECT},
        responses=answers(MESSAGE, 409),
    )
    def post(self, request: Request) -> Response:
        principal = self.caller()
        principal.require_project("the configuration")
        if not isinstance(request.data, dict):
            raise InvalidInputError("The configuration must be a JSON object.")
        providers.configure(principal, request.data)
        return Response({"message": "Configuration set successfully"})


class ProvidersView(OssView):
    @extend_schema(
        operation_id="list_providers",
        summary="The providers that can be chosen",
        responses=answers(object_of({"llm": _NAMES, "embedder": _NAMES})),
    )
    def get(self, request: Request) -> Response:
        self.caller().require(Scope.READ)
        return Response(providers.list_installed())


class GenerateInstructionsView(OssView):
    @waits_for(ProviderWait.LLM)
    @extend_schema(
        operation_id="generate_instructions",
        summary="Instructions for a use case, written by the LLM (scope write)",
        request=UseCase,
        responses=answers(object_of({"custom_instructions": TEXT, "test_message": TEXT}), 409),
    )
    def post(self, request: Request) -> Response:
        body = body_of(request, UseCase)
        written, test_message = providers.generate_instructions(self.caller(), body.use_case)
        return Response({"custom_instructions": written, "test_message": test_message})


class ResetView(OssView):
    @extend_schema(
        operation_id="reset",
        summary="Delete all memories of the project (scope admin)",
        request=None,
        responses=answers(MESSAGE),
    )
    def post(self, request: Request) -> Response:
        principal = self.caller()
        check_no_body(request)
        editing.reset_project(principal)
        return Response({"message": "All memories reset"})


def _shape(principal: Principal) -> dict[str, Any]:
    """mem0's configuration, as far as there is something to say; a "local" embedder is our own."""
    current = providers.get_in_use(principal)
    return {
        "version": "v1.1",
        "llm": current.llm,
        "embedder": current.embedder,
        "fallback_llm": current.fallback_llm,
        "vector_store": {"provider": "qdrant", "config": {}},
        "custom_instructions": current.instructions or None,
    }
