"""Whom a request really waits for, as the providers are configured now."""

from core.errors import IndexUnavailableError
from core.http.waiting import ProviderWait
from memories import runtime


def really(waits: ProviderWait) -> ProviderWait:
    """No request waits for a provider that is not configured."""
    if waits not in {ProviderWait.EMBEDDER, ProviderWait.LLM}:
        return waits
    try:
        engine = runtime.get_runtime().engine
    except IndexUnavailableError:
        return ProviderWait.NOBODY
    if waits is ProviderWait.LLM and engine.llm is not None:
        return ProviderWait.LLM
    # Without a configured embedder it is the local model.
    return ProviderWait.NOBODY if engine.chosen is None else ProviderWait.EMBEDDER
