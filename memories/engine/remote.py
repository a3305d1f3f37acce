"""The providers' LLMs and embedders, made by mem0's factories, with timeouts and retries."""

import base64
import copy
import logging
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence, Set
from functools import cached_property, partial
from typing import Any, Final, Protocol, TypeVar

import numpy as np
from django.conf import settings

from core.errors import InvalidInputError, ProviderError
from core.http.waiting import about_to_wait
from memories.engine import failures, replies
from memories.engine.calls import CallRecord
from memories.engine.catalogue import PROVIDERS, ProviderChoice
from memories.engine.clients import limit_client
from memories.readings import Vector
from memories.storage.connections import let_go_of_connection

logger = logging.getLogger(__name__)

EMBED_BATCH: Final = 100
# A person waits for a query's vector, and search by words can answer without it.
QUERY_ATTEMPTS: Final = 2
QUERY_SECONDS: Final = 5.0
# How many characters of a text are embedded; fewer, step by step, if the provider refuses the
# length.
EMBED_LETTERS: Final = (20_000, 6_000, 2_000)
MALFORMED_ATTEMPTS: Final = 2
# Enough for the facts of a long conversation; a truncated reply is unusable.
REPLY_TOKENS: Final = 4000
# Parameters that some models refuse and that can be left out.
_OPTIONAL: Final = ("temperature", "top_p", "response_format", "max_tokens", "store")

# Providers whose embeddings come from OpenAI's client.
_OPENAI_LIKE: Final = frozenset({"openai", "azure_openai", "lmstudio"})

Message = Mapping[str, Any]
T = TypeVar("T")


class Llm(Protocol):
    """A language model for mem0 and for us; ProviderError if it fails."""

    def generate_response(
        self, messages: Sequence[Message], response_format: Any = None, **kwargs: Any
    ) -> str:
        """mem0's call. With a `response_format`, the JSON of an extraction; otherwise the reply as
        text without the model's reasoning."""


class RemoteLlm:
    """One provider's model. Passing failures are retried until the deadline; parameters that the
    model refuses (temperature, response_format …) are left out from then on."""

    def __init__(self, choice: ProviderChoice, *, attempts: int) -> None:
        """InvalidInputError when the configuration does not fit the provider."""
        self._choice, self._attempts = choice, attempts
        self.calls = CallRecord()
        self._llm = create_client(choice, "llm")
        self._refused: set[str] = set()
        self._renames = False  # whether max_tokens is max_completion_tokens here
        limit_client(self._llm.client, settings.PROVIDER_TIMEOUT)
        self._leave_out_refused()

    def generate_response(
        self, messages: Sequence[Message], response_format: Any = None, **kwargs: Any
    ) -> str:
        parse = replies.read_extraction if response_format else replies.plain_text
        with self.calls.noting():
            return persist(
                lambda: parse(self._ask(messages, response_format)),
                attempts=self._attempts,
                seconds=settings.PROVIDER_DEADLINE,
            )

    def _ask(self, messages: Sequence[Message], response_format: Any) -> Any:
        while True:
            left_out = frozenset(self._refused)
            options = {} if "response_format" in left_out else {"response_format": response_format}
            try:
                return self._llm.generate_response([dict(m) for m in messages], **options)
            except (IndexError, AttributeError, KeyError, TypeError) as error:
                # An answer without choices, or without a message in them.
                cause = f"The answer has an unknown shape ({type(error).__name__})."
                raise failures.failure(failures.MALFORMED, cause) from None
            except Exception as error:  # noqa: BLE001  (every SDK has its own; all are translated)
                translated = failures.translate(error, secrets=self._choice.secrets())
                if not self._goes_on_without(translated, left_out):
                    raise translated from None

    def _goes_on_without(self, error: ProviderError, left_out: Set[str]) -> bool:
        """Whether the provider refused an optional parameter that this call sent. Another thread
        may have noted the refusal meanwhile."""
        if error.code != failures.REFUSED:
            return False
        refused = {n for n in _OPTIONAL if re.search(rf"\b{n}\b", error.cause)} - left_out
        for name in refused - self._refused:
            logger.info("the model refuses a parameter: left out", extra={"parameter": name})
            self._refused.add(name)
            self._renames |= name == "max_tokens" and "max_completion_tokens" in error.cause
            if hasattr(self._llm.config, name):
                setattr(self._llm.config, name, None)
        return bool(refused)

    def _leave_out_refused(self) -> None:
        """Removes refused parameters from the SDK's call, because it sends null for None, which is
        refused too."""
        client = self._llm.client
        chat = getattr(getattr(client, "chat", None), "completions", None)
        resource = chat or getattr(client, "messages", None)
        if resource is None:
            return
        create = resource.create

        def without_refused(**parameters: Any) -> Any:
            accepted = {k: v for k, v in parameters.items() if k not in self._refused}
            if self._renames:
                accepted["max_completion_tokens"] = REPLY_TOKENS
            return create(**accepted)

        resource.create = without_refused


