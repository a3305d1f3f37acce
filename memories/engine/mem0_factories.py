"""mem0's factories: its objects for the providers, without what they do beside."""

import inspect
from collections.abc import Mapping
from typing import Any, Final

from mem0.configs.embeddings.base import BaseEmbedderConfig
from mem0.embeddings.ollama import OllamaEmbedding
from mem0.utils.factory import EmbedderFactory, LlmFactory

from memories.engine.catalogue import ADDRESSES, AZURE, NESTED, PROVIDERS

# Code, files and detours, none of which is for a configuration that comes over HTTP (proxies are
# those of the environment: HTTPS_PROXY), and what would be taken and never used.
_NOT_OURS: Final = {
    "response_callback",
    "http_client_proxies",
    "vertex_credentials_json",
    "vertexai",
    "project",
    "location",
    "huggingface_base_url",
    "model_kwargs",
    "memory_add_embedding_type",
    "memory_update_embedding_type",
    "memory_search_embedding_type",
    "openrouter_base_url",
    "models",
    "route",
    "site_url",
    "app_name",
}
# Ours: mem0 has no key for it.
_GEMINI_ADDRESS: Final = "gemini_base_url"


class _Ollama(OllamaEmbedding):  # type: ignore[misc]  # mem0 publishes no types
    def _ensure_model_exists(self) -> None:
        """mem0 would pull gigabytes here, in whatever request comes first."""


def fields(provider: str, kind: str) -> set[str]:
    """The configuration keys that this provider understands; Azure's own are flat."""
    config_class = (
        LlmFactory.provider_to_class[provider][1] if kind == "llm" else BaseEmbedderConfig
    )
    names = set(inspect.signature(config_class).parameters) - _NOT_OURS - {NESTED}
    # mem0 has one class for the embedders of all providers.
    own = PROVIDERS[provider].address
    names -= {name for name in ADDRESSES if name not in {own, "aws_region"}}
    if provider != "aws_bedrock":
        names = {name for name in names if not name.startswith("aws_")}
    if provider != "gemini":
        names.discard("output_dimensionality")
    names |= set(AZURE) if provider == "azure_openai" else set()
    return names | ({_GEMINI_ADDRESS} if provider == "gemini" else set())


def llm(provider: str, config: Mapping[str, Any]) -> Any:
    """mem0's LLM. It carries its SDK's client as `client`."""
    made = dict(config)
    address = made.pop(_GEMINI_ADDRESS, None)
    made = _with_azure(provider, made)
    # mem0's own limit cuts the facts of a long conversation off.
    made.setdefault("max_tokens", 4000)
    return _at(LlmFactory.create(provider, made), provider, config, address)


def embedder(provider: str, config: Mapping[str, Any]) -> Any:
    """mem0's embedder. It carries its SDK's client as `client`."""
    made = dict(config)
    address = made.pop(_GEMINI_ADDRESS, None)
    made = _with_azure(provider, made)
    if provider == "ollama":
        return _at(_Ollama(BaseEmbedderConfig(**made)), provider, config, address)
    return _at(EmbedderFactory.create(provider, made, None), provider, config, address)


def _with_azure(provider: str, config: dict[str, Any]) -> dict[str, Any]:
    """Azure's keys nested, as mem0 has them."""
    if provider != "azure_openai":
        return config
    nested = {name: config.pop(name) for name in AZURE if name in config}
    return {**config, NESTED: nested}


def _at(made: Any, provider: str, config: Mapping[str, Any], address: str | None) -> Any:
    if provider == "gemini" and address:
        made.client._api_client._http_options.base_url = address
    if provider == "ollama" and (key := config.get("api_key")):
        # A server behind a proxy, or Ollama's own in the cloud; mem0 has no use for the key.
        made.client._client.headers["Authorization"] = f"Bearer {key}"
    return made
