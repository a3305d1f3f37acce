"""Bodies and queries of the memserv dialect."""

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, StrictFloat, StrictInt, StrictStr

from core import limits
from core.errors import InvalidInputError
from core.http.waiting import IncomingRequest, ProviderWait
from core.pages.paging import AscendingKey
from core.principal import Principal
from core.rest.bodies import NamedBody
from core.rest.json import field_of
from memories.api.oss.inputs import Identifier
from memories.filters import AllOf, Comparison, Node
from memories.messages import MessagesField, Turn, as_messages, text_if_any
from memories.models import Confidence, ReviewStatus
from memories.texts import entity_id

NOTHING_TO_ADD = "Provide either 'content' or 'messages'"
NO_FILTER = (
    "Provide at least one filter (agent_id, run_id, source, confidence, review_status). "
    "A user_id alone would select the whole store."
)
NO_USER = "Provide a user_id: neither MEM0_DEFAULT_USER_ID nor the project names a default one."

Limit = Annotated[int, Field(ge=1, le=100)]
_IDS: Final = ("user_id", "agent_id", "app_id", "run_id")
_FILTERS: Final = (*_IDS, "source", "confidence", "review_status")


class _Scoped(NamedBody):
    user_id: Identifier = None
    agent_id: Identifier = None
    app_id: Identifier = None
    run_id: Identifier = None


class _Filtered(NamedBody):
    """What narrows. An empty filter is refused: it would let through more than was asked for."""

    user_id: StrictStr | None = None
    agent_id: StrictStr | None = None
    app_id: StrictStr | None = None
    run_id: StrictStr | None = None
    source: StrictStr | None = None
    confidence: StrictStr | None = None
    review_status: StrictStr | None = None

    def check_filters(self) -> None:
        """InvalidInputError for a filter that is empty."""
        for name in _FILTERS:
            value = getattr(self, name)
            if value is not None and not value.strip():
                raise InvalidInputError(f"The filter {name} is empty. Name it, or leave it out.")


class _Read(_Filtered):
    REFUSES = "narrowing"

    exclude_expired: bool = False


Role = Literal["user", "assistant", "system", "developer", "tool", "function"]


class TranscriptMessage(Turn):
    """One turn of a conversation."""

    role: Role


Transcript = Annotated[list[TranscriptMessage], MessagesField]


class AddMemory(_Scoped):
    """What to remember: a text or a conversation. What is stored already is not stored again,
    unless `dedup` is false. `expires_at` is another way to say it in the metadata."""

    # What would be told about the memory, such as a source, belongs into the metadata: beside them
    # nobody would keep it.
    REFUSES = "narrowing"

    content: Annotated[StrictStr | None, BeforeValidator(text_if_any)] = None
    messages: Annotated[Transcript | None, BeforeValidator(as_messages)] = None
    metadata: dict[str, Any] | None = None
    expires_at: StrictStr | StrictInt | StrictFloat | None = None
    dedup: bool = True

    def told(self) -> dict[str, Any] | None:
        """The metadata, with the expiry in it. InvalidInputError where they contradict."""
        return with_expiry(self.metadata, self.expires_at)

    def said(self) -> list[dict[str, Any]]:
        """As messages; `content` counts where both say something. Empty for neither."""
        if self.content is not None and (self.content.strip() or not self.messages):
            return [{"role": "user", "content": self.content}]
        return [message.model_dump() for message in self.messages or ()]


class SearchMemories(_Read):
    """What to find, by meaning or as a part of the text."""

    query: StrictStr
    limit: Limit = 10
    mode: Literal["semantic", "keyword"] = "semantic"
    recency_weight: Annotated[float, Field(ge=0, le=1)] = 0.0
    recency_half_life_days: Annotated[float, Field(gt=0)] = 30.0


def search_waits(asked: IncomingRequest) -> ProviderWait:
    """Whom a search may wait for: by words it asks nobody."""
    return ProviderWait.NOBODY if field_of(asked.body, "mode") == "keyword" else ProviderWait.QUERY


class ListMemories(_Read):
    """The query string of GET /api/v1/memories."""

    limit: Limit = 50
    offset: Annotated[int, Field(ge=0, le=10_000)] = 0
    cursor: Identifier = None

    def place(self) -> AscendingKey | None:
        """Where the page begins; None for the top, or for `offset`. InvalidInputError."""
        if self.cursor and self.offset:
            raise InvalidInputError("Send either a cursor or an offset.")
        return AscendingKey.of(self.cursor)


class ChangeMemory(NamedBody):
    """The new text of a memory, and metadata that is merged into what it has, key by key."""

    REFUSES = "narrowing"

    content: StrictStr
    metadata: dict[str, Any] | None = None
    expires_at: StrictStr | StrictInt | StrictFloat | None = None

    def told(self) -> dict[str, Any] | None:
        """As for an add."""
        return with_expiry(self.metadata, self.expires_at)


def with_expiry(
    metadata: dict[str, Any] | None, expires_at: str | float | None
) -> dict[str, Any] | None:
    """The metadata with an expiry that was told beside it."""
    if expires_at is None:
        return metadata
    former = (metadata or {}).get("expires_at", expires_at)
    if former != expires_at:
        raise InvalidInputError("expires_at and the one in the metadata are not the same.")
    return {**(metadata or {}), "expires_at": expires_at}


class DeleteBulk(_Filtered):
    """What to delete; without `confirm` it is only counted. At least one filter beside user_id."""

    REFUSES = "all"

    confirm: bool = False


def owner_of(principal: Principal, user_id: str | None) -> str | None:
    """The user that a call names, else the default one; None where there is none."""
    return user_id or principal.project.default_user_id or None


def read_filter(principal: Principal, asked: _Read) -> Node:
    """Which memories a read is about; InvalidInputError where it names nobody and there is no
    default user, or where a filter is empty."""
    asked.check_filters()
    return _filter(principal, asked)


def delete_filter(principal: Principal, asked: DeleteBulk) -> Node:
    """Which memories are to be deleted; InvalidInputError where no filter beside the user stands
    there, or an empty one."""
    if all(getattr(asked, name) is None for name in _FILTERS if name != "user_id"):
        raise InvalidInputError(NO_FILTER)
    asked.check_filters()
    return _filter(principal, asked)


def _filter(principal: Principal, asked: _Filtered) -> Node:
    ids = {name: getattr(asked, name) for name in _IDS}
    ids["user_id"] = owner_of(principal, asked.user_id)
    named = {name: entity_id(value, name) for name, value in ids.items() if value is not None}
    if not named:
        raise InvalidInputError(NO_USER)
    parts: list[Node] = [Comparison(name, "eq", value) for name, value in named.items()]
    if asked.source is not None:
        parts.append(_promoted("source", asked.source, len(asked.source) <= 100))
    if asked.confidence is not None:
        parts.append(
            _promoted("confidence", asked.confidence, asked.confidence in Confidence.values)
        )
    if asked.review_status is not None:
        known = asked.review_status in ReviewStatus.values
        parts.append(_promoted("review_status", asked.review_status, known))
    return AllOf(tuple(parts))


def _promoted(name: str, value: str, is_column: bool) -> Comparison:
    """Equality with the field, or, for a value that no field holds, with the metadata."""
    if "\0" in value:
        raise InvalidInputError(f"Invalid {name}: cannot contain a NUL character.")
    limits.check_value(value, name)
    return Comparison(name, "eq", value, metadata=not is_column)
