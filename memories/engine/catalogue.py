"""The providers that can be configured: mem0's names, what each needs, and what is installed."""

import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Final, Literal

Kind = Literal["llm", "embedder"]

# Our own names: the embedding model in this process, and no LLM.
LOCAL: Final = "local"
NONE: Final = "none"


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider. An empty model means that the provider has none of that kind.

    `module` has to be importable; `package` is what pip installs for it. `address` is the
    configuration key of its URL ("" if the URL is fixed); `variables` and `address_variables` are
    the environment variables for its key and its URL.
    """

    name: str
    title: str
    module: str
    package: str
    llm: str = ""
    embedder: str = ""
    address: str = ""
    default_address: str = ""
    variables: tuple[str, ...] = ()
    address_variables: tuple[str, ...] = ()
    needs_key: bool = True

    @property
    def called(self) -> str:
        """The title without its explanation, for use in a sentence."""
        return self.title.partition(",")[0]


@dataclass(frozen=True, slots=True)
class ProviderChoice:
    """A provider with its configuration, as mem0 names the keys; secrets are in plain text here."""

    provider: str
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def model(self) -> str:
        return str(self.config.get("model") or "")

    def secrets(self) -> tuple[str, ...]:
        """Every secret in it, the longest first, for redacting a provider's messages."""
        values: set[str] = set()
        for key, value in walk(self.config):
            if key in SECRETS and value:
                values |= set(map(str, value.values() if isinstance(value, Mapping) else [value]))
        return tuple(sorted(values, key=len, reverse=True))


