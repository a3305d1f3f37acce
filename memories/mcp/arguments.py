"""What the tools take: the names of mem0-server and those of mem0's hosted server, in one schema.

Every name that the two have for the same is taken. What is not known at all is passed over, as both
do; a name that is a known one misspelt is refused, because it would narrow nothing.
"""

import json
from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictStr,
    ValidationError,
    WithJsonSchema,
    field_validator,
)

from core import names
from core.errors import InvalidInputError
from core.http.waiting import ProviderWait
from memories.messages import Messages

ADD_NEEDS: Final = "Give the text to remember as `content`, or a conversation as `messages`."
UPDATE_NEEDS: Final = "Give the new text as `content`, or `metadata` or `expiration_date`."
REVIEW_NEEDS: Final = "Give a `status` or a `confidence`."


def _opened(value: Any) -> Any:
    """Some clients send an object as the text of its JSON."""
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _text(about: str) -> Any:
    return Field(default=None, description=about)


_OBJECT: Final = {"anyOf": [{"type": "object", "additionalProperties": True}, {"type": "null"}]}
Object = Annotated[dict[str, Any] | None, BeforeValidator(_opened), WithJsonSchema(_OBJECT)]
_TURN: Final = {
    "type": "object",
    "properties": {"role": {"type": "string"}, "content": {"type": "string"}},
    "required": ["role", "content"],
}
Turns = Annotated[
    Messages | None,
    BeforeValidator(_opened),
    WithJsonSchema({"anyOf": [{"type": "array", "items": _TURN}, {"type": "null"}]}),
]
Text = StrictStr | None
# Models fill in a form, and send empty strings for what is not there.
Id = Annotated[StrictStr | None, BeforeValidator(lambda value: value or None)]
MemoryId = Annotated[StrictStr, Field(description="The memory's id, as search and lists give it.")]
Limit = Annotated[int, Field(ge=1, le=100, description="At most so many memories.")]
Offset = Annotated[int, Field(ge=0, le=10_000, description="Leaves out so many of the newest.")]

_USER: Final = "Whose memory it is. Leave it out for the project's default user."


class Arguments(BaseModel):
    """The arguments of one tool."""

    model_config = ConfigDict(extra="ignore")

    @classmethod
    def read(cls, tool: str, given: Mapping[str, Any]) -> Self:
        """The arguments of a call; InvalidInputError, with a sentence for each that does not
        fit."""
        known = cls.model_fields
        misspelt = {n for n in given if n not in known and names.is_misspelt(n, known)}
        names.refuse(misspelt, known, tool)
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise InvalidInputError(_told(tool, error)) from None

    def waits(self) -> ProviderWait:
        """Whom the call may wait for."""
        return ProviderWait.NOBODY


def _told(tool: str, error: ValidationError) -> str:
    """What does not fit, without what was sent."""
    found = []
    for item in error.errors(include_url=False, include_input=False):
        place = ".".join(map(str, item["loc"]))
        said = item["msg"].removeprefix("Value error, ")
        found.append(said if item["type"] == "value_error" else f"{place}: {said}")
    return f"These arguments do not fit {tool}: {'; '.join(dict.fromkeys(found))}."


class _Scoped(Arguments):
    """What narrows a read. There is no agent_id: what one agent stores, all of them recall."""

    user_id: Text = _text(_USER)
    app_id: Text = _text("Only memories of this app.")
    run_id: Text = _text("Only memories of this run or session.")
    filters: Object = _text(
        'Narrows further, such as {"AND": [{"agent_id": "a"}, {"created_at": {"gte": '
        '"2026-01-31"}}]}, or {"topic": "tea"} for a key of the metadata.'
    )
    show_expired: bool = Field(default=False, description="Shows expired memories as well.")


class SearchMemories(_Scoped):
    """Arguments of search_memories."""

    query: Annotated[StrictStr, Field(description="What to look for, in plain words.")]
    limit: Limit = 10
    mode: Literal["semantic", "keyword"] = Field(
        default="semantic",
        description="semantic finds by meaning and by words, keyword a part of the text.",
    )
    threshold: float = Field(default=0.1, ge=0, le=1, description="The least similarity.")
    recency_weight: float = Field(
        default=0.0, ge=0, le=1, description="How much recent memories are preferred."
    )
    recency_half_life_days: float = Field(
        default=30.0, gt=0, description="The age in days at which recency counts half."
    )

    @field_validator("mode", mode="before")
    @classmethod
    def _known_mode(cls, value: Any) -> Any:
        if value not in {"semantic", "keyword"}:
            raise ValueError(f"mode must be 'semantic' or 'keyword', got {str(value)[:40]!r}")
        return value

    def waits(self) -> ProviderWait:
        return ProviderWait.QUERY if self.mode == "semantic" else ProviderWait.NOBODY


