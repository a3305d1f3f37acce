"""A choice of providers while somebody is making it: what is offered, how it is put together and
tried out, and how it is kept between two requests before it is used."""

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

# OpenAI's interface at another address: for people another provider than OpenAI.
COMPATIBLE: Final = "compatible"
# The embedder of whom the LLM is from.
SAME: Final = "same"
# Stands for a model that is still to be picked from the provider's list.
UNNAMED: Final = "unnamed"
KINDS: Final[tuple[Kind, Kind]] = ("llm", "embedder")
__all__ = ["COMPATIBLE", "KINDS", "LOCAL", "NONE", "SAME", "UNNAMED"]


@dataclass(frozen=True, slots=True)
class ProviderOffer:
    """A provider as people choose it. `address` is its usual one, "" where it has none or a fixed
    one (`has_address` tells); `model` is what is proposed; `package` what pip would have to
    install."""

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
    """What was chosen for one kind: an offer's id, or NONE, LOCAL, SAME. An empty key keeps the
    stored one where it was stored for this provider and address."""

    offer: str
    model: str = ""
    address: str = ""
    api_key: str = field(default="", repr=False)
    api_version: str = ""


@dataclass(frozen=True, slots=True)
class ChosenProvider:
    """What a configuration has for one kind, without secrets. `key_ends` is "" where the key is
    short; `same` tells that an embedder is reached as the LLM is."""

    offer: str
    model: str = ""
    address: str = ""
    api_version: str = ""
    has_key: bool = False
    key_ends: str = ""
    same: bool = False


def offers(kind: Kind) -> list[ProviderOffer]:
    """The providers of this kind, as a person would look for them."""
    found: list[ProviderOffer] = []
    for provider in PROVIDERS.values():
        if not catalogue.offers(provider.name, kind):
            continue
        found.append(_offer(provider, kind))
        if provider.name == "ollama":
            found.append(_compatible(_offer(PROVIDERS["openai"], kind)))
    return found


def _offer(provider: Provider, kind: Kind) -> ProviderOffer:
    return ProviderOffer(
        id=provider.name,
        provider=provider.name,
        title=provider.called,
        package=provider.package,
        installed=catalogue.is_installed(provider),
        model=getattr(provider, kind),
        address=provider.default_address,
        # OpenAI elsewhere is an offer of its own.
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
    """Whether the embedding model of this machine is there to be used."""
    if configuration.current_configuration().embedder is None:
        return runtime.get_runtime().engine.embedder is not None
    try:
        return find_prepared_model(settings.MODEL_DIR) is not None
    except WeightsError:
        return False


# --- Putting it together -------------------------------------------------------------------------


def make_draft(
    base: Configuration, llm: WantedProvider | None, embedder: WantedProvider | None
) -> Configuration:
    """`base` with this LLM and this embedder, None for the one that it has; InvalidInputError for
    what does not fit."""
    made = base
    if llm is not None:
        sections = {"llm": _change(llm)}
        if llm.offer == NONE:
            sections["fallback_llm"] = None
        made = providers.apply_sections(_with_known_secrets(made, "llm", llm), sections)
    if embedder is not None:
        known = _with_known_secrets(made, "embedder", embedder)
        same = embedder.offer == SAME
        change = _like(made.llm, embedder.model) if same else _change(embedder)
        made = providers.apply_sections(known, {"embedder": change})
    return made


def _change(wanted: WantedProvider) -> dict[str, Any] | None:
    if wanted.offer in {NONE, LOCAL}:
        return None
    provider = PROVIDERS["openai" if wanted.offer == COMPATIBLE else wanted.offer]
    config: dict[str, Any] = {"model": wanted.model}
    if provider.address:
        # OpenAI itself has its usual address, whatever was there before.
        config[provider.address] = wanted.address
    if wanted.api_key:
        config["api_key"] = wanted.api_key
    if provider.name == "azure_openai":
        # Azure knows models by the name of their deployment.
        config |= {"azure_deployment": wanted.model, "api_version": wanted.api_version}
    return {"provider": provider.name, "config": config}


def _with_known_secrets(base: Configuration, kind: Kind, wanted: WantedProvider) -> Configuration:
    """`base`, or with what is in use where that has this offer, and the draft another: who looks at
    another card and comes back finds the key still there."""
    known = _known(base, kind, wanted.offer)
    return base if known is None else base.with_section(kind, known)


def _known(draft: Configuration, kind: Kind, offer: str) -> ProviderChoice | None:
    """What the draft has of this offer, or else what is in use; None where neither has it."""
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
    kept = {"api_key", "api_version", "default_headers", PROVIDERS[llm.provider].address}
    # Also what the LLM has not is said: an address of the embedder so far would get the LLM's key.
    config = {key: llm.config.get(key) for key in kept if key}
    if llm.provider == "azure_openai":
        config["azure_deployment"] = model
    return {"provider": llm.provider, "config": {**config, "model": model}}


def choice_of(draft: Configuration, kind: Kind) -> ChosenProvider:
    """What the draft has for this kind."""
    choice: ProviderChoice | None = getattr(draft, kind)
    if choice is None:
        return ChosenProvider(NONE if kind == "llm" else LOCAL)
    return _as_chosen(choice, draft, kind)


def find_choice(draft: Configuration, kind: Kind, offer: str) -> ChosenProvider | None:
    """What there is of this offer: the draft's, or else what is in use; None for neither."""
    choice = _known(draft, kind, offer)
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
    """The draft as it may be kept, its secrets encrypted."""
    return configuration.seal(draft)


def unseal(kept: Any) -> Configuration:
    """A kept draft, or what is in use where there is none, or none that can be read."""
    if isinstance(kept, Mapping):
        try:
            return configuration.unseal(kept)
        except (ConfigurationError, crypto.WrongEncryptionKeyError, KeyError, ValueError):
            pass  # of another version, or of a key that is no more
    return configuration.current_configuration()


# --- Trying it out, using it ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProviderTrial:
    """What asking the providers of a draft gave; None where there is nobody to ask."""

    llm: providers.ProbeResult | None
    embedder: providers.ProbeResult | None

    @property
    def ok(self) -> bool:
        return all(probe is None or probe.ok for probe in (self.llm, self.embedder))


def try_draft(principal: Principal, draft: Configuration) -> ProviderTrial:
    """One real call to each provider of the draft; the instance owner's."""
    principal.require_instance(providers.PROVIDERS_OF)
    return ProviderTrial(
        llm=providers.probe_choice(draft.llm, "llm") if draft.llm else None,
        embedder=providers.probe_choice(draft.embedder, "embedder") if draft.embedder else None,
    )


def use_draft(principal: Principal, draft: Configuration, trial: ProviderTrial) -> None:
    """Uses the draft from now on, and keeps it. An embedder that did not answer is left out, for
    its dimensions are not known; the one so far stays.

    Raises what providers.configure does.
    """
    principal.require_instance(providers.PROVIDERS_OF)
    used = configuration.current_configuration()
    if trial.embedder is not None and not trial.embedder.ok:
        draft = replace(draft, embedder=used.embedder, dims=used.dims)
    providers.use_configuration(principal, replace(draft, version=used.version), used)


def model_in_use() -> str:
    """What vectors are made with now, as "provider/model/dimensions"; "" for words only."""
    return runtime.get_runtime().engine.model_key
