"""The memory browser in a real browser: by mouse, by keyboard alone, without a script."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mem0dash.tests.browser import Site, Visit
from memories.tests.pages import HOSTILE

pytestmark = [pytest.mark.browser, pytest.mark.long]

LIST = "/dashboard/memories"


@pytest.fixture(scope="module")
def lived_in(site: Site) -> Site:
    site.server.manage("demo")
    client = site.server.client()
    client.add(HOSTILE, user_id=HOSTILE.replace(" ", ""), metadata={"source": HOSTILE[:90]})
    client.close()
    return site


@pytest.fixture
def visit(lived_in: Site) -> Iterator[Visit]:
    made = lived_in.visit(storage_state=lived_in.signed_in())
    yield made
    made.context.close()


@pytest.fixture
def own(lived_in: Site) -> Iterator[Any]:
    """`own(text)` stores a memory of the user "own"; they are gone after the test."""
    client = lived_in.server.client()
    ids: list[str] = []

    def store(*texts: str, **fields: Any) -> list[str]:
        made = [row["id"] for row in client.add(*texts, user_id="own", **fields)]
        ids.extend(made)
        return made

    yield store
    for id_ in ids:
        client.request("DELETE", f"/memories/{id_}")
    client.close()


def open_first(page: Any) -> None:
    page.locator("a.mem-text").first.click()
    page.locator("#inspector-title").wait_for()


def open_filters(page: Any) -> None:
    page.locator("#filter-chip").click()
    page.locator(".facet-group").first.wait_for()


def tick(page: Any) -> None:
    page.locator("input[name=ids]").first.click()
    page.locator(".bulk").wait_for()


# --- What it looks like --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "name", "act"),
    [
        (LIST, "memories", None),
        (f"{LIST}?user_id=mara", "memories-open", open_first),
        (f"{LIST}?user_id=mara", "filter-menu", open_filters),
        (LIST, "memories-ticked", tick),
        (f"{LIST}?q=food+allergy", "memories-meaning", None),
        (f"{LIST}?q=zebra&mode=words&user_id=mara", "memories-none", None),
        (f"{LIST}/filters?user_id=mara", "filters", None),
        (f"{LIST}/add", "memory-add", None),
        (f"{LIST}/views", "views", None),
    ],
)
def test_the_pages_are_sound(lived_in: Site, path: str, name: str, act: Any) -> None:
    lived_in.check_page(path, name, act=act)


def test_the_steps_of_an_edit_are_sound(lived_in: Site, own: Any) -> None:
    [id_] = own("Moves the billing service to Django 5.1; tests stay on pytest.")

    def edit(page: Any) -> None:
        page.get_by_label("Text").fill("Moves the billing service to Django 5.2 this quarter.")
        page.get_by_role("button", name="Review the change").click()
        page.get_by_role("heading", name="Review the change").wait_for()

    def conflict(page: Any) -> None:
        page.get_by_label("Text").fill("Moves the billing service to Django 6.")
        client = lived_in.server.client()
        client.update(id_, text=f"Moves to Django {page.viewport_size}")
        client.close()
        page.get_by_role("button", name="Review the change").click()
        page.get_by_role("heading", name="It has changed meanwhile").wait_for()

    lived_in.check_page(f"{LIST}/{id_}/edit", "memory-edit")
    lived_in.check_page(f"{LIST}/{id_}/edit", "memory-edit-review", act=edit)
    lived_in.check_page(f"{LIST}/{id_}/edit", "memory-edit-conflict", act=conflict)


def test_what_is_loading_and_what_failed_is_told(visit: Visit) -> None:
    page = visit.page
    visit.go(LIST)
    page.route("**/dashboard/memories?*", lambda route: None)
    page.locator("a.mem-text").first.click()
    page.locator(".inspector-wait .skeleton").first.wait_for()
    assert page.locator("#inspector-slot").get_attribute("aria-busy") == "true"
    page.unroute_all(behavior="ignoreErrors")
    visit.go(LIST)
    sentence = '<p data-error>The database does not answer. <img src="x"></p>'
    page.route("**/memories?*", lambda route: route.fulfill(status=502, body=sentence))
    page.locator("#page-next").click()
    page.locator(".toastish").wait_for()
    assert page.locator(".toastish").inner_text() == "The database does not answer."
    assert page.locator("a.mem-text").count() == 50


# --- By hand -------------------------------------------------------------------------------------


def test_filtering_keeps_everything_in_the_address(visit: Visit) -> None:
    page = visit.page
    visit.go(LIST)
    open_filters(page)
    page.locator(".facet-group summary", has_text="User").click()
    page.locator('input[name="user_id"][value="mara"]').check()
    page.get_by_role("button", name="Apply").click()
    page.locator(".chip.is-on").wait_for()
    assert page.url.endswith(f"{LIST}?user_id=mara")
    total = page.locator("#total").inner_text()
    assert 0 < int(total) < 100
    page.locator("#search").fill("quinces")
    page.locator("#search").press("Enter")
    page.get_by_text("Found by meaning").wait_for()
    page.locator(".search-mode label", has_text="Words").click()
    page.get_by_text("Found by words").wait_for()
    assert page.url.endswith(f"{LIST}?q=quinces&mode=words&user_id=mara")
    assert all("quinces" in text.lower() for text in page.locator("a.mem-text").all_inner_texts())
    page.go_back()
    page.get_by_text("Found by meaning").wait_for()
    page.go_forward()
    page.get_by_text("Found by words").wait_for()
    page.get_by_label("Remove filter: user").click()
    page.locator(".chip.is-on").wait_for(state="detached")
    assert page.url.endswith(f"{LIST}?q=quinces&mode=words")
    visit.assert_sound("after filtering")


def test_paging_by_htmx_and_the_page_field(visit: Visit) -> None:
    page = visit.page
    visit.go(LIST)
    first = page.locator("a.mem-text").first.inner_text()
    page.locator("#page-next").click()
    page.wait_for_url("**/memories?page=2")
    page.get_by_text("51–100 of").wait_for()
    assert page.evaluate("document.activeElement.id") == "page-next"
    page.get_by_label("Page", exact=True).fill("1")
    page.get_by_label("Page", exact=True).press("Enter")
    page.get_by_text("1–50 of").wait_for()
    assert page.locator("a.mem-text").first.inner_text() == first
    visit.assert_sound("after paging")


def test_one_reads_edits_and_undoes_by_keyboard_alone(visit: Visit, own: Any) -> None:
    own("Starts at nine", "Leaves at five")
    page = visit.page
    visit.go(f"{LIST}?user_id=own")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("j")  # no shortcut while somebody types
    assert page.locator("#search").input_value() == "j"
    page.locator("#search").fill("")
    page.locator("#search").blur()
    page.keyboard.press("j")
    focused = page.locator(":focus")
    assert focused.inner_text() == "Leaves at five"
    page.keyboard.press("Enter")
    page.locator(".lead-memory", has_text="Leaves at five").wait_for()
    assert page.evaluate("document.activeElement.id") == "inspector-title"
    page.keyboard.press("j")
    page.locator(".lead-memory", has_text="Starts at nine").wait_for()
    assert page.locator("tr[aria-current] a.mem-text").inner_text() == "Starts at nine"
    page.keyboard.press("ArrowUp")
    page.locator(".lead-memory", has_text="Leaves at five").wait_for()
    page.keyboard.press("Escape")
    page.locator("[data-memory]").wait_for(state="detached")
    assert page.locator(":focus").inner_text() == "Leaves at five"
    assert page.url.endswith("?user_id=own")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Edit", exact=True).focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/edit?**")
    text = page.get_by_label("Text")
    text.focus()
    page.keyboard.press("Control+End")
    page.keyboard.type(", on Fridays at two")
    page.get_by_role("button", name="Review the change").focus()
    page.keyboard.press("Enter")
    page.locator("ins", has_text=", on Fridays at two").wait_for()
    page.get_by_role("button", name="Save the change").focus()
    page.keyboard.press("Enter")
    page.locator(".lead-memory", has_text="on Fridays").wait_for()
    undo = page.locator(".toastish").get_by_role("button", name="Undo")
    undo.focus()
    page.keyboard.press("Enter")
    page.get_by_text("Undone.").wait_for()
    assert page.locator(".lead-memory").inner_text() == "Leaves at five"
    visit.assert_sound("after an undo")


def test_review_status_is_set_where_one_reads(visit: Visit, own: Any) -> None:
    own("Has a dog")
    page = visit.page
    visit.go(f"{LIST}?user_id=own")
    open_first(page)
    page.get_by_label("Status: Unreviewed. Change").click()
    page.get_by_role("button", name="Approved").click()
    page.locator(".toastish", has_text="Marked as approved").wait_for()
    assert page.locator("tr[aria-current] .state").inner_text() == "Approved"
    assert page.locator("[data-memory]").count() == 1
    visit.assert_sound("after a review")
    page.locator(".inspector-foot").get_by_role("button", name="Delete").click()
    page.locator(".toastish", has_text="Memory deleted").wait_for()
    page.get_by_text("Nothing matches").wait_for()
    page.locator(".toastish", has_text="deleted").get_by_role("button", name="Undo").click()
    page.get_by_text("Undone.").wait_for()
    assert page.locator("a.mem-text").inner_text() == "Has a dog"


def test_ticking_takes_ranges_the_page_and_all_that_match(visit: Visit) -> None:
    page = visit.page
    visit.go(LIST)
    boxes, count = page.locator("input[name=ids]"), page.locator("output[name=n]")
    head = page.locator("[data-check-all]")
    assert not page.locator(".bulk").is_visible()
    boxes.nth(1).click()
    boxes.nth(4).click(modifiers=["Shift"])
    assert count.inner_text() == "4"
    assert head.evaluate("e => e.indeterminate")
    head.click()
    assert count.inner_text() == "50" and head.is_checked()
    page.locator(".bulk-all").click()
    assert count.inner_text() == page.locator("#total").inner_text()
    boxes.nth(0).click()
    assert count.inner_text() == "49"
    assert not page.locator("input[name=all]").is_checked()
    head.click()
    head.click()
    assert not page.locator(".bulk").is_visible()
    assert not visit.complaints


def test_views_are_saved_opened_and_deleted(visit: Visit) -> None:
    page = visit.page
    visit.go(f"{LIST}?user_id=mara&sort=oldest")
    page.locator("#views-chip").click()
    page.get_by_label("Save this view").fill("Mara, from the beginning")
    page.get_by_role("button", name="Save view").click()
    page.get_by_text("saved.").wait_for()
    visit.go(LIST)
    page.locator("#views-chip").click()
    visit.assert_sound("the menu of views")
    page.get_by_role("link", name="Mara, from the beginning").click()
    page.wait_for_url("**?user_id=mara&sort=oldest")
    visit.go(f"{LIST}/views")
    visit.assert_sound("views")
    page.get_by_role("button", name="Delete Mara, from the beginning").click()
    page.get_by_text("No views yet").wait_for()


def test_an_export_is_what_is_shown(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    visit.go(f"{LIST}?user_id=mara")
    page.locator(".topbar details.menu > summary").click()
    with page.expect_download() as caught:
        page.get_by_role("link", name="JSON Lines").click()
    path = tmp_path / "export.jsonl"
    caught.value.save_as(path)
    assert caught.value.suggested_filename.endswith(".jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == int(page.locator("#total").inner_text())
    assert {row["user_id"] for row in rows} == {"mara"}


def test_menus_stay_within_the_window_of_a_phone(lived_in: Site) -> None:
    visit = lived_in.visit(width=390, storage_state=lived_in.signed_in())
    page = visit.page
    for path, menus in ((LIST, 4), ("/dashboard/activity", 2)):
        visit.go(path)
        names = page.locator(".topbar details.menu, .filters details.menu")
        assert names.count() == menus
        for menu in names.all():
            menu.locator("summary").click()
            box = menu.locator("> div").bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= 390, f"{path}: {box}"
            page.keyboard.press("Escape")
    visit.context.close()


def test_stored_texts_are_inert(visit: Visit) -> None:
    page = visit.page
    visit.go(f"{LIST}?q=onerror&mode=words")
    open_first(page)
    open_filters(page)
    assert page.locator("main img, main script").count() == 0
    assert page.title() == "Memories · mem0dash"
    page.evaluate("document.querySelector('details.menu[open]').open = false")
    visit.assert_sound("hostile texts")


@pytest.mark.parametrize("width", [1440, 390])
def test_all_of_it_works_without_a_script(lived_in: Site, own: Any, width: int) -> None:
    [id_] = own("Walks to work")
    state = lived_in.signed_in()
    visit = lived_in.visit(width=width, java_script_enabled=False, storage_state=state)
    page = visit.page
    visit.go(LIST)
    page.locator("#filter-chip").click()
    page.get_by_role("link", name="All filters").click()
    page.locator(".facet-group summary", has_text="User").click()
    page.locator('input[name="user_id"][value="own"]').check()
    page.get_by_role("button", name="Apply").click()
    assert page.url.endswith(f"{LIST}?user_id=own")
    page.locator("#search").fill("walks")
    page.locator("#search").press("Enter")
    page.locator("a.mem-text", has_text="Walks to work").click()
    assert page.locator(".lead-memory").inner_text() == "Walks to work"
    shown = page.locator(".copy-id")
    assert shown.is_visible() and shown.inner_text() == id_  # and nothing that would copy it
    page.get_by_role("link", name="Edit", exact=True).click()
    page.get_by_label("Text").fill("Walks to school")
    page.get_by_role("button", name="Review the change").click()
    page.get_by_role("button", name="Save the change").click()
    assert page.locator(".lead-memory").inner_text() == "Walks to school"
    page.get_by_label("Status: Unreviewed. Change").click()
    page.get_by_role("button", name="Stale").click()
    assert "Marked as stale." in page.locator("#messages").inner_text()
    page.locator(".inspector-foot").get_by_role("button", name="Delete").click()
    page.locator("#messages").get_by_role("button", name="Undo").click()
    assert "Undone." in page.locator("#messages").inner_text()
    visit.go(f"{LIST}?user_id=own")
    assert page.locator("a.mem-text").inner_text() == "Walks to school"
    visit.context.close()
