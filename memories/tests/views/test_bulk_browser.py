"""Bulk changes, operations and entities in a real browser: by mouse, by keyboard, without a
script."""

import re
from typing import Any

import pytest

from mem0dash.tests.browser import SCREENSHOTS, Site

pytestmark = [pytest.mark.browser, pytest.mark.long]

TEXTS = (
    "Prefers window seats and always flies out of Gothenburg rather than Stockholm.",
    "Vegetarian since 2019; does not eat mushrooms.",
    "Wants answers in metric units.",
    "Team stand-up is at 09:15 on weekdays except Wednesday.",
    "Is moving the billing service from Flask to Django 5.2 before the end of the quarter; tests "
    "must stay on pytest.",
)
HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script>\u202e'
MARA = "/dashboard/memories?user_id=mara"
MANY = """
from datetime import timedelta
from django.utils import timezone
from accounts.models import Project
from memories.models import Memory, MemoryVector
from memories.models.server import IndexState
import numpy as np
project, state, now = Project.objects.get(), IndexState.objects.get(), timezone.now()
rows = [Memory(project=project, text=f"Reading {n} of the boiler", text_fold=f"reading {n}",
               fingerprint=f"{n:064d}", user_id="boiler", agent_id="meter", indexed_rev=1,
               created_at=now - timedelta(days=2, seconds=n), updated_at=now) for n in range(2500)]
Memory.objects.bulk_create(rows)
unit = np.zeros(state.dims, dtype="<f4")
unit[0] = 1
MemoryVector.objects.bulk_create(
    MemoryVector(memory=row, model_key=state.model_key, dims=state.dims, data=unit.tobytes())
    for row in rows)
"""


@pytest.fixture(scope="module")
def lived_in(site: Site) -> Site:
    client = site.server.client()
    for text in TEXTS:
        client.add(text, user_id="mara", agent_id="opencode")
    client.add("Allergic to penicillin.", user_id="jonas", agent_id="family-notes")
    [row] = client.add("Used to smoke.", user_id="jonas")
    client.delete(row["id"])
    client.add(HOSTILE, user_id=HOSTILE.replace(" ", ""))
    client.close()
    site.server.manage("shell", "--verbosity", "0", "--command", MANY)
    return site


def opened(page: Any, action: str) -> None:
    """Presses the button of the bar, which may be in its menu."""
    button = page.locator(f'#bulk button[name="action"][value="{action}"]')
    if not button.is_visible():
        page.locator("#bulk .bulk details.menu > summary").click()
    button.click()


def alive(site: Site, **params: Any) -> int:
    client = site.server.client()
    try:
        return len(client.listed(**params))
    finally:
        client.close()


@pytest.mark.parametrize(("theme", "width"), [("light", 1440), ("dark", 390)])
def test_filter_tick_look_confirm_and_undo(lived_in: Site, theme: str, width: int) -> None:
    visit = lived_in.visit(width=width, theme=theme, storage_state=lived_in.signed_in())
    page = visit.page
    visit.go(MARA)
    page.get_by_label("Select this page").check() if width > 500 else tick_each(page)
    opened(page, "delete")
    page.get_by_role("heading", name="Delete 5 memories?").wait_for()
    visit.assert_sound("dry run")
    assert page.locator(":focus").inner_text() == "Cancel"
    assert alive(lived_in, user_id="mara") == 5, "nothing is done yet"
    page.get_by_role("button", name="Delete 5 memories").click()
    toast = page.locator("[data-toasts]")
    toast.get_by_text("5 memories deleted.").wait_for()
    assert page.url.endswith(MARA), "the filter is as it was"
    assert alive(lived_in, user_id="mara") == 0
    assert alive(lived_in, user_id="jonas") == 1, "never past the filter"
    toast.get_by_role("button", name="Undo").hover()  # it stays while somebody is at it
    visit.assert_sound("done")
    toast.get_by_role("button", name="Undo").click()
    page.get_by_text("Undone: 5 memories are as before.").wait_for()
    assert page.url.endswith(MARA)
    assert alive(lived_in, user_id="mara") == 5
    visit.assert_sound("undone")


def tick_each(page: Any) -> None:
    for box in page.locator("input[name=ids]").all():
        box.check()


def test_all_of_it_works_without_a_script(lived_in: Site) -> None:
    visit = lived_in.visit(java_script_enabled=False, storage_state=lived_in.signed_in())
    page = visit.page
    visit.go(MARA)
    tick_each(page)
    opened(page, "confidence")
    page.get_by_role("button", name="High").click()
    page.get_by_role("heading", name="Set the confidence of 5 memories?").wait_for()
    page.get_by_role("button", name="Set the confidence of 5 memories").click()
    page.get_by_text("The confidence of 5 memories set to high.").wait_for()
    page.get_by_role("button", name="Undo").click()
    page.get_by_text("Undone: 5 memories are as before.").wait_for()
    visit.go("/dashboard/operations")
    assert "Set the confidence: 5 memories" in page.locator("main").inner_text()
    visit.go("/dashboard/entities?sort=name")
    page.get_by_role("link", name="Memories", exact=True).last.click()
    assert "sort=most" in page.url
    page.get_by_label("Find users by name").fill("jon")
    page.get_by_role("button", name="Find").click()
    page.get_by_role("link", name="jonas", exact=True).click()
    assert page.url.endswith("/dashboard/memories?user_id=jonas")
    assert not visit.complaints


