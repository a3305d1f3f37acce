"""Publishes the queries that our views declare in the OpenAPI document."""

from typing import Any

from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiParameter
from pydantic import BaseModel

from core.rest.schemas import Schema


class QuerySchema(AutoSchema):
    """Publishes the names that `OssView.QUERY` declares for the method."""

    def get_override_parameters(self) -> list[Any]:
        declared = getattr(self.view, "QUERY", {}).get(self.method)
        own = parameters_of(declared) if declared else []
        return [*super().get_override_parameters(), *own]


def parameters_of(model: type[BaseModel]) -> list[OpenApiParameter]:
    """The fields of a query's model as parameters; optional ones may be omitted but not null."""
    described = model.model_json_schema()
    required = described.get("required", [])
    return [
        OpenApiParameter(name, _plain(schema), required=name in required)
        for name, schema in described["properties"].items()
    ]


def _plain(schema: Schema) -> Schema:
    kinds = [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
    [kind] = kinds
    plain = {name: value for name, value in kind.items() if name not in {"title", "default"}}
    if schema.get("default") is not None:
        plain["default"] = schema["default"]
    return plain
