"""One real call to a provider: how long it took, or what went wrong and what to do about it."""

import io
import ssl
from collections.abc import Callable
from itertools import cycle
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from memories.engine import catalogue, configuration, failures
from memories.engine.catalogue import PROVIDERS, Kind, ProviderChoice
from memories.providers import service as providers
from memories.providers.service import ProbeResult
from memories.tests.provider import Provider

pytestmark = pytest.mark.one_form

KEY = "sk-a-distinctive-key-0815"
LLMS = (
    "openai",
    "anthropic",
    "gemini",
    "ollama",
    "azure_openai",
    "deepseek",
    "lmstudio",
    "vllm",
    "xai",
    "minimax",
)
EMBEDDERS = ("openai", "gemini", "ollama", "azure_openai", "lmstudio")
ALL: list[tuple[str, Kind]] = [
    *((name, "llm") for name in LLMS),
    *((name, "embedder") for name in EMBEDDERS),
]
# Who has a client library of its own; the others speak as OpenAI does.
OWN: list[tuple[str, Kind]] = [
    *((name, "llm") for name in ("openai", "anthropic", "gemini", "ollama", "azure_openai")),
    *((name, "embedder") for name in ("openai", "gemini", "ollama")),
]
# These take the address of the server alone, and know its paths.
ORIGIN = {"anthropic", "gemini", "ollama", "azure_openai"}


@pytest.fixture(autouse=True)
def _impatient(settings: Any) -> None:
    settings.PROVIDER_TIMEOUT = settings.PROVIDER_EMBED_TIMEOUT = 5
    settings.PROVIDER_DEADLINE = 10
    settings.PROVIDER_ATTEMPTS = 1


def chosen(provider: Provider, name: str, **config: Any) -> ProviderChoice:
    """This provider's dialect, at the stub."""
    made: dict[str, Any] = {"model": "stub-chat", "api_key": KEY}
    made[PROVIDERS[name].address] = provider.origin if name in ORIGIN else provider.url
    if name == "azure_openai":
        made["api_version"] = "2024-10-21"
    return ProviderChoice(name, {**made, **config})


def probe(
    provider: Provider, name: str = "openai", kind: Kind = "llm", **config: Any
) -> ProbeResult:
    return providers.probe_choice(chosen(provider, name, **config), kind)


@pytest.mark.parametrize(("name", "kind"), ALL)
def test_a_provider_that_answers(provider: Provider, name: str, kind: Kind) -> None:
    provider.api_key = KEY
    provider.chat.slow(0.05)
    found = probe(provider, name, kind)
    assert (found.ok, found.code, found.cause, found.hint) == (True, "", "", "")
    assert 0 < found.latency_ms < 5000
    if kind == "llm":
        assert (found.dims, found.latency_ms >= 50) == (0, True)
    else:
        # Gemini is asked for a length, as mem0 does it; of the others comes what they have.
        assert found.dims == (768 if name == "gemini" else provider.dims)


@pytest.mark.parametrize(("name", "kind"), ALL)
def test_dimensions_and_the_model_are_those_that_were_configured(
    provider: Provider, name: str, kind: Kind
) -> None:
    dims = {} if kind == "llm" else {"embedding_dims": 8}
    found = probe(provider, name, kind, model="of-mine", **dims)
    asked = provider.requests[-1]
    assert "of-mine" in f"{asked.path} {asked.body.get('model')}"
    if kind == "embedder":
        assert found.dims == (provider.dims if name == "ollama" else 8)


@pytest.mark.parametrize("name", EMBEDDERS)
def test_a_model_is_never_fetched_by_asking_it(provider: Provider, name: str) -> None:
    """mem0 would have Ollama pull gigabytes."""
    probe(provider, name, "embedder", model="not-there")
    probe(provider, name, "llm", model="not-there")
    assert not [request.path for request in provider.requests if "pull" in request.path]


def part(provider: Provider, kind: Kind) -> Any:
    return provider.chat if kind == "llm" else provider.embeddings


Fault = Callable[[Any], object]
FAULTS: dict[str, tuple[Fault, str, tuple[str, ...]]] = {
    "a key that is not accepted": (
        lambda part: part.fail(401, message="Incorrect API key provided."),
        failures.AUTH,
        ("does not accept the key", "is it whole, valid, and of this provider"),
    ),
    "an unknown model": (
        lambda part: part.missing_model(),
        failures.REFUSED,
        ("The model stub-chat is not known at ",),
    ),
    "a quota": (
        lambda part: part.fail(429),
        failures.LIMITED,
        ("its quota is used up, or calls come too fast",),
    ),
    "a server error": (
        lambda part: part.fail(500),
        failures.UNAVAILABLE,
        ("an error of its own: look at its log or status page",),
    ),
    "a gateway without its server": (
        lambda part: part.fail(503),
        failures.UNAVAILABLE,
        ("an error of its own",),
    ),
    "a broken connection": (
        lambda part: part.reset(),
        failures.UNAVAILABLE,
        ("broke the connection off in the middle",),
    ),
    "another path": (
        lambda part: part.fail(404, message="Not Found"),
        failures.REFUSED,
        ("answers, but not to this call: check the path",),
    ),
    "a redirect": (
        lambda part: part.redirect("https://elsewhere.example/"),
        failures.REFUSED,
        ("is not followed: configure the final address",),
    ),
}


