"""Draft configurations: what providers are offered, how a draft is made and tried, and how it is
stored between two requests before it is used."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from django.conf import settings

from core import crypto
from core.env import ConfigurationError
from core.errors import InvalidInputError
from core.principal import Principal
from memories import runtime
from memories.engine import catalogue, configuration
from memories.engine.catalogue import (
    LOCAL,
    NONE,
    PROVIDERS,
    Configuration,
    Kind,
    Provider,
    ProviderChoice,
)
from memories.engine.choices import same_address
from memories.engine.local_model import WeightsError, find_prepared_model
from memories.providers import service as providers

# OpenAI's interface at another address, which people see as a provider of its own.
COMPATIBLE: Final = "compatible"
# The embedder of the LLM's provider.
SAME: Final = "same"
# Stands for a model that has yet to be picked from the provider's list.
UNNAMED: Final = "unnamed"
KINDS: Final[tuple[Kind, Kind]] = ("llm", "embedder")
__all__ = ["COMPATIBLE", "KINDS", "LOCAL", "NONE", "SAME", "UNNAMED"]


@dataclass(frozen=True, slots=True)
class ProviderOffer:
    """A provider as people choose it. `address` is the default, "" if it has none or a fixed one
    (`has_address` tells); `model` is the suggestion; `package` is what pip would install."""

    id: str
    provider: str
    title: str
    package: str
    installed: bool
    model: str
    address: str
    has_address: bool
    needs_address: bool
    needs_key: bool
    embeds: bool


@dataclass(frozen=True, slots=True)
class WantedProvider:
    """The choice for one kind: an offer's id, or NONE, LOCAL, SAME. An empty key keeps the stored
    key if it was stored for this provider and address."""

    offer: str
    model: str = ""
    address: str = ""
    api_key: str = field(default="", repr=False)
    api_version: str = ""


@dataclass(frozen=True, slots=True)
class ChosenProvider:
    """A configuration's provider of one kind, without secrets. `key_ends` is "" if the key is
    short; `same` tells that the embedder has the LLM's provider, address and key."""

    offer: str
    model: str = ""
    address: str = ""
    api_version: str = ""
    has_key: bool = False
    key_ends: str = ""
    same: bool = False


def offers(kind: Kind) -> list[ProviderOffer]:
    """The providers of this kind, in the order that people expect."""
    available: list[ProviderOffer] = []
    for provider in PROVIDERS.values():
        if not catalogue.offers(provider.name, kind):
            continue
        available.append(_offer(provider, kind))
        if provider.name == "ollama":
            available.append(_compatible(_offer(PROVIDERS["openai"], kind)))
    return available


def _offer(provider: Provider, kind: Kind) -> ProviderOffer:
    return ProviderOffer(
        id=provider.name,
        provider=provider.name,
        title=provider.called,
        package=provider.package,
        installed=catalogue.is_installed(provider),
        model=getattr(provider, kind),
        address=provider.default_address,
        # OpenAI at another address is a separate offer.
        has_address=bool(provider.address) and provider.name != "openai",
        needs_address=bool(provider.address) and not provider.default_address,
        needs_key=provider.needs_key,
        embeds=catalogue.offers(provider.name, "embedder"),
    )


def _compatible(openai: ProviderOffer) -> ProviderOffer:
    return replace(
        openai,
        id=COMPATIBLE,
        title="OpenAI-compatible URL",
        model="",
        address="",
        has_address=True,
        needs_address=True,
        needs_key=False,
    )


def local_model_is_prepared() -> bool:
    """Whether the local embedding model is ready to use."""
    if configuration.current_configuration().embedder is None:
        return runtime.get_runtime().engine.embedder is not None
    try:
        return find_prepared_model(settings.MODEL_DIR) is not None
    except WeightsError:
        return False


# --- Making a draft ------------------------------------------------------------------------------


def make_draft(
    base: Configuration, llm: WantedProvider | None, embedder: WantedProvider | None
) -> Configuration:
    """`base` with this LLM and this embedder; None keeps the present one. InvalidInputError."""
    draft = base
    if llm is not None:
        sections = {"llm": _change(llm)}
        if llm.offer == NONE:
            sections["fallback_llm"] = None
        draft = providers.apply_sections(_with_stored_secrets(draft, "llm", llm), sections)
    if embedder is not None:
        with_secrets = _with_stored_secrets(draft, "embedder", embedder)
        same = embedder.offer == SAME
        change = _like(draft.llm, embedder.model) if same else _change(embedder)
        draft = providers.apply_sections(with_secrets, {"embedder": change})
    return draft


def _change(request: WantedProvider) -> dict[str, Any] | None:
    if request.offer in {NONE, LOCAL}:
        return None
    provider = PROVIDERS["openai" if request.offer == COMPATIBLE else request.offer]
    config: dict[str, Any] = {"model": request.model}
    if provider.address:
        # OpenAI itself always has its default address.
        config[provider.address] = request.address
    if request.api_key:
        config["api_key"] = request.api_key
    if provider.name == "azure_openai":
        # Azure knows models by the name of their deployment.
        config |= {"azure_deployment": request.model, "api_version": request.api_version}
    return {"provider": provider.name, "config": config}


