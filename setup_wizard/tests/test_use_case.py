"""The fourth step: what memories are for, in instructions that extraction is told."""

import json
from typing import Any

import pytest
from django.test import Client

from accounts.models import Project
from memories.providers.service import INSTRUCTIONS_LENGTH
from memories.tests.provider import Provider
from memories.tests.providing import use_llm
from setup_wizard.forms import OWN_WORDS_LENGTH
from setup_wizard.models import Progress
from setup_wizard.presets import PRESETS
from setup_wizard.tests.wizard import HOSTILE, assert_inert, go_to, llm_at, make_key, save, text_of

pytestmark = pytest.mark.one_form

CHOICE = {"preset": "coding", "use_case": "", "instructions": ""}


@pytest.fixture
def at_use_case(signed_in: Client) -> Client:
    go_to(signed_in, "use-case")
    return signed_in


@pytest.fixture
def with_llm(signed_in: Client, provider: Provider) -> Client:
    """At this step, with an LLM that was chosen before."""
    assert save(signed_in, llm_at(provider)).status_code == 302
    make_key(signed_in)
    provider.reset_counts()
    return signed_in


def send(signed_in: Client, action: str = "save", **fields: str) -> Any:
    return signed_in.post("/setup/use-case", {**CHOICE, **fields, "action": action})


def reply(instructions: Any, message: Any = "I use uv.") -> str:
    return json.dumps({"custom_instructions": instructions, "test_message": message})


def written_in(answer: Any) -> str:
    """The instructions as they stand in the form."""
    return str(answer.context["form"]["instructions"].value())


def saved() -> str:
    return Project.objects.get(slug="default").instructions


def is_done() -> bool:
    return bool(Progress.objects.get().use_case_chosen_at)


def test_every_use_case_is_offered_with_instructions_of_its_own() -> None:
    assert len(PRESETS) >= 5
    assert len({preset.instructions for preset in PRESETS.values()}) == len(PRESETS)
    for preset in PRESETS.values():
        assert preset.title and preset.instructions and preset.message and preset.question


def test_without_an_llm_the_instructions_of_the_use_case_are_proposed(at_use_case: Client) -> None:
    page = text_of(at_use_case.get("/setup/use-case"))
    assert all(preset.title in page for preset in PRESETS.values())
    assert "Propose instructions for it" in page and "There is none yet" in page
    for name, preset in PRESETS.items():
        answer = send(at_use_case, "write", preset=name)
        assert answer.status_code == 200
        assert written_in(answer) == preset.instructions
    # Proposed is not saved.
    assert saved() == "" and not is_done()


def test_what_is_saved_holds_for_the_project(at_use_case: Client) -> None:
    answer = send(at_use_case, use_case=" Go and Rust ", instructions=" Keep versions. \n")
    assert (answer.status_code, answer["Location"]) == (302, "/setup/test")
    assert saved() == "Keep versions." and is_done()
    again = at_use_case.get("/setup/use-case")
    assert 'value="coding" checked' in again.content.decode()
    assert written_in(again) == "Keep versions."
    assert again.context["form"]["use_case"].value() == "Go and Rust"


def test_who_goes_on_without_has_no_instructions(at_use_case: Client) -> None:
    send(at_use_case, instructions="Keep versions.")
    answer = send(at_use_case, "skip", preset="nonsense", instructions="x" * 50_000)
    assert (answer.status_code, answer["Location"]) == (302, "/setup/test")
    assert saved() == "" and is_done()
    assert "No instructions" in text_of(at_use_case.get("/setup/test"))


def test_an_llm_writes_the_instructions_and_something_to_try_them_with(
    with_llm: Client, provider: Provider
) -> None:
    assert "Write instructions for it" in text_of(with_llm.get("/setup/use-case"))
    provider.chat.answer(reply("Keep conventions.", "We use uv, never pip."))
    answer = send(with_llm, "write", use_case="Two repositories in Go")
    assert answer.status_code == 200
    assert written_in(answer) == "Keep conventions."
    asked = json.dumps(provider.chat.requests[-1].body)
    assert PRESETS["coding"].use_case in asked and "Two repositories in Go" in asked
    # The project has them once they are saved, not before.
    assert saved() == "" and not is_done()
    send(with_llm, instructions=written_in(answer))
    assert saved() == "Keep conventions."
    assert "We use uv, never pip." in text_of(with_llm.get("/setup/test"))


