"""The settings in a real browser: how they look, by keyboard, without a script."""

from typing import Any

import pytest

from mem0dash.tests.browser import Site

pytestmark = [pytest.mark.browser, pytest.mark.long]

PAGE = "/dashboard/settings"
UNFINISHED = {
    'id="late-progress"': f'id="late-progress" hx-get="{PAGE}" hx-trigger="every 1s"'
    ' hx-swap="outerHTML"',
    "3 of 3 memories (100 %)": "12,345 of 20,000 memories (61 %)",
    'value="3" max="3"': 'value="12345" max="20000"',
}
TEXTS = ("Drinks tea at four", "Owns a boat", "Walks to work")


@pytest.fixture(scope="module")
def lived_in(site: Site) -> Site:
    client = site.server.client()
    for text in TEXTS:
        client.add(text, user_id="mara")
    client.close()
    return site


def test_the_page_is_sound_on_and_off(lived_in: Site) -> None:
    lived_in.check_page(PAGE, "settings")
    visit = lived_in.visit(storage_state=lived_in.signed_in())
    page = visit.page
    visit.go(PAGE)
    page.get_by_role("button", name="Switch off").click()
    page.get_by_text("Late interaction is off.").wait_for()
    visit.keep_looks("settings-off")
    page.get_by_role("link", name="Remove what is kept").click()
    page.get_by_role("button", name="Remove it").wait_for()
    visit.keep_looks("settings-remove")
    visit.go(PAGE)
    page.get_by_role("button", name="Switch on").click()
    page.get_by_text("Late interaction is on.").wait_for()
    visit.context.close()


def test_progress_is_followed_to_its_end(lived_in: Site) -> None:
    """As the server would tell it of more memories than a test makes."""
    visit = lived_in.visit(storage_state=lived_in.signed_in())
    page = visit.page
    is_done: list[bool] = []

    def answer(route: Any) -> None:
        body = route.fetch().text()
        if not is_done:
            for told, instead in UNFINISHED.items():
                assert told in body
                body = body.replace(told, instead)
        route.fulfill(status=200, content_type="text/html", body=body)

    page.route(f"**{PAGE}", answer)
    visit.go(PAGE)
    button = page.get_by_role("button", name="Switch off")
    button.focus()
    visit.keep_looks("settings-progress")
    with page.expect_response(f"**{PAGE}"):
        page.get_by_text("12,345 of 20,000 memories (61 %)").wait_for()
    is_done.append(True)
    page.get_by_text("3 of 3 memories (100 %)").wait_for()
    assert button.evaluate("e => e === document.activeElement")
    assert page.locator("#late-progress").get_attribute("hx-get") is None
    visit.assert_sound("after the progress")
    page.unroute_all(behavior="wait")
    visit.context.close()


def test_one_switches_off_and_removes_by_keyboard_alone(lived_in: Site) -> None:
    visit = lived_in.visit(storage_state=lived_in.signed_in())
    page = visit.page
    visit.go("/dashboard")
    page.get_by_role("link", name="Settings").focus()
    page.keyboard.press("Enter")
    page.wait_for_url(f"**{PAGE}")
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.locator(":focus").inner_text() == "Switch off":
            break
    page.keyboard.press("Enter")
    page.get_by_text("Late interaction is off.").wait_for()
    page.get_by_role("link", name="Remove what is kept").focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Remove it").wait_for()
    # What does no harm is under the finger.
    assert page.locator(":focus").inner_text() == "Cancel"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_text("Removed what was kept of 3 memories.").wait_for()
    page.get_by_role("button", name="Switch on").focus()
    page.keyboard.press("Enter")
    page.get_by_text("Late interaction is on.").wait_for()
    # The server makes it again, and the page follows.
    page.get_by_text("3 of 3 memories (100 %)").wait_for()
    visit.assert_sound("after switching")
    visit.context.close()


def test_all_of_it_works_without_a_script(lived_in: Site) -> None:
    state = lived_in.signed_in()
    visit = lived_in.visit(width=390, java_script_enabled=False, storage_state=state)
    page = visit.page
    visit.go(PAGE)
    page.get_by_role("button", name="Switch off").click()
    assert "Late interaction is off." in page.locator("#messages").inner_text()
    page.get_by_role("link", name="Remove what is kept").click()
    page.get_by_role("link", name="Cancel").click()
    page.get_by_role("button", name="Switch on").click()
    assert "Late interaction is on." in page.locator("#messages").inner_text()
    visit.context.close()
