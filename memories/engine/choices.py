"""Checks the choice of a provider: installed, with valid fields and addresses."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from core.errors import InvalidInputError
from core.outbound import check_provider_url
from memories.engine import catalogue
from memories.engine.catalogue import ADDRESSES, PROVIDERS, SECRETS, Kind, ProviderChoice

# Provider, model and dimensions make up the model key, which has 200 characters.
MODEL_LENGTH: Final = 170
TEXT_LENGTH: Final = 4000
MOST_DIMS: Final = 65_536
MOST_HEADERS: Final = 50

# RFC 9110, 5.6.2.
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,200}")
_USUAL_PORTS: Final = {"http": 80, "https": 443}


def check_provider(name: str, kind: Kind) -> None:
    """InvalidInputError for an unavailable provider, with the package to install if there is
    one."""
    title = {"llm": "LLM", "embedder": "Embedder"}[kind]
    bundled = ", ".join(catalogue.list_installed(kind))
    refusal = (
        f"{title} provider '{shorten(name)}' is not bundled in this image. "
        f"Bundled providers: {bundled}."
    )
    if not catalogue.offers(name, kind):
        raise InvalidInputError(refusal)
    if not catalogue.is_installed(PROVIDERS[name]):
        raise InvalidInputError(f"{refusal} To add it: pip install {PROVIDERS[name].package}")


def check(choice: ProviderChoice, kind: Kind) -> None:
    """InvalidInputError for unknown fields, wrong types, bad addresses and a missing key."""
    from memories.engine.mem0_factories import fields  # mem0 takes a second to import

    if unknown := choice.config.keys() - fields(choice.provider, kind):
        called = PROVIDERS[choice.provider].called
        raise InvalidInputError(
            f"{kind}.config has no field '{shorten(min(unknown))}' for {called}."
        )
    check_values(choice, kind)


def check_values(choice: ProviderChoice, kind: Kind) -> None:
    """As `check`, for fields that are known to be the provider's."""
    for key, value in choice.config.items():
        _check_value(f"{kind}.config.{key}", key, value)
    if not choice.model:
        raise InvalidInputError(f"{kind}.config.model is missing.")
    for key in sorted(ADDRESSES & choice.config.keys() - {"aws_region"}):
        check_provider_url(choice.config[key])
    if choice.provider == "azure_openai":
        for key in ("azure_endpoint", "api_version"):
            if not choice.config.get(key):
                raise InvalidInputError(f"{kind}.config.{key} is missing.")
    if lacks_key(choice):
        raise InvalidInputError(f"{PROVIDERS[choice.provider].called} needs an API key.")


def lacks_key(choice: ProviderChoice) -> bool:
    """Whether the required key is missing. Only the provider's own address requires one; servers at
    other addresses may work without."""
    provider = PROVIDERS[choice.provider]
    # mem0 takes "your-api-key" as "use the credentials of this machine".
    if not provider.needs_key or choice.config.get("api_key") not in (None, "", "your-api-key"):
        return False
    address, usual = choice.config.get(provider.address), provider.default_address
    return not address or not usual or same_address(address, usual)


def same_address(one: Any, other: Any) -> bool:
    """Whether two addresses are equivalent, however they are written."""
    return bool(_normal(one) == _normal(other))


def _normal(address: Any) -> Any:
    try:
        parts = urlsplit(str(address))
        port = parts.port or _USUAL_PORTS.get(parts.scheme)
    except ValueError:
        return address
    return parts.scheme, parts.hostname, port, parts.path.rstrip("/"), parts.query


def shorten(text: str) -> str:
    """A caller's input, cut for use in a message."""
    return text if len(text) <= 100 else text[:100] + "…"


def _check_value(place: str, key: str, value: Any) -> None:
    fits, expected = _FITS.get(key, (_is_text, "one line of text"))
    if not fits(value):
        raise InvalidInputError(f"{place} must be {expected}.")


def _is_number(value: Any, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most


def _is_count(value: Any, most: int = 2**31) -> bool:
    return isinstance(value, int) and _is_number(value, most) and value > 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= TEXT_LENGTH and value.isprintable()


def _is_secret(value: Any) -> bool:
    # Secrets go into a header, and a library that refuses a header quotes it.
    return _is_text(value) and value.isascii() and " " not in value


def _are_headers(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) <= MOST_HEADERS
        and all(_TOKEN.fullmatch(name) for name in value)
        and all(_is_text(text) and text.isascii() for text in value.values())
    )


_COUNT: Final = (_is_count, "a whole number above 0")
_DIMS: Final = (lambda value: _is_count(value, MOST_DIMS), f"a whole number from 1 to {MOST_DIMS}")
_FLAG: Final = (lambda value: isinstance(value, bool), "true or false")
_SECRET: Final = (_is_secret, "one line of ASCII characters without spaces")
# By key: the check of its value, and the expected value in words.
_FITS: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    **dict.fromkeys(SECRETS, _SECRET),
    "temperature": (lambda value: _is_number(value, 2), "a number from 0 to 2"),
    "top_p": (lambda value: _is_number(value, 1), "a number from 0 to 1"),
    "max_tokens": _COUNT,
    "top_k": _COUNT,
    "embedding_dims": _DIMS,
    "output_dimensionality": _DIMS,
    "enable_vision": _FLAG,
    "is_reasoning_model": _FLAG,
    "store": _FLAG,
    "enable_sampling_parameters": _FLAG,
    "default_headers": (_are_headers, "an object of header names and values"),
    "lmstudio_response_format": (lambda value: isinstance(value, Mapping), "an object"),
    "model": (
        lambda value: _is_text(value) and len(value) <= MODEL_LENGTH,
        f"text of at most {MODEL_LENGTH} characters",
    ),
}