def walk(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """All keys with their values, at any depth."""
    for key, value in config.items():
        yield key, value
        if isinstance(value, Mapping) and key not in SECRETS:
            yield from walk(value)


_ALL: Final = (
    Provider(
        "openai",
        "OpenAI, or any OpenAI-compatible URL",
        "openai",
        "openai",
        llm="gpt-5-mini",
        embedder="text-embedding-3-small",
        address="openai_base_url",
        default_address="https://api.openai.com/v1",
        variables=("OPENAI_API_KEY",),
        address_variables=("OPENAI_BASE_URL", "OPENAI_API_BASE"),
    ),
    Provider(
        "anthropic",
        "Anthropic",
        "anthropic",
        "anthropic",
        llm="claude-sonnet-4-6",
        address="anthropic_base_url",
        default_address="https://api.anthropic.com",
        variables=("ANTHROPIC_API_KEY",),
        address_variables=("ANTHROPIC_BASE_URL",),
    ),
    Provider(
        "gemini",
        "Google Gemini",
        "google.genai",
        "google-genai",
        llm="gemini-2.5-flash",
        embedder="models/gemini-embedding-001",
        address="gemini_base_url",
        default_address="https://generativelanguage.googleapis.com",
        variables=("GOOGLE_API_KEY", "GEMINI_API_KEY"),
        address_variables=("GOOGLE_GEMINI_BASE_URL",),
    ),
    Provider(
        "azure_openai",
        "Azure OpenAI",
        "azure.identity",
        "azure-identity",
        llm="gpt-5-mini",
        embedder="text-embedding-3-small",
        address="azure_endpoint",
        variables=("LLM_AZURE_OPENAI_API_KEY", "EMBEDDING_AZURE_OPENAI_API_KEY"),
        address_variables=("LLM_AZURE_ENDPOINT", "EMBEDDING_AZURE_ENDPOINT"),
    ),
    Provider(
        "ollama",
        "Ollama",
        "ollama",
        "ollama",
        llm="llama3.1",
        embedder="nomic-embed-text",
        address="ollama_base_url",
        default_address="http://localhost:11434",
        variables=("OLLAMA_API_KEY",),
        address_variables=("OLLAMA_BASE_URL", "OLLAMA_HOST"),
        needs_key=False,
    ),
    Provider(
        "groq",
        "Groq",
        "groq",
        "groq",
        llm="llama-3.3-70b-versatile",
        variables=("GROQ_API_KEY",),
    ),
    Provider(
        "deepseek",
        "DeepSeek",
        "openai",
        "openai",
        llm="deepseek-chat",
        address="deepseek_base_url",
        default_address="https://api.deepseek.com",
        variables=("DEEPSEEK_API_KEY",),
        address_variables=("DEEPSEEK_API_BASE",),
    ),
    Provider(
        "lmstudio",
        "LM Studio",
        "openai",
        "openai",
        llm="",
        embedder="nomic-embed-text-v1.5",
        address="lmstudio_base_url",
        default_address="http://localhost:1234/v1",
        address_variables=("LMSTUDIO_BASE_URL",),
        needs_key=False,
    ),
    Provider(
        "vllm",
        "vLLM",
        "openai",
        "openai",
        llm="Qwen/Qwen2.5-32B-Instruct",
        address="vllm_base_url",
        default_address="http://localhost:8000/v1",
        variables=("VLLM_API_KEY",),
        address_variables=("VLLM_BASE_URL",),
        needs_key=False,
    ),
    Provider(
        "xai",
        "xAI",
        "openai",
        "openai",
        llm="grok-4",
        address="xai_base_url",
        default_address="https://api.x.ai/v1",
        variables=("XAI_API_KEY",),
        address_variables=("XAI_API_BASE",),
    ),
    Provider(
        "minimax",
        "MiniMax",
        "openai",
        "openai",
        llm="MiniMax-M2",
        address="minimax_base_url",
        default_address="https://api.minimax.io/v1",
        variables=("MINIMAX_API_KEY",),
        address_variables=("MINIMAX_API_BASE",),
    ),
    Provider(
        "together",
        "Together AI",
        "together",
        "together",
        llm="meta-llama/Llama-3.3-70B-Instruct-Turbo",
        embedder="BAAI/bge-base-en-v1.5",
        variables=("TOGETHER_API_KEY",),
    ),
    Provider(
        "aws_bedrock",
        "Amazon Bedrock",
        "boto3",
        "boto3",
        llm="anthropic.claude-3-5-sonnet-20240620-v1:0",
        embedder="amazon.titan-embed-text-v2:0",
        needs_key=False,
    ),
    Provider(
        "litellm",
        "LiteLLM",
        "litellm",
        "litellm",
        llm="gpt-5-mini",
        needs_key=False,
    ),
)
PROVIDERS: Final = {provider.name: provider for provider in _ALL}

# Variables that the SDKs would read by themselves and send with every call, wherever it goes.
SDK_VARIABLES: Final = (
    "OPENAI_ADMIN_KEY",
    "OPENAI_CUSTOM_HEADERS",
    "AZURE_OPENAI_API_KEY",
    "AZURE_OPENAI_AD_TOKEN",
    "ANTHROPIC_AUTH_TOKEN",
    "ANTHROPIC_CUSTOM_HEADERS",
    "GROQ_CUSTOM_HEADERS",
)
# The configuration keys of secrets: their values are encrypted at rest and never shown.
SECRETS: Final = frozenset(
    {
        "api_key",
        "aws_access_key_id",
        "aws_secret_access_key",
        "aws_session_token",
        "default_headers",
    }
)
# The configuration keys that decide where a secret is sent.
ADDRESSES: Final = frozenset({*(p.address for p in _ALL if p.address), "aws_region"})


@cache
def is_installed(provider: Provider) -> bool:
    """Whether the package for this provider is installed."""
    try:
        return importlib.util.find_spec(provider.module) is not None
    except ModuleNotFoundError:  # the parent package is not installed
        return False


def list_installed(kind: Kind) -> list[str]:
    """The installed providers of this kind, in the order they are offered."""
    own = [LOCAL] if kind == "embedder" else []
    return own + [p.name for p in _ALL if _offers(p, kind) and is_installed(p)]


def _offers(provider: Provider, kind: Kind) -> bool:
    # LM Studio serves whatever model is loaded, so it has no default.
    return bool(getattr(provider, kind)) or provider.name == "lmstudio"


def offers(name: str, kind: Kind) -> bool:
    """Whether this provider exists and has models of this kind."""
    if name in {LOCAL, NONE}:
        return (name == LOCAL) == (kind == "embedder")
    return name in PROVIDERS and _offers(PROVIDERS[name], kind)


# Azure's fields may come nested, as in mem0; they are stored flat, like every other provider's.
NESTED: Final = "azure_kwargs"
AZURE: Final = ("api_key", "azure_deployment", "azure_endpoint", "api_version", "default_headers")


@dataclass(frozen=True, slots=True)
class Configuration:
    """The providers in use. Without an LLM, messages are stored word for word; without an embedder,
    the local model is used. `dims` are the embedder's measured dimensions, 0 if unknown;
    `late_interaction` says whether token states are stored and compared; `version` is that of the
    EngineConfig, 0 for the environment alone."""

    llm: ProviderChoice | None = None
    fallback_llm: ProviderChoice | None = None
    embedder: ProviderChoice | None = None
    dims: int = 0
    late_interaction: bool = True
    version: int = 0

    def with_section(self, name: str, choice: ProviderChoice | None) -> "Configuration":
        """This configuration with another LLM, fallback or embedder."""
        change: dict[str, Any] = {name: choice}
        return replace(self, **change)
