"""The main job by keyboard alone, where one sees what has the focus, and without JavaScript."""

import pytest

from mem0dash.tests.browser import Site
from memories.tests.provider import Provider
from setup_wizard.tests.walk import (
    EMAIL,
    NAME,
    PASSWORD,
    PROVIDER_KEY,
    WRONG_KEY,
    Walk,
    assert_found_with,
)

pytestmark = pytest.mark.browser


def test_all_of_it_by_keyboard_alone(fresh: Site, stub: Provider) -> None:
    walk = Walk(fresh)
    page, keys = walk.page, walk.page.keyboard
    walk.open_link()
    walk.tab_to(page.get_by_role("link", name="Skip to content"))
    keys.press("Enter")
    walk.tab_to(page.get_by_label("Your name"))
    keys.type(NAME)
    walk.tab_to(page.get_by_label("E-mail address"))
    keys.type(EMAIL)
    walk.tab_to(page.get_by_label("Password"))
    keys.type("short")
    keys.press("Enter")
    walk.told("at least 8 characters")
    walk.has_seen_focus(page.get_by_label("Password"))
    keys.type(PASSWORD)
    keys.press("Enter")
    walk.arrived("provider")
    _connects_by_keyboard(walk, stub)
    _makes_the_key_by_keyboard(walk)
    walk.tab_to(page.get_by_role("radio").first)
    keys.press("ArrowDown")
    keys.press("ArrowUp")
    walk.tab_to(page.get_by_role("button", name="Write instructions for it"))
    keys.press("Space")
    walk.has_seen_focus(page.get_by_label("Instructions"))
    walk.tab_to(page.get_by_role("button", name="Save and continue"))
    keys.press("Enter")
    walk.arrived("test")
    walk.tab_to(page.get_by_role("button", name="Add and find it"))
    keys.press("Enter")
    walk.has_seen_focus(page.locator("#result"))
    walk.tab_to(page.locator(".calls summary").first)
    keys.press("Enter")
    assert page.get_by_label("Sent").first.is_visible()
    walk.tab_to(page.get_by_role("button", name="Open the dashboard"))
    keys.press("Enter")
    page.wait_for_url("**/dashboard")
    assert not walk.visit.complaints


def _connects_by_keyboard(walk: Walk, stub: Provider) -> None:
    page, keys = walk.page, walk.page.keyboard
    llm = page.get_by_role("group", name="OpenAI-compatible URL").first
    walk.tab_to(page.locator("[name=llm][value=none]"))
    for _ in range(6):
        keys.press("ArrowDown")
    walk.has_seen_focus(page.locator("[name=llm][value=compatible]"))
    walk.tab_to(llm.get_by_label("Server address"))
    keys.type(stub.url)
    walk.tab_to(llm.get_by_label("API key"))
    keys.type(PROVIDER_KEY)
    # Enter saves, as everywhere, and not what the form's first button does.
    keys.press("Enter")
    walk.told("Name a model.")
    walk.has_seen_focus(llm.get_by_label("Model"))
    assert llm.get_by_label("API key").input_value() == PROVIDER_KEY, "it need not be typed again"
    ask = llm.get_by_role("button", name="Show its models")
    walk.tab_to(ask)
    stub.listing.fail(401)
    keys.press("Enter")
    walk.told("does not accept the key")
    walk.has_seen_focus(ask)
    stub.heal()
    keys.press("Space")
    walk.told("2 models: pick one")
    walk.has_seen_focus(llm.get_by_label("Model"))
    keys.type("stub-chat")
    walk.tab_to(page.locator("[name=embedder][value=local]"))
    keys.press("ArrowDown")
    walk.tab_to(page.get_by_role("button", name="Test", exact=True))
    keys.press("Enter")
    walk.told("Name the embedding model")
    walk.has_seen_focus(page.locator("#embedder-error"))
    walk.tab_to(page.locator("#id_embedder-same-model"))
    keys.type("stub-embed")
    walk.tab_to(page.get_by_role("button", name="Test", exact=True))
    keys.press("Space")
    walk.told("Both models answered")
    walk.has_seen_focus(page.locator("#trial"))
    walk.tab_to(page.get_by_role("button", name="Save and continue"))
    keys.press("Enter")
    walk.arrived("key")


def _makes_the_key_by_keyboard(walk: Walk) -> None:
    page, keys = walk.page, walk.page.keyboard
    walk.tab_to(page.get_by_role("link", name="Skip to content"))
    keys.press("Enter")
    walk.tab_to(page.get_by_label("Name"))
    walk.tab_to(page.locator("[name=rights][value=agent]"))
    walk.tab_to(page.get_by_role("combobox"))
    walk.tab_to(page.get_by_role("button", name="Make the key"))
    keys.press("Enter")
    walk.has_seen_focus(page.get_by_label("API key"))
    walk.tab_to(page.get_by_role("button", name="Copy").first)
    walk.tab_to(page.locator(".clients summary", has_text="curl"))
    walk.tab_to(page.get_by_role("link", name="I have copied it, continue"))
    keys.press("Enter")
    walk.arrived("use-case")


def test_all_of_it_without_a_script(fresh: Site, stub: Provider) -> None:
    walk = Walk(fresh, width=390, java_script_enabled=False)
    page = walk.page
    walk.open_link()
    walk.claim(password="short")
    walk.told("at least 8 characters")
    walk.fill(Password=PASSWORD)
    walk.press("Create the account")
    llm = walk.card("OpenAI-compatible URL")
    llm.get_by_label("Server address").fill(stub.url)
    llm.get_by_label("API key").fill(WRONG_KEY)
    llm.get_by_label("Model").fill("stub-chat")
    walk.press("Save and continue")
    walk.told("stub-chat did not answer as it should")
    llm.get_by_label("API key").fill(PROVIDER_KEY)
    llm.get_by_role("button", name="Show its models").click()
    walk.told("2 models: pick one")
    walk.press("Save and continue")
    assert not page.get_by_role("button", name="Copy").first.is_visible(), "nothing would happen"
    walk.press("Make the key")
    key = str(page.get_by_label("API key").inner_text())
    page.get_by_role("link", name="I have copied it, continue").click()
    page.get_by_text("Coding assistant").click()
    walk.press("Write instructions for it")
    assert page.get_by_label("Instructions").input_value()
    walk.press("Save and continue")
    walk.press("Add and find it")
    walk.told("Added, found and removed")
    walk.press("Open the dashboard")
    walk.told("mem0dash is set up.")
    assert_found_with(fresh, key)
