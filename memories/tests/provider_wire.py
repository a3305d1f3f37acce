"""What providers say over HTTP: requests and answers of OpenAI, Anthropic, Ollama and Gemini."""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final

import numpy as np

CHAT_MODEL: Final = "stub-chat"
EMBEDDING_MODEL: Final = "stub-embed"

_WORD = re.compile(r"\w+")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])\s*|\n+")
# mem0's generate_additive_extraction_prompt; the text of a message may hold such headings itself,
# so the block ends at the last of them.
_NEW_MESSAGES = re.compile(
    r"^## New Messages\n(.*)\n\n## Observation Date\n[^\n]*\n\n## Current Date\n", re.DOTALL | re.M
)
_SPEAKER = re.compile(r"^(system|user|assistant): ?", re.M)


# --- The brain -----------------------------------------------------------------------------------
@lru_cache(maxsize=20_000)
def _word(word: str, dims: int) -> Any:
    seed = int.from_bytes(
        blake2b(word.encode("utf-8", "replace"), digest_size=8).digest(), "little"
    )
    return np.random.default_rng(seed).standard_normal(dims)


def embed(text: str, dims: int) -> Any:
    """A unit vector, float32: the sum of one fixed random vector for each word of `text`."""
    words = _WORD.findall(text.casefold()) or [text]
    vector = np.sum([_word(word, dims) for word in words], axis=0)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def sentences(text: str) -> list[str]:
    return [part.strip() for part in _SENTENCE.split(text) if part.strip()]


@dataclass
class Chat:
    """A chat request, whatever the dialect: (role, text) of each message, system among them."""

    messages: list[tuple[str, str]]
    wants_json: bool = False
    schema: Mapping[str, Any] | None = None
    model: str = CHAT_MODEL


@dataclass
class Embed:
    """An embedding request, whatever the dialect."""

    texts: list[str]
    dims: int | None = None
    as_base64: bool = False
    model: str = EMBEDDING_MODEL
    options: dict[str, Any] = field(default_factory=dict)


def facts(prompt: str) -> list[str] | None:
    """Each sentence of the new user messages in mem0's extraction prompt; None for others."""
    found = _NEW_MESSAGES.search(prompt)
    if found is None:
        return None
    block = found[1]
    if block.startswith("["):
        said = [(str(m.get("role")), str(m.get("content"))) for m in json.loads(block)]
    else:
        _, *pieces = _SPEAKER.split(block)
        said = list(zip(pieces[::2], pieces[1::2], strict=True))
    return [sentence for role, text in said if role == "user" for sentence in sentences(text)]


def think(chat: Chat) -> str:
    """The assistant's text."""
    last = chat.messages[-1][1] if chat.messages else ""
    found = facts(last)
    if found is not None:
        return json.dumps(
            {
                "memory": [
                    {"id": str(number), "text": text, "attributed_to": "user"}
                    for number, text in enumerate(found)
                ]
            },
            ensure_ascii=False,
        )
    if last.startswith("Create procedural memory of the above conversation"):
        return _summary(chat.messages[:-1])
    text = f"Answer to: {last[:200]}"
    if chat.schema is not None:
        return json.dumps(_instance(chat.schema, text), ensure_ascii=False)
    return json.dumps({"text": text}, ensure_ascii=False) if chat.wants_json else text


def _summary(messages: Sequence[tuple[str, str]]) -> str:
    said = [(role, text) for role, text in messages if role != "system"]
    steps = (f"{n}. **{role}**: {text}" for n, (role, text) in enumerate(said, start=1))
    return "\n".join(["## Summary of the agent's execution history", "", *steps])


def _instance(schema: Mapping[str, Any], text: str) -> Any:
    """Something that the JSON schema admits; enough of JSON Schema for structured outputs."""
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        properties = schema.get("properties") or {}
        return {name: _instance(inner, text) for name, inner in properties.items()}
    plain: dict[str, Any] = {"string": text, "array": [], "boolean": True, "null": None}
    return plain.get(kind, 0)


