"""Providers and instructions over REST: shown, changed while running, and the project's reset."""

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from django.db import connection

from accounts.models import Account, Membership, Project, Role
from memories import runtime
from memories.editing import service as services
from memories.engine import catalogue, configuration
from memories.engine.catalogue import ProviderChoice
from memories.engine.engine import Engine
from memories.models import AddInput, Memory, MemoryVector
from memories.models.server import EngineConfig, IndexState, Reembedding
from memories.providers import service as providers
from memories.tests.provider import Provider

pytestmark = pytest.mark.one_form

KEY = "sk-a-distinctive-key-0815"
DONE = {"message": "Configuration set successfully"}
LOCAL = "test/words-1"
REMOTE = "openai/text-embedding-3-small/1536"
OFF = {"provider": "none", "config": {}}


@pytest.fixture(autouse=True)
def _no_environment(settings: Any) -> None:
    settings.PROVIDER_ENVIRONMENT = {}
    settings.EMBEDDER_LOADER = "conftest.WordEmbedder"
    settings.PROVIDER_ATTEMPTS = 1
    settings.PROVIDER_TIMEOUT = settings.PROVIDER_EMBED_TIMEOUT = 10


@pytest.fixture
def admin(as_key: Any, key: Any, project: Project) -> Any:
    """The client of an admin of the project, who does not own the instance."""
    account = Account.objects.create(email="admin@example.org", name="Admin")
    Membership.objects.create(project=project, account=account, role=Role.ADMIN)
    return as_key(key(owner=account))


def llm(provider: Provider, **config: Any) -> dict[str, Any]:
    made = {"model": "stub-chat", "api_key": KEY, "openai_base_url": provider.url}
    return {"provider": "openai", "config": {**made, **config}}


def embedder(provider: Provider, **config: Any) -> dict[str, Any]:
    return llm(provider, **{"model": "text-embedding-3-small", **config})


def configured(api: Any, **body: Any) -> None:
    answer = api.post("/configure", body)
    assert (answer.status_code, answer.json()) == (200, DONE), answer.content


def refused(api: Any, status: int, **body: Any) -> str:
    """The sentence of a refusal; nothing has changed."""
    before = state()
    answer = api.post("/configure", body)
    assert answer.status_code == status, answer.content
    assert answer.json().keys() == {"detail"}
    assert state() == before
    told = answer.json()["detail"]
    assert isinstance(told, str)
    return told


def state() -> Any:
    """All that a change of configuration may change."""
    now = runtime.get_runtime()
    return (
        list(EngineConfig.objects.values_list("version", "config")),
        list(IndexState.objects.values_list("model_key", "dims", "generation")),
        list(Project.objects.order_by("slug").values_list("instructions", flat=True)),
        now.engine,
        now.version,
    )


def say(api: Any, text: str, user_id: str = "alice") -> Any:
    body = {"messages": [{"role": "user", "content": text}], "user_id": user_id}
    answer = api.post("/memories", body)
    assert answer.status_code == 200, answer.content
    return answer


def extracted(api: Any, text: str = "I drink tea. I live in Rome.") -> bool:
    """Whether an LLM made memories of it: the stub's makes one of each sentence."""
    answer = say(api, text)
    return bool(answer["X-Mem0dash-Stored"] == "extracted") and len(answer.json()["results"]) == 2


# --- GET /configure, GET /configure/providers ----------------------------------------------------
def test_without_any_configuration_the_local_embedder_is_shown(api: Any) -> None:
    answer = api.get("/configure")
    assert answer.status_code == 200
    assert answer.json() == {
        "version": "v1.1",
        "llm": OFF,
        "embedder": {"provider": "local", "config": {"model": LOCAL, "embedding_dims": 64}},
        "fallback_llm": None,
        "vector_store": {"provider": "qdrant", "config": {}},
        "custom_instructions": None,
    }


def test_what_is_configured_is_shown_without_its_secrets(api: Any, provider: Provider) -> None:
    configured(
        api,
        llm=llm(provider, temperature=0.5),
        fallback_llm={"provider": "ollama", "config": {"ollama_base_url": provider.origin}},
        embedder=embedder(provider),
        custom_instructions="Only durable facts.",
    )
    answer = api.get("/configure")
    assert KEY not in answer.content.decode()
    assert answer["Cache-Control"] == "no-store"
    shown = answer.json()
    assert shown["llm"] == llm(provider, temperature=0.5, api_key="[redacted]")
    assert shown["embedder"] == embedder(provider, api_key="[redacted]")
    assert shown["fallback_llm"] == {
        "provider": "ollama",
        "config": {"model": "llama3.1", "ollama_base_url": provider.origin},
    }
    assert shown["custom_instructions"] == "Only durable facts."


def test_what_the_environment_says_is_shown_too(api: Any, settings: Any) -> None:
    settings.PROVIDER_ENVIRONMENT = {"OPENAI_API_KEY": KEY}
    shown = api.get("/configure").json()["llm"]
    assert shown == {
        "provider": "openai",
        "config": {"model": "gpt-5-mini", "api_key": "[redacted]"},
    }


