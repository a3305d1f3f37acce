"""Bodies, queries and paths as pydantic models: its errors are part of the dialects' contract."""

from typing import Annotated, Any, TypeVar

from django.core.exceptions import ValidationError as DjangoValidationError
from django.core.validators import MaxLengthValidator, validate_email
from pydantic import AfterValidator, BaseModel, StrictStr, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError
from rest_framework.request import Request

from mem0dash.errors import InvalidInputError
from mem0dash.rest.errors import BodyError, without_secrets

# RFC 5321, 4.5.3.1.3, without the angle brackets.
_fits = MaxLengthValidator(254)


def _email(value: str) -> str:
    value = value.strip().lower()
    try:
        validate_email(value)
        _fits(value)
    except DjangoValidationError:
        reason = "It must look like name@example.org."
        raise PydanticCustomError(
            "value_error", "value is not a valid email address: {reason}", {"reason": reason}
        ) from None
    return value


# An e-mail address, in lower case.
Email = Annotated[
    StrictStr, AfterValidator(_email), WithJsonSchema({"type": "string", "format": "email"})
]

Model = TypeVar("Model", bound=BaseModel)


def body_of(request: Request, model: type[Model]) -> Model:
    """The body as `model`; BodyError in FastAPI's shape when it does not fit."""
    data = request.data
    if not isinstance(data, dict):
        if data is None:
            raise BodyError([_problem("missing", ["body"], "Field required", None)])
        message = "Input should be a valid dictionary or object to extract fields from"
        raise BodyError([_problem("model_attributes_type", ["body"], message, data)])
    return _checked(data, model, "body")


def query_of(request: Request, model: type[Model]) -> Model:
    """The query string as `model`; BodyError in FastAPI's shape when it does not fit."""
    if any("\0" in value for value in request.query_params.values()):
        raise InvalidInputError("NUL characters are not allowed in the query.")
    return _checked(request.query_params.dict(), model, "query")


def path_of(values: dict[str, str], model: type[Model]) -> Model:
    """Path parameters as `model`; BodyError in FastAPI's shape when they do not fit."""
    return _checked(values, model, "path")


def _checked(data: dict[str, Any], model: type[Model], where: str) -> Model:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise BodyError.from_pydantic(error, where) from error


def _problem(type_: str, loc: list[str], msg: str, value: Any) -> dict[str, Any]:
    return {"type": type_, "loc": loc, "msg": msg, "input": without_secrets(value)}