@pytest.mark.parametrize(
    ("name", "kind", "fault"),
    [
        *(("openai", "llm", fault) for fault in FAULTS),
        *((*one, fault) for one, fault in zip(ALL[1:], cycle(FAULTS), strict=False)),
    ],
)
def test_the_hint_says_what_to_do(provider: Provider, name: str, kind: Kind, fault: str) -> None:
    break_it, code, words = FAULTS[fault]
    break_it(part(provider, kind))
    found = probe(provider, name, kind)
    assert (found.ok, found.dims, found.code) == (False, 0, code)
    assert found.cause and KEY not in found.cause
    for word in words:
        assert word in found.hint
    # Whom the sentence is about: the address, for it is not the provider's own.
    if code != failures.REFUSED:
        assert provider.origin in found.hint


@pytest.mark.parametrize(("name", "kind"), OWN)
def test_the_hint_tells_a_server_that_hangs(
    provider: Provider, settings: Any, name: str, kind: Kind
) -> None:
    settings.PROVIDER_TIMEOUT = settings.PROVIDER_EMBED_TIMEOUT = 0.3
    part(provider, kind).hang()
    found = probe(provider, name, kind)
    assert found.code == failures.TIMEOUT
    assert 300 <= found.latency_ms < 3000
    assert "A local model may still be loading: try again" in found.hint
    setting = {"llm": "PROVIDER_TIMEOUT", "embedder": "PROVIDER_EMBED_TIMEOUT"}[kind]
    assert f"raise {setting}." in found.hint


@pytest.mark.parametrize(("name", "kind"), OWN)
def test_the_hint_tells_that_nothing_listens(provider: Provider, name: str, kind: Kind) -> None:
    provider.stop()
    found = probe(provider, name, kind)
    assert found.code == failures.UNAVAILABLE
    assert "refused" in found.cause
    port = provider.origin.rpartition(":")[2]
    assert f"Nothing listens at {provider.origin}" in found.hint
    assert "Inside a container, localhost is the container itself" in found.hint
    assert f"http://host.docker.internal:{port}" in found.hint


@pytest.mark.parametrize("name", [name for name, kind in OWN if kind == "llm"])
def test_the_hint_tells_a_name_that_is_not_known(provider: Provider, name: str) -> None:
    address = PROVIDERS[name].address
    found = probe(provider, name, **{address: "http://no-such-host.invalid:9/v1"})
    assert found.code == failures.UNAVAILABLE
    assert "The name no-such-host.invalid cannot be resolved" in found.hint


def test_the_hint_tells_https_where_http_is_spoken(provider: Provider) -> None:
    address = provider.url.replace("http:", "https:")
    found = probe(provider, openai_base_url=address)
    assert found.code == failures.UNAVAILABLE
    assert "does not speak TLS: does the address begin with http:// instead?" in found.hint


