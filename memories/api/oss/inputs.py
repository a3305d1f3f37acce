"""Bodies and queries of the OSS dialect. Pydantic, because its errors are part of the contract."""

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictStr, ValidationError

from core.errors import InvalidInputError
from core.http.waiting import IncomingRequest, ProviderWait
from core.limits import TOP_K
from core.rest.bodies import NamedBody
from core.rest.json import field_of
from memories.messages import Messages
from memories.models import ENTITY_FIELDS

MAX_OFFSET = 10_000_000
MAX_PAGE = 1_000_000

TopK = Annotated[int, Field(ge=0, le=TOP_K)]
# Flows that fill in a form send empty strings for what is not there.
Identifier = Annotated[StrictStr | None, BeforeValidator(lambda v: None if v == "" else v)]


def one_of(**given: int | None) -> int | None:
    """The number that is given under one name or several; InvalidInputError where they differ."""
    said = {name: value for name, value in given.items() if value is not None}
    if len(set(said.values())) > 1:
        raise InvalidInputError(f"Give one of {', '.join(said)}: they say different numbers.")
    return next(iter(said.values()), None)


class MemoryCreate(NamedBody):
    """What to remember; word for word, unless an LLM is configured and `infer` is not false."""

    messages: Messages
    user_id: Identifier = None
    agent_id: Identifier = None
    run_id: Identifier = None
    app_id: Identifier = None
    metadata: dict[str, Any] | None = None
    expiration_date: StrictStr | None = None
    infer: bool | None = None
    memory_type: StrictStr | None = None
    prompt: StrictStr | None = None


class _Infers(BaseModel):
    infer: bool | None = None


def add_waits(asked: IncomingRequest) -> ProviderWait:
    """Whom an add may wait for: word for word it asks no LLM, and without a message nobody."""
    if field_of(asked.body, "messages") == []:
        return ProviderWait.NOBODY
    try:
        infers = _Infers(infer=field_of(asked.body, "infer")).infer
    except ValidationError:
        infers = False  # it is refused
    return ProviderWait.EMBEDDER if infers is False else ProviderWait.LLM


def update_waits(asked: IncomingRequest) -> ProviderWait:
    """Whom a change may wait for: a new text is embedded, and nothing else."""
    return ProviderWait.NOBODY if field_of(asked.body, "text") is None else ProviderWait.EMBEDDER


class MemoryUpdate(NamedBody):
    """What to change; a field that is not sent stays as it is, `expiration_date: null` clears."""

    text: StrictStr | None = None
    metadata: dict[str, Any] | None = None
    expiration_date: StrictStr | None = None


class SearchRequest(NamedBody):
    """What to find, and where. `limit` is another word for `top_k`."""

    REFUSES = "narrowing"

    query: StrictStr
    filters: dict[str, Any] | None = None
    top_k: int | None = None
    limit: int | None = None
    threshold: float | None = None
    explain: bool | None = None
    show_expired: bool | None = None
    user_id: Identifier = None
    agent_id: Identifier = None
    run_id: Identifier = None
    app_id: Identifier = None

    def at_most(self) -> int | None:
        """How many are wanted; InvalidInputError for two numbers that differ."""
        return one_of(top_k=self.top_k, limit=self.limit)


class ListQuery(BaseModel):
    """The query string of GET /memories: the newest `top_k`, or a page of them.

    `limit` is another word for `top_k`. With `page` the pages have `page_size` memories; `offset`
    leaves out the first ones.
    """

    model_config = ConfigDict(extra="ignore")

    user_id: Identifier = None
    agent_id: Identifier = None
    run_id: Identifier = None
    app_id: Identifier = None
    top_k: TopK | None = None
    limit: TopK | None = None
    page: Annotated[int, Field(ge=1, le=MAX_PAGE)] | None = None
    page_size: Annotated[int, Field(ge=1, le=TOP_K)] | None = None
    offset: Annotated[int, Field(ge=0, le=MAX_OFFSET)] | None = None
    show_expired: bool = False

    def names_nobody(self) -> bool:
        """Whether ids are named, and every one is empty: that is not "everybody"."""
        named = self.model_fields_set & set(ENTITY_FIELDS)
        return bool(named) and not any(getattr(self, name) for name in named)

    def window(self, default: int) -> tuple[int, int]:
        """How many memories are left out, and how many are shown; InvalidInputError for numbers
        that contradict each other."""
        size = one_of(top_k=self.top_k, limit=self.limit, page_size=self.page_size)
        size = default if size is None else size
        if self.page is None:
            return self.offset or 0, size
        if self.offset is not None:
            raise InvalidInputError("Give page or offset, not both.")
        return (self.page - 1) * size, size


class DeleteQuery(BaseModel):
    """The query string of DELETE /memories: all named ids have to fit. At least one."""

    model_config = ConfigDict(extra="ignore")

    user_id: StrictStr | None = None
    agent_id: StrictStr | None = None
    run_id: StrictStr | None = None
    app_id: StrictStr | None = None


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