def test_what_stood_there_before_is_not_lost(with_llm: Client, provider: Provider) -> None:
    provider.chat.answer(reply("Keep conventions."))
    answer = send(with_llm, "write", instructions="Mine, by hand.")
    assert written_in(answer) == "Keep conventions."
    assert "What stood there before" in text_of(answer) and "Mine, by hand." in text_of(answer)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (lambda chat: chat.fail(401), "Provider rejected the request (authentication)."),
        (lambda chat: chat.fail(500), "Provider is unreachable or returned a server error."),
        (lambda chat: chat.empty_content(), "Provider answered with something"),
        (lambda chat: chat.answer('{"custom_instructions": "  "}'), "Provider answered with"),
        (lambda chat: chat.answer('{"custom_instructions": ["x"]}'), "Provider answered with"),
    ],
    ids=["the key", "broken", "nothing", "blank", "no text"],
)
def test_where_the_llm_fails_the_cause_is_told_and_what_was_typed_stays(
    with_llm: Client, provider: Provider, settings: Any, fault: Any, told: str
) -> None:
    fault(provider.chat)
    settings.PROVIDER_ATTEMPTS = 1
    save(with_llm, llm_at(provider), action="save_anyway")  # with one attempt
    answer = send(with_llm, "write", use_case="My own words", instructions="Mine, by hand.")
    assert answer.status_code == 422
    text = text_of(answer)
    assert "The model wrote none" in text and told in text
    assert written_in(answer) == "Mine, by hand."
    assert answer.context["form"]["use_case"].value() == "My own words"
    assert 'value="coding" checked' in answer.content.decode()
    assert saved() == "" and not is_done()
    # It stands in nobody's way.
    assert send(with_llm, instructions="Mine, by hand.").status_code == 302


def test_an_own_use_case_is_asked_for_in_words(with_llm: Client, provider: Provider) -> None:
    answer = send(with_llm, "write", preset="other")
    assert answer.status_code == 422
    assert "Say in a sentence what memories are for" in text_of(answer)
    assert provider.chat.count == 0
    provider.chat.answer(reply("Keep recipes."))
    answer = send(with_llm, "write", preset="other", use_case="Cooking")
    assert written_in(answer) == "Keep recipes."


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"preset": ""}, "Choose one, or go on without."),
        ({"preset": "nonsense"}, "Select a valid choice."),
        ({"use_case": "x" * (OWN_WORDS_LENGTH + 1)}, f"at most {OWN_WORDS_LENGTH} characters"),
        (
            {"instructions": "x" * (INSTRUCTIONS_LENGTH + 1)},
            f"at most {INSTRUCTIONS_LENGTH} characters",
        ),
        ({"instructions": "a\0b"}, "Null characters are not allowed."),
    ],
)
@pytest.mark.parametrize("action", ["save", "write"])
def test_what_does_not_fit_is_told_and_not_saved(
    at_use_case: Client, action: str, fields: dict[str, str], told: str
) -> None:
    answer = send(at_use_case, action, **fields)
    assert answer.status_code == 422
    assert told in text_of(answer)
    assert saved() == "" and not is_done()


def test_the_longest_words_that_fit_are_taken_by_the_llm_too(
    with_llm: Client, provider: Provider
) -> None:
    provider.chat.answer(reply("Keep it."))
    for name in PRESETS:
        answer = send(with_llm, "write", preset=name, use_case="x" * OWN_WORDS_LENGTH)
        assert answer.status_code == 200, text_of(answer)
        assert written_in(answer) == "Keep it."


@pytest.mark.parametrize(
    ("instructions", "message"),
    [("Keep \0 this.", "I \0 like tea."), ("Keep \ud800 this.", "I \udfff like tea.")],
    ids=["the character 0", "half a character"],
)
def test_what_no_database_keeps_is_not_in_what_the_llm_writes(
    with_llm: Client, provider: Provider, instructions: str, message: str
) -> None:
    provider.chat.answer(reply(instructions, message))
    answer = send(with_llm, "write")
    assert answer.status_code == 200
    assert written_in(answer).startswith("Keep ") and written_in(answer).endswith(" this.")
    assert send(with_llm, instructions=written_in(answer)).status_code == 302
    assert "like tea." in text_of(with_llm.get("/setup/test"))


def test_an_endless_reply_can_be_shortened_by_hand(with_llm: Client, provider: Provider) -> None:
    provider.chat.answer(reply("x" * (INSTRUCTIONS_LENGTH + 1), "y" * 50_000))
    answer = send(with_llm, "write")
    assert answer.status_code < 500
    assert f"at most {INSTRUCTIONS_LENGTH} characters" in text_of(answer)
    assert send(with_llm, instructions="x").status_code == 302
    assert len(with_llm.get("/setup/test").context["form"]["message"].value()) == 2000


def test_hostile_texts_are_inert(with_llm: Client, provider: Provider) -> None:
    provider.chat.answer(reply(HOSTILE, HOSTILE))
    assert_inert(send(with_llm, "write", instructions=f"{HOSTILE} before"))
    assert_inert(send(with_llm, "write", preset=HOSTILE, use_case=HOSTILE))
    provider.heal()
    provider.chat.fail(400, message=HOSTILE)
    assert_inert(send(with_llm, "write", use_case=HOSTILE))
    assert send(with_llm, use_case=HOSTILE, instructions=HOSTILE).status_code == 302
    assert_inert(with_llm.get("/setup/use-case"))
    assert_inert(with_llm.get("/setup/test"))


def test_extraction_is_told_what_was_saved(
    with_llm: Client, provider: Provider, engine: Any, key: Any, as_key: Any
) -> None:
    send(with_llm, instructions="Keep versions, and nothing of the weather.")
    use_llm(engine, provider)
    as_key(key()).post(
        "/memories", {"messages": [{"role": "user", "content": "I like tea."}], "user_id": "eve"}
    )
    assert "nothing of the weather" in json.dumps(provider.chat.requests[-1].body)
