"""Lists a provider's models by asking the provider."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from django.conf import settings

from memories.engine import failures, remote
from memories.engine.catalogue import PROVIDERS, Kind, ProviderChoice
from memories.engine.choices import MODEL_LENGTH, same_address
from memories.engine.clients import limit_client, refuse_packed

# Short, because a person waits and can type the name instead.
LISTING_SECONDS: Final = 10
# OpenRouter's list, the longest known, has less than one million.
LISTING_BYTES: Final = 4_000_000
MOST_NAMES: Final = 500
# The most that one call may request; there is no second call.
_PAGE: Final = 1000
# A shorter key may be an ordinary word (for a server at home), which names may contain too.
_SECRET_LENGTH: Final = 16

Row = Mapping[str, Any]

# How answers describe a model: `type` (Together, LM Studio and others), output modalities
# (OpenRouter), and generation methods (Gemini).
_CHATS: Final = frozenset({"chat", "language", "llm", "vlm", "code", "text", "generateContent"})
_EMBEDS: Final = frozenset({"embedding", "embeddings", "embedContent"})
_NEITHER: Final = frozenset({"image", "audio", "video", "speech", "moderation", "rerank"})
# Hints in the names: certain at the provider's own address, likely elsewhere.
_EMBEDDER: Final = re.compile(r"embed|minilm|(^|[/_.-])(bge|gte|e5|uae)[_.-]|paraphrase-", re.I)
_OTHERS: Final[dict[str, re.Pattern[str]]] = {
    "openai": re.compile(
        r"whisper|tts|dall-e|moderation|image|audio|realtime|transcribe|sora|davinci|babbage"
        r"|instruct|codex|computer-use|deep-research"
    ),
    "groq": re.compile(r"whisper|tts|orpheus"),
    "xai": re.compile(r"image|imagine|video"),
    "gemini": re.compile(r"tts|image|audio"),
}


def can_list(provider: str) -> bool:
    """Whether this provider can be asked for its models."""
    return provider in _ROWS


def list_models(choice: ProviderChoice, kind: Kind) -> tuple[str, ...]:
    """The names of the provider's models of this kind, the likely ones first. One call; the model
    of `choice` does not matter.

    At most MOST_NAMES, each printable and of at most MODEL_LENGTH characters. ProviderError if the
    answer is not a list, InvalidInputError if the configuration is invalid.
    """
    client = remote.create_client(choice, kind).client
    limit_client(client, min(LISTING_SECONDS, settings.PROVIDER_TIMEOUT), LISTING_BYTES)
    refuse_packed(client)
    rows = remote.persist(lambda: _read_rows(client, choice), attempts=1, seconds=LISTING_SECONDS)
    names = {
        name
        for row in rows
        if (name := _name(row, choice, kind)) and _fits(row, name, choice, kind)
    }
    return tuple(sorted(names, key=lambda name: _order(name, kind))[:MOST_NAMES])


def _read_rows(client: Any, choice: ProviderChoice) -> list[Row]:
    try:
        rows = _ROWS[choice.provider](client)
        if rows is None:  # Ollama's OpenAI-like API without models
            return []
        if not isinstance(rows, list):
            raise failures.failure(failures.MALFORMED, "The answer holds no list of models.")
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        cause = f"The answer has an unknown shape ({type(error).__name__})."
        raise failures.failure(failures.MALFORMED, cause) from None
    except Exception as error:  # noqa: BLE001  (every SDK has its own; all are translated)
        raise failures.translate(error, secrets=choice.secrets()) from None
    return [row for row in rows if isinstance(row, Mapping)]


# The answers are read as plain JSON, because the SDKs make an object of every row, which takes
# seconds if a broken server sends a million.
def _openai(client: Any) -> Any:
    return client.models.with_raw_response.list().http_response.json()["data"]


def _anthropic(client: Any) -> Any:
    return client.models.with_raw_response.list(limit=_PAGE).http_response.json()["data"]


def _gemini(client: Any) -> Any:
    answer = client._api_client.request("get", f"models?pageSize={_PAGE}", {}, None)
    return json.loads(answer.body)["models"]


def _ollama(client: Any) -> Any:
    return client._request_raw("GET", "/api/tags").json()["models"]


_OPENAI_LIKE: Final = ("openai", "deepseek", "lmstudio", "vllm", "xai", "minimax", "groq")
_ROWS: Final[dict[str, Callable[[Any], Any]]] = {
    **dict.fromkeys(_OPENAI_LIKE, _openai),
    "anthropic": _anthropic,
    "gemini": _gemini,
    "ollama": _ollama,
}


def _name(row: Row, choice: ProviderChoice, kind: Kind) -> str:
    """The model's name as mem0 expects it; "" if it has no usable one."""
    name = row.get("name" if choice.provider in {"gemini", "ollama"} else "id")
    if not isinstance(name, str) or not 0 < len(name) <= MODEL_LENGTH:
        return ""
    if not name.isprintable() or name != name.strip():
        return ""
    if any(secret in name for secret in choice.secrets() if len(secret) >= _SECRET_LENGTH):
        return ""
    # mem0 adds the folder for an LLM itself, and takes an embedder's name as it is.
    return name.removeprefix("models/") if choice.provider == "gemini" and kind == "llm" else name


def _fits(row: Row, name: str, choice: ProviderChoice, kind: Kind) -> bool:
    """Whether the model may be of this kind; False only if that is certain."""
    statements, is_its_own = _describing_words(row), _is_its_own(choice)
    if statements & (_CHATS | _EMBEDS | _NEITHER):
        if not statements & (_CHATS if kind == "llm" else _EMBEDS):
            return False
    elif is_its_own and choice.provider == "openai" and _is_unlikely(name, kind):
        return False
    return kind == "embedder" or not (is_its_own and _is_other(name, choice))


def _describing_words(row: Row) -> set[str]:
    """The words in which the answer describes a model."""
    values: list[Any] = [row.get("type")]
    architecture = row.get("architecture")
    for value in (
        row.get("supportedGenerationMethods"),
        architecture.get("output_modalities") if isinstance(architecture, Mapping) else None,
    ):
        values += value if isinstance(value, list) else []
    return {word for word in values if isinstance(word, str)}


def _is_its_own(choice: ProviderChoice) -> bool:
    """Whether the address is the provider's own."""
    provider = PROVIDERS[choice.provider]
    address = choice.config.get(provider.address)
    return not address or same_address(address, provider.default_address)


def _is_other(name: str, choice: ProviderChoice) -> bool:
    pattern = _OTHERS.get(choice.provider)
    # A fine-tuned model's name is its base followed by its owner's name for it.
    base = name.split(":")[1] if name.startswith("ft:") else name
    return pattern is not None and bool(pattern.search(base))


def _is_unlikely(name: str, kind: Kind) -> bool:
    return bool(_EMBEDDER.search(name)) != (kind == "embedder")


def _order(name: str, kind: Kind) -> tuple[bool, list[str | int], str]:
    """The sort key: likely models first, then by name, with numbers by value."""
    pieces = re.split(r"([0-9]+)", name.casefold())
    by_size = [int(piece) if at % 2 else piece for at, piece in enumerate(pieces)]
    return _is_unlikely(name, kind), by_size, name
