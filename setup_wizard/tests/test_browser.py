"""The main job in a real browser: from the printed link to a found memory."""

import re

import pytest

from mem0dash.tests.browser import Site
from memories.tests.provider import Provider
from prove.server import free_port
from setup_wizard.tests.walk import (
    EMAIL,
    NAME,
    PASSWORD,
    PROVIDER_KEY,
    WRONG_KEY,
    Walk,
    assert_found_with,
    printed_link,
)

pytestmark = pytest.mark.browser


# --- Without a provider --------------------------------------------------------------------------


def test_from_the_link_to_a_found_memory_without_a_provider(fresh: Site) -> None:
    walk = Walk(fresh)
    _makes_the_account(walk)
    _goes_on_without_a_provider(walk)
    key = _makes_the_key(walk)
    _chooses_a_use_case(walk)
    _finds_a_memory(walk)
    assert_found_with(fresh, key)
    walk.visit.go("/setup")
    walk.told("Set-up is done")
    walk.looks("6-closed")


def _makes_the_account(walk: Walk) -> None:
    page = walk.page
    walk.open_link()
    assert page.url.endswith("/setup"), "the token stays in no history"
    assert "token" not in page.locator("body").inner_text().lower()
    walk.looks("1-account")
    walk.claim(password="short")
    walk.told("at least 8 characters")
    walk.fill(Your_name="", **{"E-mail_address": "mara"})
    walk.press("Create the account")
    walk.told("Enter your name")
    walk.told("Enter a whole e-mail address, such as you@example.org.")
    walk.has_focus(page.get_by_label("Your name"))
    walk.looks("1-mistakes")
    # Somebody without the link, with a token that is none.
    walk.visit.go("/setup")
    walk.fill(Setup_token="nearly-the-token")
    walk.claim()
    walk.told("This is not the setup token of this server.")
    walk.has_focus(page.get_by_label("Setup token"))
    walk.looks("1-wrong-token")
    walk.fill(Setup_token=printed_link(walk.site.server).partition("=")[2])
    walk.fill(Password=PASSWORD)
    walk.press("Create the account")
    walk.arrived("provider")


def _goes_on_without_a_provider(walk: Walk) -> None:
    page = walk.page
    assert page.get_by_text(EMAIL).is_visible(), "what the done step came to"
    assert page.get_by_role("radio", name=re.compile("No provider")).is_checked()
    walk.told("every message is kept word for word")
    walk.looks("2-none")
    page.reload()
    walk.visit.go("/setup/test")
    walk.arrived("provider")
    page.get_by_role("link", name="Back").click()
    walk.arrived("administrator")
    walk.fill(Your_name=NAME)
    walk.looks("1-made")
    walk.press("Save and continue")
    walk.arrived("provider")
    walk.press("Save and continue")
    walk.arrived("key")


