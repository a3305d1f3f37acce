"""Bodies, queries and paths as pydantic models, whose errors are part of the dialects' contract."""

import contextlib
import json
import re
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar

from django.core.exceptions import ValidationError as DjangoValidationError
from django.core.validators import MaxLengthValidator, validate_email
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    StrictStr,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError
from rest_framework.request import Request

from core import names
from core.errors import InvalidInputError, NotUnderstoodError
from core.rest.errors import BodyError, without_secrets

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
# What clients that post forms send for an empty form.
_EMPTY_FORM: Final = re.compile(rb"--[^\r\n]+--\s*")


class NamedBody(BaseModel):
    """A body that refuses unknown names, which the original ignores. REFUSES says which: "all";
    "narrowing", those that may narrow an answer; or "alike", misspelt fields such as userId, whose
    values would be lost."""

    model_config = ConfigDict(extra="ignore")

    REFUSES: ClassVar[Literal["all", "narrowing", "alike"]] = "alike"

    @classmethod
    def check_names(cls, body: dict[str, Any], where: str) -> None:
        """NotUnderstoodError for a name that this body refuses."""
        fields = cls.model_fields
        unknown = body.keys() - fields.keys()
        if cls.REFUSES == "narrowing":
            unknown = {name for name in unknown if names.may_narrow(name, fields)}
        elif cls.REFUSES == "alike":
            unknown = {name for name in unknown if names.is_misspelt(name, fields)}
        names.refuse(unknown, fields, where)


def body_of(request: Request, model: type[Model]) -> Model:
    """The body as `model`; BodyError in FastAPI's shape if it is invalid, NotUnderstoodError for
    names that a `NamedBody` refuses."""
    if issubclass(model, NamedBody) and model.REFUSES == "all":
        _check_once(request)
    data = request.data
    if not isinstance(data, dict):
        if data is None:
            raise BodyError([_problem("missing", ["body"], "Field required", None)])
        message = "Input should be a valid dictionary or object to extract fields from"
        raise BodyError([_problem("model_attributes_type", ["body"], message, data)])
    checked = _checked(data, model, "body")
    if issubclass(model, NamedBody):
        model.check_names(data, _where(request))
    return checked


def _check_once(request: Request) -> None:
    """NotUnderstoodError for a repeated name in an object, because JSON parsers ignore the
    first."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        body = dict(pairs)
        if len(body) < len(pairs):
            twice = next(name for name in body if [n for n, _ in pairs].count(name) > 1)
            raise NotUnderstoodError(f"{_where(request)} takes {twice[:40]} once.")
        return body

    # The parser of the body reports invalid JSON.
    with contextlib.suppress(ValueError, RecursionError):
        json.loads(request._request.body, object_pairs_hook=once)


def _where(request: Request) -> str:
    return f"{request.method} {request.path}"


def check_names(request: Request, model: type[BaseModel] | None) -> None:
    """NotUnderstoodError if the query has a name that is not a field of `model`.

    A deletion is stricter: no unknown or empty names, and no body.
    """
    deletes = request.method == "DELETE"
    fields = model.model_fields if model else {}
    if request.META.get("QUERY_STRING"):
        parameters = request.query_params
        unknown = {
            n for n in parameters if n not in fields and (deletes or not names.is_harmless(n))
        }
        names.refuse(unknown, fields, _where(request))
        for name in parameters.keys() & fields.keys():
            if len(parameters.getlist(name)) > 1:
                raise NotUnderstoodError(f"{_where(request)} takes {name} once.")
            if deletes and not parameters[name].strip():
                raise NotUnderstoodError(f"{name} is empty. Name it, or leave it out.")
    if deletes:
        check_no_body(request)


def check_no_body(request: Request) -> None:
    """NotUnderstoodError if a deletion has a body, because its filters would be ignored."""
    if _EMPTY_FORM.fullmatch(request._request.body):
        return
    if request.data not in (None, {}):
        raise NotUnderstoodError(f"{_where(request)} takes no body. Nothing was deleted.")


def query_of(request: Request, model: type[Model]) -> Model:
    """The query string as `model`; BodyError in FastAPI's shape if it is invalid."""
    if any("\0" in value for value in request.query_params.values()):
        raise InvalidInputError("NUL characters are not allowed in the query.")
    return _checked(request.query_params.dict(), model, "query")


def path_of(values: dict[str, str], model: type[Model]) -> Model:
    """Path parameters as `model`; BodyError in FastAPI's shape if they are invalid."""
    return _checked(values, model, "path")


def _checked(data: dict[str, Any], model: type[Model], where: str) -> Model:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise BodyError.from_pydantic(error, where) from error


def _problem(type_: str, loc: list[str], msg: str, value: Any) -> dict[str, Any]:
    return {"type": type_, "loc": loc, "msg": msg, "input": without_secrets(value)}
