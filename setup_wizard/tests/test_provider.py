"""The second step: providers are chosen, tried out with one call each, and used from then on."""

import re
from typing import Any

import pytest
from django.test import Client

from memories import runtime
from memories.engine import configuration
from memories.providers import drafts
from memories.tests.provider import Provider
from setup_wizard.models import Progress
from setup_wizard.tests.wizard import (
    HOSTILE,
    NO_PROVIDER,
    PROVIDER_KEY,
    assert_inert,
    embedder_at,
    fields_of,
    llm_at,
    save,
    text_of,
)

pytestmark = pytest.mark.one_form

# Cards whose address can be set, and so be the stub's; these take the server's own, without path.
LLMS = (
    *("compatible", "anthropic", "gemini", "azure_openai", "ollama", "deepseek", "lmstudio"),
    *("vllm", "xai", "minimax"),
)
EMBEDDERS = ("compatible", "gemini", "azure_openai", "ollama", "lmstudio")
ORIGIN = {"anthropic", "gemini", "ollama", "azure_openai"}
NOBODY = "http://127.0.0.1:9/v1"


@pytest.fixture(autouse=True)
def _impatient(settings: Any) -> None:
    settings.PROVIDER_TIMEOUT = settings.PROVIDER_EMBED_TIMEOUT = 5
    settings.PROVIDER_DEADLINE = 10
    settings.PROVIDER_ATTEMPTS = 1


def card(provider: Provider, kind: str, offer: str, **values: str) -> dict[str, str]:
    """This card filled in for the stub."""
    model = {"llm": "stub-chat", "embedder": "stub-embed"}[kind]
    filled = {"address": provider.origin if offer in ORIGIN else provider.url, "model": model}
    if offer == "azure_openai":
        filled["api_version"] = "2024-10-21"
    return fields_of(kind, offer, **{**filled, "api_key": PROVIDER_KEY, **values})


def without_key(fields: dict[str, str]) -> dict[str, str]:
    return {name: "" if name.endswith("-api_key") else value for name, value in fields.items()}


def nothing_is_saved() -> bool:
    chosen = Progress.objects.filter(provider_chosen_at__isnull=False).exists()
    return not chosen and configuration.latest_row() is None


# --- Choosing ------------------------------------------------------------------------------------


def test_the_page_offers_what_is_installed_and_names_the_rest(signed_in: Client) -> None:
    answer = signed_in.get("/setup/provider")
    text, raw = text_of(answer), answer.content.decode()
    for offer in drafts.offers("llm"):
        assert (f'name="llm" value="{offer.id}"' in raw) == offer.installed
        assert offer.installed or f"pip install {offer.package}" in text
    for kind, name in (("llm", "none"), ("embedder", "local")):
        assert f'name="{kind}" value="{name}" checked' in raw
    # "Same as above" is for providers that embed.
    embedding = set(re.findall(r'name="llm" value="(\w+)"[^>]* data-embeds', raw))
    assert embedding == {o.id for o in drafts.offers("embedder") if o.installed}
    assert "anthropic" not in embedding and "compatible" in embedding


def test_without_a_provider_one_goes_on_at_once(signed_in: Client) -> None:
    answer = save(signed_in)
    assert (answer.status_code, answer["Location"]) == (302, "/setup/key")
    assert Progress.objects.get().provider_chosen_at is not None
    assert runtime.get_runtime().engine.llm is None
    assert "None: word for word" in text_of(signed_in.get("/setup/key"))


