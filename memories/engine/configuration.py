"""The configuration of providers: what was configured at run time overrides the environment."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

from django.db import IntegrityError, transaction

from core import crypto
from core.env import ConfigurationError
from core.errors import ConflictError, InvalidInputError
from memories.engine import choices
from memories.engine.catalogue import (
    ADDRESSES,
    AZURE,
    LOCAL,
    NESTED,
    NONE,
    PROVIDERS,
    SECRETS,
    Configuration,
    Kind,
    ProviderChoice,
)
from memories.engine.environment import from_environment, of_environment
from memories.models.server import EngineConfig

REDACTED: Final = "[redacted]"
SEALED: Final = "$encrypted"
# The last ENDS characters of a secret are shown if it has at least ENDS_OF.
ENDS: Final = 3
ENDS_OF: Final = 16
SECTIONS: Final[dict[str, Kind]] = {"llm": "llm", "fallback_llm": "llm", "embedder": "embedder"}
Section = dict[str, Any]


class ChangedMeanwhileError(ConflictError):
    """Another version was saved since this one was read."""


def current_configuration() -> Configuration:
    """The configuration in use: configured sections override those of the environment."""
    row = latest_row()
    return unseal(row.config, row.version) if row else from_environment()


def latest_row() -> EngineConfig | None:
    """The newest configured version, if any."""
    return EngineConfig.objects.order_by("-version").first()


def latest_version() -> int:
    """The version of `current_configuration`."""
    version = EngineConfig.objects.order_by("-version").values_list("version", flat=True).first()
    return version or 0


def save(configuration: Configuration, *, account_id: UUID | None, reason: str) -> Configuration:
    """Stores the configuration as the version after its own, with encrypted secrets.

    Sections that equal the environment are not stored. ChangedMeanwhileError if the version exists
    already, because of two concurrent changes the second must not silently undo the first.
    """
    sealed, environment = seal(configuration), from_environment()
    for name in SECTIONS:
        if getattr(configuration, name) == getattr(environment, name):
            del sealed[name]
    if configuration.late_interaction == environment.late_interaction:
        del sealed["late_interaction"]
    row = EngineConfig(
        version=configuration.version + 1,
        config=sealed,
        account_id=account_id,
        reason=reason[:200],
    )
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError as error:
        if not EngineConfig.objects.filter(version=row.version).exists():
            raise
        raise ChangedMeanwhileError(
            "The configuration was changed by someone else just now; try again."
        ) from error
    return replace(configuration, version=row.version)


def seal(configuration: Configuration) -> dict[str, Any]:
    """The configuration for storage: {section: {provider, config}} with encrypted secrets."""
    sealed: dict[str, Any] = {
        "dims": configuration.dims,
        "late_interaction": configuration.late_interaction,
    }
    for name in SECTIONS:
        choice: ProviderChoice | None = getattr(configuration, name)
        sealed[name] = choice and {
            "provider": choice.provider,
            "config": _each_secret(choice.config, _seal),
        }
    return sealed


def unseal(sealed: Mapping[str, Any], version: int = 0) -> Configuration:
    """A stored configuration with its secrets; missing sections come from the environment.
    ConfigurationError for a provider of a later version."""
    configured = replace(from_environment(), version=version)
    for name in SECTIONS:
        if name in sealed:
            configured = configured.with_section(name, _unseal_choice(sealed[name]))
    if "late_interaction" in sealed:
        configured = replace(configured, late_interaction=sealed["late_interaction"])
    return replace(configured, dims=sealed.get("dims", 0)) if "embedder" in sealed else configured


def _unseal_choice(section: Mapping[str, Any] | None) -> ProviderChoice | None:
    if section is None:
        return None
    if section["provider"] not in PROVIDERS:
        raise ConfigurationError(
            f"The stored configuration names the provider '{section['provider']}', which this "
            "version does not know."
        )
    return ProviderChoice(section["provider"], _each_secret(section["config"], _unseal))


def _each_secret(config: Mapping[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    copy: dict[str, Any] = {}
    for key, value in config.items():
        if key in SECRETS and value:
            copy[key] = change(value)
        else:
            copy[key] = _each_secret(value, change) if isinstance(value, Mapping) else value
    return copy


def _seal(secret: Any) -> dict[str, str]:
    return {SEALED: crypto.encrypt(json.dumps(secret)), "ends": _ends(secret)}


def _ends(secret: Any) -> str:
    """The last characters of a secret, so that people recognise it; "" if it is too short for
    that."""
    return secret[-ENDS:] if isinstance(secret, str) and len(secret) >= ENDS_OF else ""


def _unseal(secret: Any) -> Any:
    return json.loads(crypto.decrypt(secret[SEALED]))


def redact(choice: ProviderChoice) -> dict[str, Any]:
    """The configuration of a provider for display, without secrets."""
    return _each_secret(choice.config, lambda _: REDACTED)


def has_key(choice: ProviderChoice) -> bool:
    """Whether an API key is configured."""
    return bool(choice.config.get("api_key"))


def key_ends(choice: ProviderChoice) -> str:
    """The last characters of the API key, for display; "" if it is short or missing."""
    return _ends(choice.config.get("api_key"))


# --- Changes -------------------------------------------------------------------------------------


def merge(former: ProviderChoice | None, change: Any, kind: Kind) -> ProviderChoice | None:
    """`former` with `change` ({provider?, config?}; None for "none") merged in, key by key.

    A stored secret is only sent where it was meant for: another provider or address drops it, and a
    change that asks to keep it is refused. InvalidInputError.
    """
    off = {"llm": NONE, "embedder": LOCAL}[kind]
    if change is None or (isinstance(change, Mapping) and change.get("provider") == off):
        return None
    if not isinstance(change, Mapping):
        raise InvalidInputError(f"{kind} must be an object with provider and config.")
    if unknown := set(change) - {"provider", "config"}:
        raise InvalidInputError(f"{kind} has no field '{choices.shorten(min(unknown))}'.")
    name = change.get("provider") or (former.provider if former else None)
    if not isinstance(name, str):
        raise InvalidInputError(f"{kind}.provider is missing.")
    choices.check_provider(name, kind)
    config = change.get("config") or {}
    if not isinstance(config, Mapping):
        raise InvalidInputError(f"{kind}.config must be an object.")
    if name == "azure_openai":
        config = _flat(config, kind)
    base = former if former and former.provider == name else of_environment(name, kind)
    config = _merge(base.config, config, moved=_moves(base, config))
    config.setdefault("model", getattr(PROVIDERS[name], kind))
    choice = ProviderChoice(name, config)
    choices.check(choice, kind)
    return choice


def _flat(config: Mapping[str, Any], kind: Kind) -> Mapping[str, Any]:
    """Flattens Azure's fields if they are nested."""
    if NESTED not in config:
        return config
    nested = config[NESTED]
    if nested is None:
        nested = dict.fromkeys(AZURE)
    if not isinstance(nested, Mapping):
        raise InvalidInputError(f"{kind}.config.{NESTED} must be an object.")
    if unknown := set(nested) - set(AZURE):
        place = f"{kind}.config.{NESTED}"
        raise InvalidInputError(f"{place} has no field '{choices.shorten(min(unknown))}'.")
    return {**nested, **{key: value for key, value in config.items() if key != NESTED}}


