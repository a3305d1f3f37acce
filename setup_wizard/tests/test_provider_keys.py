"""The second step: drafts wait to be saved, and keys go where they were meant for, nowhere else."""

import io
import json
from typing import Any

import pytest
from django.test import Client

from accounts.tests.signing import sign_in
from mem0dash.tests.test_secrets import dump, written
from memories.engine import configuration
from memories.providers import drafts
from memories.tests.provider import Provider
from setup_wizard.tests.test_provider import (
    _impatient,
    card,
    nothing_is_saved,
    without_key,
)
from setup_wizard.tests.wizard import (
    PROVIDER_KEY,
    embedder_at,
    fields_of,
    llm_at,
    save,
    text_of,
)

pytestmark = pytest.mark.one_form

__all__ = ["_impatient", "written"]  # fixtures


@pytest.fixture
def other() -> Any:
    """Another provider, at another address."""
    with Provider() as running:
        yield running


def sent_keys(provider: Provider) -> set[str]:
    """The keys that calls of the stub brought, "" for none."""
    return {request.headers.get("authorization", "") for request in provider.requests}


# --- Drafts --------------------------------------------------------------------------------------


def test_what_was_filled_in_survives_a_reload(signed_in: Client, provider: Provider) -> None:
    provider.chat.fail(500)
    fields = llm_at(provider, api_key=PROVIDER_KEY, model="of-mine")
    save(signed_in, fields, embedder_at(provider, model="my-embed"))
    answer = signed_in.get("/setup/provider")
    raw = answer.content.decode()
    for value in (provider.url, "of-mine", "my-embed"):
        assert f'value="{value}"' in raw
    assert f"Set, ends in …{PROVIDER_KEY[-3:]}." in text_of(answer)
    for kind in drafts.KINDS:
        assert f'name="{kind}" value="compatible" checked' in raw
    # Of this browser alone, until it is saved.
    assert nothing_is_saved()
    elsewhere = sign_in(signed_in.get("/setup/provider").wsgi_request.user)
    assert provider.url not in elsewhere.get("/setup/provider").content.decode()
    provider.heal()
    assert save(signed_in, without_key(fields)).status_code == 302
    assert "setup_provider" not in signed_in.session


@pytest.mark.parametrize(
    "kept", ["nonsense", [1], {"llm": {}}, {"llm": {"provider": "acme", "config": {}}}]
)
def test_a_draft_that_cannot_be_read_is_let_go(signed_in: Client, kept: Any) -> None:
    session = signed_in.session
    session["setup_provider"] = kept
    session.save()
    answer = signed_in.get("/setup/provider")
    assert answer.status_code == 200
    assert 'name="llm" value="none" checked' in answer.content.decode()


# --- Keys ----------------------------------------------------------------------------------------


