"""Marks on views that say what they may wait for, so that the dispatcher can choose a thread.

Requests that wait for a provider share threads with others that wait for the same. However long it
hangs, all other requests have their own threads.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs

from django.urls import ResolverMatch

View = TypeVar("View", bound=Callable[..., Any])


class ProviderWait(StrEnum):
    """What a request may wait for."""

    NOBODY = "nobody"
    # The embedder, for a query's vector: a few seconds at most, and search can do without.
    QUERY = "query"
    EMBEDDER = "embedder"
    # The LLM, and the embedder.
    LLM = "llm"
    # A provider that is being probed or chosen, or this server itself.
    PROVIDERS = "providers"
    # Components of this server, which may not answer when monitors ask.
    PARTS = "parts"


@dataclass(frozen=True, slots=True)
class IncomingRequest:
    """The parts of a request that are known before it has a thread."""

    method: str
    query: bytes
    body: bytes

    def parameters(self) -> dict[str, list[str]]:
        """The parameters of the query string."""
        return _form(self.query)

    def form(self) -> dict[str, list[str]]:
        """The fields of the body if it is a form."""
        return _form(self.body)


def _form(encoded: bytes) -> dict[str, list[str]]:
    return parse_qs(encoded.decode(errors="replace"), keep_blank_values=True)


Rule = Callable[[IncomingRequest], ProviderWait]
_MARK: Final = "waits_for"


def waits_for(rule: ProviderWait | Rule) -> Callable[[View], View]:
    """Marks a view, or a method of a view class, with what it may wait for, or a rule for that."""

    def mark(view: View) -> View:
        setattr(view, _MARK, rule)
        return view

    return mark


def waits_when_posted(waits: ProviderWait) -> Rule:
    """The rule for a page that waits only when its form is sent."""
    return lambda asked: waits if asked.method == "POST" else ProviderWait.NOBODY


def rule_of(match: ResolverMatch, method: str) -> ProviderWait | Rule:
    """The mark of the matched view."""
    view: Any = match.func
    if (class_ := getattr(view, "cls", None)) is not None:
        name = method.lower()
        view = getattr(class_, "get" if name == "head" else name, None)
    return getattr(view, _MARK, ProviderWait.NOBODY)


def waits_of(match: ResolverMatch, method: str, request: IncomingRequest) -> ProviderWait:
    """What this request may wait for."""
    rule = rule_of(match, method)
    return rule if isinstance(rule, ProviderWait) else rule(request)


# --- Requests that may need nobody after all -----------------------------------------------------
class WouldWaitError(BaseException):
    """The request needs a provider. Not an Exception, so that no handler turns it into an
    answer."""


_trying = threading.local()


@contextmanager
def without_waiting() -> Iterator[None]:
    """Makes this thread raise WouldWaitError in the block instead of waiting for a provider."""
    _trying.yes = True
    try:
        yield
    finally:
        _trying.yes = False


def about_to_wait() -> None:
    """Called before anything is written for a request that will wait for a provider."""
    if getattr(_trying, "yes", False):
        raise WouldWaitError