def _moves(base: ProviderChoice, config: Mapping[str, Any]) -> bool:
    """Whether the change leads calls to another address than the secrets belong to."""
    usual = PROVIDERS[base.provider].default_address
    return any(
        key in ADDRESSES and not choices.same_address(value or usual, base.config.get(key) or usual)
        for key, value in config.items()
    )


def _merge(base: Mapping[str, Any], change: Mapping[str, Any], *, moved: bool) -> dict[str, Any]:
    merged = {key: value for key, value in base.items() if not (moved and key in SECRETS)}
    for key, value in change.items():
        if key in SECRETS and _holds_redacted(value):
            _keep_secret(key, value, base, moved=moved)
        elif value is None or value == "":
            merged.pop(key, None)
        elif isinstance(value, Mapping) and key not in SECRETS:
            inner = base.get(key)
            merged[key] = _merge(inner if isinstance(inner, Mapping) else {}, value, moved=moved)
        else:
            merged[key] = value
    return merged


def _holds_redacted(value: Any) -> bool:
    return REDACTED in (value.values() if isinstance(value, Mapping) else (value,))


def _keep_secret(key: str, value: Any, base: Mapping[str, Any], *, moved: bool) -> None:
    if moved:
        raise InvalidInputError(
            f"The address has changed: send {key} again. A stored secret is only ever sent "
            "to the address that it was stored for."
        )
    if value != REDACTED:
        raise InvalidInputError(f"{key} is kept or sent as a whole.")
    if key not in base:
        raise InvalidInputError(f"There is no stored {key} to keep: send it.")