def test_the_providers_that_can_be_chosen_are_listed(api: Any) -> None:
    answer = api.get("/configure/providers")
    assert answer.status_code == 200
    listed = answer.json()
    assert listed.keys() == {"llm", "embedder"}
    assert listed["llm"][:3] == ["openai", "anthropic", "gemini"]
    assert listed["embedder"][:3] == ["local", "openai", "gemini"]
    assert "anthropic" not in listed["embedder"]
    assert "litellm" not in listed["llm"]  # not installed


def test_both_are_for_everybody_who_may_read(as_key: Any, key: Any, api: Any, bob: Account) -> None:
    for made in (key("read"), key(owner=bob), key(entity_limit={"user_id": ["zoe"]})):
        assert as_key(made).get("/configure").status_code == 200
        assert as_key(made).get("/configure/providers").status_code == 200
    for path in ("/configure", "/configure/providers"):
        assert as_key(key("write")).get(path).status_code == 403
        assert as_key(None).get(path).status_code == 401


# --- POST /configure: who -------------------------------------------------------------------------
def test_providers_are_changed_by_the_instance_owner_alone(
    api: Any, as_key: Any, key: Any, bob: Account, charlie: Account, other_project: Project,
    project: Project, provider: Provider, admin: Any,
) -> None:  # fmt: skip
    reviewer = Account.objects.create(email="r@example.org", name="R")
    Membership.objects.create(project=project, account=reviewer, role=Role.REVIEWER)
    only = "Only the instance owner may change providers."
    for body in ({"llm": llm(provider)}, {"llm": None}, {"embedder": None}, {"fallback_llm": None}):
        assert refused(admin, 403, **body) == only
        assert refused(as_key(key(owner=charlie, project=other_project)), 403, **body) == only
        for made in (key(owner=bob), key(owner=reviewer), key("read", "write", "review")):
            assert refused(as_key(made), 403, **body) == "Admin role required."
    answer = as_key(None).post("/configure", {"llm": llm(provider)})
    assert answer.status_code == 401 and answer["WWW-Authenticate"] == "Bearer"
    assert provider.requests == type(provider.requests)()


def test_a_key_limited_to_some_entities_does_not_change_the_providers_of_all(
    api: Any, as_key: Any, key: Any, provider: Provider
) -> None:
    """Where everybody's messages go is nothing for a key that may see one user's."""
    limited = as_key(key(entity_limit={"user_id": ["alice"]}))
    assert "limited to some entities" in refused(limited, 403, llm=llm(provider))


def test_the_owner_may_use_a_key_of_any_project(
    api: Any, as_key: Any, key: Any, other_project: Project, provider: Provider
) -> None:
    configured(as_key(key(project=other_project)), llm=llm(provider))
    assert extracted(api)


def test_the_admin_key_of_the_environment_may_do_it(
    api: Any, as_key: Any, settings: Any, provider: Provider
) -> None:
    settings.ADMIN_API_KEY = "an-admin-key-of-the-instance"
    configured(as_key(settings.ADMIN_API_KEY), llm=llm(provider))
    assert EngineConfig.objects.get().account_id is None


def test_instructions_are_changed_by_an_admin_of_the_project_and_for_it_alone(
    api: Any, admin: Any, as_key: Any, key: Any, bob: Account, other_project: Project
) -> None:
    configured(admin, custom_instructions="  Only durable facts.  ")
    assert api.get("/configure").json()["custom_instructions"] == "Only durable facts."
    assert (
        as_key(key(project=other_project)).get("/configure").json()["custom_instructions"] is None
    )
    assert refused(as_key(key(owner=bob)), 403, custom_instructions="x") == "Admin role required."
    # Together with providers, neither is changed.
    assert "instance owner" in refused(admin, 403, custom_instructions="x", llm=None)
    configured(admin, custom_instructions=None)
    assert api.get("/configure").json()["custom_instructions"] is None
    assert not EngineConfig.objects.exists()


