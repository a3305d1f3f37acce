"""mem0's factories for provider objects, without their side effects."""

import inspect
from collections.abc import Mapping
from typing import Any, Final

from mem0.configs.embeddings.base import BaseEmbedderConfig
from mem0.embeddings.ollama import OllamaEmbedding
from mem0.utils.factory import EmbedderFactory, LlmFactory

from memories.engine.catalogue import ADDRESSES, AZURE, NESTED, PROVIDERS

# Fields that may not come over HTTP (code, files, proxies; HTTPS_PROXY in the environment works),
# and fields without an effect.
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
# Our own key; mem0 has none for it.
_GEMINI_ADDRESS: Final = "gemini_base_url"


class _Ollama(OllamaEmbedding):  # type: ignore[misc]  # mem0 publishes no types
    def _ensure_model_exists(self) -> None:
        """Does nothing. mem0 would pull gigabytes here, in the first request."""


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
    options = dict(config)
    address = options.pop(_GEMINI_ADDRESS, None)
    options = _with_azure(provider, options)
    # mem0's own limit truncates the facts of a long conversation.
    options.setdefault("max_tokens", 4000)
    return _at(LlmFactory.create(provider, options), provider, config, address)


def embedder(provider: str, config: Mapping[str, Any]) -> Any:
    """mem0's embedder. It carries its SDK's client as `client`."""
    options = dict(config)
    address = options.pop(_GEMINI_ADDRESS, None)
    options = _with_azure(provider, options)
    if provider == "ollama":
        return _at(_Ollama(BaseEmbedderConfig(**options)), provider, config, address)
    return _at(EmbedderFactory.create(provider, options, None), provider, config, address)


def _with_azure(provider: str, config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with Azure's keys nested, as mem0 expects them."""
    if provider != "azure_openai":
        return config
    nested = {name: config.pop(name) for name in AZURE if name in config}
    return {**config, NESTED: nested}


def _at(model: Any, provider: str, config: Mapping[str, Any], address: str | None) -> Any:
    if provider == "gemini" and address:
        model.client._api_client._http_options.base_url = address
    if provider == "ollama" and (key := config.get("api_key")):
        # For a server behind a proxy, or Ollama's cloud; mem0 ignores the key.
        model.client._client.headers["Authorization"] = f"Bearer {key}"
    return model