@pytest.mark.parametrize("offer", LLMS)
def test_every_llm_answers_and_is_used(signed_in: Client, provider: Provider, offer: str) -> None:
    provider.api_key = PROVIDER_KEY
    fields = card(provider, "llm", offer)
    answer = save(signed_in, fields, action="probe")
    assert answer.status_code == 200
    assert re.search(r"The model answered</b>.*stub-chat answered in [\d,]+ ms\.", text_of(answer))
    assert nothing_is_saved()
    # The key is in the draft by now, and the field is empty.
    answer = save(signed_in, without_key(fields))
    assert (answer.status_code, answer["Location"]) == (302, "/setup/key")
    llm = configuration.current_configuration().llm
    assert llm is not None and (llm.model, llm.config["api_key"]) == ("stub-chat", PROVIDER_KEY)
    assert runtime.get_runtime().engine.llm is not None
    assert "stub-chat answered in" in text_of(signed_in.get("/setup/key"))
    again = signed_in.get("/setup/provider")
    assert f'name="llm" value="{offer}" checked' in again.content.decode()
    assert f"Set, ends in …{PROVIDER_KEY[-3:]}." in text_of(again)


@pytest.mark.parametrize("offer", EMBEDDERS)
def test_every_embedder_answers_and_is_used(
    signed_in: Client, provider: Provider, offer: str
) -> None:
    provider.api_key = PROVIDER_KEY
    fields = card(provider, "embedder", offer)
    answer = save(signed_in, fields, action="probe")
    dims = 768 if offer == "gemini" else provider.dims
    assert re.search(rf"stub-embed answered in [\d,]+ ms, with {dims} dimensions", text_of(answer))
    assert save(signed_in, without_key(fields)).status_code == 302
    used = configuration.current_configuration()
    assert used.embedder is not None and (used.embedder.model, used.dims) == ("stub-embed", dims)
    assert runtime.get_runtime().engine.dims == dims


def test_the_embedder_can_be_whom_the_llm_is_from(signed_in: Client, provider: Provider) -> None:
    provider.api_key = PROVIDER_KEY
    same = {"embedder": "same", "embedder-same-model": "stub-embed"}
    answer = save(signed_in, llm_at(provider, api_key=PROVIDER_KEY), same, action="probe")
    text = text_of(answer)
    assert "Both models answered" in text and f"with {provider.dims} dimensions" in text
    assert 'name="embedder" value="same" checked' in answer.content.decode()
    assert save(signed_in, llm_at(provider), same).status_code == 302
    used = configuration.current_configuration()
    assert used.embedder is not None and used.embedder.config["api_key"] == PROVIDER_KEY
    assert (
        'name="embedder" value="same" checked' in signed_in.get("/setup/provider").content.decode()
    )


@pytest.mark.parametrize(
    ("llm", "told"),
    [
        ("anthropic", "Anthropic has no embedding models"),
        ("none", "Without a provider there are no embedding models"),
    ],
)
def test_nobody_embeds_who_has_no_embedding_models(
    signed_in: Client, provider: Provider, llm: str, told: str
) -> None:
    fields = card(provider, "llm", llm) if llm != "none" else {"llm": "none"}
    answer = save(signed_in, fields, {"embedder": "same", "embedder-same-model": ""})
    assert answer.status_code == 422
    assert told in text_of(answer)
    assert nothing_is_saved()


def test_at_another_address_the_same_embedder_needs_a_model(
    signed_in: Client, provider: Provider
) -> None:
    answer = save(signed_in, llm_at(provider), {"embedder": "same", "embedder-same-model": ""})
    assert answer.status_code == 422
    assert "Name the embedding model: there is no usual one at that address." in text_of(answer)


# --- Trying it out -------------------------------------------------------------------------------


FAILING: dict[str, tuple[Any, dict[str, str], str]] = {
    "refused": (lambda p: None, {"address": NOBODY}, "Nothing listens at http://127.0.0.1:9/v1."),
    "the key": (
        lambda p: setattr(p, "api_key", "another"),
        {},
        "does not accept the key: is it whole, valid, and of this provider",
    ),
    "the model": (
        lambda p: p.chat.missing_model(),
        {"model": "no-such-model"},
        "The model no-such-model is not known at",
    ),
    "the path": (
        lambda p: p.chat.fail(404, message="Not Found"),
        {"address": "{origin}/v2"},
        "answers, but not to this call",
    ),
    "no path": (
        lambda p: p.chat.fail(404, message="Not Found"),
        {"address": "{origin}"},
        "the address lacks its path, mostly /v1",
    ),
    "an error": (lambda p: p.chat.fail(500), {}, "answers with an error of its own"),
    "a web page": (lambda p: p.chat.answer_raw("<html>"), {}, "not of a web page"),
}