class FallbackLlm:
    """Calls a second model if the first one fails, and logs that."""

    def __init__(self, first: Llm, second: Llm) -> None:
        self._first, self._second = first, second
        self.calls: CallRecord | None = getattr(first, "calls", None)

    def generate_response(
        self, messages: Sequence[Message], response_format: Any = None, **kwargs: Any
    ) -> str:
        try:
            return self._first.generate_response(messages, response_format)
        except ProviderError as error:
            logger.warning("the LLM failed, its fallback is asked", extra={"code": error.code})
            failed = error.cause
        # Not in the handler: the second failure would carry the first one as its context.
        try:
            return self._second.generate_response(messages, response_format)
        except ProviderError as error:
            error.cause = f"{error.cause} (And before it: {failed})"
            raise


class RemoteEmbedder:
    """One provider's embedding model. `dims` are its measured dimensions."""

    def __init__(self, choice: ProviderChoice, dims: int) -> None:
        """InvalidInputError when the configuration does not fit the provider."""
        self.dims = dims
        self.model_key = model_key(choice, dims)
        self._choice = choice
        self._embedder = create_client(choice, "embedder")
        self._refused: set[str] = set()
        limit_client(self._embedder.client, settings.PROVIDER_EMBED_TIMEOUT)

    def embed(self, texts: Sequence[str]) -> Vector:
        """Shape (len(texts), dims), float32; ProviderError when the provider fails."""
        vectors: list[Any] = []
        for at in range(0, len(texts), EMBED_BATCH):
            batch = list(texts[at : at + EMBED_BATCH])
            vectors += persist(
                partial(self._vectors, batch),
                attempts=settings.PROVIDER_ATTEMPTS,
                seconds=2 * settings.PROVIDER_EMBED_TIMEOUT,
            )
        return _array(vectors)

    def embed_query(self, query: str) -> Vector:
        """As `embed`, for a waiting person: fails soon instead of retrying for long."""
        attempts = min(settings.PROVIDER_ATTEMPTS, QUERY_ATTEMPTS)
        ask = partial(self._for_queries._vectors, [query])
        return _array(persist(ask, attempts=attempts, seconds=QUERY_SECONDS))

    @cached_property
    def _for_queries(self) -> "RemoteEmbedder":
        """The same embedder with a separate client, because timeouts belong to the client, and even
        the first of two attempts must not take longer than a person waits."""
        other = copy.copy(self)
        other._embedder = create_client(self._choice, "embedder")
        limit_client(other._embedder.client, min(QUERY_SECONDS, settings.PROVIDER_EMBED_TIMEOUT))
        return other

    def _vectors(self, texts: list[str]) -> list[Any]:
        letters = list(EMBED_LETTERS)
        while True:
            short, left_out = [text[: letters[0]] for text in texts], frozenset(self._refused)
            try:
                vectors = self._embed_batch(short, left_out)
            except ProviderError:
                raise
            except (IndexError, AttributeError, KeyError, TypeError, ValueError) as error:
                raise failures.failure(failures.MALFORMED, type(error).__name__) from None
            except Exception as error:  # noqa: BLE001  (every SDK has its own; all are translated)
                translated = failures.translate(error, secrets=self._choice.secrets())
                if self._goes_on_without(translated, left_out):
                    continue
                # Perhaps too long. The model's limit is in tokens, which differ by language.
                longest = max(map(len, short))
                letters = [limit for limit in letters if limit < longest]
                if translated.code != failures.REFUSED or not letters:
                    raise translated from None
                continue
            if len(vectors) != len(texts):
                cause = f"{len(vectors)} vectors came for {len(texts)} texts."
                raise failures.failure(failures.MALFORMED, cause)
            return vectors

    def _embed_batch(self, texts: list[str], left_out: Set[str]) -> list[Any]:
        if self._choice.provider not in _OPENAI_LIKE:
            return list(self._embedder.embed_batch(texts))
        options: dict[str, Any] = {"input": texts, "model": self._embedder.config.model}
        if self._choice.config.get("embedding_dims") and "dimensions" not in left_out:
            options["dimensions"] = self._choice.config["embedding_dims"]
        # base64 takes a quarter of the time of decimal numbers to read.
        options["encoding_format"] = "float" if "encoding_format" in left_out else "base64"
        rows = list(self._embedder.client.embeddings.create(**options).data)
        if all(isinstance(getattr(row, "index", None), int) for row in rows):
            rows.sort(key=lambda row: row.index)
        return [_decoded(row.embedding) for row in rows]

    def _goes_on_without(self, error: ProviderError, left_out: Set[str]) -> bool:
        """Whether the provider refused an optional parameter that this call sent."""
        if error.code != failures.REFUSED:
            return False
        for name, words in (
            ("encoding_format", ("encoding_format", "base64")),
            ("dimensions", ("dimensions",)),
        ):
            if name not in left_out and any(word in error.cause for word in words):
                self._refused.add(name)
                return True
        return False


