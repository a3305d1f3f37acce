"""Reads the replies of language models, with reasoning, fences and prose around the JSON."""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from memories.engine import failures

_THOUGHT: Final = re.compile(r"<think(?:ing)?>", re.IGNORECASE)
_THOUGHT_END: Final = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_FENCE: Final = "```"
_LANGUAGE: Final = re.compile(r"\w*\s*")
# Where an object, or a list of objects, may begin; prose has braces too.
_OBJECT: Final = re.compile(r'(?:\[\s*)?\{\s*["}]')
# The most thoughts that are removed from a reply.
_THOUGHTS: Final = 100
_LISTS: Final = ("memory", "memories", "facts")
_DECODER: Final = json.JSONDecoder(strict=False)


def plain_text(reply: Any) -> str:
    """The reply without the model's reasoning; ProviderError if nothing remains."""
    *_, text = _stages(_joined(reply))
    if not text.strip("`\n "):
        raise failures.failure(failures.MALFORMED, "The model's reply is empty.")
    return text


def json_object(reply: Any) -> dict[str, Any]:
    """The first JSON object in the reply, whatever surrounds it.

    ProviderError if there is none; a truncated reply does not count.
    """
    json_value = next((value for value in _values(reply) if isinstance(value, dict)), None)
    if json_value is None:
        raise _no_json()
    return json_value


def read_extraction(reply: Any) -> str:
    """The reply to mem0's extraction prompt as the JSON it expects, `{"memory": [{"text": …}]}`.

    Also understands a bare list, and texts instead of objects. Of several answers the last
    non-empty one counts, because the others are drafts and examples. ProviderError if the reply
    contains no list of memories.
    """
    values = _values(reply)
    if not values:
        raise _no_json()
    lists = [items for value in values if (items := _listed(value)) is not None]
    if not lists:
        raise failures.failure(failures.MALFORMED, "The model's reply holds no list of memories.")
    latest = next((items for items in reversed(lists) if items), lists[0])
    memories = [memory for item in latest if (memory := _memory(item))["text"]]
    # mem0 removes text between think tags, even in the middle of a memory.
    return json.dumps({"memory": memories}, ensure_ascii=False).replace("<", "\\u003c")


def _no_json() -> Exception:
    return failures.failure(failures.MALFORMED, "The model's reply is not the JSON that was asked.")


def _listed(value: Any) -> list[Any] | None:
    if isinstance(value, list):
        return value
    items = next((value[name] for name in _LISTS if name in value), None)
    return items if isinstance(items, list) else None


def _memory(item: Any) -> dict[str, str]:
    text = item.get("text", item.get("memory")) if isinstance(item, dict) else item
    if not isinstance(text, str):
        raise failures.failure(failures.MALFORMED, "A memory in the model's reply has no text.")
    memory = {"text": make_storable(text).strip()}
    speaker = item.get("attributed_to") if isinstance(item, dict) else None
    return (
        {**memory, "attributed_to": make_storable(speaker)} if isinstance(speaker, str) else memory
    )


def make_storable(text: str) -> str:
    """The text without characters that databases cannot store: lone surrogates and NUL."""
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return whole.replace("\0", "")


# --- Around the JSON -----------------------------------------------------------------------------
def _joined(reply: Any) -> str:
    """The text of a reply, which may come in parts."""
    if isinstance(reply, list):
        texts = (part.get("text") if isinstance(part, dict) else part for part in reply)
        reply = "".join(text for text in texts if isinstance(text, str))
    return make_storable(reply).strip().lstrip("\ufeff") if isinstance(reply, str) else ""


def _stages(text: str) -> Iterator[str]:
    """The reply, and the reply again after the removal of each thought. Some servers omit the
    opening tag; a thought without an end was truncated and nothing follows it."""
    yield text
    for _ in range(_THOUGHTS):
        begin, end = _THOUGHT.search(text), _THOUGHT_END.search(text)
        if begin and (end is None or begin.start() < end.start()):
            text = text[: begin.start()] + (text[end.end() :] if end else "")
        elif end:
            text = text[end.end() :]
        else:
            return
        text = text.strip()
        yield text


def _values(reply: Any) -> list[Any]:
    """The JSON values of the reply: objects, lists of objects, or one bare list."""
    text = ""
    for text in _stages(_joined(reply)):
        if (alone := _bare_list(text)) is not None:
            return [alone]
        # Think tags inside the JSON are text; outside they are reasoning.
        values, around = _scan(text)
        if values and not (_THOUGHT.search(around) or _THOUGHT_END.search(around)):
            return values
    if not text:
        raise failures.failure(failures.MALFORMED, "The model's reply is empty.")
    # Braces in the prose may hide the content of the fences.
    return [value for part in text.split(_FENCE)[1::2] for value in _scan(part)[0]]


def _bare_list(text: str) -> list[Any] | None:
    start = 0
    if text.startswith(_FENCE) and (language := _LANGUAGE.match(text, len(_FENCE))):
        start = language.end()
    if not text.startswith("[", start):
        return None
    value, end = _decoded(text, start)
    alone = not text[end:].strip().removeprefix(_FENCE).strip()
    return value if alone and isinstance(value, list) else None


def _scan(text: str) -> tuple[list[Any], str]:
    """The values in a text, and the text around them.

    No values if one of them is broken: whole values inside it are its parts, and those before it
    may be drafts and examples.
    """
    values: list[Any] = []
    around: list[str] = []
    at = 0
    while begin := _OBJECT.search(text, at):
        value, end = _decoded(text, begin.start())
        if value is None:
            return [], text
        values.append(value)
        around.append(text[at : begin.start()])
        at = end
    return values, " ".join([*around, text[at:]])


def _decoded(text: str, start: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):  # RecursionError for a thousand nested brackets
        return None, start