def test_what_changed_meanwhile_is_shown_again(lived_in: Site) -> None:
    visit = lived_in.visit(storage_state=lived_in.signed_in())
    page = visit.page
    visit.go("/dashboard/memories?user_id=jonas")
    tick_each(page)
    opened(page, "reject")
    page.get_by_role("heading", name="Reject 1 memory?").wait_for()
    client = lived_in.server.client()
    [row] = client.listed(user_id="jonas")
    client.update(row["id"], text="Allergic to penicillin and to nuts.")
    page.get_by_role("button", name="Reject 1 memory").click()
    page.get_by_text("It has changed since you looked").wait_for()
    assert "to nuts" in page.locator("table").inner_text()
    visit.assert_sound("drift")
    page.get_by_role("link", name="Cancel").click()
    page.wait_for_url("**/dashboard/memories?user_id=jonas")
    client.update(row["id"], text="Allergic to penicillin.")
    client.close()


def shown(action: str) -> Any:
    def act(page: Any) -> None:
        tick_each(page)
        opened(page, action)
        page.wait_for_url("**/bulk")

    return act


@pytest.mark.parametrize("action", ["delete", "expire", "confidence"])
def test_what_is_shown_before_looks_right(lived_in: Site, action: str) -> None:
    lived_in.check_page(MARA, f"bulk-{action}", act=shown(action))


def test_erasing_looks_like_what_it_is(lived_in: Site) -> None:
    lived_in.check_page("/dashboard/memories?deleted=yes", "bulk-erase", act=shown("erase"))


def test_texts_and_names_of_others_are_inert(lived_in: Site) -> None:
    def look(page: Any) -> None:
        page.get_by_role("link", name=re.compile("^Delete the memories of <img")).click()
        page.get_by_role("heading", name="Delete the 1 memory of <img").wait_for()
        assert page.locator("main img, main script").count() == 0
        assert page.title().startswith("Delete 1 memory?")

    lived_in.check_page("/dashboard/entities?q=onerror", "entity-delete-hostile", act=look)


def test_entities_look_right(lived_in: Site) -> None:
    lived_in.check_page("/dashboard/entities", "entities")
    lived_in.check_page("/dashboard/entities?q=nobody", "entities-none")
    lived_in.check_page("/dashboard/entities?type=app", "entities-empty")


def test_an_entity_needs_its_name_typed(lived_in: Site) -> None:
    def act(page: Any) -> None:
        page.get_by_label("Type boiler to confirm").fill("meter")
        page.get_by_role("button", name="Delete 2,500 memories").click()
        page.get_by_text("Type “boiler” to confirm. Nothing was done.").wait_for()
        assert page.locator(":focus").get_attribute("name") == "typed"

    path = "/dashboard/entities/delete?type=user&name=boiler"
    lived_in.check_page(path, "entity-delete", act=act)


def test_all_that_match_are_changed_watched_and_undone(lived_in: Site) -> None:
    visit = lived_in.visit(storage_state=lived_in.signed_in())
    page = visit.page
    visit.go("/dashboard/memories?user_id=boiler")
    page.get_by_label("Select this page").check()
    page.get_by_label("Select all 2,500 that match").check()
    opened(page, "delete")
    page.get_by_role("heading", name="Delete 2,500 memories?").wait_for()
    assert "user boiler" in page.locator(".facts").inner_text()
    confirm = page.get_by_role("button", name="Delete 2,500 memories")
    confirm.click()
    assert page.url.endswith("/bulk"), "the number has to be typed"
    page.get_by_label("Type 2,500 to confirm").fill("2500")
    visit.assert_sound("dry run of many")
    confirm.click()
    page.wait_for_url("**/dashboard/operations/*")
    page.screenshot(path=SCREENSHOTS / "operation-running-light-1440.png")
    page.locator("#operation .state", has_text="Done").wait_for(timeout=60_000)
    assert alive(lived_in, user_id="boiler") == 0
    assert alive(lived_in, user_id="mara") == 5
    visit.assert_sound("operation done")
    page.get_by_role("button", name="Undo").click()
    page.locator("#operation .state", has_text=re.compile("^Undone$")).wait_for(timeout=60_000)
    assert "2,500 are as before" in page.locator("#operation").inner_text()
    visit.assert_sound("operation undone")
    path = page.url.removeprefix(lived_in.server.url)
    lived_in.check_page(path, "operation-undone")
    lived_in.check_page("/dashboard/operations", "operations")


RUNNING = """
from django.utils import timezone
from accounts.models import Account, Project
from memories.models.bulk import Operation
made = Operation.objects.create(project=Project.objects.get(), action="delete", count=18204,
    digest="0" * 32, planned_at=timezone.now(), created_at=timezone.now(), state="{state}",
    done={done}, unchanged=12, skipped=3, words="user boiler", account=Account.objects.get(),
    match={{"params": {{"user_id": ["boiler"]}}}}, problem="{problem}", undo_until={until})
print(made.id)
"""
DRIFT = (
    "What matches has changed since it was shown: 18,204 then, 18,207 now (3 were added). "
    "Nothing was done; look at it again."
)


def made(site: Site, state: str, *, problem: str = "", done: int = 0, until: str = "None") -> str:
    """The page of an operation that the server's background work has no part in."""
    script = RUNNING.format(state=state, problem=problem, done=done, until=until)
    id_ = site.server.manage("shell", "--verbosity", "0", "--command", script).split()[-1]
    return f"/dashboard/operations/{id_}"


def test_one_that_stopped_and_one_that_was_ended_look_right(lived_in: Site) -> None:
    stopped = made(lived_in, "stopped", problem=DRIFT)
    lived_in.check_page(stopped, "operation-stopped")
    ended = made(lived_in, "cancelled", done=7500, until="timezone.now() + timezone.timedelta(9)")
    lived_in.check_page(ended, "operation-cancelled")