def _with_stored_secrets(base: Configuration, kind: Kind, request: WantedProvider) -> Configuration:
    """`base`, or with the choice in use if only that has this offer. Somebody who looks at another
    card and comes back finds the key again."""
    choice = _draft_or_used(base, kind, request.offer)
    return base if choice is None else base.with_section(kind, choice)


def _draft_or_used(draft: Configuration, kind: Kind, offer: str) -> ProviderChoice | None:
    """The draft's choice for this offer, else the one in use; None if neither has it."""
    for configured in (draft, configuration.current_configuration()):
        choice: ProviderChoice | None = getattr(configured, kind)
        if choice is not None and _offer_of(choice) == offer:
            return choice
    return None


def _like(llm: ProviderChoice | None, model: str) -> dict[str, Any]:
    """The embedder of the LLM's provider, with its address and key."""
    if llm is None or not catalogue.offers(llm.provider, "embedder"):
        called = f"{PROVIDERS[llm.provider].called} has" if llm else "Without a provider there are"
        raise InvalidInputError(f"{called} no embedding models: choose another embedder.")
    if not model and _offer_of(llm) in {COMPATIBLE, "azure_openai"}:
        raise InvalidInputError("Name the embedding model: there is no usual one at that address.")
    copied_keys = {"api_key", "api_version", "default_headers", PROVIDERS[llm.provider].address}
    # Missing values are set to None, or the LLM's key would go to the embedder's previous address.
    config = {key: llm.config.get(key) for key in copied_keys if key}
    if llm.provider == "azure_openai":
        config["azure_deployment"] = model
    return {"provider": llm.provider, "config": {**config, "model": model}}


def choice_of(draft: Configuration, kind: Kind) -> ChosenProvider:
    """The draft's choice of this kind."""
    choice: ProviderChoice | None = getattr(draft, kind)
    if choice is None:
        return ChosenProvider(NONE if kind == "llm" else LOCAL)
    return _as_chosen(choice, draft, kind)


def find_choice(draft: Configuration, kind: Kind, offer: str) -> ChosenProvider | None:
    """The draft's choice of this offer, else the one in use; None if neither has it."""
    choice = _draft_or_used(draft, kind, offer)
    return None if choice is None else _as_chosen(choice, draft, kind)


def _as_chosen(choice: ProviderChoice, draft: Configuration, kind: Kind) -> ChosenProvider:
    address = _address(choice)
    return ChosenProvider(
        offer=_offer_of(choice),
        model="" if choice.model == UNNAMED else choice.model,
        address=address,
        api_version=str(choice.config.get("api_version") or ""),
        has_key=configuration.has_key(choice),
        key_ends=configuration.key_ends(choice),
        same=kind == "embedder" and draft.llm is not None and _is_like(choice, draft.llm),
    )


def _address(choice: ProviderChoice) -> str:
    return str(choice.config.get(PROVIDERS[choice.provider].address) or "")


def _offer_of(choice: ProviderChoice) -> str:
    usual = PROVIDERS[choice.provider].default_address
    if choice.provider != "openai" or same_address(_address(choice) or usual, usual):
        return choice.provider
    return COMPATIBLE


def _is_like(embedder: ProviderChoice, llm: ProviderChoice) -> bool:
    return (
        embedder.provider == llm.provider
        and _address(embedder) == _address(llm)
        and embedder.config.get("api_key") == llm.config.get("api_key")
    )


# --- Between two requests ------------------------------------------------------------------------


def seal(draft: Configuration) -> dict[str, Any]:
    """The draft for storage, with encrypted secrets."""
    return configuration.seal(draft)


def unseal(sealed: Any) -> Configuration:
    """A stored draft; the configuration in use if there is none or it cannot be read."""
    if isinstance(sealed, Mapping):
        try:
            return configuration.unseal(sealed)
        except (ConfigurationError, crypto.WrongEncryptionKeyError, KeyError, ValueError):
            pass  # from another version, or sealed with a lost key
    return configuration.current_configuration()


# --- Trying and using a draft --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProviderTrial:
    """The results of calling a draft's providers; None if there is no provider."""

    llm: providers.ProbeResult | None
    embedder: providers.ProbeResult | None

    @property
    def ok(self) -> bool:
        return all(probe is None or probe.ok for probe in (self.llm, self.embedder))


def try_draft(principal: Principal, draft: Configuration) -> ProviderTrial:
    """Makes one real call to each provider of the draft. For the instance owner."""
    principal.require_instance(providers.PROVIDERS_OF)
    return ProviderTrial(
        llm=providers.probe_choice(draft.llm, "llm") if draft.llm else None,
        embedder=providers.probe_choice(draft.embedder, "embedder") if draft.embedder else None,
    )


def use_draft(principal: Principal, draft: Configuration, trial: ProviderTrial) -> None:
    """Stores the draft and uses it from now on. An embedder that did not answer is left out,
    because its dimensions are unknown; the previous one stays.

    Raises what providers.configure does.
    """
    principal.require_instance(providers.PROVIDERS_OF)
    previous = configuration.current_configuration()
    if trial.embedder is not None and not trial.embedder.ok:
        draft = replace(draft, embedder=previous.embedder, dims=previous.dims)
    providers.use_configuration(principal, replace(draft, version=previous.version), previous)


def model_in_use() -> str:
    """The embedding model in use, as "provider/model/dimensions"; "" for search by words only."""
    return runtime.get_runtime().engine.model_key