@pytest.mark.parametrize("case", FAILING)
def test_an_llm_that_does_not_answer_is_not_saved_unless_one_insists(
    signed_in: Client, provider: Provider, case: str
) -> None:
    break_it, values, told = FAILING[case]
    break_it(provider)
    values = {name: value.replace("{origin}", provider.origin) for name, value in values.items()}
    fields = llm_at(provider, **{"api_key": PROVIDER_KEY, **values})
    answer = save(signed_in, fields)
    assert answer.status_code == 422
    text = text_of(answer)
    assert "did not answer as it should" in text and told in text
    assert PROVIDER_KEY not in answer.content.decode()
    assert nothing_is_saved()
    assert 'value="save_anyway"' in answer.content.decode()
    # Trying it out is no failure of the form, and offers the same.
    answer = save(signed_in, without_key(fields), action="probe")
    assert answer.status_code == 200 and told in text_of(answer)
    answer = save(signed_in, without_key(fields), action="save_anyway")
    assert (answer.status_code, answer["Location"]) == (302, "/setup/key")
    llm = configuration.current_configuration().llm
    assert llm is not None and llm.config["api_key"] == PROVIDER_KEY
    assert "answered in" not in text_of(signed_in.get("/setup/key"))


def test_save_anyway_is_not_offered_where_all_is_well(
    signed_in: Client, provider: Provider
) -> None:
    for answer in (
        signed_in.get("/setup/provider"),
        save(signed_in, llm_at(provider), action="probe"),
    ):
        assert "save_anyway" not in answer.content.decode()


def test_a_chat_model_does_not_embed(signed_in: Client, provider: Provider) -> None:
    provider.embeddings.fail(400, message="This model does not support embeddings.")
    answer = save(signed_in, embedder_at(provider, model="stub-chat"))
    assert answer.status_code == 422
    text = text_of(answer)
    assert "stub-chat did not embed" in text
    assert "stub-chat refuses to embed: is it an embedding model?" in text
    assert nothing_is_saved()


def test_saved_anyway_a_failing_embedder_is_left_out(signed_in: Client, provider: Provider) -> None:
    before = runtime.get_runtime().engine.model_key
    provider.embeddings.fail(500)
    fields = (llm_at(provider), embedder_at(provider))
    answer = save(signed_in, *fields)
    assert answer.status_code == 422
    text = text_of(answer)
    assert f"it is left out, for its dimensions are not known: <code>{before}</code> goes" in text
    assert save(signed_in, *fields, action="save_anyway").status_code == 302
    used = configuration.current_configuration()
    assert used.llm is not None and used.embedder is None
    assert runtime.get_runtime().engine.model_key == before
    # Once it answers, it can be chosen still.
    provider.heal()
    assert save(signed_in, *fields).status_code == 302
    assert configuration.current_configuration().embedder is not None


def test_where_both_fail_both_are_told(signed_in: Client, provider: Provider) -> None:
    provider.chat.fail(500)
    provider.embeddings.fail(500)
    text = text_of(save(signed_in, llm_at(provider), embedder_at(provider)))
    assert "stub-chat did not answer as it should" in text and "stub-embed did not embed" in text


def test_another_embedder_than_that_of_stored_memories_is_refused_with_what_to_do(
    signed_in: Client, provider: Provider, key: Any, as_key: Any
) -> None:
    as_key(key()).add("I drink tea")
    before = runtime.get_runtime().engine.model_key
    for action in ("save", "save_anyway"):
        answer = save(signed_in, llm_at(provider), embedder_at(provider), action=action)
        assert answer.status_code == 422
        assert "manage.py reembed" in text_of(answer)
        assert runtime.get_runtime().engine.model_key == before
        assert configuration.current_configuration().llm is None
    # With the embedder as it is, one goes on.
    assert save(signed_in, llm_at(provider)).status_code == 302
    assert as_key(key()).search("tea")