def _array(vectors: list[Any]) -> Vector:
    try:
        return np.asarray(vectors, dtype=np.float32)
    except (ValueError, TypeError):
        raise failures.failure(failures.MALFORMED, "That is no list of vectors.") from None


def measure_dims(choice: ProviderChoice) -> int:
    """The number of dimensions of the embedder's vectors, measured by one call.

    ProviderError if the call fails.
    """
    vectors = RemoteEmbedder(choice, 0).embed(["How many dimensions has this?"])
    if vectors.ndim != 2 or not vectors.shape[1] or not np.isfinite(vectors).all():
        raise failures.failure(failures.MALFORMED, "The embedder's answer is no vector.")
    return int(vectors.shape[1])


def model_key(choice: ProviderChoice, dims: int) -> str:
    """The name of a vector space. It does not contain the address, because a server may move."""
    return f"{choice.provider}/{choice.model}/{dims}"


def persist(ask: Callable[[], T], *, attempts: int, seconds: float) -> T:
    """The result of `ask`. Retries passing failures within `seconds`, after the provider's
    Retry-After or else after half a second, doubling."""
    until = time.monotonic() + seconds
    about_to_wait()
    for attempt in range(1, attempts + 1):
        let_go_of_connection()
        started = time.monotonic()
        try:
            return ask()
        except ProviderError as error:
            malformed = error.code == failures.MALFORMED
            if attempt == attempts or (malformed and attempt == MALFORMED_ATTEMPTS):
                raise
            if not malformed and error.code not in failures.PASSING:
                raise
            pause = random.uniform(0.25, 0.5) * 2**attempt  # noqa: S311  (jitter, not a secret)
            pause = pause if error.retry_after is None else float(error.retry_after)
            # A slow call will be slow again, so there must be time for it.
            if time.monotonic() + pause + (time.monotonic() - started) > until:
                raise
            time.sleep(pause)
    raise AssertionError("at least one attempt")


def _decoded(embedding: Any) -> Any:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding), dtype="<f4")
    return embedding


def create_client(choice: ProviderChoice, kind: str) -> Any:
    """mem0's object for this provider, with its SDK's client as `client`, without limits yet. Makes
    no call. InvalidInputError if the configuration is invalid."""
    # Imported here: mem0 takes a second to import, and an installation without a provider never
    # does.
    from memories.engine import mem0_factories

    provider = PROVIDERS[choice.provider]
    config = {**choice.config, "model": choice.model or getattr(provider, kind)}
    if not config.get("api_key") and provider.name not in {"ollama", "aws_bedrock", "litellm"}:
        # Without a key, the SDKs take one from the environment, which may be meant for another
        # server.
        config["api_key"] = "none"
    try:
        make = mem0_factories.llm if kind == "llm" else mem0_factories.embedder
        return make(choice.provider, config)
    except Exception as error:  # noqa: BLE001  (every SDK has its own; all are translated)
        cause = failures.translate(error, secrets=choice.secrets()).cause
        raise InvalidInputError(f"{provider.called} cannot be set up: {cause}") from None
