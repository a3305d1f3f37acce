"""Makes the engine that a configuration asks for."""

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from django.conf import settings
from django.utils.module_loading import import_string

from core.errors import InvalidInputError, ProviderError
from memories.engine import remote
from memories.engine.calls import CallRecord
from memories.engine.catalogue import ProviderChoice
from memories.engine.embedders import Embedder
from memories.engine.engine import Engine
from memories.engine.local_model import WeightsError
from memories.engine.remote import Llm, Message

if TYPE_CHECKING:
    from memories.engine.token_reader import TokenReader

logger = logging.getLogger(__name__)


class BrokenLlm:
    """Stands for a configured LLM that cannot be set up. Adds fail with the reason; otherwise their
    messages would be stored word for word and nobody would notice."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def generate_response(self, *args: object, **kwargs: object) -> str:
        raise ProviderError(self._reason, code="provider_bad_request")


class LazyLlm:
    """An LLM that is set up by `prepare` or its first call, because mem0 and a provider's SDK take
    two seconds to import and the start of a server should not wait for that."""

    def __init__(self, make: Callable[[], Llm]) -> None:
        self._make = make
        self._made: Llm | None = None
        self._lock = threading.Lock()

    @property
    def calls(self) -> CallRecord | None:
        """The record of its calls: empty until it is set up, None if it cannot be."""
        return CallRecord() if self._made is None else getattr(self._made, "calls", None)

    def prepare(self) -> Llm:
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made

    def generate_response(
        self, messages: Sequence[Message], response_format: Any = None, **kwargs: Any
    ) -> str:
        return self.prepare().generate_response(messages, response_format, **kwargs)


def open_llm(choice: ProviderChoice | None, fallback: ProviderChoice | None) -> LazyLlm | None:
    """The LLM, None for none. Makes no call to the provider.

    A `fallback` is called if the first LLM fails or cannot be set up.
    """
    return None if choice is None else LazyLlm(partial(_both, choice, fallback))


def _both(choice: ProviderChoice, fallback: ProviderChoice | None) -> Llm:
    attempts = settings.PROVIDER_ATTEMPTS
    second = _llm(fallback, attempts) if fallback is not None else None
    if second is None or isinstance(second, BrokenLlm):
        return _llm(choice, attempts)
    return remote.FallbackLlm(_llm(choice, 1), second)


def _llm(choice: ProviderChoice, attempts: int) -> Llm:
    try:
        return remote.RemoteLlm(choice, attempts=attempts)
    except InvalidInputError as error:
        extra = {"provider": choice.provider, "cause": error.message}
        logger.error("the LLM cannot be set up", extra=extra)
        return BrokenLlm(error.message)


def open_embedder(choice: ProviderChoice | None, dims: int) -> Embedder | None:
    """The embedder: the local model, or a provider's. None if that is not prepared, its dimensions
    are unknown, or it cannot be set up."""
    if choice is None:
        local = _load_local_if_sound()
        if local is None:
            logger.warning("no embedding model is prepared: search is by words, not by meaning")
        return local
    if not dims:
        return None
    try:
        return remote.RemoteEmbedder(choice, dims)
    except InvalidInputError as error:
        extra = {"provider": choice.provider, "cause": error.message}
        logger.error("the embedder cannot be set up: search is by words", extra=extra)
        return None


def open_engine(
    *,
    llm: ProviderChoice | None,
    fallback_llm: ProviderChoice | None,
    embedder: ProviderChoice | None,
    dims: int,
    late_interaction: bool,
    former: Engine | None = None,
) -> Engine:
    """The engine of these choices. Reuses the models of `former` that stay the same, so that no
    model is loaded twice. The local model reads token states; `open_reader` loads it if it is not
    the embedder."""
    engine = Engine(
        None, open_llm(llm, fallback_llm), chosen=embedder, wants_reader=late_interaction
    )
    if former is not None and former.embedder and former.chosen == embedder:
        engine.embedder, engine.calls = former.embedder, former.calls
    elif former is not None and former.reader is not None and embedder is None:
        engine.embedder = former.reader
    else:
        engine.embedder = open_embedder(embedder, dims)
    if late_interaction:
        engine.reader = as_reader(engine.embedder) or (former.reader if former else None)
    return engine


def as_reader(embedder: Embedder | None) -> "TokenReader | None":
    """The embedder, if it makes token states as well."""
    return cast("TokenReader", embedder) if hasattr(embedder, "states_key") else None


def open_reader() -> "TokenReader | None":
    """The local model, to read token states beside another embedder; None if it was not prepared,
    WeightsError if it is damaged. Takes a fifth of a second."""
    local = _load_local()
    if local is None:
        logger.warning("no embedding model is prepared: there is no late interaction")
    return as_reader(local)


def _load_local() -> Embedder | None:
    load: Callable[[], Embedder | None] = import_string(settings.EMBEDDER_LOADER)
    return load()


def _load_local_if_sound() -> Embedder | None:
    """The local model, None if it is damaged. The server can read and search by words without
    it."""
    try:
        return _load_local()
    except WeightsError as error:
        logger.error("the local embedding model cannot be loaded", extra={"cause": str(error)})
        return None
