"""What the tests of the steps share: filled-in forms, the way to a step, what pages say."""

import html
import re
from typing import Any, Final

from django.test import Client

from memories.tests.provider import Provider

HOSTILE: Final = "\"'><img src=x onerror=alert(1)><script>alert(2)</script>{{ 7|add:7 }}"
PROVIDER_KEY: Final = "sk-distinctive-4711-of-mine"
# The steps behind the first one, in their order.
LATER: Final = ("provider", "key", "use-case", "test")
NO_PROVIDER: Final = {"llm": "none", "embedder": "local"}
KEY: Final = {"label": "First key", "rights": "agent", "expiry": "90", "former": ""}


def text_of(answer: Any) -> str:
    """What the page says, entities read and blanks joined."""
    return html.unescape(re.sub(r"\s+", " ", answer.content.decode()))


def assert_inert(answer: Any) -> None:
    """HOSTILE is on the page, and nothing but text there."""
    raw = answer.content.decode()
    assert "<img src=x" not in raw and "<script>alert" not in raw
    assert "&lt;img src=x onerror=alert(1)&gt;" in raw
    assert "{{ 7|add:7 }}" in raw


def form_token(answer: Any) -> str:
    """The form token of a page."""
    found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', answer.content.decode())
    assert found is not None
    return found[1]


def fields_of(kind: str, offer: str, **values: str) -> dict[str, str]:
    """The fields of one card, picked."""
    return {kind: offer, **{f"{kind}-{offer}-{name}": value for name, value in values.items()}}


def llm_at(provider: Provider, offer: str = "compatible", **values: str) -> dict[str, str]:
    """A chat model at the stub."""
    return fields_of("llm", offer, **{"address": provider.url, "model": "stub-chat", **values})


def embedder_at(provider: Provider, offer: str = "compatible", **values: str) -> dict[str, str]:
    """An embedding model at the stub."""
    return fields_of(
        "embedder", offer, **{"address": provider.url, "model": "stub-embed", **values}
    )


def save(client: Client, *fields: dict[str, str], action: str = "save") -> Any:
    """Sends the form of the providers; what is not named is local."""
    sent = dict(NO_PROVIDER)
    for more in fields:
        sent |= more
    return client.post("/setup/provider", {**sent, "action": action})


def make_key(client: Client, **fields: str) -> str:
    """Makes the key; what the page shows of it."""
    answer = client.post("/setup/key", {**KEY, **fields})
    assert answer.status_code == 200, answer.content
    return shown_key(answer)


def shown_key(answer: Any) -> str:
    found = re.search(r'<code id="key"[^>]*>([^<]+)</code>', answer.content.decode())
    assert found is not None
    return found[1]


def go_to(client: Client, step: str) -> None:
    """Takes the steps before `step`, each in its shortest way."""
    before = LATER[: LATER.index(step)]
    if "provider" in before:
        assert save(client).status_code == 302
    if "key" in before:
        make_key(client)
    if "use-case" in before:
        answer = client.post("/setup/use-case", {"action": "skip"})
        assert answer["Location"] == "/setup/test"
