"""The models that a provider says it has, and one sentence where it does not say."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from typing import Any

import pytest

from memories.engine import catalogue, configuration, listing
from memories.engine.catalogue import PROVIDERS, Kind, ProviderChoice
from memories.providers import service as providers
from memories.providers.service import ModelNames
from memories.tests.provider import Provider
from memories.tests.providers.test_probes import ALL as ALL_PROBED
from memories.tests.providers.test_probes import KEY, chosen

pytestmark = pytest.mark.one_form

# Azure alone has no list.
ALL = [(name, kind) for name, kind in ALL_PROBED if name != "azure_openai"]
NAMES = sorted({name for name, _ in ALL})
# Who lists its models in a form of its own; the others do it as OpenAI does.
OWN = ("openai", "anthropic", "gemini", "ollama")
OF_OPENAI = [
    *("gpt-5-mini", "gpt-4o", "o3", "chatgpt-4o-latest", "ft:gpt-4o-mini:acme:image-tagger:x1"),
    *("text-embedding-3-small", "text-embedding-ada-002", "whisper-1", "tts-1-hd", "dall-e-3"),
    *("omni-moderation-latest", "gpt-image-1", "gpt-4o-audio-preview", "gpt-realtime", "sora-2"),
    *("gpt-4o-transcribe", "babbage-002", "gpt-3.5-turbo-instruct"),
]


@pytest.fixture(autouse=True)
def _impatient(settings: Any) -> None:
    settings.PROVIDER_TIMEOUT = 5


def listed(
    provider: Provider, name: str = "openai", kind: Kind = "llm", **config: Any
) -> ModelNames:
    return providers.models(chosen(provider, name, **config), kind)


def rows(provider: Provider, *found: Any) -> None:
    """What a server with OpenAI's API lists."""
    answer = json.dumps({"object": "list", "data": found})
    provider.listing.answer_raw(answer, content_type="application/json")


@pytest.fixture
def at_its_own_address(monkeypatch: pytest.MonkeyPatch, provider: Provider) -> Callable[..., None]:
    """Lets a provider's own address be that of the stub."""

    def move(name: str) -> None:
        address = chosen(provider, name).config[PROVIDERS[name].address]
        moved = replace(PROVIDERS[name], default_address=address)
        monkeypatch.setattr(listing, "PROVIDERS", {**PROVIDERS, name: moved})

    return move


# --- What there is -------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "kind"), ALL)
def test_a_provider_lists_its_models(provider: Provider, name: str, kind: Kind) -> None:
    provider.api_key = KEY
    chat, embedder = {
        "ollama": ("stub-chat:latest", "stub-embed:latest"),
        # As mem0 wants them: the folder stands in an embedder's name.
        "gemini": ("stub-chat", "models/stub-embed"),
    }.get(name, ("stub-chat", "stub-embed"))
    if name == "gemini":  # it says itself what can be done with a model
        wanted: tuple[str, ...] = (chat,) if kind == "llm" else (embedder,)
    else:
        wanted = (chat, embedder) if kind == "llm" else (embedder, chat)
    assert listed(provider, name, kind) == ModelNames(wanted)
    assert [part.count for part in provider.parts.values()] == [0, 0, 1]


