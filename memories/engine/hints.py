"""The likely cause of a provider's failure, and what to do about it, in words."""

import re
from typing import Final
from urllib.parse import urlsplit

from core.errors import ProviderError
from memories.engine import failures
from memories.engine.catalogue import PROVIDERS, Kind, ProviderChoice
from memories.engine.choices import same_address

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0"})  # noqa: S104  (a word)
_UNKNOWN: Final = ("not found", "does not exist", "unknown", "no such")
# The statuses of a redirect, and of a server that has no such route.
_REDIRECT: Final = re.compile(r"\b30[1278]\b")
_NO_ROUTE: Final = re.compile(r"\b40[45]\b")
# Words in the system's message about a failed connection, and what they mean.
_UNREACHABLE: Final = (
    (("metadata address",), "{where} is a metadata address, which is never connected to."),
    (
        ("name or service", "name resolution", "nodename", "no address", "getaddrinfo"),
        "The name {host} cannot be resolved: is it spelt right, and known on this machine?",
    ),
    (
        ("wrong version number", "record layer", "unknown protocol"),
        "{where} does not speak TLS: does the address begin with http:// instead?",
    ),
    (
        ("certificate",),
        "The certificate of {where} is not trusted here: is it expired, of another name, or "
        "self-signed? SSL_CERT_FILE may name the authority that signed it.",
    ),
    (
        ("reset", "disconnected", "broken pipe", "incomplete", "closed"),
        "{where} broke the connection off in the middle: look at its log, and try again.",
    ),
)
# How to get a model onto a server.
_GET_MODEL: Final = {
    "ollama": " Fetch it there: ollama pull {model}",
    "lmstudio": " Load it in LM Studio.",
    "vllm": " vLLM serves the model that it was started with.",
    "azure_openai": " Azure asks for the name of your deployment.",
}


def hint(error: ProviderError, choice: ProviderChoice, kind: Kind) -> str:
    """One or two sentences for the person who configures this provider."""
    cause = error.cause.lower()
    who, where, model = _who(choice), _address(choice), choice.model
    if error.code == failures.AUTH:
        if not choice.config.get("api_key"):
            return f"{who} wants an API key, and none is configured."
        return (
            f"{who} does not accept the key: is it whole, valid, and of this provider, and may it "
            f"use {model}?"
        )
    if error.code == failures.LIMITED:
        return f"{who} limits this key: its quota is used up, or calls come too fast."
    if error.code == failures.TIMEOUT:
        setting = "PROVIDER_TIMEOUT" if kind == "llm" else "PROVIDER_EMBED_TIMEOUT"
        return (
            f"{who} did not answer in time. A local model may still be loading: try again. Where "
            f"it always takes that long, raise {setting}."
        )
    if error.code == failures.UNAVAILABLE:
        return _unavailable(where, who, cause)
    if error.code == failures.REFUSED:
        return _refused(choice, kind, cause)
    if error.code == failures.MALFORMED:
        what = "an embedding model" if kind == "embedder" else "a chat model"
        return (
            f"The answer cannot be read: is {model} {what}, and is {where} the address of an API, "
            "not of a web page?"
        )
    return f"This is an unusual failure: look at the log or the status page of {who}."


def listing_hint(error: ProviderError, choice: ProviderChoice) -> str:
    """One or two sentences for the person who wants to see the provider's models."""
    who, where = _who(choice), _address(choice)
    if error.code == failures.AUTH and choice.config.get("api_key"):
        return f"{who} does not accept the key: is it whole, valid, and of this provider?"
    if error.code == failures.TIMEOUT:
        return f"{who} did not list its models in time: try again, or type the model's name."
    if error.code == failures.MALFORMED:
        return (
            f"What {who} answers is no list of models: is {where} the address of an API, not of a "
            "web page?"
        )
    if error.code == failures.REFUSED and not _REDIRECT.search(error.cause):
        if not _NO_ROUTE.search(error.cause):
            return f"{who} does not list its models: {error.cause}"
        if _lacks_path(choice):
            return f"{where} answers, but not to this call: {_path_hint(choice)}"
        return f"{who} has no list of its models: type the model's name, or check the address."
    return hint(error, choice, "llm")


def hint_empty_list(choice: ProviderChoice, kind: Kind) -> str:
    """For a provider whose list has no model of this kind."""
    what = {"llm": "chat", "embedder": "embedding"}[kind]
    model = choice.model or getattr(PROVIDERS[choice.provider], kind)
    more = _GET_MODEL.get(choice.provider, "").format(model=model)
    return f"{_who(choice)} lists no {what} model.{more}"


def hint_no_list(choice: ProviderChoice) -> str:
    """For a provider that has no list of models."""
    name = " The list of its models cannot be asked for: type the model's name."
    return _GET_MODEL.get(choice.provider, name).strip()


def _address(choice: ProviderChoice) -> str:
    provider = PROVIDERS[choice.provider]
    return str(choice.config.get(provider.address) or provider.default_address or provider.called)


def _who(choice: ProviderChoice) -> str:
    """The provider's name, or its address if that is not the default."""
    provider, where = PROVIDERS[choice.provider], _address(choice)
    usual = provider.default_address
    return provider.called if usual and same_address(where, usual) else where


def _unavailable(where: str, who: str, cause: str) -> str:
    if re.search(r"\b5\d\d\b", cause):
        return f"{who} answers with an error of its own: look at its log or status page."
    parts = urlsplit(where)
    for words, meaning in _UNREACHABLE:
        if any(word in cause for word in words):
            return meaning.format(where=where, host=parts.hostname)
    if parts.hostname in _LOOPBACK:
        port = f":{parts.port}" if parts.port else ""
        return (
            f"Nothing listens at {where}. Is the server running? Inside a container, localhost is "
            f"the container itself: there, try http://host.docker.internal{port}{parts.path}"
        )
    if "refused" in cause:
        return (
            f"Nothing listens at {where}. Is the server running, and does it listen for other "
            "machines, not for its own alone?"
        )
    return f"{where} cannot be reached: check the address, the network and the firewall."


def _refused(choice: ProviderChoice, kind: Kind, cause: str) -> str:
    model, where = choice.model, _address(choice)
    if _REDIRECT.search(cause):
        return f"{where} sends calls elsewhere, which is not followed: configure the final address."
    if "model" in cause and any(word in cause for word in _UNKNOWN):
        more = _GET_MODEL.get(choice.provider, "").format(model=model)
        return f"The model {model} is not known at {_who(choice)}.{more}"
    if _NO_ROUTE.search(cause):
        return f"{where} answers, but not to this call: {_path_hint(choice)}"
    if kind == "embedder":
        return f"{model} refuses to embed: is it an embedding model?"
    return f"{_who(choice)} refuses the request; what it said stands beside this."


def _lacks_path(choice: ProviderChoice) -> bool:
    """Whether the address has no path although the provider's default has one."""
    usual = PROVIDERS[choice.provider].default_address
    return bool(urlsplit(usual).path) and not urlsplit(_address(choice)).path.rstrip("/")


def _path_hint(choice: ProviderChoice) -> str:
    usual = PROVIDERS[choice.provider].default_address
    if _lacks_path(choice):
        return f"the address lacks its path, mostly {urlsplit(usual).path}"
    return f"check the path in it (usual is {usual}) and the model's name."
