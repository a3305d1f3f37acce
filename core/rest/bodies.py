"""Bodies, queries and paths as pydantic models: its errors are part of the dialects' contract."""

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
# What clients that post forms send where there is nothing in one.
_EMPTY_FORM: Final = re.compile(rb"--[^\r\n]+--\s*")


class NamedBody(BaseModel):
    """A body whose unknown names are looked at, for the original ignores them: REFUSES says which
    of them are refused. "all"; those that may "narrow" an answer; or those that are written
    "alike" one of its own, as userId is, and would be lost."""

    model_config = ConfigDict(extra="ignore")

    REFUSES: ClassVar[Literal["all", "narrowing", "alike"]] = "alike"

    @classmethod
    def check_names(cls, said: dict[str, Any], where: str) -> None:
        """NotUnderstoodError for a name that this body refuses."""
        known = cls.model_fields
        unknown = said.keys() - known.keys()
        if cls.REFUSES == "narrowing":
            unknown = {name for name in unknown if names.may_narrow(name, known)}
        elif cls.REFUSES == "alike":
            unknown = {name for name in unknown if names.is_misspelt(name, known)}
        names.refuse(unknown, known, where)


def body_of(request: Request, model: type[Model]) -> Model:
    """The body as `model`; BodyError in FastAPI's shape when it does not fit, NotUnderstoodError
    for names that a `NamedBody` one refuses."""
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
    """NotUnderstoodError where an object names something twice: JSON would pass over the first."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        said = dict(pairs)
        if len(said) < len(pairs):
            twice = next(name for name in said if [n for n, _ in pairs].count(name) > 1)
            raise NotUnderstoodError(f"{_where(request)} takes {twice[:40]} once.")
        return said

    # What cannot be read is told by whoever reads it.
    with contextlib.suppress(ValueError, RecursionError):
        json.loads(request._request.body, object_pairs_hook=once)


def _where(request: Request) -> str:
    return f"{request.method} {request.path}"


def check_names(request: Request, model: type[BaseModel] | None) -> None:
    """NotUnderstoodError where the address says something that `model` has no field for.

    A deletion takes nothing else at all: no name twice, none that is empty, and no body.
    """
    deletes = request.method == "DELETE"
    known = model.model_fields if model else {}
    if request.META.get("QUERY_STRING"):
        said = request.query_params
        unknown = {n for n in said if n not in known and (deletes or not names.is_harmless(n))}
        names.refuse(unknown, known, _where(request))
        for name in said.keys() & known.keys():
            if len(said.getlist(name)) > 1:
                raise NotUnderstoodError(f"{_where(request)} takes {name} once.")
            if deletes and not said[name].strip():
                raise NotUnderstoodError(f"{name} is empty. Name it, or leave it out.")
    if deletes:
        check_no_body(request)


def check_no_body(request: Request) -> None:
    """NotUnderstoodError where a deletion has a body: nobody reads what it may leave out."""
    if _EMPTY_FORM.fullmatch(request._request.body):
        return
    if request.data not in (None, {}):
        raise NotUnderstoodError(f"{_where(request)} takes no body. Nothing was deleted.")


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
