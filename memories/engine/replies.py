"""Reads what language models answer: reasoning, fences and prose around the JSON that was asked."""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from memories.engine import failures

_THOUGHT: Final = re.compile(r"<think(?:ing)?>", re.IGNORECASE)
_THOUGHT_END: Final = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_FENCE: Final = "```"
_LANGUAGE: Final = re.compile(r"\w*\s*")
# Where an object, or a list of them, may begin: prose has braces too.
_OBJECT: Final = re.compile(r'(?:\[\s*)?\{\s*["}]')
# Thoughts that are taken out of a reply, at most.
_THOUGHTS: Final = 100
_LISTS: Final = ("memory", "memories", "facts")
_DECODER: Final = json.JSONDecoder(strict=False)


def plain_text(reply: Any) -> str:
    """The reply without the model's reasoning; ProviderError when nothing is left of it."""
    *_, text = _stages(_joined(reply))
    if not text.strip("`\n "):
        raise failures.failure(failures.MALFORMED, "The model's reply is empty.")
    return text


def json_object(reply: Any) -> dict[str, Any]:
    """The JSON object in the reply, whatever stands around it.

    ProviderError when there is none: a reply that was cut off is not a reply.
    """
    found = next((value for value in _values(reply) if isinstance(value, dict)), None)
    if found is None:
        raise _no_json()
    return found


def read_extraction(reply: Any) -> str:
    """The reply to mem0's extraction prompt as the JSON it expects, `{"memory": [{"text": …}]}`.

    Models that answer with a bare list, or with texts instead of objects, are understood; of
    several answers the last that is not empty counts, for the others are drafts and examples.
    ProviderError when the reply holds no list of memories.
    """
    values = _values(reply)
    if not values:
        raise _no_json()
    lists = [found for value in values if (found := _listed(value)) is not None]
    if not lists:
        raise failures.failure(failures.MALFORMED, "The model's reply holds no list of memories.")
    chosen = next((found for found in reversed(lists) if found), lists[0])
    memories = [memory for item in chosen if (memory := _memory(item))["text"]]
    # mem0 takes out what stands between think tags, be it in the middle of a text.
    return json.dumps({"memory": memories}, ensure_ascii=False).replace("<", "\\u003c")


def _no_json() -> Exception:
    return failures.failure(failures.MALFORMED, "The model's reply is not the JSON that was asked.")


def _listed(value: Any) -> list[Any] | None:
    if isinstance(value, list):
        return value
    found = next((value[name] for name in _LISTS if name in value), None)
    return found if isinstance(found, list) else None


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
    """Without what no database keeps: halves of characters, and the character 0."""
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return whole.replace("\0", "")


# --- What stands around it -----------------------------------------------------------------------
def _joined(reply: Any) -> str:
    """The text of a reply, also of one in parts."""
    if isinstance(reply, list):
        texts = (part.get("text") if isinstance(part, dict) else part for part in reply)
        reply = "".join(text for text in texts if isinstance(text, str))
    return make_storable(reply).strip().lstrip("\ufeff") if isinstance(reply, str) else ""


def _stages(text: str) -> Iterator[str]:
    """The reply, and again after each thought that is taken out of it. Some servers leave the
    opening tag out; a thought without an end was cut off, and nothing was said after it."""
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
    """The JSON values of the reply: objects, lists of them, or the one list that it is."""
    text = ""
    for text in _stages(_joined(reply)):
        if (alone := _bare_list(text)) is not None:
            return [alone]
        # What is in the JSON may speak of thoughts; outside of it, they are some.
        found, around = _scan(text)
        if found and not (_THOUGHT.search(around) or _THOUGHT_END.search(around)):
            return found
    if not text:
        raise failures.failure(failures.MALFORMED, "The model's reply is empty.")
    # Braces in the prose may hide what stands in the fences.
    return [value for part in text.split(_FENCE)[1::2] for value in _scan(part)[0]]


def _bare_list(text: str) -> list[Any] | None:
    start = 0
    if text.startswith(_FENCE) and (language := _LANGUAGE.match(text, len(_FENCE))):
        start = language.end()
    if not text.startswith("[", start):
        return None
    found, end = _decoded(text, start)
    alone = not text[end:].strip().removeprefix(_FENCE).strip()
    return found if alone and isinstance(found, list) else None


def _scan(text: str) -> tuple[list[Any], str]:
    """The values in a text, and what stands around them.

    None where one is broken: whole ones inside of it are its parts, and those before it may be
    drafts and examples of what was cut off.
    """
    found: list[Any] = []
    around: list[str] = []
    at = 0
    while begin := _OBJECT.search(text, at):
        value, end = _decoded(text, begin.start())
        if value is None:
            return [], text
        found.append(value)
        around.append(text[at : begin.start()])
        at = end
    return found, " ".join([*around, text[at:]])


def _decoded(text: str, start: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):  # the latter for a thousand brackets in each other
        return None, start