def test_groq_lists_its_models(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROQ_BASE_URL", provider.origin)
    provider.api_key = KEY
    provider.models = ["whisper-large-v3", "llama-4-scout-17b-16e-instruct", "gemma2-9b-it"]
    found = providers.models(ProviderChoice("groq", {"api_key": KEY}), "llm")
    assert found == ModelNames(("gemma2-9b-it", "llama-4-scout-17b-16e-instruct"))


def test_no_model_has_to_be_chosen_yet(provider: Provider) -> None:
    for name, kind in ALL:
        assert listed(provider, name, kind, model="").names


def test_one_call_brings_all_that_there_are(provider: Provider) -> None:
    """The usual page of Anthropic has 20 models, Gemini's 50."""
    provider.models = [f"model-{number}" for number in range(200)]
    for name in ("anthropic", "gemini"):
        provider.reset_counts()
        assert len(listed(provider, name).names) == 200
        assert provider.listing.count == 1


def test_numbers_in_names_are_sorted_by_size(provider: Provider) -> None:
    provider.models = ["qwen3:70b", "Qwen3:8b", "llama3.1", "qwen3:8b"]
    assert listed(provider).names == ("llama3.1", "Qwen3:8b", "qwen3:8b", "qwen3:70b")


@pytest.mark.parametrize(
    "name", ["BAAI/bge-m3", "intfloat/multilingual-e5-large", "all-minilm:33m", "thenlper/gte-base"]
)
def test_embedders_are_known_by_their_names(provider: Provider, name: str) -> None:
    provider.models = ["a-model", name, "z-model"]
    assert listed(provider, kind="embedder").names == (name, "a-model", "z-model")
    assert listed(provider, kind="llm").names == ("a-model", "z-model", name)


def test_openai_itself_lists_what_can_be_used(
    provider: Provider, at_its_own_address: Callable[..., None]
) -> None:
    provider.models = OF_OPENAI
    assert set(listed(provider).names) == set(OF_OPENAI)  # another server's names mean nothing
    at_its_own_address("openai")
    assert listed(provider).names == (
        "chatgpt-4o-latest",
        "ft:gpt-4o-mini:acme:image-tagger:x1",
        "gpt-4o",
        "gpt-5-mini",
        "o3",
    )
    found = listed(provider, kind="embedder").names
    assert found == ("text-embedding-3-small", "text-embedding-ada-002")


def test_what_neither_chats_nor_embeds_is_left_out(
    provider: Provider, at_its_own_address: Callable[..., None]
) -> None:
    provider.models = ["chat-2", "chat-2-image", "chat-2-tts", "chat-imagine"]
    for name, left in (("xai", ("chat-2", "chat-2-tts")), ("gemini", ("chat-2", "chat-imagine"))):
        assert len(listed(provider, name).names) == 4
        at_its_own_address(name)
        assert listed(provider, name).names == left


def test_what_an_answer_says_of_a_model_counts(provider: Provider) -> None:
    rows(
        provider,
        {"id": "a", "type": "chat"},
        {"id": "b-embed", "type": "llm"},
        {"id": "c", "type": "embeddings"},
        {"id": "d", "type": "image"},
        {"id": "e", "architecture": {"output_modalities": ["text"]}},
        {"id": "f", "architecture": {"output_modalities": ["image"]}},
        {"id": "g", "type": "something-new"},
        {"id": "h", "type": ["chat"], "architecture": "none"},
    )
    assert listed(provider).names == ("a", "e", "g", "h", "b-embed")
    assert listed(provider, kind="embedder").names == ("c", "g", "h")


def test_no_model_of_the_kind_is_told(provider: Provider) -> None:
    rows(provider, {"id": "a", "type": "chat"})
    found = listed(provider, kind="embedder")
    assert found == ModelNames((), f"{provider.url} lists no embedding model.")
    provider.heal()
    provider.listing.answer_raw('{"data": null}', content_type="application/json")
    assert listed(provider) == ModelNames((), f"{provider.url} lists no chat model.")
    provider.heal()
    provider.models = []
    found = listed(provider, "ollama", model="")
    assert found.problem.endswith("lists no chat model. Fetch it there: ollama pull llama3.1")


# --- Without a call ------------------------------------------------------------------------------
def test_who_has_no_list_is_not_asked(provider: Provider, settings: Any) -> None:
    for kind in ("llm", "embedder"):
        found = listed(provider, "azure_openai", kind)
        assert found == ModelNames((), "Azure asks for the name of your deployment.")
    assert not provider.requests


def test_what_cannot_be_asked_is_told() -> None:
    def problem(name: str, kind: Kind = "llm", **config: Any) -> str:
        found = providers.models(ProviderChoice(name, config), kind)
        assert found.names == ()
        return found.problem

    assert problem("openai") == "OpenAI needs an API key."
    assert "pip install together" in problem("together", api_key=KEY)
    assert "'anthropic' is not bundled" in problem("anthropic", "embedder", api_key=KEY)
    for name in ("none", "local", "nonsense"):
        assert problem(name) == "There is nothing to ask: no provider is chosen."
    broken = problem("openai", api_key=KEY, no_such_field=1)
    assert broken.startswith("OpenAI cannot be set up: ") and KEY not in broken


# --- What goes wrong -----------------------------------------------------------------------------
Fault = Callable[[Any], object]
FAULTS: dict[str, tuple[Fault, str]] = {
    "a quota": (lambda part: part.fail(429), "its quota is used up, or calls come too fast"),
    "a server error": (lambda part: part.fail(500), "an error of its own"),
    "no such route": (lambda part: part.fail(404), "has no list of its models: type the model's"),
    "no such method": (lambda part: part.fail(405), "has no list of its models: type the model's"),
    "a refusal": (lambda part: part.fail(400, message="Not today"), "does not list its models: "),
    "a redirect": (lambda part: part.redirect("https://elsewhere.example/"), "is not followed"),
    "a broken connection": (lambda part: part.reset(), "broke the connection off in the middle"),
    "half of it": (lambda part: part.truncate(), "is no list of models"),
    "a web page": (lambda part: part.answer_raw("<html>Log in</html>"), "not of a web page?"),
    "too much": (lambda part: part.flood(), "is no list of models"),
    "compressed": (lambda part: part.pack(), "is no list of models"),
}


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        *(("openai", fault) for fault in FAULTS),
        *zip([name for name in NAMES if name != "openai"], FAULTS, strict=False),
    ],
)
def test_the_problem_says_what_to_do(provider: Provider, name: str, fault: str) -> None:
    break_it, words = FAULTS[fault]
    break_it(provider.listing)
    found = listed(provider, name)
    assert found.names == ()
    assert words in found.problem and provider.origin in found.problem
    assert KEY not in found.problem
    assert provider.listing.count == 1  # not tried again
    provider.heal()
    assert listed(provider, name).names