class ListMemories(_Scoped):
    """Arguments of list_memories."""

    limit: Limit = 50
    offset: Offset = 0


class GetMemories(_Scoped):
    """Arguments of get_memories, which has pages instead."""

    page: int = Field(default=1, ge=1, le=10_000, description="The page, from 1 on.")
    page_size: Limit = 50


class OneMemory(Arguments):
    """Arguments of a tool that is about one memory."""

    memory_id: MemoryId


class AddMemory(Arguments):
    """Arguments of add_memory."""

    content: Text = _text("The fact or text to remember.")
    text: Text = _text("Another name for content.")
    messages: Turns = _text("A conversation to remember, in place of content.")
    user_id: Id = _text(_USER)
    agent_id: Id = _text("The agent that stores it.")
    app_id: Id = _text("The app that it belongs to.")
    run_id: Id = _text("The run or session that it belongs to.")
    metadata: Object = _text("Anything else to keep with it, such as its source.")
    infer: bool = Field(
        default=True, description="Whether a language model extracts the facts, if there is one."
    )
    expiration_date: date | None = Field(
        default=None, description="The last day on which it holds, YYYY-MM-DD."
    )

    def said(self) -> list[dict[str, Any]]:
        """What is to be remembered, as messages; InvalidInputError where there is nothing."""
        one = one_text(self.content, self.text)
        if one is not None:
            return [{"role": "user", "content": one}]
        if self.messages:
            return [message.model_dump(exclude_none=True) for message in self.messages]
        raise InvalidInputError(ADD_NEEDS)

    def waits(self) -> ProviderWait:
        return ProviderWait.LLM if self.infer else ProviderWait.EMBEDDER


class UpdateMemory(OneMemory):
    """Arguments of update_memory."""

    content: Text = _text("The new text, in place of the old one.")
    text: Text = _text("Another name for content.")
    metadata: Object = _text("Merged into what it has, key by key.")
    expiration_date: date | None = Field(
        default=None, description="The last day on which it holds, YYYY-MM-DD."
    )

    def new_text(self) -> str | None:
        """The new text; InvalidInputError where nothing is to change."""
        new = one_text(self.content, self.text)
        if new is None and self.metadata is None and self.expiration_date is None:
            raise InvalidInputError(UPDATE_NEEDS)
        return new

    def waits(self) -> ProviderWait:
        has_text = self.content is not None or self.text is not None
        return ProviderWait.EMBEDDER if has_text else ProviderWait.NOBODY


class ListEntities(Arguments):
    """Arguments of list_entities."""

    limit: int = Field(default=100, ge=1, le=1000, description="At most so many.")


class ReviewMemory(OneMemory):
    """Arguments of review_memory."""

    status: Literal["approved", "rejected", "stale", "unreviewed"] | None = Field(
        default=None, description="approved is right, rejected wrong, stale out of date."
    )
    confidence: Literal["high", "medium", "low", "unknown"] | None = Field(
        default=None, description="How certain it is."
    )

    def check(self) -> None:
        """InvalidInputError where nothing is to change."""
        if self.status is None and self.confidence is None:
            raise InvalidInputError(REVIEW_NEEDS)


def one_text(content: str | None, text: str | None) -> str | None:
    """The text that has two names; InvalidInputError where they differ."""
    if content is not None and text is not None and content != text:
        raise InvalidInputError("`content` and `text` are two names for the same, and they differ.")
    return content if content is not None else text


def schema_of(arguments: type[Arguments]) -> dict[str, Any]:
    """The JSON Schema of a tool's arguments: what it needs first, and without pydantic's titles."""
    schema = arguments.model_json_schema()
    needed = schema.get("required", [])
    fields = sorted(schema["properties"].items(), key=lambda named: named[0] not in needed)
    for _, field in fields:
        field.pop("title", None)
    return {"type": "object", "properties": dict(fields), "required": needed}