# --- POST /configure: what ------------------------------------------------------------------------
def test_a_change_of_the_llm_holds_for_the_next_request(
    api: Any, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    assert not extracted(api)
    configured(api, llm=llm(provider))
    assert extracted(api, "I have a dog. I like the sea.")
    first = provider.chat.requests[-1]
    assert (first.body["model"], first.headers["authorization"]) == ("stub-chat", f"Bearer {KEY}")
    configured(api, llm={"config": {"model": "another"}})
    assert extracted(api, "I have a cat. I like the hills.")
    assert provider.chat.requests[-1].body["model"] == "another"
    with Provider() as second:
        configured(api, llm={"config": {"openai_base_url": second.url, "api_key": "sk-2"}})
        asked = provider.chat.count
        assert extracted(api, "I have a bird. I like the lake.")
        assert (provider.chat.count, second.chat.count) == (asked, 1)
        assert second.chat.requests[-1].headers["authorization"] == "Bearer sk-2"
    configured(api, llm=OFF)
    assert not extracted(api, "I have a fish. I like the wood.")
    assert api.get("/configure").json()["llm"] == OFF


def test_a_wizard_posts_what_it_knows_and_that_is_enough(api: Any) -> None:
    """The original's dashboard: version, LLM with key, embedder as it is."""
    body = {
        "version": "v1.1",
        "llm": {"provider": "anthropic", "config": {"model": "claude-haiku-4-5", "api_key": KEY}},
        "embedder": api.get("/configure").json()["embedder"],
    }
    configured(api, **body)
    used = configuration.current_configuration()
    assert used.llm == ProviderChoice("anthropic", {"model": "claude-haiku-4-5", "api_key": KEY})
    assert used.embedder is None


def test_posting_what_get_gave_changes_nothing_and_keeps_the_keys(
    api: Any, provider: Provider, settings: Any
) -> None:
    azure = {
        "api_key": KEY,
        "azure_endpoint": provider.origin,
        "api_version": "2024-10-21",
        "default_headers": {"X-Team": "a secret"},
    }
    settings.PROVIDER_ENVIRONMENT = {"ANTHROPIC_API_KEY": "ant"}
    configured(api, **api.get("/configure").json())
    assert not EngineConfig.objects.exists()
    configured(
        api,
        llm={"provider": "azure_openai", "config": {"azure_kwargs": azure}},
        fallback_llm=llm(provider),
        embedder=embedder(provider),
        custom_instructions="Facts.",
    )
    before, shown, asked = state(), api.get("/configure").json(), provider.embeddings.count
    configured(api, **shown)
    assert state() == before
    assert api.get("/configure").json() == shown
    assert provider.embeddings.count == asked
    assert extracted(api)
    assert provider.chat.requests[-1].headers["api-key"] == KEY
    assert provider.chat.requests[-1].headers["x-team"] == "a secret"


def test_the_key_does_not_follow_to_another_address(api: Any, provider: Provider) -> None:
    configured(api, llm=llm(provider))
    with Provider() as thief:
        for config in ({"api_key": "[redacted]"}, {}):
            config["openai_base_url"] = thief.url
            body = {"llm": {"provider": "openai", "config": config}}
            answer = api.post("/configure", body)
            if "api_key" in config:
                assert answer.status_code == 400
                assert "The address has changed: send api_key again." in answer.json()["detail"]
        say(api, "I drink tea.")
        assert thief.chat.requests[-1].headers["authorization"] == "Bearer none"
        assert KEY not in str(list(thief.requests))


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown LLM": (
        {"llm": {"provider": "acme", "config": {}}},
        "LLM provider 'acme' is not bundled in this image. Bundled providers: openai, anthropic, "
        "gemini, azure_openai, ollama, ",
    ),
    "an unknown embedder": (
        {"embedder": {"provider": "acme"}},
        "Embedder provider 'acme' is not bundled in this image. Bundled providers: local, openai, ",
    ),
    "one that is not installed": (
        {"llm": {"provider": "aws_bedrock"}},
        "To add it: pip install boto3",
    ),
    "no key": ({"llm": {"provider": "anthropic"}}, "Anthropic needs an API key."),
    "another section": ({"reranker": {}}, "'reranker' cannot be configured here."),
    "instructions as a list": ({"custom_instructions": ["a"]}, "custom_instructions must be text"),
    "long instructions": (
        {"custom_instructions": "x" * 20_001},
        "custom_instructions must be text of at most 20000 characters.",
    ),
    "a fallback for nothing": (
        {"fallback_llm": {"provider": "ollama", "config": {"model": "m"}}},
        "A fallback LLM needs an LLM that it stands in for",
    ),
    "a metadata address": (
        {"llm": {"provider": "ollama", "config": {"ollama_base_url": "http://169.254.169.254"}}},
        "metadata address",
    ),
    "a user in the address": (
        {"llm": {"provider": "ollama", "config": {"ollama_base_url": f"http://me:{KEY}@nas"}}},
        "no user name or password",
    ),
    "Azure without an address": (
        {"llm": {"provider": "azure_openai", "config": {"api_key": KEY}}},
        "llm.config.azure_endpoint is missing.",
    ),
    "a port that no client can read": (
        {"llm": {"provider": "ollama", "config": {"ollama_base_url": "http://nas:http"}}},
        "This is not a URL",
    ),
}


@pytest.mark.parametrize("mistake", BAD)
def test_what_does_not_fit_is_refused_and_nothing_changes(api: Any, mistake: str) -> None:
    body, told = BAD[mistake]
    said = refused(api, 400, **body)
    assert told in said
    assert KEY not in said
    # Together with what would fit as well.
    refused(api, 400, **{"llm": None, "custom_instructions": "fits", **body})


@pytest.mark.parametrize("body", [[], "x", 5, [{"llm": None}]])
def test_the_configuration_is_an_object(api: Any, body: Any) -> None:
    answer = api("POST", "/configure", json.dumps(body))
    assert answer.status_code == 400
    assert answer.json() == {"detail": "The configuration must be a JSON object."}


def test_an_empty_change_changes_nothing(api: Any) -> None:
    before = state()
    configured(api)
    configured(api, version="v1.1", vector_store={"provider": "pgvector"}, history_db_path="/x")
    assert state() == before


def test_bodies_that_are_huge_deep_or_odd_are_refused(api: Any) -> None:
    deep: Any = {}
    for _ in range(100):
        deep = {"config": deep}
    before = state()
    for body in (
        {"llm": deep},
        {"llm": {"provider": "openai", "config": {"model": "x" * 1_000_000}}},
        {"llm": {"provider": "openai", "config": {f"k{n}": n for n in range(50_000)}}},
        {"llm": {"provider": "x" * 1_000_000}},
        {"x" * 1_000_000: 1},
        {"llm": {"provider": "openai", "config": {"model": "a\0b", "api_key": KEY}}},
        {"llm": {"provider": "openai", "config": {"max_tokens": 10**400, "api_key": KEY}}},
        {"custom_instructions": "a\0b"},
    ):
        answer = api("POST", "/configure", json.dumps(body))
        assert answer.status_code in {400, 422}, answer.content[:300]
        assert len(answer.content) < 1000
    assert state() == before