# --- Which models there are ----------------------------------------------------------------------


def test_the_models_of_a_provider_are_shown_to_pick_from(
    signed_in: Client, provider: Provider
) -> None:
    provider.models = ["stub-chat", "b-embed", HOSTILE[:100], "stub-embed"]
    for kind, fields in (("llm", llm_at(provider)), ("embedder", embedder_at(provider))):
        for model in ("", "typed-by-hand"):
            fields[f"{kind}-compatible-model"] = model
            answer = save(signed_in, fields, action=f"{kind}_models")
            assert answer.status_code == 200
            text, raw = text_of(answer), answer.content.decode()
            assert "4 models: pick one" in text
            assert '<option value="stub-embed"></option>' in raw
            assert (f'value="{model}"' in raw) == bool(model) and "unnamed" not in raw
            assert "<img src=x" not in raw and "&lt;img src=x" in raw
        assert "Name a model." in text_of(
            save(signed_in, {**fields, f"{kind}-compatible-model": ""})
        )
    assert nothing_is_saved()
    assert provider.chat.count == provider.embeddings.count == 0


def test_the_list_of_one_kind_does_not_need_the_other_to_be_filled_in(
    signed_in: Client, provider: Provider
) -> None:
    unfinished = fields_of("embedder", "compatible", address="", model="")
    answer = save(signed_in, llm_at(provider, model=""), unfinished, action="llm_models")
    assert answer.status_code == 200 and "2 models: pick one" in text_of(answer)
    same = {"embedder": "same", "embedder-same-model": ""}
    answer = save(signed_in, llm_at(provider, model=""), same, action="embedder_models")
    assert answer.status_code == 200 and "2 models: pick one" in text_of(answer)


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lambda p: setattr(p, "api_key", "another"), "does not accept the key"),
        (lambda p: p.listing.fail(500), "answers with an error of its own"),
        (lambda p: p.listing.answer_raw("<html>"), "is no list of models"),
        (lambda p: setattr(p, "models", []), "lists no chat model"),
        (lambda p: p.stop(), "Nothing listens at"),
    ],
    ids=["the key", "an error", "a web page", "none", "gone"],
)
def test_why_there_is_no_list_is_told(signed_in: Client, break_it: Any, told: str) -> None:
    with Provider() as provider:
        break_it(provider)
        fields = llm_at(provider, api_key=PROVIDER_KEY, model="")
        answer = save(signed_in, fields, action="llm_models")
    assert answer.status_code == 200
    assert told in text_of(answer)
    assert PROVIDER_KEY not in answer.content.decode()