@pytest.mark.parametrize("fault", ["hang", "drip"])
@pytest.mark.parametrize("name", OWN)
def test_who_does_not_come_to_an_end_is_not_waited_for(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, name: str, fault: str
) -> None:
    monkeypatch.setattr(listing, "LISTING_SECONDS", 0.3)
    getattr(provider.listing, fault)()
    started = time.monotonic()
    found = listed(provider, name)
    assert time.monotonic() - started < 4  # of the five that PROVIDER_TIMEOUT would allow
    assert "did not list its models in time: try again, or type the model's name" in found.problem


def test_an_answer_may_be_as_large_as_the_longest_lists(provider: Provider) -> None:
    about = "x" * 4000
    found = [{"id": f"m{number}", "description": about} for number in range(1000)]
    rows(provider, *found[:500])
    assert len(listed(provider).names) == 500
    provider.heal()
    rows(provider, *found)
    assert "is no list of models" in listed(provider).problem


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_key_is_told_and_a_missing_one(provider: Provider, name: str) -> None:
    provider.api_key = "another"
    assert "does not accept the key: is it whole" in listed(provider, name).problem
    assert KEY not in listed(provider, name).problem
    assert "wants an API key, and none is configured." in listed(provider, name, api_key="").problem


@pytest.mark.parametrize("name", NAMES)
def test_no_problem_says_a_secret_back(provider: Provider, name: str) -> None:
    provider.listing.fail(400, message=f"The key {KEY} is of {'x' * 280} {KEY}")
    problem = listed(provider, name).problem
    assert "[redacted]" in problem and KEY[:8] not in problem


def test_a_server_that_is_not_there_is_told(provider: Provider) -> None:
    provider.stop()
    for name, kind in ALL:
        assert f"Nothing listens at {provider.origin}" in listed(provider, name, kind).problem