def test_an_sdk_that_cannot_be_set_up_is_told_at_once(
    api: Any, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    import openai

    def fail(self: Any, *_: Any, **options: Any) -> None:
        raise openai.OpenAIError(f"no such thing with the key {options['api_key']}")

    monkeypatch.setattr(openai.OpenAI, "__init__", fail)
    for body in (
        {"llm": llm(provider)},
        {"embedder": embedder(provider)},
        {"llm": {"provider": "ollama"}, "fallback_llm": llm(provider)},
    ):
        told = refused(api, 400, **body)
        assert "cannot be set up: no such thing with the key [redacted]" in told


def test_an_llm_that_cannot_be_set_up_at_the_start_fails_adds_with_the_reason(
    api: Any, owner: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Its package was there when it was configured, say."""
    broken = ProviderChoice("together", {"model": "m", "api_key": KEY})
    configuration.save(
        replace(configuration.current_configuration(), llm=broken), account_id=None, reason="test"
    )
    runtime.get_runtime().refresh()
    body = {"messages": [{"role": "user", "content": "I drink tea"}], "user_id": "alice"}
    with caplog.at_level(logging.ERROR):
        answer = api.post("/memories", body)
    assert "the LLM cannot be set up" in caplog.text
    assert answer.status_code == 502
    assert answer.json()["code"] == "provider_bad_request"
    assert "Together AI cannot be set up" in answer.json()["detail"]
    kept = AddInput.objects.get()
    assert (kept.outcome, kept.messages) == ("failed", body["messages"])
    assert not Memory.objects.exists()
    # It is not in the way of what else is changed, and of its own replacement.
    configured(api, custom_instructions="Facts.", embedder=None)
    configured(api, llm=OFF)
    assert api.post("/memories", body).status_code == 200


def test_a_server_starts_with_providers_that_cannot_be_set_up(
    db: None, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    broken = ProviderChoice("together", {"model": "m", "api_key": KEY})
    wanted = catalogue.Configuration(llm=broken, embedder=broken, dims=8)
    configuration.save(wanted, account_id=None, reason="test")
    with caplog.at_level(logging.ERROR):
        started = runtime.open_runtime(index_root=tmp_path / "index")
        assert (started.version, started.engine.embedder) == (1, None)
        assert started.engine.llm is not None
        started.engine.llm.prepare()
    assert "the LLM cannot be set up" in caplog.text
    assert "the embedder cannot be set up: search is by words" in caplog.text
    started.close()


def test_an_embedder_that_cannot_be_set_up_leaves_search_by_words(api: Any, engine: Any) -> None:
    id_ = api.add("I drink tea")
    broken = ProviderChoice("together", {"model": "m", "api_key": KEY})
    configuration.save(
        replace(configuration.current_configuration(), embedder=broken, dims=8),
        account_id=None,
        reason="test",
    )
    engine.refresh()
    answer = api.post("/search", {"query": "tea", "user_id": "alice"})
    assert [hit["id"] for hit in answer.json()["results"]] == [id_]
    assert answer["X-Mem0dash-Search"] == "keyword"
    # The LLM can be changed all the same, and the way back is open.
    configured(api, llm={"provider": "ollama"})
    configured(api, embedder=None)
    answer = api.post("/search", {"query": "tea", "user_id": "alice"})
    assert answer["X-Mem0dash-Search"] == "semantic"


def test_a_broken_fallback_does_not_take_the_llm_away(api: Any, provider: Provider) -> None:
    configured(api, llm=llm(provider))
    broken = ProviderChoice("together", {"model": "m", "api_key": KEY})
    configuration.save(
        replace(configuration.current_configuration(), fallback_llm=broken),
        account_id=None,
        reason="test",
    )
    runtime.get_runtime().refresh()
    assert extracted(api)


def test_a_broken_llm_is_stood_in_for_by_its_fallback(api: Any, provider: Provider) -> None:
    configured(api, llm=llm(provider), fallback_llm=llm(provider, model="second"))
    broken = ProviderChoice("together", {"model": "m", "api_key": KEY})
    configuration.save(
        replace(configuration.current_configuration(), llm=broken), account_id=None, reason="test"
    )
    runtime.get_runtime().refresh()
    assert extracted(api)
    assert provider.chat.requests[-1].body["model"] == "second"


def test_the_fallback_takes_over_when_the_llm_fails(
    api: Any, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    with Provider() as second:
        configured(api, llm=llm(provider), fallback_llm=llm(second, model="second"))
        assert extracted(api)
        assert second.chat.count == 0
        provider.chat.fail(500)
        with caplog.at_level(logging.WARNING):
            assert extracted(api, "I have a dog. I like the sea.")
        assert "its fallback is asked" in caplog.text
        assert (provider.chat.count, second.chat.count) == (2, 1)
        configured(api, fallback_llm=None)
        body = {"messages": [{"role": "user", "content": "More."}], "user_id": "alice"}
        answer = api.post("/memories", body)
        assert (answer.status_code, answer.json()["code"]) == (502, "provider_unavailable")
        assert second.chat.count == 1


def test_answers_of_a_redirect_are_not_sought_elsewhere(api: Any, provider: Provider) -> None:
    """The texts would go to a host that nobody configured."""
    with Provider() as elsewhere:
        provider.chat.redirect(f"{elsewhere.url}/chat/completions")
        provider.embeddings.redirect(f"{elsewhere.url}/embeddings", status=308)
        configured(api, llm=llm(provider))
        body = {"messages": [{"role": "user", "content": "I drink tea."}], "user_id": "alice"}
        answer = api.post("/memories", body)
        assert (answer.status_code, answer.json()["code"]) == (502, "provider_bad_request")
        answer = api.post("/configure", {"embedder": embedder(provider)})
        assert (answer.status_code, answer.json()["code"]) == (502, "provider_bad_request")
        assert not elsewhere.requests


# --- POST /configure: the embedder ----------------------------------------------------------------
def test_another_embedder_is_used_at_once_while_there_are_no_memories(
    api: Any, provider: Provider, engine: Any
) -> None:
    before = IndexState.objects.get()
    configured(api, embedder=embedder(provider))
    [measured] = provider.embeddings.requests
    assert measured.body["model"] == "text-embedding-3-small"
    assert measured.headers["authorization"] == f"Bearer {KEY}"
    index = IndexState.objects.get()
    assert (index.model_key, index.dims) == (REMOTE, 1536)
    assert index.generation > before.generation
    assert engine.engine.model_key == engine.indexer.model_key == REMOTE
    id_ = api.add("I drink tea")
    assert MemoryVector.objects.get().dims == 1536
    asked = provider.embeddings.count
    assert [hit["id"] for hit in api.search("tea")] == [id_]
    assert provider.embeddings.count == asked + 1


def test_dimensions_are_measured_never_guessed(api: Any, provider: Provider, engine: Any) -> None:
    provider.dims = 77
    configured(api, embedder=embedder(provider, model="mine"))
    assert engine.engine.dims == IndexState.objects.get().dims == 77
    configured(api, embedder=embedder(provider, model="mine", embedding_dims=8))
    assert engine.engine.dims == IndexState.objects.get().dims == 8
    assert api.get("/configure").json()["embedder"]["config"]["embedding_dims"] == 8


def test_dimensions_that_the_provider_does_not_honour_are_refused(
    api: Any, provider: Provider
) -> None:
    provider.embeddings.wrong_dims(1536)
    told = refused(api, 400, embedder=embedder(provider, embedding_dims=256))
    assert "The embedder answers with 1536 dimensions, not with the 256" in told
    assert "leave it out" in told
    ollama = {"model": "m", "ollama_base_url": provider.origin, "embedding_dims": 64}
    told = refused(api, 400, embedder={"provider": "ollama", "config": ollama})
    assert "not with the 64" in told


UNREACHABLE = {
    "nothing listens": (lambda p: p.stop(), "provider_unavailable"),
    "it fails": (lambda p: p.embeddings.fail(500), "provider_unavailable"),
    "it hangs": (lambda p: p.embeddings.hang(), "provider_timeout"),
    "the key is wrong": (lambda p: p.embeddings.fail(401), "provider_auth_failed"),
    "the model is not there": (lambda p: p.embeddings.missing_model(), "provider_bad_request"),
    "the quota is used up": (lambda p: p.embeddings.fail(429), "provider_rate_limited"),
    "the vector is none": (lambda p: p.embeddings.not_a_number(), "provider_bad_reply"),
}


@pytest.mark.parametrize("problem", UNREACHABLE)
def test_an_embedder_that_cannot_be_asked_is_not_taken_and_nothing_changes(
    api: Any, provider: Provider, settings: Any, problem: str
) -> None:
    settings.PROVIDER_EMBED_TIMEOUT = 0.5
    break_it, code = UNREACHABLE[problem]
    id_ = api.add("I drink tea", user_id="before")
    Memory.objects.filter(id=id_).delete()
    break_it(provider)
    before = state()
    body = {"embedder": embedder(provider), "llm": llm(provider), "custom_instructions": "x"}
    answer = api.post("/configure", body)
    assert answer.status_code == 502
    told = answer.json()
    assert told.keys() == {"detail", "code", "request_id"}
    assert (told["code"], told["request_id"]) == (code, answer["X-Request-ID"])
    assert KEY not in answer.content.decode()
    assert state() == before
    assert api.get("/configure").json()["embedder"]["provider"] == "local"
    assert api.add("I drink water")


def test_with_memories_another_embedder_is_refused_with_what_to_do(
    api: Any, provider: Provider
) -> None:
    id_ = api.add("I drink tea")
    told = refused(api, 409, embedder=embedder(provider), llm=llm(provider))
    assert f"1 stored memories were embedded with {LOCAL} (64 dimensions)" in told
    assert f"the configured embedder is {REMOTE} (1536)" in told
    assert "manage.py reembed" in told
    assert [hit["id"] for hit in api.search("tea")] == [id_]
    # Deleted memories are no obstacle: their vectors are made when they come back.
    api.delete(f"/memories/{id_}")
    configured(api, embedder=embedder(provider))


def test_with_memories_everything_else_may_change(api: Any, provider: Provider) -> None:
    configured(api, embedder=embedder(provider))
    id_ = api.add("I drink tea")
    with Provider(api_key="sk-new") as moved:
        there = {"openai_base_url": moved.url, "api_key": "sk-new"}
        configured(api, embedder={"config": there}, llm=llm(provider))
        asked = provider.embeddings.count
        assert [hit["id"] for hit in api.search("tea")] == [id_]
        assert moved.embeddings.count > 0 and provider.embeddings.count == asked
    # The embedder is away: that is no reason to keep the LLM.
    configured(api, llm={"config": {"model": "another"}})
    told = refused(api, 409, embedder=None)
    assert f"{REMOTE}" in told and LOCAL in told


def test_an_embedder_of_the_environment_is_not_in_the_way_of_another_llm(
    api: Any, provider: Provider, settings: Any
) -> None:
    settings.PROVIDER_ENVIRONMENT = {
        "MEM0_EMBED_PROVIDER": "openai",
        "OPENAI_BASE_URL": provider.url,
        "OPENAI_API_KEY": KEY,
        "MEM0_LLM_PROVIDER": "none",
    }
    current = runtime.get_runtime()
    current.use(runtime.engine_of(configuration.current_configuration()), lambda: 0)
    assert current.engine.model_key == REMOTE
    provider.embeddings.fail(500)
    asked = provider.embeddings.count
    configured(api, llm=llm(provider))
    assert provider.embeddings.count == asked
    assert "embedder" not in EngineConfig.objects.get().config


def test_the_local_embedder_comes_back(api: Any, provider: Provider, engine: Any) -> None:
    configured(api, embedder=embedder(provider))
    configured(api, embedder={"provider": "local"})
    assert engine.engine.model_key == engine.indexer.model_key == LOCAL
    assert (IndexState.objects.get().dims, api.add("tea") != "") == (64, True)


def test_a_local_model_that_is_not_prepared_is_refused(
    api: Any, provider: Provider, settings: Any
) -> None:
    """Search would be by words from now on, and nobody would have been told."""
    configured(api, embedder=embedder(provider))
    settings.EMBEDDER_LOADER = "memories.tests.api.test_oss_configure.nothing"
    told = refused(api, 400, embedder=None)
    assert told == "The local model is not prepared: run manage.py prepare_embedder first."


def nothing() -> None:
    """Loads no model."""


def test_while_memories_are_embedded_anew_the_embedder_stays(api: Any, provider: Provider) -> None:
    Reembedding.objects.create(config={}, former_config={}, model_key="next/8", dims=8)
    told = refused(api, 409, embedder=embedder(provider))
    assert "wait for it, or cancel it with manage.py reembed --cancel" in told
    configured(api, llm=llm(provider))


# --- Several at once ------------------------------------------------------------------------------
def test_a_change_that_another_process_made_is_taken_up(
    api: Any, provider: Provider, engine: Any
) -> None:
    wanted = replace(
        configuration.current_configuration(),
        llm=ProviderChoice("openai", llm(provider)["config"]),
        embedder=ProviderChoice("openai", embedder(provider)["config"]),
        dims=1536,
    )
    configuration.save(wanted, account_id=None, reason="another process")
    assert (engine.version, engine.engine.llm) == (0, None)
    engine.refresh()
    assert (engine.version, engine.engine.model_key) == (1, REMOTE)
    assert engine.indexer.model_key == REMOTE
    assert extracted(api)
    taken = engine.engine
    engine.refresh()
    assert engine.engine is taken, "nothing has changed since"


def test_changes_at_once_all_hold(
    transactional_db: None, api: Any, engine: Any, as_key: Any
) -> None:
    """Each is merged into what the others have made."""
    from django.test import Client

    from conftest import Api

    headers = api.headers["X-API-Key"]
    configured(api, llm={"provider": "ollama", "config": {"model": "first"}})
    changes: list[dict[str, Any]] = [
        {"llm": {"config": {"temperature": 0.5}}},
        {"llm": {"config": {"max_tokens": 99}}},
        {"llm": {"config": {"top_p": 0.5}}},
        {"fallback_llm": {"provider": "ollama", "config": {"model": "second"}}},
    ]

    def change(body: dict[str, Any]) -> int:
        try:
            return int(Api(Client(), headers).post("/configure", body).status_code)
        finally:
            connection.close()

    with ThreadPoolExecutor(len(changes)) as pool:
        assert list(pool.map(change, changes)) == [200] * len(changes)
    used = configuration.current_configuration()
    assert used.llm and used.fallback_llm
    assert dict(used.llm.config) == {
        "model": "first",
        "temperature": 0.5,
        "max_tokens": 99,
        "top_p": 0.5,
    }
    assert used.version == EngineConfig.objects.count() == 5
    engine.refresh()
    assert engine.version == 5


def test_a_change_that_always_comes_too_late_is_told(
    api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = runtime.Runtime.use
    tries: list[int] = []

    def overtaken(self: Any, engine: Any, commit: Any) -> None:
        # Somebody else commits a change after ours was put together.
        now = configuration.current_configuration()
        tries.append(now.version)
        theirs = ProviderChoice("ollama", {"model": str(len(tries))})
        configuration.save(replace(now, llm=theirs), account_id=None, reason="someone else")
        inner(self, engine, commit)

    monkeypatch.setattr(runtime.Runtime, "use", overtaken)
    answer = api.post("/configure", {"llm": {"provider": "ollama", "config": {"top_k": 9}}})
    assert answer.status_code == 409
    assert "changed by someone else just now; try again" in answer.json()["detail"]
    assert tries == [0, 1, 2, 3, 4]
    assert runtime.get_runtime().version == 0


# --- POST /generate-instructions ------------------------------------------------------------------
USE = {"use_case": "A diary of my garden"}


def generate(api: Any, body: Any = USE) -> Any:
    return api.post("/generate-instructions", body)


def test_instructions_are_written_by_the_llm(api: Any, provider: Provider) -> None:
    configured(api, llm=llm(provider))
    written = {"custom_instructions": " Keep plants. ", "test_message": "My figs are ripe."}
    provider.chat.answer(json.dumps(written))
    answer = generate(api)
    assert answer.status_code == 200
    assert answer.json() == {
        "custom_instructions": "Keep plants.",
        "test_message": "My figs are ripe.",
    }
    [asked] = provider.chat.requests
    assert "A diary of my garden" in asked.body["messages"][0]["content"]
    # They are a proposal: nothing is configured by it.
    assert api.get("/configure").json()["custom_instructions"] is None


@pytest.mark.parametrize("dress", ["think", "fence"])
def test_instructions_in_the_midst_of_prose_are_found(
    api: Any, provider: Provider, dress: str
) -> None:
    configured(api, llm=llm(provider))
    provider.chat.answer('{"custom_instructions": "Keep plants.", "test_message": "Figs!"}')
    getattr(provider.chat, dress)()
    expected = {"custom_instructions": "Keep plants.", "test_message": "Figs!"}
    assert generate(api).json() == expected


@pytest.mark.parametrize("test_message", ["", None, 5, ["x"]])
def test_without_a_test_message_there_is_a_usual_one(
    api: Any, provider: Provider, test_message: Any
) -> None:
    configured(api, llm=llm(provider))
    written = {"custom_instructions": "Keep plants.", "test_message": test_message}
    provider.chat.answer(json.dumps(written))
    assert generate(api).json() == {
        "custom_instructions": "Keep plants.",
        "test_message": "I like to hike on weekends.",
    }


def test_a_reply_that_is_no_json_is_the_instructions(api: Any, provider: Provider) -> None:
    configured(api, llm=llm(provider))
    provider.chat.answer("Keep what is said about plants.")
    assert generate(api).json() == {
        "custom_instructions": "Keep what is said about plants.",
        "test_message": "I like to hike on weekends.",
    }


@pytest.mark.parametrize(
    "reply", ["{}", '{"custom_instructions": ""}', '{"custom_instructions": 5}']
)
def test_a_reply_without_instructions_is_a_failure(
    api: Any, provider: Provider, reply: str
) -> None:
    configured(api, llm=llm(provider))
    provider.chat.answer(reply)
    answer = generate(api)
    assert (answer.status_code, answer.json()["code"]) == (502, "provider_bad_reply")


def test_without_an_llm_there_are_no_instructions(
    api: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing has failed: neither the status nor the log speaks of a failure."""
    caplog.set_level(logging.WARNING)
    answer = generate(api)
    assert answer.status_code == 409
    assert answer.json() == {
        "detail": "No LLM is configured: write the instructions by hand.",
        "code": "provider_not_configured",
        "request_id": answer["X-Request-ID"],
    }
    assert not [line for line in caplog.records if line.levelno >= logging.WARNING]


def test_an_llm_that_fails_is_told_in_the_words_of_the_original(
    api: Any, provider: Provider
) -> None:
    configured(api, llm=llm(provider))
    for status, code, detail in (
        (
            401,
            "provider_auth_failed",
            "Provider rejected the request (authentication). "
            "Check your LLM provider API key on the Configuration page.",
        ),
        (429, "provider_rate_limited", "Provider rate limit hit. Retry shortly."),
        (500, "provider_unavailable", "Provider is unreachable or returned a server error."),
        (404, "provider_bad_request", "Provider rejected the request as malformed."),
    ):
        provider.heal()
        provider.chat.fail(status)
        answer = generate(api)
        assert answer.status_code == 502
        told = {"detail": detail, "code": code, "request_id": answer["X-Request-ID"]}
        assert answer.json() == told


def test_a_use_case_is_needed(api: Any, provider: Provider) -> None:
    configured(api, llm=llm(provider))
    for empty in ("", "  \n", "x" * 4001):
        answer = generate(api, {"use_case": empty})
        assert answer.status_code == 400
        assert answer.json() == {"detail": "use_case must be text of 1 to 4000 characters."}
    answer = generate(api, {})
    assert answer.status_code == 422
    [problem] = answer.json()["detail"]
    assert (problem["type"], problem["loc"]) == ("missing", ["body", "use_case"])
    assert problem["msg"] == "Field required"
    answer = generate(api, {"use_case": 5})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["type"] == "string_type"
    assert provider.chat.count == 0


def test_a_call_that_is_paid_for_needs_a_key_that_may_write(
    api: Any, as_key: Any, key: Any, bob: Account, provider: Provider
) -> None:
    configured(api, llm=llm(provider))
    assert generate(as_key(key(owner=bob))).status_code == 200
    assert generate(as_key(key("write"))).status_code == 200
    for scope in ("read", "review", "admin"):
        assert generate(as_key(key(scope))).status_code == 403
    assert generate(as_key(None)).status_code == 401
    assert provider.chat.count == 2


# --- POST /reset ----------------------------------------------------------------------------------
def test_the_reset_deletes_all_of_the_own_project_and_nothing_else(
    api: Any, as_key: Any, key: Any, other_project: Project, owner: Any
) -> None:
    other = as_key(key(project=other_project))
    foreign = other.add("tea of the other")
    ids = [api.add(f"tea {n}", user_id=f"user{n}") for n in range(5)]
    ids.append(api.add("expired tea", expiration_date="2020-01-01"))
    answer = api("POST", "/reset")
    assert (answer.status_code, answer.json()) == (200, {"message": "All memories reset"})
    assert api.get("/memories").json() == {"results": []}
    assert api.search("tea", user_id="user1") == []
    assert [m["id"] for m in other.get("/memories").json()["results"]] == [foreign]
    assert [m["id"] for m in other.search("tea")] == [foreign]
    # It can be undone.
    from uuid import UUID

    assert len(services.restore_memories(owner, [UUID(id_) for id_ in ids])) == 6
    assert [m["id"] for m in api.search("tea", user_id="user1")] == [ids[1]]
    assert api("POST", "/reset").status_code == 200
    assert api("POST", "/reset").json() == {"message": "All memories reset"}


def test_the_reset_leaves_keys_history_and_configuration(api: Any, provider: Provider) -> None:
    configured(api, llm=llm(provider), custom_instructions="Facts.")
    before, id_ = api.get("/configure").json(), api.add("I drink tea.")
    api("POST", "/reset")
    assert api.get("/configure").json() == before
    events = [entry["event"] for entry in api.get(f"/memories/{id_}/history").json()]
    assert events == ["ADD", "DELETE"]


def test_the_reset_is_for_admins_and_within_the_limit_of_a_key(
    api: Any, as_key: Any, key: Any, bob: Account, admin: Any
) -> None:
    mine, his = api.add("tea"), api.add("tea of bob", user_id="bob")
    for made in (key(owner=bob), key("read", "write", "review")):
        answer = as_key(made)("POST", "/reset")
        assert (answer.status_code, answer.json()) == (403, {"detail": "Admin role required."})
    assert as_key(None)("POST", "/reset").status_code == 401
    assert Memory.objects.filter(deleted_at=None).count() == 2
    assert as_key(key(entity_limit={"user_id": ["bob"]}))("POST", "/reset").status_code == 200
    assert [str(id_) for id_ in Memory.objects.filter(deleted_at=None).values_list("id", flat=True)]
    assert Memory.objects.get(id=his).deleted_at and not Memory.objects.get(id=mine).deleted_at
    assert admin("POST", "/reset").status_code == 200
    assert not Memory.objects.filter(deleted_at=None).exists()


# --- Trying a provider out ------------------------------------------------------------------------
def test_a_provider_is_tried_out_without_being_taken(
    api: Any, owner: Any, provider: Provider
) -> None:
    before = state()
    found = providers.probe(owner, "llm", llm(provider))
    assert found.ok
    found = providers.probe(owner, "embedder", embedder(provider))
    assert (found.ok, found.dims) == (True, 1536)
    assert state() == before


def test_trying_out_never_sends_a_stored_key_to_a_changed_address(
    api: Any, owner: Any, provider: Provider
) -> None:
    from core.errors import InvalidInputError

    configured(api, llm=llm(provider))
    with Provider() as thief:
        there = {"openai_base_url": thief.url}
        with pytest.raises(InvalidInputError, match="The address has changed"):
            providers.probe(owner, "llm", {"config": {**there, "api_key": "[redacted]"}})
        providers.probe(owner, "llm", {"config": there})
        assert KEY not in str(list(thief.requests))


def test_trying_out_is_the_instance_owners(owner: Any, provider: Provider, engine: Any) -> None:
    from core.errors import PermissionDeniedError

    limited = replace(owner, entity_limit={"user_id": frozenset({"alice"})})
    for caller in (replace(owner, is_owner=False), limited):
        with pytest.raises(PermissionDeniedError):
            providers.probe(caller, "llm", llm(provider))
    assert not provider.requests


def test_every_provider_that_is_offered_can_be_set_up() -> None:
    """What the catalogue says of mem0 holds for the mem0 that is installed."""
    from memories.engine import choices, remote

    for kind in ("llm", "embedder"):
        for name in catalogue.list_installed(kind):
            if name == "local":
                continue
            config = {"model": "m", "api_key": KEY}
            if name == "azure_openai":
                config |= {"azure_endpoint": "https://a.example", "api_version": "2024-10-21"}
            choice = ProviderChoice(name, config)
            choices.check(choice, kind)
            if kind == "llm":
                assert remote.RemoteLlm(choice, attempts=1)
            else:
                assert remote.RemoteEmbedder(choice, 8).dims == 8
            made = Engine(None)
            assert made.llm is None