# --- What is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("http://169.254.169.254/v1", "metadata address, which is never connected to"),
        ("http://[fd00:ec2::254]/v1", "metadata address, which is never connected to"),
        ("http://[::ffff:169.254.169.254]/v1", "metadata address, which is never connected to"),
        ("http://2852039166/v1", "metadata address, which is never connected to"),
        ("http://0xa9fea9fe/", "metadata address, which is never connected to"),
        ("http://169.254.1.1:11434", "metadata address, which is never connected to"),
        ("http://100.100.100.200/", "metadata address, which is never connected to"),
        ("file:///etc/passwd", "begins with https:// or http://"),
        ("gopher://127.0.0.1/v1", "begins with https:// or http://"),
        ("javascript:alert(1)", "begins with https:// or http://"),
        ("127.0.0.1:8000", "begins with https:// or http://"),
        ("https://user:secret@example.org/v1", "no user name or password"),
        ("https://", "names a host"),
        ("http://a b/v1", "no spaces"),
        ("", "Enter the address."),
    ],
)
def test_an_address_that_no_provider_has_is_refused_at_its_field(
    signed_in: Client, provider: Provider, address: str, told: str
) -> None:
    for action in ("save", "save_anyway", "probe", "llm_models"):
        answer = save(signed_in, llm_at(provider, address=address, model="m"), action=action)
        assert answer.status_code == 422
        shown = re.search(
            r'id="id_llm-compatible-address_error".*?<span>(.*?)</span>',
            answer.content.decode(),
            re.DOTALL,
        )
        assert shown is not None and told in shown[1]
    assert nothing_is_saved()


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"llm": ""}, "Choose one of these."),
        ({"llm": "acme"}, "Choose one of these."),
        ({"llm": "litellm"}, "Choose one of these."),  # not installed
        ({"llm": "local"}, "Choose one of these."),
        ({"embedder": ""}, "Choose one of these."),
        ({"embedder": "none"}, "Choose one of these."),
        ({"embedder": "anthropic"}, "Choose one of these."),
        (fields_of("llm", "anthropic", model="m", address=""), "Anthropic needs an API key."),
        (fields_of("llm", "anthropic", address="", api_key="x" * 20), "Name a model."),
        (fields_of("llm", "azure_openai", address="", model=""), "Name your deployment."),
        (fields_of("llm", "azure_openai", address="", model=""), "Enter the version of Azure"),
        (fields_of("llm", "vllm", model="x" * 171), "at most 170 characters"),
        (fields_of("llm", "vllm", model="a\0b"), "Null characters are not allowed."),
        (fields_of("llm", "vllm", model="m", api_key="two words"), "A key is one line"),
        (fields_of("llm", "vllm", model="m", api_key="schlüssel"), "A key is one line"),
        (fields_of("llm", "vllm", model="m", api_key="a\nb"), "A key is one line"),
        (fields_of("llm", "vllm", model="m", api_key="x" * 2001), "at most 2000 characters"),
    ],
)
def test_what_does_not_fit_is_told_and_nothing_is_asked_or_saved(
    signed_in: Client, fields: dict[str, str], told: str
) -> None:
    answer = save(signed_in, fields)
    assert answer.status_code == 422
    assert told in text_of(answer)
    assert nothing_is_saved()
    assert "setup_provider" not in signed_in.session


def test_the_errors_of_both_kinds_show_at_once(signed_in: Client) -> None:
    answer = save(
        signed_in,
        fields_of("llm", "compatible", address="", model="m"),
        fields_of("embedder", "compatible", address="ftp://x", model=""),
    )
    text = text_of(answer)
    assert "Enter the address." in text and "begins with https://" in text
    assert "Name a model." in text


@pytest.mark.parametrize("action", ["", "drop", "acme_models", "save\0", "x" * 1000])
def test_an_action_that_is_none_is_refused(signed_in: Client, action: str) -> None:
    answer = signed_in.post("/setup/provider", {**NO_PROVIDER, "action": action})
    assert answer.status_code == 400
    assert "That cannot be done here." in text_of(answer)
    assert nothing_is_saved()


def test_hostile_texts_are_inert(signed_in: Client, provider: Provider) -> None:
    provider.chat.fail(400, message=HOSTILE)
    assert_inert(save(signed_in, llm_at(provider, model=HOSTILE), action="probe"))
    assert_inert(signed_in.get("/setup/provider"))
    assert_inert(save(signed_in, llm_at(provider, address=HOSTILE)))
    assert_inert(save(signed_in, llm_at(provider, model=HOSTILE), {"embedder": HOSTILE}))
    provider.heal()
    provider.chat.fail(404, message=f"The model {HOSTILE} does not exist")
    assert_inert(save(signed_in, llm_at(provider, model="m")))
    provider.heal()
    assert save(signed_in, llm_at(provider, model=HOSTILE)).status_code == 302
    assert_inert(signed_in.get("/setup/key"))
