"""The providers that the environment configures."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from django.conf import settings

from core.env import ConfigurationError
from core.errors import InvalidInputError
from core.outbound import check_provider_url
from memories.engine import choices
from memories.engine.catalogue import LOCAL, NONE, PROVIDERS, Configuration, Kind, ProviderChoice

OPENROUTER: Final = "https://openrouter.ai/api/v1"


def from_environment() -> Configuration:
    """The configuration of the environment, in mem0's variables. ConfigurationError."""
    variables = settings.PROVIDER_ENVIRONMENT
    variable = "MEM0_LLM_PROVIDER"
    name = variables.get(variable, "")
    if not name:
        name, variable = _llm_of_hints(variables)
    llm = _choice_named(name, "llm", variable)
    if llm is not None:
        default = variables.get("MEM0_DEFAULT_LLM_MODEL") if llm.provider == "openai" else None
        llm = _check_choice(
            _with_model(llm, variables.get("MEM0_LLM_MODEL") or default), "llm", variable
        )
    variable = "MEM0_FALLBACK_LLM_PROVIDER"
    fallback = _choice_named(variables.get(variable), "llm", variable)
    if fallback is not None:
        if llm is None:
            raise ConfigurationError(f"{variable} needs an LLM that it stands in for.")
        fallback = _with_model(fallback, variables.get("MEM0_FALLBACK_LLM_MODEL"))
        fallback = _check_choice(fallback, "llm", variable)
    return Configuration(
        llm=llm,
        fallback_llm=fallback,
        embedder=_embedder_of(variables),
        late_interaction=settings.LATE_INTERACTION,
    )


def _embedder_of(variables: Mapping[str, str]) -> ProviderChoice | None:
    variable = "MEM0_EMBED_PROVIDER"
    name, model = variables.get(variable), variables.get("MEM0_EMBED_MODEL")
    if not name and (other := variables.get("MEM0_DEFAULT_EMBEDDER_MODEL")):
        variable = "MEM0_DEFAULT_EMBEDDER_MODEL"
        name, model = "openai", model or other
    embedder = _choice_named(name, "embedder", variable)
    if embedder is None:
        return None
    embedder = _with_model(embedder, model)
    if dims := variables.get("MEM0_EMBED_DIMS"):
        if not dims.isdecimal() or not 0 < int(dims) <= choices.MOST_DIMS:
            raise ConfigurationError(
                f"MEM0_EMBED_DIMS must be a whole number from 1 to {choices.MOST_DIMS}, "
                f"not {choices.shorten(dims)!r}."
            )
        embedder = ProviderChoice(
            embedder.provider, {**embedder.config, "embedding_dims": int(dims)}
        )
    return _check_choice(embedder, "embedder", variable)


def _llm_of_hints(environment: Mapping[str, str]) -> tuple[str, str]:
    """The provider whose key or address is in the environment, for when none is named, and that
    variable; "" for none."""
    for name in ("openai", "anthropic", "gemini", "ollama"):
        provider = PROVIDERS[name]
        hints = [*provider.variables, *provider.address_variables]
        if name == "openai":
            hints.append("OPENROUTER_API_KEY")
        if variable := next((variable for variable in hints if variable in environment), None):
            return name, variable
    return "", ""


def _choice_named(name: str | None, kind: Kind, variable: str) -> ProviderChoice | None:
    if not name or name.lower() in {LOCAL, NONE}:
        return None
    try:
        choices.check_provider(name.lower(), kind)
    except InvalidInputError as error:
        raise ConfigurationError(f"{variable}: {error.message}") from error
    return of_environment(name.lower(), kind)


def _check_choice(choice: ProviderChoice, kind: Kind, variable: str) -> ProviderChoice:
    """The choice if it is valid, else ConfigurationError with the variable to set."""
    provider = PROVIDERS[choice.provider]
    if provider.address and (address := choice.config.get(provider.address)):
        try:
            check_provider_url(address)
        except InvalidInputError as error:
            where = _address_variable(choice.provider, kind) or variable
            raise ConfigurationError(f"{where}: {error.message}") from error
    if choices.lacks_key(choice):
        needed = next(iter(_own(provider.variables, choice.provider, kind)))
        raise ConfigurationError(f"{variable} chooses {provider.called}: {needed} is missing.")
    try:
        # These fields are ours, so the start need not import mem0 to check their names.
        choices.check_values(choice, kind)
    except InvalidInputError as error:
        raise ConfigurationError(f"{variable}: {error.message}") from error
    return choice


def _own(variables: Sequence[str], name: str, kind: Kind) -> list[str]:
    """The variables of this kind; only Azure has separate ones."""
    prefix = {"llm": "LLM_", "embedder": "EMBEDDING_"}[kind] if name == "azure_openai" else ""
    return [variable for variable in variables if variable.startswith(prefix)]


def _address_variable(name: str, kind: Kind) -> str | None:
    environment = settings.PROVIDER_ENVIRONMENT
    if name == "openai" and kind == "llm" and "OPENROUTER_API_KEY" in environment:
        return "OPENROUTER_API_BASE"
    variables = _own(PROVIDERS[name].address_variables, name, kind)
    return next((variable for variable in variables if variable in environment), None)


def of_environment(name: str, kind: Kind) -> ProviderChoice:
    """A provider with its key and address from the environment."""
    environment, provider = settings.PROVIDER_ENVIRONMENT, PROVIDERS[name]
    config: dict[str, Any] = {"model": getattr(provider, kind)}
    keys = _own(provider.variables, name, kind)
    if key := next((environment[variable] for variable in keys if variable in environment), None):
        config["api_key"] = key
    if provider.address and (variable := _address_variable(name, kind)) and variable in environment:
        config[provider.address] = _with_scheme(environment[variable], variable)
    if name == "azure_openai":
        own = {"llm": "LLM_", "embedder": "EMBEDDING_"}[kind]
        for variable, field in (("DEPLOYMENT", "azure_deployment"), ("API_VERSION", "api_version")):
            if value := environment.get(f"{own}AZURE_{variable}"):
                config[field] = value
    if name == "openai" and kind == "llm" and (key := environment.get("OPENROUTER_API_KEY")):
        # mem0 prefers this key too. OpenAI's own key may be set for the embedder alone.
        config |= {"api_key": key, "model": "openai/gpt-5-mini"}
        config.setdefault("openai_base_url", OPENROUTER)
    return ProviderChoice(name, config)


def _with_scheme(address: str, variable: str) -> str:
    """The address as a URL. Ollama's own variable usually has only host and port."""
    if variable != "OLLAMA_HOST" or "://" in address:
        return address
    host = address.rstrip("/")
    return f"http://{host}" if re.search(r":\d+$", host) else f"http://{host}:11434"


def _with_model(choice: ProviderChoice, model: str | None) -> ProviderChoice:
    return ProviderChoice(choice.provider, {**choice.config, "model": model}) if model else choice