def _text(content: Any) -> str:
    """The text of a message, also of one in parts."""
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return "" if content is None else str(content)


def _said(messages: Any) -> list[tuple[str, str]]:
    return [(str(m.get("role")), _text(m.get("content"))) for m in messages or []]


def _tokens(*texts: str | None) -> int:
    return sum(len(text or "") for text in texts) // 4


class BadRequestError(Exception):
    """What a real server refuses with 400."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message, self.param, self.code = message, param, code


# --- Dialects ------------------------------------------------------------------------------------
class OpenAI:
    """https://platform.openai.com/docs/api-reference, and what is compatible with it."""

    # The parameter that says how many models come at once, and how many without it.
    paged: tuple[str, int] | None = None

    def page(self, query: Mapping[str, str]) -> int | None:
        """How many models the first page has, which is the only one; None for all."""
        return int(query.get(self.paged[0], self.paged[1])) if self.paged else None

    def key(self, headers: Mapping[str, str]) -> str:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        return token if scheme.lower() == "bearer" else headers.get("api-key", "")

    def chat(self, body: Mapping[str, Any]) -> Chat:
        if not isinstance(body.get("messages"), list) or not body["messages"]:
            raise BadRequestError("Missing required parameter: 'messages'.", param="messages")
        if body.get("stream"):
            raise BadRequestError("This server does not stream.", param="stream")
        wanted = body.get("response_format") or {}
        messages = _said(body["messages"])
        as_json = wanted.get("type") == "json_object"
        if as_json and not any("json" in text.lower() for _, text in messages):
            raise BadRequestError(
                "'messages' must contain the word 'json' in some form, to use "
                "'response_format' of type 'json_object'.",
                param="messages",
            )
        schema = (wanted.get("json_schema") or {}).get("schema")
        return Chat(messages, as_json, schema, str(body.get("model")))

    def answer(self, text: str | None, chat: Chat, number: int) -> dict[str, Any]:
        asked, said = _tokens(*(text for _, text in chat.messages)), _tokens(text)
        message = {"role": "assistant", "content": text, "refusal": None}
        return {
            "id": f"chatcmpl-stub-{number}",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": chat.model,
            "choices": [
                {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
            ],
            "usage": {
                "prompt_tokens": asked,
                "completion_tokens": said,
                "total_tokens": asked + said,
            },
        }

    def embed(self, body: Mapping[str, Any]) -> Embed:
        given = body.get("input")
        if isinstance(given, list) and given and isinstance(given[0], int):
            given = [given]
        items = given if isinstance(given, list) else [given]
        # Numbers are tokens, which some clients send.
        tokens = [" ".join(map(str, item)) if isinstance(item, list) else item for item in items]
        texts = [text for text in tokens if isinstance(text, str) and text]
        if not texts or len(texts) != len(tokens) or len(texts) > 2048:
            raise BadRequestError("'$.input' is invalid.", param="input")
        dims = body.get("dimensions")
        if dims is not None and (not isinstance(dims, int) or dims < 1):
            raise BadRequestError("'dimensions' must be at least 1.", param="dimensions")
        as_base64 = body.get("encoding_format") == "base64"
        return Embed(texts, dims, as_base64, str(body.get("model")))

    def vectors(self, vectors: Sequence[tuple[int, Any]], asked: Embed) -> dict[str, Any]:
        tokens = _tokens(*asked.texts)
        return {
            "object": "list",
            "model": asked.model,
            "data": [
                {
                    "object": "embedding",
                    "index": index,
                    "embedding": base64.b64encode(vector.astype("<f4").tobytes()).decode()
                    if asked.as_base64
                    else vector.tolist(),
                }
                for index, vector in vectors
            ],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }

    def models(self, names: Sequence[str]) -> dict[str, Any]:
        rows = [{"id": n, "object": "model", "created": 0, "owned_by": "stub"} for n in names]
        return {"object": "list", "data": rows}

    def error(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> Any:
        kinds = {401: "invalid_request_error", 429: "requests"}
        kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
        return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class Anthropic(OpenAI):
    """https://docs.anthropic.com/en/api/messages"""

    paged = ("limit", 20)

    def key(self, headers: Mapping[str, str]) -> str:
        return headers.get("x-api-key") or super().key(headers)

    def chat(self, body: Mapping[str, Any]) -> Chat:
        for name in ("max_tokens", "messages"):
            if not body.get(name):
                raise BadRequestError(f"{name}: Field required", param=name)
        if body.get("stream"):
            raise BadRequestError("This server does not stream.", param="stream")
        system = [("system", _text(body["system"]))] if body.get("system") else []
        return Chat([*system, *_said(body["messages"])], model=str(body.get("model")))

    def answer(self, text: str | None, chat: Chat, number: int) -> dict[str, Any]:
        return {
            "id": f"msg_stub_{number}",
            "type": "message",
            "role": "assistant",
            "model": chat.model,
            "content": [] if text is None else [{"type": "text", "text": text}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {
                "input_tokens": _tokens(*(text for _, text in chat.messages)),
                "output_tokens": _tokens(text),
            },
        }

    def models(self, names: Sequence[str]) -> dict[str, Any]:
        rows = [{"type": "model", "id": name, "display_name": name} for name in names]
        return {"data": rows, "has_more": False}

    def error(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> Any:
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = kinds.get(status, "api_error" if status >= 500 else "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": message}}


class Ollama(OpenAI):
    """https://github.com/ollama/ollama/blob/main/docs/api.md"""

    def chat(self, body: Mapping[str, Any]) -> Chat:
        if body.get("stream", True):
            raise BadRequestError("This server does not stream.")
        wanted = body.get("format")
        schema = wanted if isinstance(wanted, dict) else None
        return Chat(_said(body.get("messages")), wanted == "json", schema, str(body.get("model")))

    def answer(self, text: str | None, chat: Chat, number: int) -> dict[str, Any]:
        return {
            "model": chat.model,
            "created_at": "2026-01-01T00:00:00Z",
            "message": {"role": "assistant", "content": text},
            "done": True,
            "done_reason": "stop",
            "prompt_eval_count": _tokens(*(text for _, text in chat.messages)),
            "eval_count": _tokens(text),
        }

    def embed(self, body: Mapping[str, Any]) -> Embed:
        # /api/embeddings, the older route, takes one prompt and answers with one vector.
        given = body.get("input", body.get("prompt", ""))
        texts = [str(text) for text in (given if isinstance(given, list) else [given])]
        options = {"single": "prompt" in body}
        return Embed(texts, body.get("dimensions"), model=str(body.get("model")), options=options)

    def vectors(self, vectors: Sequence[tuple[int, Any]], asked: Embed) -> dict[str, Any]:
        if asked.options["single"]:
            return {"embedding": vectors[0][1].tolist() if vectors else []}
        return {"model": asked.model, "embeddings": [vector.tolist() for _, vector in vectors]}

    def models(self, names: Sequence[str]) -> dict[str, Any]:
        tagged = [name if ":" in name else f"{name}:latest" for name in names]
        return {"models": [{"name": n, "model": n, "size": 1, "digest": "0"} for n in tagged]}

    def show(self, dims: int) -> dict[str, Any]:
        return {
            "details": {"family": "stub", "format": "gguf"},
            "model_info": {"general.architecture": "stub", "stub.embedding_length": dims},
            "capabilities": ["completion", "embedding"],
        }

    def error(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> Any:
        return {"error": message}


class Gemini(OpenAI):
    """https://ai.google.dev/api/generate-content and https://ai.google.dev/api/embeddings"""

    paged = ("pageSize", 50)

    def key(self, headers: Mapping[str, str]) -> str:
        return headers.get("x-goog-api-key", "")

    def chat(self, body: Mapping[str, Any]) -> Chat:
        def text(content: Mapping[str, Any]) -> str:
            return _text(content.get("parts"))

        system = body.get("systemInstruction") or body.get("system_instruction")
        said = [(str(c.get("role", "user")), text(c)) for c in body.get("contents") or []]
        config = body.get("generationConfig") or {}
        schema = config.get("responseJsonSchema")
        as_json = config.get("responseMimeType") == "application/json"
        return Chat([*([("system", text(system))] if system else []), *said], as_json, schema)

    def answer(self, text: str | None, chat: Chat, number: int) -> dict[str, Any]:
        content = {"role": "model", "parts": [] if text is None else [{"text": text}]}
        return {
            "candidates": [{"content": content, "finishReason": "STOP", "index": 0}],
            "usageMetadata": {
                "promptTokenCount": _tokens(*(text for _, text in chat.messages)),
                "candidatesTokenCount": _tokens(text),
            },
            "modelVersion": chat.model,
        }

    def embed(self, body: Mapping[str, Any]) -> Embed:
        asked = body.get("requests", [body])
        texts = [_text((item.get("content") or {}).get("parts")) for item in asked]
        dims = next((d for item in asked if (d := item.get("outputDimensionality"))), None)
        return Embed(texts, dims, options={"single": "requests" not in body})

    def vectors(self, vectors: Sequence[tuple[int, Any]], asked: Embed) -> dict[str, Any]:
        rows = [{"values": vector.tolist()} for _, vector in vectors]
        if asked.options["single"]:
            return {"embedding": rows[0]} if rows else {}
        return {"embeddings": rows}

    def models(self, names: Sequence[str]) -> dict[str, Any]:
        chats, embeds = ["generateContent", "countTokens"], ["embedContent"]
        return {
            "models": [
                {
                    "name": f"models/{name}",
                    "supportedGenerationMethods": embeds if "embed" in name else chats,
                }
                for name in names
            ]
        }

    def error(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> Any:
        names = {401: "UNAUTHENTICATED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED"}
        name = names.get(status, "INTERNAL" if status >= 500 else "INVALID_ARGUMENT")
        return {"error": {"code": status, "message": message, "status": name}}


_OPENAI, _ANTHROPIC, _OLLAMA, _GEMINI = OpenAI(), Anthropic(), Ollama(), Gemini()

# The first that matches; a client may have any folder before OpenAI's paths.
_ROUTES: Final[tuple[tuple[str, re.Pattern[str], OpenAI, str], ...]] = tuple(
    (method, re.compile(path), dialect, action)
    for method, path, dialect, action in (
        ("POST", r"/api/chat$", _OLLAMA, "chat"),
        ("POST", r"/api/embed(dings)?$", _OLLAMA, "embeddings"),
        ("GET", r"/api/tags$", _OLLAMA, "listing"),
        ("POST", r"/api/show$", _OLLAMA, "show"),
        ("POST", r"/api/pull$", _OLLAMA, "pull"),
        ("POST", r"/v1(beta)?/models/[^/]+:generateContent$", _GEMINI, "chat"),
        ("POST", r"/v1(beta)?/models/[^/]+:(e|batchE)mbedContents?$", _GEMINI, "embeddings"),
        ("GET", r"/v1beta/models$", _GEMINI, "listing"),
        ("POST", r"(/.*)?/messages$", _ANTHROPIC, "chat"),
        ("POST", r"(/.*)?/chat/completions$", _OPENAI, "chat"),
        ("POST", r"(/.*)?/embeddings$", _OPENAI, "embeddings"),
        ("GET", r"(/.*)?/models$", _OPENAI, "listing"),
    )
)


def route(method: str, path: str, headers: Mapping[str, str]) -> tuple[OpenAI, str] | None:
    """Dialect and action of a request: chat, embeddings, listing, show or pull."""
    for its_method, pattern, dialect, action in _ROUTES:
        if its_method == method and pattern.match(path):
            return (_lister(headers) if path.endswith("/v1/models") else dialect), action
    return None


def _lister(headers: Mapping[str, str]) -> OpenAI:
    """Whose list is asked for: three dialects have theirs at the same path."""
    if "x-goog-api-key" in headers:
        return _GEMINI
    return _ANTHROPIC if "anthropic-version" in headers else _OPENAI