def _makes_the_key(walk: Walk) -> str:
    page = walk.page
    walk.looks("3-key")
    other_tab = walk.open_another_tab()
    walk.fill(Name="")
    walk.press("Make the key")
    walk.told("Give the key a name.")
    walk.fill(Name="OpenCode on the laptop")
    walk.press("Make the key")
    key = str(page.get_by_label("API key").inner_text())
    assert key.startswith("m0sk_")
    walk.looks("3-made")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").first.click()
    walk.told("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == key
    for client in ("Python", "JavaScript", "OpenCode"):
        page.get_by_text(client, exact=True).click()
        assert key in page.get_by_label(client, exact=True).inner_text()
        assert not page.get_by_label("curl").is_visible(), "one at a time"
    # The other tab still shows the form from before.
    other_tab.get_by_role("button", name="Make the key").click()
    other_tab.get_by_text("A key was made already, perhaps in another tab").wait_for()
    other_tab.close()
    page.get_by_role("link", name="Back").click()
    walk.arrived("provider")
    page.get_by_role("link", name="First key").click()
    walk.arrived("key")
    walk.told("It was shown when it was made.")
    assert key not in page.content()
    page.get_by_text("Make another one in its place").click()
    walk.looks("3-again")
    page.get_by_role("link", name="Continue").click()
    walk.arrived("use-case")
    return key


def _chooses_a_use_case(walk: Walk) -> None:
    page = walk.page
    walk.press("Save and continue")
    walk.has_focus(walk.told("Choose one, or go on without.").locator("xpath=.."))
    walk.looks("4-none")
    page.get_by_text("Family and home").click()
    walk.press("Propose instructions for it")
    instructions = page.get_by_label("Instructions")
    walk.has_value(instructions, "allergies")
    instructions.fill("Keep allergies.")
    walk.press("Propose instructions for it")
    page.get_by_text("What stood there before").click()
    walk.told("Keep allergies.")
    walk.looks("4-proposed")
    walk.press("Save and continue")
    walk.arrived("test")


def _finds_a_memory(walk: Walk) -> None:
    page = walk.page
    walk.looks("5-test")
    page.get_by_label("Later somebody asks").fill("")
    walk.press("Add and find it")
    walk.told("Ask something that the sentence answers.")
    page.reload()
    walk.press("Add and find it")
    walk.told("Added, found and removed")
    walk.has_focus(page.locator("#result"))
    assert "Ilse" in page.locator("#result").inner_text()
    page.get_by_text("/search").click()
    walk.looks("5-found")
    walk.press("Open the dashboard")
    page.wait_for_url("**/dashboard")
    walk.told("mem0dash is set up.")
    walk.told("No memories yet")  # of the test nothing stays
    walk.looks("6-overview")


# --- With a provider, on a phone -----------------------------------------------------------------


def test_from_the_link_to_a_found_memory_with_a_provider(fresh: Site, stub: Provider) -> None:
    walk = Walk(fresh, width=390, theme="dark")
    walk.open_link()
    walk.claim()
    walk.arrived("provider")
    _connects(walk, stub)
    walk.press("Make the key")
    key = str(walk.page.get_by_label("API key").inner_text())
    walk.page.get_by_role("link", name="I have copied it, continue").click()
    _has_instructions_written(walk, stub)
    _finds_what_was_extracted(walk, stub)
    assert_found_with(fresh, key)
    assert stub.chat.count > 3, "the agent's memory was extracted as well"


def _connects(walk: Walk, stub: Provider) -> None:
    page = walk.page
    other_tab = walk.open_another_tab()
    llm = walk.card("OpenAI-compatible URL")
    address, key, model = (llm.get_by_label(name) for name in ("address", "API key", "Model"))
    walk.press("Test")
    walk.told("Enter the address.")
    walk.has_focus(address)
    walk.looks("2-incomplete")
    nowhere = f"http://127.0.0.1:{free_port()}/v1"
    address.fill(nowhere)
    key.fill(WRONG_KEY)
    llm.get_by_role("button", name="Show its models").click()
    walk.told("Nothing listens at")
    model.fill("stub-chat")
    walk.press("Test")
    walk.told("stub-chat did not answer as it should")
    walk.has_focus(page.locator("#trial"))
    walk.looks("2-unreachable")
    address.fill(stub.url)
    key.fill(WRONG_KEY)
    walk.press("Save and continue")
    walk.told("did not answer as it should")
    walk.told("does not accept the key: is it whole, valid")
    walk.looks("2-wrong-key")
    assert WRONG_KEY not in page.content()
    key.fill(PROVIDER_KEY)
    llm.get_by_role("button", name="Show its models").click()
    walk.told("2 models: pick one")
    walk.has_focus(model)
    walk.looks("2-models")
    _adds_the_embedder(walk, stub)
    other_tab.reload()
    shown = other_tab.get_by_role("group", name="OpenAI-compatible URL").first
    assert shown.get_by_label("Server address").input_value() == stub.url
    shown.get_by_text("Set, ends in …def.").wait_for()
    other_tab.get_by_role("button", name="Save and continue").click()
    other_tab.wait_for_url("**/setup/key")
    other_tab.close()


def _adds_the_embedder(walk: Walk, stub: Provider) -> None:
    same = walk.card("Same as above", kind="embedder")
    walk.press("Test")
    walk.told("Name the embedding model")
    same.get_by_label("Model").fill("stub-chat")
    stub.embeddings.fail(400, message="This model does not support embeddings.")
    walk.press("Save and continue")
    walk.told("stub-chat refuses to embed: is it an embedding model?")
    assert walk.page.get_by_role("button", name="Save anyway").is_visible()
    walk.looks("2-no-embedder")
    stub.heal()
    same.get_by_label("Model").fill("stub-embed")
    walk.press("Test")
    walk.told("Both models answered")
    walk.told("with 1536 dimensions")
    walk.looks("2-answered")
    walk.press("Save and continue")
    walk.arrived("key")
    walk.told("Saved. stub-chat answered in")


def _has_instructions_written(walk: Walk, stub: Provider) -> None:
    page = walk.page
    page.get_by_text("Something else").click()
    walk.press("Write instructions for it")
    walk.told("Say in a sentence what memories are for")
    walk.has_focus(page.get_by_role("textbox", name="In your own words"))
    own = page.get_by_role("textbox", name="In your own words")
    own.fill("A cook who knows what our guests eat.")
    stub.chat.fail(401)
    walk.press("Write instructions for it")
    walk.told("The model wrote none")
    assert "our guests" in page.get_by_role("textbox", name="In your own words").input_value()
    walk.looks("4-failed")
    stub.heal()
    said = '{"custom_instructions": "Keep diets.", "test_message": "Ilse eats no walnuts."}'
    stub.chat.answer(said, times=1)
    walk.press("Write instructions for it")
    walk.has_value(page.get_by_label("Instructions"), "Keep diets.")
    walk.has_focus(page.get_by_label("Instructions"))
    walk.press("Save and continue")
    walk.arrived("test")


def _finds_what_was_extracted(walk: Walk, stub: Provider) -> None:
    page = walk.page
    assert page.get_by_label("Somebody says").input_value() == "Ilse eats no walnuts."
    stub.chat.fail(401)
    walk.press("Add and find it")
    walk.told("The memory could not be added")
    walk.looks("5-failed")
    stub.heal()
    stub.chat.empty_list(times=1)
    walk.press("Try again")
    walk.told("The model found nothing worth keeping")
    walk.press("Try again")
    walk.told("Added, found and removed")
    walk.looks("5-extracted")
    walk.press("Open the dashboard")
    page.wait_for_url("**/dashboard")
