"""Tests with the stub provider behind the engine, in place of the stand-in for the model."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection

from memories import runtime
from memories.engine import remote
from memories.engine.catalogue import ProviderChoice
from memories.engine.engine import Engine
from memories.engine.opening import open_llm
from memories.engine.remote import RemoteEmbedder
from memories.models import AddInput, IngestClaim, Memory, MemoryVector, Revision, SessionMessage
from memories.tests.provider import Provider

KEY = "sk-a-distinctive-key-4711"
# The sentences that clients of mem0's own server know.
SENTENCES = {
    "provider_auth_failed": "Provider rejected the request (authentication). "
    "Check your LLM provider API key on the Configuration page.",
    "provider_rate_limited": "Provider rate limit hit. Retry shortly.",
    "provider_timeout": "Provider timed out. Retry shortly.",
    "provider_unavailable": "Provider is unreachable or returned a server error.",
    "provider_bad_request": "Provider rejected the request as malformed.",
    "provider_bad_reply": "Provider answered with something that cannot be used.",
}


def llm_at(provider: Provider, **config: Any) -> ProviderChoice:
    given = {"model": "stub-chat", "api_key": KEY, "openai_base_url": provider.url}
    return ProviderChoice("openai", {**given, "temperature": 0.1, **config})


def embedder_at(provider: Provider, **config: Any) -> ProviderChoice:
    given = {"model": "stub-embed", "api_key": KEY, "openai_base_url": provider.url}
    return ProviderChoice("openai", {**given, **config})


def use_llm(running: runtime.Runtime, provider: Provider, fallback: Provider | None = None) -> None:
    """Lets the LLM of `provider` extract."""
    second = llm_at(fallback) if fallback else None
    running.engine.llm = open_llm(llm_at(provider), second)


def use_embedder(running: runtime.Runtime, provider: Provider, **config: Any) -> None:
    """Lets the embedder of `provider` make the vectors, of as many dimensions as the index has."""
    assert running.indexer is not None
    provider.dims = running.indexer.dims
    embedder = RemoteEmbedder(embedder_at(provider, **config), provider.dims)
    embedder.model_key = running.indexer.model_key
    running.engine = Engine(embedder, running.engine.llm)


def be_impatient(settings: Any, seconds: float = 0.5) -> None:
    """Timeouts for tests in which something hangs; engines are made after it."""
    settings.PROVIDER_TIMEOUT = settings.PROVIDER_EMBED_TIMEOUT = seconds
    settings.PROVIDER_DEADLINE = 2 * seconds


def do_not_sleep(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between attempts, which take no time."""
    pauses: list[float] = []
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=pauses.append)
    monkeypatch.setattr(remote, "time", clock)
    return pauses


def at_once(work: Callable[[Any], Any], arguments: Sequence[Any]) -> list[Any]:
    """What `work` answers or raises for each argument, all started together."""
    barrier = threading.Barrier(len(arguments))

    def run(argument: Any) -> Any:
        try:
            barrier.wait(10)
            return work(argument)
        except Exception as error:  # noqa: BLE001  (whatever it is, the test looks at it)
            return error
        finally:
            connection.close()

    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(run, arguments))


def nothing_is_stored() -> bool:
    tables = (Memory, MemoryVector, Revision, SessionMessage, IngestClaim)
    return not any(table.objects.exists() for table in tables)


def assert_failed(answer: Any, code: str) -> AddInput:
    """`answer` is that of a provider's failure, and its input is kept as a failed add."""
    assert answer.status_code == 502, answer.content
    body = answer.json()
    assert list(body) == ["detail", "code", "request_id"]
    assert body["code"] == code
    assert body["request_id"] == answer["X-Request-ID"]
    kept = AddInput.objects.latest("created_at")
    assert (kept.outcome, kept.code, kept.reason) == ("failed", code, body["detail"])
    assert kept.finished_at is not None
    assert kept.messages
    assert kept.request_id == body["request_id"]
    return kept