def test_an_address_without_its_path_is_told(provider: Provider) -> None:
    provider.listing.fail(404)
    problem = listed(provider, openai_base_url=provider.origin).problem
    assert problem.endswith("the address lacks its path, mostly /v1")


def test_a_metadata_address_is_never_asked() -> None:
    for name, _ in ALL:
        config = {"api_key": KEY, PROVIDERS[name].address: "http://169.254.169.254/v1"}
        problem = providers.models(ProviderChoice(name, config), "llm").problem
        assert "is a metadata address, which is never connected to." in problem


GARBAGE = [
    *("", "null", "[]", "7", '"text"', "{}", '{"data": 7}', '{"data": {"id": "a"}}'),
    *('{"data": "abc"}', '{"error": "no"}', "[" * 100_000, '{"data": [1' + "0" * 5000 + "]}"),
    '{"data": [{"id": "\xff',
]


@pytest.mark.parametrize(("name", "answer"), list(zip(cycle(OWN), GARBAGE)), ids=range(13))
def test_garbage_is_no_list(provider: Provider, name: str, answer: str) -> None:
    if name in {"gemini", "ollama"}:
        answer = answer.replace('"data"', '"models"')
    provider.listing.answer_raw(answer, content_type="application/json")
    found = listed(provider, name)
    assert found.names == () and "is no list of models" in found.problem


# --- Names that are none -------------------------------------------------------------------------
@pytest.mark.parametrize("name", OWN)
def test_names_that_cannot_be_used_are_left_out(provider: Provider, name: str) -> None:
    key = "name" if name in {"gemini", "ollama"} else "id"
    names = [
        *("", " ", " padded", "two\nlines", "nul\0", "\x1b[31mred", "\u202eevil", "\ud800", None),
        *(7, ["a"], {"a": 1}, True, "x" * 171, f"echo-{KEY}"),
        *("good", "good", "<script>alert(1)</script>", "x" * 170, "модель"),
    ]
    found = json.dumps(
        {"data" if key == "id" else "models": [{key: name} for name in names] + [None, 7, "a", {}]}
    )
    provider.listing.answer_raw(found, content_type="application/json")
    wanted = ("<script>alert(1)</script>", "good", "x" * 170, "модель")
    assert listed(provider, name) == ModelNames(wanted)


def test_a_short_key_may_stand_in_a_name(provider: Provider) -> None:
    """Servers at home accept any key, and people write a word."""
    provider.models = ["llama3.1"]
    assert listed(provider, api_key="llama").names == ("llama3.1",)


def test_there_is_an_end_to_names(provider: Provider) -> None:
    provider.models = [f"model-{number}" for number in range(5000)]
    found = listed(provider).names
    assert (len(found), found[0], found[-1]) == (500, "model-0", "model-499")


def test_a_million_rows_do_not_keep_the_page_waiting(provider: Provider) -> None:
    """The SDKs would make an object of each, for a quarter of a minute."""
    provider.listing.answer_raw(
        '{"data": [' + "{}," * 1_000_000 + '{"id": "a"}]}', content_type="application/json"
    )
    assert listed(provider).names == ("a",)


# --- What is shown of a key ----------------------------------------------------------------------
@pytest.mark.parametrize(
    ("config", "has", "ends"),
    [
        ({}, False, ""),
        ({"api_key": ""}, False, ""),
        ({"api_key": "x" * 12 + "abc"}, True, ""),
        ({"api_key": "x" * 13 + "abc"}, True, "abc"),
        ({"api_key": KEY}, True, KEY[-3:]),
        ({"aws_secret_access_key": KEY}, False, ""),
    ],
)
def test_how_a_key_ends_is_told_of_long_ones(config: Any, has: bool, ends: str) -> None:
    choice = ProviderChoice("openai", config)
    assert configuration.has_key(choice) == has
    assert configuration.key_ends(choice) == ends
    if has:
        kept = configuration.seal(catalogue.Configuration(llm=choice))
        assert kept["llm"]["config"]["api_key"]["ends"] == ends