def test_a_key_is_shown_nowhere_and_kept_encrypted(
    signed_in: Client,
    provider: Provider,
    written: io.StringIO,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever is wrong with the form, with what the provider says, and once it is saved."""
    provider.api_key = "another"  # it says the key back
    good = (llm_at(provider, api_key=PROVIDER_KEY), embedder_at(provider, api_key=PROVIDER_KEY))
    answers = [
        save(signed_in, *good, {"llm-compatible-model": ""}),
        save(signed_in, *good, {"llm-compatible-address": "http://169.254.169.254/"}),
        save(signed_in, *good, action="llm_models"),
        save(signed_in, *good, action="embedder_models"),
        save(signed_in, *good, action="probe"),
        save(signed_in, *good),
        signed_in.get("/setup/provider"),
    ]
    in_between = dump()
    provider.api_key = PROVIDER_KEY
    answers += [save(signed_in, *good, action="probe"), save(signed_in, *good)]
    assert answers[-1].status_code == 302
    answers += [signed_in.get(path) for path in ("/setup/key", "/setup/provider")]
    raw = "\n".join(answer.content.decode() for answer in answers)
    session = json.dumps(dict(signed_in.session), default=str)
    for place in (raw, in_between, dump(), written.getvalue(), caplog.text, session):
        assert PROVIDER_KEY not in place and "distinctive" not in place
    assert f"…{PROVIDER_KEY[-3:]}" in raw


def test_a_short_key_does_not_show_its_end(signed_in: Client, provider: Provider) -> None:
    save(signed_in, llm_at(provider, api_key="abc123"), action="probe")
    text = text_of(signed_in.get("/setup/provider"))
    assert "Set. Leave it empty to keep it" in text and "c123" not in text


@pytest.mark.parametrize("stage", ["in the draft", "saved"])
@pytest.mark.parametrize("action", ["probe", "save", "save_anyway", "llm_models"])
def test_a_key_never_goes_to_another_address(
    signed_in: Client, provider: Provider, other: Provider, stage: str, action: str
) -> None:
    first = llm_at(provider, api_key=PROVIDER_KEY)
    save(signed_in, first, action="probe" if stage == "in the draft" else "save")
    assert sent_keys(provider) == {f"Bearer {PROVIDER_KEY}"}
    save(signed_in, llm_at(other), action=action)
    assert other.requests
    assert not any(PROVIDER_KEY in str(request.headers) for request in other.requests)
    if action == "save":
        llm = configuration.current_configuration().llm
        assert llm is not None and "api_key" not in llm.config
    # Nor does it come back by itself where the draft or the server has forgotten it.
    provider.reset_counts()
    save(signed_in, llm_at(provider), action="probe")
    assert not any(PROVIDER_KEY in str(request.headers) for request in provider.requests)


def test_an_embedder_s_key_never_goes_to_another_address(
    signed_in: Client, provider: Provider, other: Provider
) -> None:
    save(signed_in, embedder_at(provider, api_key=PROVIDER_KEY))
    for action in ("probe", "save", "embedder_models"):
        save(signed_in, embedder_at(other), action=action)
    assert other.requests
    assert not any(PROVIDER_KEY in str(request.headers) for request in other.requests)


def test_with_the_address_unchanged_an_empty_field_keeps_the_key(
    signed_in: Client, provider: Provider
) -> None:
    save(signed_in, llm_at(provider, api_key=PROVIDER_KEY))
    for address in (provider.url, f"{provider.url}/", provider.url.upper().replace("/V1", "/v1")):
        provider.reset_counts()
        answer = save(signed_in, llm_at(provider, address=address, model="another"), action="probe")
        assert "another answered in" in text_of(answer), address
        assert sent_keys(provider) == {f"Bearer {PROVIDER_KEY}"}


def test_a_look_at_another_card_does_not_lose_a_saved_key(
    signed_in: Client, provider: Provider, other: Provider
) -> None:
    """It is there again for the same provider at the same address, and for nobody else."""
    save(signed_in, llm_at(provider, api_key=PROVIDER_KEY))
    save(signed_in, card(other, "llm", "anthropic", api_key="sk-of-another"), action="probe")
    save(signed_in, card(other, "llm", "deepseek", api_key="sk-of-another"), action="probe")
    save(signed_in, llm_at(other), action="llm_models")
    assert not any(PROVIDER_KEY in str(request.headers) for request in other.requests)
    save(signed_in, card(other, "llm", "deepseek", api_key="sk-of-another"), action="probe")
    provider.reset_counts()
    assert "The model answered" in text_of(save(signed_in, llm_at(provider), action="probe"))
    assert sent_keys(provider) == {f"Bearer {PROVIDER_KEY}"}


def test_a_provider_that_needs_a_key_finds_its_saved_one_again(
    signed_in: Client, provider: Provider, other: Provider
) -> None:
    provider.api_key = PROVIDER_KEY
    fields = card(provider, "llm", "deepseek")
    save(signed_in, fields)
    save(signed_in, card(other, "llm", "anthropic", api_key="sk-of-another"), action="probe")
    answer = save(signed_in, without_key(fields), action="probe")
    assert answer.status_code == 200
    assert "stub-chat answered in" in text_of(answer)


def test_openai_itself_never_gets_the_key_of_a_compatible_server(
    signed_in: Client, provider: Provider
) -> None:
    save(signed_in, llm_at(provider, api_key=PROVIDER_KEY))
    answer = save(signed_in, fields_of("llm", "openai", model="gpt-5-mini", api_key=""))
    assert answer.status_code == 422
    assert "OpenAI needs an API key." in text_of(answer).replace(
        "OpenAI, or any OpenAI-compatible URL", "OpenAI"
    )


def test_the_llm_s_key_does_not_go_where_the_embedder_was(
    signed_in: Client, provider: Provider, other: Provider
) -> None:
    """ "Same as above" is the LLM's address too, also where that is the usual one."""
    embedder = card(other, "embedder", "lmstudio", api_key="sk-of-the-embedder")
    assert save(signed_in, embedder).status_code == 302
    other.reset_counts()
    llm = fields_of("llm", "lmstudio", address="", model="m", api_key=PROVIDER_KEY)
    same = {"embedder": "same", "embedder-same-model": "stub-embed"}
    for action in ("probe", "embedder_models", "save_anyway"):
        save(signed_in, llm, same, action=action)
        assert not other.requests
    # And without a key of its own, the LLM's server does not get the embedder's.
    assert save(signed_in, embedder_at(other, api_key="sk-of-the-embedder")).status_code == 302
    assert save(signed_in, llm_at(provider), same).status_code == 302
    assert provider.embeddings.count
    assert not any("sk-of-the-embedder" in str(r.headers) for r in provider.requests)
    used = configuration.current_configuration().embedder
    assert used is not None and "api_key" not in used.config