def test_the_hint_tells_a_certificate_that_is_not_trusted(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def distrust(self: Any, *_: Any, **__: Any) -> None:
        raise ssl.SSLCertVerificationError(1, "certificate verify failed: self-signed certificate")

    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", distrust)
    found = probe(provider, openai_base_url=provider.url.replace("http:", "https:"))
    assert found.code == failures.UNAVAILABLE
    assert "is not trusted here" in found.hint and "SSL_CERT_FILE" in found.hint


def test_a_metadata_address_is_not_connected_to_whatever_name_it_has(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    def resolve(host: Any, port: Any, *_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", int(port)))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    for name in LLMS:
        found = probe(provider, name, **{PROVIDERS[name].address: "http://models.lan:80"})
        assert found.code == failures.UNAVAILABLE
        assert "metadata address" in found.cause
        assert "never connected to" in found.hint


@pytest.mark.parametrize(("name", "kind"), OWN)
def test_a_web_page_is_no_api(provider: Provider, name: str, kind: Kind) -> None:
    part(provider, kind).answer_raw("<html>Welcome! Please log in.</html>")
    found = probe(provider, name, kind)
    assert (found.ok, found.code) == (False, failures.MALFORMED)
    assert "the address of an API, not of a web page?" in found.hint


@pytest.mark.parametrize("name", EMBEDDERS)
def test_the_hint_tells_a_model_that_does_not_embed(provider: Provider, name: str) -> None:
    provider.embeddings.fail(400, message="This model does not support embeddings.")
    found = probe(provider, name, "embedder")
    assert found.code == failures.REFUSED
    assert found.hint == "stub-chat refuses to embed: is it an embedding model?"


@pytest.mark.parametrize("fault", ["not_a_number", "too_few"])
def test_vectors_that_are_none_are_told(provider: Provider, fault: str) -> None:
    getattr(provider.embeddings, fault)()
    found = probe(provider, kind="embedder")
    assert (found.ok, found.code, found.dims) == (False, failures.MALFORMED, 0)
    assert "is stub-chat an embedding model" in found.hint


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("ollama", "Fetch it there: ollama pull stub-chat"),
        ("lmstudio", "Load it in LM Studio."),
        ("vllm", "vLLM serves the model that it was started with."),
        ("azure_openai", "Azure asks for the name of your deployment."),
    ],
)
def test_the_hint_knows_where_a_servers_models_come_from(
    provider: Provider, name: str, advice: str
) -> None:
    provider.chat.missing_model()
    assert probe(provider, name).hint.endswith(advice)


def test_the_hint_tells_an_address_without_its_path(provider: Provider) -> None:
    """The commonest mistake with a compatible server."""
    provider.chat.fail(404, message="Not Found")
    for address in (provider.origin, f"{provider.origin}/"):
        found = probe(provider, openai_base_url=address)
        assert found.hint.endswith("the address lacks its path, mostly /v1")


def test_the_hint_tells_that_a_key_is_missing(provider: Provider) -> None:
    provider.api_key = "another"
    for name in LLMS:
        found = probe(provider, name, api_key="")
        assert found.code == failures.AUTH
        assert found.hint.endswith("wants an API key, and none is configured.")


def test_the_provider_is_called_by_its_name_where_it_is_asked_itself() -> None:
    from memories.engine.hints import hint

    refused = failures.failure(failures.AUTH, "HTTP 401")
    for config in ({}, {"openai_base_url": "https://API.openai.com/v1/"}):
        choice = ProviderChoice("openai", {"model": "gpt-5-mini", "api_key": KEY, **config})
        assert hint(refused, choice, "llm").startswith("OpenAI does not accept the key")
    groq = ProviderChoice("groq", {"model": "m", "api_key": KEY})
    assert hint(refused, groq, "llm").startswith("Groq does not accept the key")


def test_no_hint_is_empty() -> None:
    from memories.engine.hints import hint

    for code in (*failures.MESSAGES, "something_new"):
        for name, kind in ALL:
            error = failures.ProviderError("…", code=code, cause="")
            told = hint(error, ProviderChoice(name, {"model": "m"}), kind)
            assert len(told) > 20 and told == told.strip()


# --- The command ---------------------------------------------------------------------------------
def check_providers() -> tuple[str, bool]:
    """What it says, and whether it ends well."""
    out = io.StringIO()
    try:
        call_command("check_providers", stdout=out)
    except CommandError:
        return out.getvalue(), False
    return out.getvalue(), True


def test_the_command_asks_every_configured_provider(
    db: None, provider: Provider, settings: Any
) -> None:
    settings.PROVIDER_ENVIRONMENT = {}
    assert check_providers() == ("llm: none\nfallback_llm: none\nembedder: the local model\n", True)
    settings.PROVIDER_ENVIRONMENT = {
        "OPENAI_BASE_URL": provider.url,
        "OPENAI_API_KEY": KEY,
        "MEM0_LLM_MODEL": "first",
        "MEM0_FALLBACK_LLM_PROVIDER": "ollama",
        "MEM0_FALLBACK_LLM_MODEL": "second",
        "OLLAMA_BASE_URL": provider.origin,
        "MEM0_EMBED_PROVIDER": "openai",
    }
    told, well = check_providers()
    lines = told.splitlines()
    assert well and len(lines) == 3
    assert lines[0].startswith("llm: openai first: answers in ")
    assert lines[1].startswith("fallback_llm: ollama second: answers in ")
    assert lines[2].startswith("embedder: openai text-embedding-3-small: answers in ")
    assert lines[2].endswith(" ms, 1536 dimensions")


def test_the_command_fails_with_cause_and_hint(db: None, provider: Provider, settings: Any) -> None:
    settings.PROVIDER_ENVIRONMENT = {"OPENAI_BASE_URL": provider.url, "OPENAI_API_KEY": KEY}
    provider.api_key = "another"
    told, well = check_providers()
    assert not well
    assert "llm: openai gpt-5-mini: provider_auth_failed. " in told
    assert "Incorrect API key provided: [redacted]." in told
    assert "does not accept the key" in told
    assert KEY not in told
    assert told.endswith("embedder: the local model\n")


def test_the_command_tells_what_cannot_be_set_up(db: None, settings: Any) -> None:
    settings.PROVIDER_ENVIRONMENT = {}
    broken = ProviderChoice("together", {"model": "m", "api_key": KEY})
    made = catalogue.Configuration(llm=broken, embedder=broken)
    configuration.save(made, account_id=None, reason="test")
    told, well = check_providers()
    assert not well
    for section in ("llm", "embedder"):
        assert (
            f"{section}: together m: provider_bad_request. Together AI cannot be set up: " in told
        )
    assert "pip install together" in told
