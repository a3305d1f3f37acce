"""Which providers are used: what the environment says, and over it what was configured."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.management import call_command

from accounts.models import InstanceState
from core.env import ConfigurationError
from core.errors import InvalidInputError
from memories.engine import configuration
from memories.engine.catalogue import PROVIDERS, SDK_VARIABLES, Configuration, ProviderChoice
from memories.engine.configuration import ChangedMeanwhileError, merge
from memories.engine.environment import from_environment
from memories.models.server import EngineConfig

pytestmark = pytest.mark.one_form

ROOT = Path(__file__).resolve().parents[3]
KEY = "sk-a-distinctive-key-0815"
OPENAI = "https://api.openai.com/v1"
METADATA = ("http://169.254.169.254/v1", "http://[fd00:ec2::254]/", "http://2852039166/v1")


@pytest.fixture
def environment(settings: Any) -> Callable[..., None]:
    """Says that this, and nothing else, is in the environment."""

    def say(**variables: str) -> None:
        settings.PROVIDER_ENVIRONMENT = variables

    say()
    return say


# --- The environment -----------------------------------------------------------------------------
LLMS: dict[str, tuple[dict[str, str], tuple[str, dict[str, Any]]]] = {
    "a key of OpenAI is enough": (
        {"OPENAI_API_KEY": KEY},
        ("openai", {"model": "gpt-5-mini", "api_key": KEY}),
    ),
    "a key of Anthropic is enough": (
        {"ANTHROPIC_API_KEY": KEY},
        ("anthropic", {"model": "claude-sonnet-4-6", "api_key": KEY}),
    ),
    "a key of Google is enough": (
        {"GOOGLE_API_KEY": KEY},
        ("gemini", {"model": "gemini-2.5-flash", "api_key": KEY}),
    ),
    "Google's key has a second name": (
        {"GEMINI_API_KEY": KEY},
        ("gemini", {"model": "gemini-2.5-flash", "api_key": KEY}),
    ),
    "of several keys OpenAI's comes first": (
        {"GOOGLE_API_KEY": "g", "ANTHROPIC_API_KEY": "a", "OPENAI_API_KEY": KEY},
        ("openai", {"model": "gpt-5-mini", "api_key": KEY}),
    ),
    "the provider that is named is the one": (
        {"MEM0_LLM_PROVIDER": "Anthropic", "ANTHROPIC_API_KEY": KEY, "OPENAI_API_KEY": "o"},
        ("anthropic", {"model": "claude-sonnet-4-6", "api_key": KEY}),
    ),
    "and its model": (
        {"OPENAI_API_KEY": KEY, "MEM0_LLM_MODEL": "gpt-5-nano"},
        ("openai", {"model": "gpt-5-nano", "api_key": KEY}),
    ),
    "the default model is OpenAI's": (
        {"OPENAI_API_KEY": KEY, "MEM0_DEFAULT_LLM_MODEL": "gpt-4.1"},
        ("openai", {"model": "gpt-4.1", "api_key": KEY}),
    ),
    "and nobody else's": (
        {"ANTHROPIC_API_KEY": KEY, "MEM0_DEFAULT_LLM_MODEL": "gpt-4.1"},
        ("anthropic", {"model": "claude-sonnet-4-6", "api_key": KEY}),
    ),
    "a compatible server needs no key": (
        {"OPENAI_BASE_URL": "http://10.0.0.7:8000/v1", "MEM0_LLM_MODEL": "qwen"},
        ("openai", {"model": "qwen", "openai_base_url": "http://10.0.0.7:8000/v1"}),
    ),
    "OpenAI's address has an older name": (
        {"OPENAI_API_BASE": "http://10.0.0.7/v1"},
        ("openai", {"model": "gpt-5-mini", "openai_base_url": "http://10.0.0.7/v1"}),
    ),
    "Ollama by its address": (
        {"OLLAMA_BASE_URL": "http://ollama:11434"},
        ("ollama", {"model": "llama3.1", "ollama_base_url": "http://ollama:11434"}),
    ),
    "Ollama's own variable has no scheme": (
        {"OLLAMA_HOST": "0.0.0.0:11435"},
        ("ollama", {"model": "llama3.1", "ollama_base_url": "http://0.0.0.0:11435"}),
    ),
    "nor need it have a port": (
        {"OLLAMA_HOST": "ollama.lan"},
        ("ollama", {"model": "llama3.1", "ollama_base_url": "http://ollama.lan:11434"}),
    ),
    "Ollama by its name, where it usually is": (
        {"MEM0_LLM_PROVIDER": "ollama", "MEM0_LLM_MODEL": "qwen3"},
        ("ollama", {"model": "qwen3"}),
    ),
    "OpenRouter": (
        {"OPENROUTER_API_KEY": KEY, "MEM0_LLM_MODEL": "qwen/qwen3"},
        (
            "openai",
            {
                "model": "qwen/qwen3",
                "api_key": KEY,
                "openai_base_url": "https://openrouter.ai/api/v1",
            },
        ),
    ),
    "OpenRouter has a model of its own, and goes before OpenAI as in mem0": (
        {
            "OPENROUTER_API_KEY": KEY,
            "OPENROUTER_API_BASE": "https://router.example/v1",
            "OPENAI_API_KEY": "o",
            "OPENAI_BASE_URL": "http://10.0.0.7/v1",
        },
        (
            "openai",
            {
                "model": "openai/gpt-5-mini",
                "api_key": KEY,
                "openai_base_url": "https://router.example/v1",
            },
        ),
    ),
    "Azure has variables for the LLM alone": (
        {
            "MEM0_LLM_PROVIDER": "azure_openai",
            "LLM_AZURE_OPENAI_API_KEY": KEY,
            "LLM_AZURE_ENDPOINT": "https://a.openai.azure.com",
            "LLM_AZURE_DEPLOYMENT": "mine",
            "LLM_AZURE_API_VERSION": "2024-10-21",
            "EMBEDDING_AZURE_OPENAI_API_KEY": "e",
            "EMBEDDING_AZURE_ENDPOINT": "https://e.openai.azure.com",
        },
        (
            "azure_openai",
            {
                "model": "gpt-5-mini",
                "api_key": KEY,
                "azure_endpoint": "https://a.openai.azure.com",
                "azure_deployment": "mine",
                "api_version": "2024-10-21",
            },
        ),
    ),
    "DeepSeek, with its address": (
        {
            "MEM0_LLM_PROVIDER": "deepseek",
            "DEEPSEEK_API_KEY": KEY,
            "DEEPSEEK_API_BASE": "https://d.example",
        },
        (
            "deepseek",
            {"model": "deepseek-chat", "api_key": KEY, "deepseek_base_url": "https://d.example"},
        ),
    ),
    "LM Studio, with the model that is loaded there": (
        {"MEM0_LLM_PROVIDER": "lmstudio", "MEM0_LLM_MODEL": "qwen3"},
        ("lmstudio", {"model": "qwen3"}),
    ),
}


@pytest.mark.parametrize("case", LLMS)
def test_the_environment_chooses_the_llm(environment: Any, case: str) -> None:
    variables, (provider, config) = LLMS[case]
    environment(**variables)
    found = from_environment()
    assert found.llm is not None
    assert (found.llm.provider, dict(found.llm.config)) == (provider, config)
    assert (found.fallback_llm, found.embedder, found.version) == (None, None, 0)


def test_without_any_variable_there_is_no_llm_and_the_local_embedder(environment: Any) -> None:
    assert from_environment() == Configuration()
    environment(OPENAI_API_KEY=KEY, MEM0_LLM_PROVIDER="none", MEM0_EMBED_PROVIDER="local")
    assert from_environment() == Configuration()


def test_a_key_alone_never_changes_the_embedder(environment: Any) -> None:
    """Else every memory would have to be embedded anew because someone wanted an LLM."""
    environment(OPENAI_API_KEY=KEY, OLLAMA_BASE_URL="http://ollama:11434")
    assert from_environment().embedder is None


def test_the_environment_chooses_the_fallback(environment: Any) -> None:
    environment(
        OPENAI_API_KEY=KEY,
        MEM0_FALLBACK_LLM_PROVIDER="ollama",
        MEM0_FALLBACK_LLM_MODEL="qwen3",
        OLLAMA_BASE_URL="http://ollama:11434",
    )
    found = from_environment()
    assert found.llm and found.llm.provider == "openai"
    assert found.fallback_llm == ProviderChoice(
        "ollama", {"model": "qwen3", "ollama_base_url": "http://ollama:11434"}
    )


EMBEDDERS: dict[str, tuple[dict[str, str], tuple[str, dict[str, Any]]]] = {
    "by its name": (
        {"MEM0_EMBED_PROVIDER": "openai", "OPENAI_API_KEY": KEY},
        ("openai", {"model": "text-embedding-3-small", "api_key": KEY}),
    ),
    "with model and dimensions": (
        {
            "MEM0_EMBED_PROVIDER": "ollama",
            "MEM0_EMBED_MODEL": "bge-m3",
            "MEM0_EMBED_DIMS": "1024",
            "OLLAMA_BASE_URL": "http://ollama:11434",
        },
        (
            "ollama",
            {"model": "bge-m3", "ollama_base_url": "http://ollama:11434", "embedding_dims": 1024},
        ),
    ),
    "by the default model, which is OpenAI's": (
        {"MEM0_DEFAULT_EMBEDDER_MODEL": "text-embedding-3-large", "OPENAI_API_KEY": KEY},
        ("openai", {"model": "text-embedding-3-large", "api_key": KEY}),
    ),
    "a key of OpenRouter is not for it": (
        {
            "MEM0_EMBED_PROVIDER": "openai",
            "OPENAI_API_KEY": KEY,
            "OPENROUTER_API_KEY": "or",
        },
        ("openai", {"model": "text-embedding-3-small", "api_key": KEY}),
    ),
    "Azure has variables for it alone": (
        {
            "MEM0_EMBED_PROVIDER": "azure_openai",
            "EMBEDDING_AZURE_OPENAI_API_KEY": KEY,
            "EMBEDDING_AZURE_ENDPOINT": "https://e.openai.azure.com",
            "EMBEDDING_AZURE_DEPLOYMENT": "mine",
            "EMBEDDING_AZURE_API_VERSION": "2024-10-21",
            "LLM_AZURE_OPENAI_API_KEY": "l",
        },
        (
            "azure_openai",
            {
                "model": "text-embedding-3-small",
                "api_key": KEY,
                "azure_endpoint": "https://e.openai.azure.com",
                "azure_deployment": "mine",
                "api_version": "2024-10-21",
            },
        ),
    ),
}


@pytest.mark.parametrize("case", EMBEDDERS)
def test_the_environment_chooses_the_embedder(environment: Any, case: str) -> None:
    variables, (provider, config) = EMBEDDERS[case]
    environment(**variables)
    found = from_environment().embedder
    assert found is not None
    assert (found.provider, dict(found.config)) == (provider, config)


# Environment that cannot be used, and the words that the sentence has to hold.
WRONG: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "an unknown LLM": (
        {"MEM0_LLM_PROVIDER": "acme"},
        ("MEM0_LLM_PROVIDER", "'acme'", "openai, anthropic, gemini"),
    ),
    "an unknown fallback": (
        {"OPENAI_API_KEY": KEY, "MEM0_FALLBACK_LLM_PROVIDER": "acme"},
        ("MEM0_FALLBACK_LLM_PROVIDER", "'acme'"),
    ),
    "an unknown embedder": ({"MEM0_EMBED_PROVIDER": "acme"}, ("MEM0_EMBED_PROVIDER", "'acme'")),
    "an LLM's provider that embeds nothing": (
        {"MEM0_EMBED_PROVIDER": "anthropic", "ANTHROPIC_API_KEY": KEY},
        ("MEM0_EMBED_PROVIDER", "'anthropic'"),
    ),
    "one that is not installed": (
        {"MEM0_LLM_PROVIDER": "aws_bedrock"},
        ("MEM0_LLM_PROVIDER", "pip install boto3"),
    ),
    "no key": (
        {"MEM0_LLM_PROVIDER": "openai"},
        ("MEM0_LLM_PROVIDER chooses OpenAI: OPENAI_API_KEY is missing.",),
    ),
    "no key for the fallback": (
        {"OPENAI_API_KEY": KEY, "MEM0_FALLBACK_LLM_PROVIDER": "groq"},
        ("MEM0_FALLBACK_LLM_PROVIDER", "GROQ_API_KEY is missing"),
    ),
    "no key for the embedder": (
        {"MEM0_DEFAULT_EMBEDDER_MODEL": "text-embedding-3-small"},
        ("MEM0_DEFAULT_EMBEDDER_MODEL", "OPENAI_API_KEY is missing"),
    ),
    "a key in two lines": (
        {"OPENAI_API_KEY": "sk-1\nsk-2"},
        ("OPENAI_API_KEY", "one line"),
    ),
    "no model": ({"MEM0_LLM_PROVIDER": "lmstudio"}, ("MEM0_LLM_PROVIDER", "model is missing")),
    "an address without a scheme": (
        {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": "10.0.0.7:8000/v1"},
        ("OPENAI_BASE_URL", "https:// or http://"),
    ),
    "an address that is a file": (
        {"OLLAMA_BASE_URL": "file:///etc/passwd"},
        ("OLLAMA_BASE_URL", "https:// or http://"),
    ),
    "a metadata address": (
        {"OPENROUTER_API_KEY": KEY, "OPENROUTER_API_BASE": METADATA[0]},
        ("OPENROUTER_API_BASE", "metadata address"),
    ),
    "Azure without an address": (
        {"MEM0_LLM_PROVIDER": "azure_openai", "LLM_AZURE_OPENAI_API_KEY": KEY},
        ("MEM0_LLM_PROVIDER", "azure_endpoint"),
    ),
    **{
        f"dimensions {dims!r}": (
            {
                "MEM0_EMBED_PROVIDER": "openai",
                "OPENAI_API_KEY": KEY,
                "MEM0_EMBED_DIMS": dims,
            },
            ("MEM0_EMBED_DIMS",),
        )
        for dims in ("many", "0", "-3", "1.5", "²", "65537")
    },
}


@pytest.mark.parametrize("mistake", WRONG)
def test_an_environment_that_cannot_be_used_is_one_sentence(environment: Any, mistake: str) -> None:
    variables, words = WRONG[mistake]
    environment(**variables)
    with pytest.raises(ConfigurationError) as caught:
        from_environment()
    told = str(caught.value)
    assert all(word in told for word in words), told
    assert len(told.splitlines()) == 1
    assert KEY not in told and "sk-1" not in told


def process(data: Path, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`manage.py shell` with these variables in its environment."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return subprocess.run(
        [sys.executable, "manage.py", "shell", "--verbosity", "0", "--command", script],
        cwd=ROOT,
        env={**kept, "MEM0DASH_DATA_DIR": str(data), **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_no_library_finds_a_key_in_the_environment(tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text(f"{KEY}\n")
    names = [name for p in PROVIDERS.values() for name in (*p.variables, *p.address_variables)]
    names += [*SDK_VARIABLES, "OPENROUTER_API_KEY", "OPENROUTER_API_BASE", "MEM0_LLM_PROVIDER"]
    variables = dict.fromkeys(names, "http://10.0.0.7/v1")
    variables |= {"MEM0_LLM_PROVIDER": "openai"}
    del variables["OPENROUTER_API_KEY"], variables["OPENAI_API_KEY"]
    script = (
        "import json, os; from memories.engine import configuration; "
        "llm = configuration.from_environment().llm; "
        "import mem0, openai, anthropic, ollama, groq, google.genai; "
        "print(json.dumps([sorted(os.environ), llm.config['api_key']]))"
    )
    done = process(tmp_path, script, OPENAI_API_KEY_FILE=str(secret), **variables)
    assert done.returncode == 0, done.stderr
    left, key = json.loads(done.stdout)
    assert key == KEY
    assert not set(left) & {*names, "OPENAI_API_KEY"}


def test_reading_the_environment_does_not_import_mem0(tmp_path: Path) -> None:
    """It takes seconds, and the start of a server does not wait for it."""
    script = (
        "import sys; from memories.engine import configuration; "
        "print(configuration.from_environment().llm.provider, 'mem0' in sys.modules)"
    )
    done = process(tmp_path, script, OPENAI_API_KEY=KEY)
    assert done.stdout == "openai False\n", done.stderr


# --- What was configured -------------------------------------------------------------------------
def saved(**sections: Any) -> Configuration:
    """These sections over what is used now, kept."""
    made = replace(configuration.current_configuration(), **sections)
    return configuration.save(made, account_id=None, reason="test")


def openai(**config: Any) -> ProviderChoice:
    return ProviderChoice("openai", {"model": "gpt-5-mini", "api_key": KEY, **config})


def test_what_was_configured_goes_over_the_environment(db: None, environment: Any) -> None:
    environment(ANTHROPIC_API_KEY="ant", MEM0_EMBED_PROVIDER="ollama")
    assert configuration.current_configuration().version == 0
    saved(llm=openai())
    found = configuration.current_configuration()
    assert found.llm == openai()
    assert found.embedder and found.embedder.provider == "ollama"
    assert found.version == configuration.latest_version() == 1


def test_what_was_not_configured_stays_the_environments(db: None, environment: Any) -> None:
    environment(OPENAI_API_KEY="sk-before", MEM0_EMBED_PROVIDER="ollama")
    fallback = ProviderChoice("ollama", {"model": "qwen3"})
    saved(fallback_llm=fallback)
    environment(OPENAI_API_KEY="sk-after", MEM0_EMBED_PROVIDER="ollama", MEM0_EMBED_MODEL="bge-m3")
    found = configuration.current_configuration()
    assert found.fallback_llm == fallback
    assert found.llm and found.llm.config["api_key"] == "sk-after"
    assert found.embedder and found.embedder.model == "bge-m3"


def test_no_llm_is_a_choice_too(db: None, environment: Any) -> None:
    environment(OPENAI_API_KEY=KEY)
    saved(llm=None)
    assert configuration.current_configuration().llm is None


def test_of_two_changes_of_the_same_version_one_is_refused(db: None, environment: Any) -> None:
    before = configuration.current_configuration()
    saved(llm=openai())
    with pytest.raises(ChangedMeanwhileError, match="try again"):
        configuration.save(before, account_id=None, reason="test")
    assert EngineConfig.objects.count() == 1
    assert configuration.current_configuration().llm == openai()


def test_no_secret_is_stored_in_plain_text(db: None, environment: Any) -> None:
    azure = {
        "model": "m",
        "api_key": KEY,
        "azure_endpoint": "https://a.openai.azure.com",
        "default_headers": {"X-Token": f"{KEY}-in-a-header"},
    }
    saved(
        llm=openai(),
        fallback_llm=ProviderChoice("azure_openai", azure),
        embedder=openai(embedding_dims=8),
        dims=8,
    )
    kept = json.dumps(EngineConfig.objects.get().config)
    assert KEY not in kept
    assert "gpt-5-mini" in kept
    found = configuration.current_configuration()
    assert found.llm == openai()
    assert found.fallback_llm and found.fallback_llm.config == azure
    assert (found.embedder, found.dims) == (openai(embedding_dims=8), 8)


def test_a_provider_of_a_later_version_stops_the_start_with_a_sentence(
    db: None, environment: Any
) -> None:
    EngineConfig.objects.create(config={"llm": {"provider": "acme", "config": {}}})
    with pytest.raises(ConfigurationError, match="'acme', which this version does not know"):
        configuration.current_configuration()


def test_what_is_shown_holds_no_secret() -> None:
    shown = configuration.redact(
        ProviderChoice(
            "azure_openai", {"api_key": KEY, "default_headers": {"a": KEY}, "model": "m"}
        )
    )
    assert shown == {"api_key": "[redacted]", "default_headers": "[redacted]", "model": "m"}
    assert configuration.redact(ProviderChoice("ollama", {"api_key": ""})) == {"api_key": ""}


def test_a_configuration_and_its_parts_are_printed_without_secrets() -> None:
    choice = openai()
    for thing in (choice, Configuration(llm=choice, embedder=choice), [choice]):
        assert KEY not in repr(thing) and KEY not in str(thing)


def test_secrets_outlive_a_new_encryption_key(db: None, environment: Any, settings: Any) -> None:
    old, new = (Fernet.generate_key().decode() for _ in range(2))
    settings.ENCRYPTION_KEYS = [old]
    InstanceState.objects.update(encryption_check="")
    saved(llm=openai(default_headers={"X-Team": "blue"}))
    settings.ENCRYPTION_KEYS = [new, old]
    before = configuration.current_configuration()
    call_command("rotate_encryption_key", stdout=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    settings.ENCRYPTION_KEYS = [new]
    assert configuration.current_configuration() == before
    assert before.llm and before.llm.config["api_key"] == KEY


# --- Changes -------------------------------------------------------------------------------------
def change(
    former: ProviderChoice | None, provider: str | None = None, **config: Any
) -> dict[str, Any]:
    made = merge(former, {"provider": provider, "config": config}, "llm")
    assert made is not None
    return dict(made.config)


def test_what_a_change_does_not_name_stays(environment: Any) -> None:
    former = openai(temperature=0.5)
    assert change(former, model="gpt-5-nano") == {**former.config, "model": "gpt-5-nano"}
    assert change(former, "openai") == former.config
    assert merge(former, {"provider": "openai"}, "llm") == former
    assert merge(former, {"config": None}, "llm") == former


def test_null_and_nothing_clear_a_field(environment: Any) -> None:
    former = openai(temperature=0.5, openai_base_url="http://10.0.0.7/v1", max_tokens=9)
    assert change(former, temperature=None, max_tokens="") == {
        "model": "gpt-5-mini",
        "api_key": KEY,
        "openai_base_url": "http://10.0.0.7/v1",
    }
    assert "api_key" not in change(former, api_key=None)
    # The model is never nothing: it is the provider's usual one.
    assert change(former, model=None)["model"] == "gpt-5-mini"
    with pytest.raises(InvalidInputError, match="needs an API key"):
        change(openai(), api_key=None)


def test_null_and_off_turn_a_section_off(environment: Any) -> None:
    assert merge(openai(), None, "llm") is None
    assert merge(openai(), {"provider": "none"}, "llm") is None
    assert merge(openai(), {"provider": "local", "config": {"model": "x"}}, "embedder") is None


def test_redacted_keeps_the_secret(environment: Any) -> None:
    former = openai()
    assert change(former, api_key="[redacted]", model="gpt-5-nano")["api_key"] == KEY
    with pytest.raises(InvalidInputError, match="no stored api_key to keep"):
        change(ProviderChoice("ollama", {"model": "m"}), api_key="[redacted]")


MOVES = {
    "another host": "https://evil.example/v1",
    "another port": "https://api.openai.com:8443/v1",
    "without TLS": "http://api.openai.com/v1",
    "another path": "https://api.openai.com/v2",
    "a longer name": "https://api.openai.com.evil.example/v1",
    "a query": "https://api.openai.com/v1?to=evil",
    "the path in capitals": "https://api.openai.com/V1",
}


@pytest.mark.parametrize("move", MOVES)
def test_a_key_does_not_follow_to_another_address(environment: Any, move: str) -> None:
    there = MOVES[move]
    for former in (openai(), openai(openai_base_url=OPENAI)):
        assert "api_key" not in change(former, openai_base_url=there)
        with pytest.raises(InvalidInputError, match="The address has changed: send api_key again"):
            change(former, openai_base_url=there, api_key="[redacted]")
        assert change(former, openai_base_url=there, api_key="new")["api_key"] == "new"


SAME = {
    "as it was": OPENAI,
    "a slash at its end": f"{OPENAI}/",
    "capitals in the host": "HTTPS://API.OpenAI.com/v1",
    "its usual port": "https://api.openai.com:443/v1",
    "nothing, which is where OpenAI is": None,
}


@pytest.mark.parametrize("way", SAME)
def test_the_same_address_written_otherwise_keeps_the_key(environment: Any, way: str) -> None:
    for former in (openai(), openai(openai_base_url=OPENAI), openai(openai_base_url=f"{OPENAI}/")):
        assert change(former, openai_base_url=SAME[way])["api_key"] == KEY
        assert change(former, openai_base_url=SAME[way], api_key="[redacted]")["api_key"] == KEY


def test_a_key_does_not_follow_back_to_the_usual_address(environment: Any) -> None:
    """The key of the server in the cellar is not for OpenAI."""
    former = openai(openai_base_url="http://10.0.0.7/v1")
    for back in (None, "", OPENAI):
        with pytest.raises(InvalidInputError, match="needs an API key"):
            change(former, openai_base_url=back)


def test_a_key_does_not_follow_to_another_provider(environment: Any) -> None:
    for there, config in (
        ("anthropic", {"anthropic_base_url": "http://10.0.0.7"}),
        ("vllm", {}),
        ("deepseek", {"deepseek_base_url": "http://10.0.0.7"}),
    ):
        assert "api_key" not in change(openai(), there, **config)
        with pytest.raises(InvalidInputError, match="send"):
            change(openai(), there, **config, api_key="[redacted]")
    with pytest.raises(InvalidInputError, match="Anthropic needs an API key"):
        change(openai(), "anthropic")


def test_another_provider_has_the_key_that_the_environment_has_for_it(environment: Any) -> None:
    environment(ANTHROPIC_API_KEY="ant", ANTHROPIC_BASE_URL="https://proxy.example")
    made = change(openai(), "anthropic")
    assert made["api_key"] == "ant" and made["anthropic_base_url"] == "https://proxy.example"
    for elsewhere in ("https://evil.example", "https://api.anthropic.com.evil.example"):
        assert "api_key" not in change(openai(), "anthropic", anthropic_base_url=elsewhere)
    # Not even to the provider itself: the key may be the proxy's.
    with pytest.raises(InvalidInputError, match="needs an API key"):
        change(openai(), "anthropic", anthropic_base_url=None)


def test_the_key_of_the_environment_does_not_follow_either(environment: Any) -> None:
    environment(OPENAI_API_KEY=KEY)
    former = from_environment().llm
    assert "api_key" not in change(former, openai_base_url="https://evil.example/v1")
    assert "api_key" not in change(None, "openai", openai_base_url="https://evil.example/v1")
    with pytest.raises(InvalidInputError, match="send api_key again"):
        change(former, openai_base_url="https://evil.example/v1", api_key="[redacted]")
    assert change(None, "openai")["api_key"] == KEY


AZURE = {
    "model": "gpt-5-mini",
    "api_key": KEY,
    "azure_endpoint": "https://mine.openai.azure.com",
    "azure_deployment": "mine",
    "api_version": "2024-10-21",
    "default_headers": {"X-Secret": KEY},
}


def test_azures_fields_may_come_nested_as_mem0_has_them(environment: Any) -> None:
    nested = {k: v for k, v in AZURE.items() if k != "model"}
    assert change(None, "azure_openai", azure_kwargs=nested) == AZURE
    assert change(
        ProviderChoice("azure_openai", AZURE), azure_kwargs={"api_version": "2025-01-01"}
    ) == {
        **AZURE,
        "api_version": "2025-01-01",
    }


@pytest.mark.parametrize("nested", [True, False])
def test_azures_secrets_follow_to_no_other_endpoint(environment: Any, nested: bool) -> None:
    def moved(**config: Any) -> dict[str, Any]:
        config = {"azure_endpoint": "https://evil.example", **config}
        return change(
            ProviderChoice("azure_openai", AZURE),
            **({"azure_kwargs": config} if nested else config),
        )

    made = moved(api_key="new")
    assert made["api_key"] == "new" and "default_headers" not in made
    assert made["azure_endpoint"] == "https://evil.example"
    for config in (
        {"api_key": "[redacted]"},
        {"api_key": "new", "default_headers": "[redacted]"},
        {"api_key": "new", "default_headers": {"X-Secret": "[redacted]"}},
    ):
        with pytest.raises(InvalidInputError, match="The address has changed"):
            moved(**config)
    with pytest.raises(InvalidInputError, match="Azure OpenAI needs an API key"):
        moved()


def test_azures_headers_are_kept_or_sent_as_a_whole(environment: Any) -> None:
    former = ProviderChoice("azure_openai", AZURE)
    assert change(former, default_headers="[redacted]") == AZURE
    assert change(former, default_headers={"A": "b"})["default_headers"] == {"A": "b"}
    with pytest.raises(InvalidInputError, match="as a whole"):
        change(former, default_headers={"X-Secret": "[redacted]", "A": "b"})
    with pytest.raises(InvalidInputError, match="azure_endpoint is missing"):
        change(former, azure_kwargs=None)


REFUSED: dict[str, tuple[Any, str]] = {
    "a text for a section": ("openai", "llm must be an object"),
    "a list for a section": ([], "llm must be an object"),
    "a number for the provider": ({"provider": 5}, "llm.provider is missing"),
    "a list for the provider": ({"provider": ["openai"]}, "llm.provider is missing"),
    "a field beside the two": ({"provider": "openai", "api_key": KEY}, "no field 'api_key'"),
    "a text for the configuration": (
        {"provider": "openai", "config": "x"},
        "llm.config must be an object",
    ),
    "an unknown provider": (
        {"provider": "acme"},
        "LLM provider 'acme' is not bundled in this image. Bundled providers: openai, anthropic, ",
    ),
    "a provider's name in capitals": ({"provider": "OpenAI"}, "'OpenAI' is not bundled"),
    "an embedder's own name": ({"provider": "local"}, "LLM provider 'local' is not bundled"),
    "one that is not installed": ({"provider": "litellm"}, "To add it: pip install litellm"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_section_that_does_not_fit_is_refused(environment: Any, mistake: str) -> None:
    sent, told = REFUSED[mistake]
    with pytest.raises(InvalidInputError) as caught:
        merge(None, sent, "llm")
    assert told in caught.value.message
    assert KEY not in caught.value.message


def test_a_long_name_is_not_said_back_at_length(environment: Any) -> None:
    long = "x" * 100_000
    for sent in (
        {"provider": long},
        {"provider": "openai", long: 1},
        {"provider": "openai", "config": {long: 1}},
        {"provider": "azure_openai", "config": {"azure_kwargs": {long: 1}}},
    ):
        with pytest.raises(InvalidInputError) as caught:
            merge(None, sent, "llm")
        assert len(caught.value.message) < 400


FIELDS: list[tuple[str, str, Any]] = [
    *(
        ("openai", "model", value)
        for value in (5, ["m"], {"a": 1}, "x" * 171, "a\nb", "a\tb", True)
    ),
    *(("openai", "api_key", value) for value in (5, ["k"], {"a": "b"}, "a b", "a\nb", "ключ", "é")),
    *(("openai", "api_key", value) for value in ("x" * 4001, "​", "a\x7f", "a\x00b", True)),
    *(("openai", "temperature", value) for value in ("0.1", -0.1, 2.1, True, [], {}, 10**400)),
    *(("openai", "top_p", value) for value in ("1", -1, 1.1)),
    *(("openai", "max_tokens", value) for value in ("9", 0, -1, 1.5, True, 10**30)),
    *(("openai", "top_k", value) for value in ("9", 0, 1.5)),
    *(("openai", "store", value) for value in ("yes", 1, 0)),
    *(("openai", "reasoning_effort", value) for value in (1, ["low"], "a\nb")),
    *(("openai", "openai_base_url", value) for value in (5, [OPENAI], {"a": OPENAI}, True)),
    *(("azure_openai", "azure_kwargs", value) for value in ("x", 5, [{"api_key": KEY}], True)),
    *(("azure_openai", "default_headers", value) for value in ("x", ["a"], {"a": 1}, {"a b": "c"})),
    *(("azure_openai", "default_headers", {name: "c"}) for name in ("", "a:b", "a\n", "é")),
    *(("azure_openai", "default_headers", {"a": text}) for text in ("b\nc", "é", None, ["b"])),
    ("azure_openai", "default_headers", {f"x-{number}": "y" for number in range(51)}),
    ("lmstudio", "lmstudio_response_format", "json"),
]


@pytest.mark.parametrize(("provider", "field", "value"), FIELDS)
def test_a_value_of_the_wrong_type_is_refused(
    environment: Any, provider: str, field: str, value: Any
) -> None:
    sound = {"model": "m", "api_key": KEY}
    if provider == "azure_openai":
        sound = AZURE
    with pytest.raises(InvalidInputError) as caught:
        change(None, provider, **{**sound, field: value})
    assert f"llm.config.{field} must be" in caught.value.message
    assert KEY not in caught.value.message


@pytest.mark.parametrize(
    ("provider", "field"),
    [
        ("openai", "apikey"),
        ("openai", "base_url"),
        ("openai", "self"),
        # Code, files, detours, and what would be taken and never used.
        ("openai", "response_callback"),
        ("openai", "http_client_proxies"),
        ("openai", "openrouter_base_url"),
        ("gemini", "vertexai"),
        # Another provider's.
        ("openai", "ollama_base_url"),
        ("openai", "azure_kwargs"),
        ("ollama", "openai_base_url"),
        ("anthropic", "openai_base_url"),
    ],
)
def test_a_field_that_the_provider_does_not_have_is_refused(
    environment: Any, provider: str, field: str
) -> None:
    with pytest.raises(InvalidInputError, match=f"llm.config has no field '{field}'"):
        change(None, provider, model="m", api_key=KEY, **{field: "http://10.0.0.7/"})


@pytest.mark.parametrize(
    ("provider", "field"),
    [
        ("openai", "http_client_proxies"),
        ("openai", "vertex_credentials_json"),
        ("openai", "model_kwargs"),
        ("openai", "huggingface_base_url"),
        ("openai", "aws_secret_access_key"),
        ("openai", "lmstudio_base_url"),
        ("gemini", "temperature"),
    ],
)
def test_the_same_holds_for_embedders(environment: Any, provider: str, field: str) -> None:
    config = {"model": "m", "api_key": KEY, field: "x"}
    with pytest.raises(InvalidInputError, match=f"embedder.config has no field '{field}'"):
        merge(None, {"provider": provider, "config": config}, "embedder")


@pytest.mark.parametrize(
    "address",
    [
        *METADATA,
        "http://169.254.1.1:11434/v1",
        "ftp://10.0.0.7/v1",
        "file:///etc/passwd",
        "unix:///run/docker.sock",
        "//10.0.0.7/v1",
        "10.0.0.7:8000",
        "https://",
        "https://user:password@10.0.0.7/v1",
        "https://10.0.0.7/v1#x",
        "https://10.0.0.7:99999/v1",
        "http://10.0.0.7/a b",
        "http://[::1",
        "x" * 3000,
    ],
)
def test_an_address_where_no_provider_can_be_is_refused(environment: Any, address: str) -> None:
    told = "URL|metadata address|must be one line"
    with pytest.raises(InvalidInputError, match=told):
        change(None, "openai", model="m", openai_base_url=address)
    with pytest.raises(InvalidInputError, match=told):
        change(None, "azure_openai", **{**AZURE, "azure_endpoint": address})
    with pytest.raises(InvalidInputError, match=told):
        change(ProviderChoice("azure_openai", AZURE), azure_kwargs={"azure_endpoint": address})


@pytest.mark.parametrize(
    "address",
    ["http://192.168.1.20:1234/v1", "http://localhost:11434", "http://[::1]:8000/v1", "http://nas"],
)
def test_an_address_in_the_local_network_is_welcome(environment: Any, address: str) -> None:
    made = change(None, "openai", model="m", openai_base_url=address)
    assert made["openai_base_url"] == address
    assert "api_key" not in made


@pytest.mark.parametrize("dims", [0, -1, 1.5, "768", True, 65_537])
def test_dimensions_are_a_number_that_an_index_can_have(environment: Any, dims: Any) -> None:
    config = {"model": "m", "api_key": KEY, "embedding_dims": dims}
    with pytest.raises(InvalidInputError, match="embedding_dims must be"):
        merge(None, {"provider": "openai", "config": config}, "embedder")


def test_the_key_of_the_examples_does_not_mean_the_machines_own_credentials(
    environment: Any,
) -> None:
    """mem0 looks for them where it finds this very text."""
    with pytest.raises(InvalidInputError, match="needs an API key"):
        change(None, "azure_openai", **{**AZURE, "api_key": "your-api-key"})


# --- What the operators read ----------------------------------------------------------------------
GUIDE = (ROOT / "docs" / "providers.md").read_text(encoding="utf-8")


def test_every_example_of_the_guide_is_accepted(environment: Any) -> None:
    examples = re.findall(r"^configure '(.*?)'$", GUIDE, re.DOTALL | re.MULTILINE)
    assert len(examples) > 10
    for example in examples:
        for section, sent in json.loads(example.replace("…", "x")).items():
            made = merge(None, sent, configuration.SECTIONS[section])
            assert (made is None) == (sent is None or sent["provider"] == "none"), example


def test_the_guide_names_every_provider_and_every_variable() -> None:
    for provider in PROVIDERS.values():
        for word in (provider.name, *provider.variables, *provider.address_variables):
            assert f"`{word}`" in GUIDE, word
