"""Keys of providers are nowhere in the database, the log or an answer, whatever a provider says."""

import io
import json
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from core.errors import Mem0dashError
from mem0dash.tests.test_secrets import dump, written
from memories import runtime
from memories.engine import configuration, remote
from memories.engine.catalogue import ProviderChoice
from memories.models import AddInput
from memories.providers import service as providers
from memories.tests.provider import Provider

pytestmark = pytest.mark.one_form

__all__ = ["written"]  # the fixture

# A key with signs in it that JSON and URLs write otherwise.
PROVIDER_KEY = "sk-distinctive/4711+key=='x'"
HEADER = "a  distinctive header"
SAY = {"messages": [{"role": "user", "content": "I drink tea"}], "user_id": "alice"}
DIALECTS = ("openai", "anthropic", "gemini", "ollama", "azure_openai")


def of_provider(provider: Provider, name: str) -> dict[str, Any]:
    config: dict[str, Any] = {"model": "stub-chat", "api_key": PROVIDER_KEY}
    if name == "azure_openai":
        headers = {"X-Team": HEADER}
        config |= {"api_version": "2024-10-21", "default_headers": headers}
        config["azure_endpoint"] = provider.origin
    else:
        config[f"{name}_base_url"] = provider.url if name == "openai" else provider.origin
    return {"provider": name, "config": config}


def faults(part: Any, name: str) -> Iterator[Any]:
    """A provider that says the secrets back, in whatever way it fails."""
    header = HEADER if name == "azure_openai" else "it"
    said = f"The key {PROVIDER_KEY} with {header} is not for you. Yours is {PROVIDER_KEY}."
    long = "x" * 290 + said
    for status in (400, 401, 404, 429, 500):
        yield part.fail(status, message=said)
    yield part.fail(400, message=long)
    yield part.answer_raw(said)
    yield part.answer_raw(json.dumps({"error": said}), content_type="application/json")
    yield part.redirect(f"http://127.0.0.1:9/?key={PROVIDER_KEY}")
    yield part.truncate()
    yield part.reset()


@pytest.mark.parametrize("name", DIALECTS)
def test_keys_of_providers_are_nowhere_whatever_the_provider_says(
    api: Any,
    owner: Any,
    provider: Provider,
    settings: Any,
    written: io.StringIO,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    settings.PROVIDER_ENVIRONMENT = {}
    settings.PROVIDER_ATTEMPTS = 1
    section = of_provider(provider, name)
    assert api.post("/configure", {"llm": section}).status_code == 200
    told: list[str] = []
    for fault in faults(provider.chat, name):
        answer = api.post("/memories", SAY)
        assert answer.status_code == 502, fault
        instructions = api.post("/generate-instructions", {"use_case": "tea"})
        told += [answer.content.decode(), instructions.content.decode()]
        told += [repr(providers.probe(owner, "llm", section))]
        out = io.StringIO()
        with suppress(CommandError):
            call_command("check_providers", stdout=out)
        told.append(out.getvalue())
        provider.heal()
    for fault in faults(provider.embeddings, name):
        if name != "anthropic":
            answer = api.post("/configure", {"embedder": section})
            assert answer.status_code == 502, fault
            told += [answer.content.decode()]
            told += [repr(providers.probe(owner, "embedder", section))]
        provider.heal()
    told.append(api.get("/configure").content.decode())
    told += [
        repr(configuration.current_configuration()),
        str(configuration.current_configuration()),
        repr(owner),
    ]
    told += [repr(vars(runtime.get_runtime().engine))]
    causes = list(AddInput.objects.exclude(cause="").values_list("cause", flat=True))
    assert causes and any("[redacted]" in cause for cause in causes)
    for place in (*told, *causes, dump(), written.getvalue(), caplog.text):
        for secret in (PROVIDER_KEY, "distinctive", "4711+key"):
            assert secret not in place


@pytest.mark.parametrize("name", DIALECTS)
def test_exceptions_of_providers_hold_no_key(provider: Provider, settings: Any, name: str) -> None:
    settings.PROVIDER_ATTEMPTS = 1
    section = of_provider(provider, name)
    choice = ProviderChoice(section["provider"], section["config"])
    asked: list[Callable[[], Any]] = [
        lambda: remote.RemoteLlm(choice, attempts=1).generate_response(
            [{"role": "user", "content": "x"}]
        )
    ]
    parts = [provider.chat]
    if name != "anthropic":
        asked.append(lambda: remote.measure_dims(choice))
        parts.append(provider.embeddings)
    for ask, part in zip(asked, parts, strict=True):
        for _ in faults(part, name):
            with pytest.raises(Mem0dashError) as caught:
                ask()
            error = caught.value
            lines = "".join(traceback.format_exception(error))
            for place in (repr(error), str(error), repr(vars(error)), lines):
                assert "distinctive" not in place
            provider.heal()


def test_keys_of_the_environment_are_nowhere_either(
    api: Any, provider: Provider, settings: Any, written: io.StringIO
) -> None:
    settings.PROVIDER_ENVIRONMENT = {
        "OPENAI_API_KEY": PROVIDER_KEY,
        "OPENAI_BASE_URL": provider.url,
        "MEM0_EMBED_PROVIDER": "openai",
    }
    current = runtime.get_runtime()
    current.use(runtime.engine_of(configuration.current_configuration()), lambda: 0)
    provider.api_key = "another"
    assert api.post("/memories", SAY).status_code == 502
    shown = api.get("/configure").content.decode()
    ollama = {"provider": "ollama", "config": {"model": "m"}}
    assert api.post("/configure", {"fallback_llm": ollama}).status_code == 200
    for place in (shown, dump(), written.getvalue()):
        assert "distinctive" not in place
    assert AddInput.objects.get().cause == (
        "Error code: 401 - Incorrect API key provided: [redacted]."
    )
