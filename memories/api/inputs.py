"""Bodies and queries of the OSS dialect. Pydantic, because its errors are part of the contract."""

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictStr, ValidationError

from mem0dash.errors import InvalidInputError
from mem0dash.limits import TOP_K
from mem0dash.rest.json import field_of
from mem0dash.waiting import Asked, Waits

TopK = Annotated[int, Field(ge=0, le=TOP_K)]


class Message(BaseModel):
    """One turn of a conversation."""

    role: StrictStr
    content: StrictStr
    name: StrictStr | None = None


class MemoryCreate(BaseModel):
    """What to remember; word for word, unless an LLM is configured and `infer` is not false."""

    model_config = ConfigDict(extra="ignore")

    messages: list[Message]
    user_id: StrictStr | None = None
    agent_id: StrictStr | None = None
    run_id: StrictStr | None = None
    app_id: StrictStr | None = None
    metadata: dict[str, Any] | None = None
    expiration_date: StrictStr | None = None
    infer: bool | None = None
    memory_type: StrictStr | None = None
    prompt: StrictStr | None = None


class _Infers(BaseModel):
    infer: bool | None = None


def add_waits(asked: Asked) -> Waits:
    """Whom an add may wait for: word for word it asks no LLM."""
    try:
        infers = _Infers(infer=field_of(asked.body, "infer")).infer
    except ValidationError:
        infers = False  # it is refused
    return Waits.EMBEDDER if infers is False else Waits.LLM


def update_waits(asked: Asked) -> Waits:
    """Whom a change may wait for: a new text is embedded, and nothing else."""
    return Waits.NOBODY if field_of(asked.body, "text") is None else Waits.EMBEDDER


class MemoryUpdate(BaseModel):
    """What to change; a field that is not sent stays as it is, `expiration_date: null` clears."""

    model_config = ConfigDict(extra="ignore")

    text: StrictStr | None = None
    metadata: dict[str, Any] | None = None
    expiration_date: StrictStr | None = None


class SearchRequest(BaseModel):
    """What to find, and where."""

    model_config = ConfigDict(extra="ignore")

    query: StrictStr
    filters: dict[str, Any] | None = None
    top_k: int | None = None
    threshold: float | None = None
    explain: bool | None = None
    show_expired: bool | None = None
    user_id: StrictStr | None = None
    agent_id: StrictStr | None = None
    run_id: StrictStr | None = None


class ListQuery(BaseModel):
    """The query string of GET /memories."""

    model_config = ConfigDict(extra="ignore")

    user_id: StrictStr | None = None
    agent_id: StrictStr | None = None
    run_id: StrictStr | None = None
    app_id: StrictStr | None = None
    top_k: TopK | None = None
    show_expired: bool = False


class EntityPath(BaseModel):
    """The path of DELETE /entities/{entity_type}/{entity_id}."""

    entity_type: Literal["user", "agent", "run"]


def day(value: str | None) -> date | None:
    """A date as YYYY-MM-DD; InvalidInputError for anything else."""
    if value is None:
        return None
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise InvalidInputError(
            "expiration_date must be a valid date in YYYY-MM-DD format."
        ) from None
