"""Messages as clients write them: plain texts, parts of several kinds, turns that call tools."""

from typing import Annotated, Any, Final

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    StrictStr,
    WithJsonSchema,
    model_validator,
)
from pydantic import GetJsonSchemaHandler as Handler
from pydantic_core import CoreSchema

# Of what kinds OpenAI's and Anthropic's parts of a message hold text that somebody said.
_SAID: Final = frozenset({"text", "input_text", "output_text"})
_CALLS: Final = frozenset({"tool_calls", "function_call"})


def text_of(content: Any) -> Any:
    """What is said in the content of a message: its text parts, joined by a space; "" where there
    are none. What is no content at all is left as it is, to be refused."""
    if content is None:
        return ""
    parts = [content] if isinstance(content, dict) else content
    if not isinstance(parts, list) or not all(isinstance(part, str | dict) for part in parts):
        return content
    texts = (part if isinstance(part, str) else _said(part) for part in parts)
    return " ".join(text for text in texts if text.strip())


def text_if_any(content: Any) -> Any:
    """The same, and None where there is no content."""
    return None if content is None else text_of(content)


def _said(part: dict[str, Any]) -> str:
    kind = part.get("type") or "text"
    if not isinstance(kind, str) or kind not in _SAID:
        return ""
    text = part.get("text")
    # OpenAI's assistants wrap it once more.
    text = text.get("value") if isinstance(text, dict) else text
    return text if isinstance(text, str) else ""


_PART: Final = {"anyOf": [{"type": "string"}, {"type": "object"}]}
_CONTENT: Final = [*_PART["anyOf"], {"type": "array", "items": _PART}, {"type": "null"}]
Content = Annotated[StrictStr, BeforeValidator(text_of), WithJsonSchema({"anyOf": _CONTENT})]


class Turn(BaseModel):
    """One turn of a conversation. `content` is a text, or parts of which those with text count."""

    model_config = ConfigDict(extra="ignore")

    role: StrictStr
    content: Content

    @model_validator(mode="before")
    @classmethod
    def _elsewhere(cls, data: Any) -> Any:
        """A turn that calls tools needs no content; some vendors call it parts."""
        if not isinstance(data, dict) or data.get("content"):
            return data
        if data.get("parts"):
            return {**data, "content": data["parts"]}
        if "content" not in data and data.keys() & _CALLS:
            return {**data, "content": None}
        return data


class Message(Turn):
    """One turn of a conversation."""

    name: StrictStr | None = None


def as_messages(messages: Any) -> Any:
    """A text is what the user says, a lone turn a conversation of one."""
    turns = [messages] if isinstance(messages, str | dict) else messages
    if not isinstance(turns, list):
        return turns
    return [{"role": "user", "content": t} if isinstance(t, str) else t for t in turns]


class MessagesField:
    """Publishes a list of turns as what `as_messages` takes: the list, one turn, or a text."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: Handler) -> dict[str, Any]:
        several = handler(core)
        return {"anyOf": [several, several["items"], {"type": "string"}]}


Messages = Annotated[list[Message], MessagesField, BeforeValidator(as_messages)]
