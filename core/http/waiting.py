"""What a view may wait for: a mark on the view, by which the dispatcher chooses its thread.

Whoever waits for a provider has a thread among those that wait for the same. However long it hangs,
everything else finds a thread of its own.
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
    """Whom a request may wait for."""

    NOBODY = "nobody"
    # The embedder, for the vector of a query: for seconds, and search can do without.
    QUERY = "query"
    EMBEDDER = "embedder"
    # And for the embedder.
    LLM = "llm"
    # One that is tried out or chosen, or this server itself.
    PROVIDERS = "providers"
    # Parts of this server that may not answer: monitors want to know it then above all.
    PARTS = "parts"


@dataclass(frozen=True, slots=True)
class IncomingRequest:
    """A request as far as it is known before it has a thread."""

    method: str
    query: bytes
    body: bytes

    def parameters(self) -> dict[str, list[str]]:
        """What stands in the address."""
        return _form(self.query)

    def form(self) -> dict[str, list[str]]:
        """What stands in the body, where that is a form."""
        return _form(self.body)


def _form(encoded: bytes) -> dict[str, list[str]]:
    return parse_qs(encoded.decode(errors="replace"), keep_blank_values=True)


Rule = Callable[[IncomingRequest], ProviderWait]
_MARK: Final = "waits_for"


def waits_for(rule: ProviderWait | Rule) -> Callable[[View], View]:
    """Marks a view, or a method of a view class: whom it may wait for, or how a request tells."""

    def mark(view: View) -> View:
        setattr(view, _MARK, rule)
        return view

    return mark


def waits_when_posted(waits: ProviderWait) -> Rule:
    """A page that waits when its form is sent, and never when it is shown."""
    return lambda asked: waits if asked.method == "POST" else ProviderWait.NOBODY


def rule_of(match: ResolverMatch, method: str) -> ProviderWait | Rule:
    """The mark of the view that answers."""
    view: Any = match.func
    if (class_ := getattr(view, "cls", None)) is not None:
        name = method.lower()
        view = getattr(class_, "get" if name == "head" else name, None)
    return getattr(view, _MARK, ProviderWait.NOBODY)


def waits_of(match: ResolverMatch, method: str, asked: IncomingRequest) -> ProviderWait:
    """Whom this request may wait for."""
    rule = rule_of(match, method)
    return rule if isinstance(rule, ProviderWait) else rule(asked)


# --- Requests that may need nobody after all -----------------------------------------------------
class WouldWaitError(BaseException):
    """What a request asks for needs a provider. No Exception: nobody makes an answer of it."""


_trying = threading.local()


@contextmanager
def without_waiting() -> Iterator[None]:
    """What this thread does in here waits for no provider: WouldWaitError instead."""
    _trying.yes = True
    try:
        yield
    finally:
        _trying.yes = False


def about_to_wait() -> None:
    """Called before anything is written for a request that will wait for a provider."""
    if getattr(_trying, "yes", False):
        raise WouldWaitError
