"""Marked words in a real browser: how they look, by htmx, by keyboard, without a script."""

from collections.abc import Iterator
from typing import Any

import pytest

from mem0dash.tests.browser import Site, Visit

pytestmark = [pytest.mark.browser, pytest.mark.long]

LIST = "/dashboard/memories"
SEARCH = f"{LIST}?q=What+does+she+drink+in+the+morning%3F"
TEXTS = (
    "Starts every day with an espresso at breakfast, standing at the kitchen window.",
    "Drinks tea at four in the afternoon, never coffee.",
    "Owns a boat <script>document.title = 1</script> that leaks every morning.",
    "Has meetings until noon, and is hard to reach by phone. " * 12,
)


@pytest.fixture(scope="module")
def lived_in(site: Site) -> Site:
    client = site.server.client()
    for text in TEXTS:
        client.add(text, user_id="mara")
    client.close()
    return site


@pytest.fixture
def visit(lived_in: Site) -> Iterator[Visit]:
    made = lived_in.visit(storage_state=lived_in.signed_in())
    yield made
    made.context.close()


def open_breakfast(page: Any) -> None:
    page.locator("a.mem-text", has_text="espresso").click()
    page.locator(".lead-memory mark").first.wait_for()


def test_marked_words_are_sound_in_the_list_and_beside_it(lived_in: Site) -> None:
    lived_in.check_page(
        SEARCH, "memories-marks", act=lambda page: page.locator("mark").first.wait_for()
    )
    lived_in.check_page(SEARCH, "memories-marks-open", act=open_breakfast)


def contrast(page: Any, element: str) -> float:
    """Of the element's letters to what they stand on, as painted (WCAG)."""
    return float(page.locator(element).first.evaluate(CONTRAST))


# Colours are drawn on a canvas, layer upon layer: the browser's own way of mixing them.
CONTRAST = """
element => {
  const canvas = document.createElement("canvas").getContext("2d");
  const layers = [];
  for (let at = element; at; at = at.parentElement) {
    layers.unshift(getComputedStyle(at).backgroundColor);
  }
  const painted = (colours) => {
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = painted(layers);
  const letters = painted([...layers, getComputedStyle(element).color]);
  return (Math.max(ground, letters) + 0.05) / (Math.min(ground, letters) + 0.05);
}
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_marks_are_read_as_easily_under_the_mouse(lived_in: Site, theme: str) -> None:
    visit = lived_in.visit(theme=theme, storage_state=lived_in.signed_in())
    visit.go(SEARCH)
    word = "a.mem-text mark"
    assert contrast(visit.page, word) >= 7
    visit.page.locator(word).first.hover()
    assert contrast(visit.page, word) >= 4.5
    visit.context.close()


def test_the_open_memory_says_which_word_answers_which(visit: Visit) -> None:
    page = visit.page
    visit.go(LIST)
    page.keyboard.press("/")
    page.keyboard.type("drink in the morning")
    page.keyboard.press("Enter")
    page.get_by_text("Found by meaning").wait_for()
    row = page.locator("a.mem-text", has_text="espresso")
    marked = row.locator("mark", has_text="breakfast")
    assert marked.get_attribute("title") == "answers “morning”"
    row.focus()
    page.keyboard.press("Enter")
    told = page.get_by_role("list", name="What answers the search")
    told.wait_for()
    assert "morning is answered by breakfast" in " ".join(told.inner_text().split())
    assert "q=drink+in+the+morning" in page.url and "id=" in page.url
    # One after the other, each with its own.
    page.keyboard.press("j")
    page.locator(".lead-memory", has_text="espresso").wait_for(state="detached")
    assert page.locator(".lead-memory").count() == 1
    page.go_back()
    page.locator(".lead-memory mark", has_text="breakfast").wait_for()
    page.locator(".search-mode label", has_text="Words").click()
    page.locator(".lead-memory").wait_for(state="detached")
    assert page.locator("mark").count() == 0
    assert page.title() == "Memories · mem0dash"
    visit.assert_sound("after marks")


def test_marks_are_there_without_a_script(lived_in: Site) -> None:
    state = lived_in.signed_in()
    visit = lived_in.visit(width=390, java_script_enabled=False, storage_state=state)
    page = visit.page
    visit.go(SEARCH)
    assert page.locator("a.mem-text mark", has_text="breakfast").count() == 1
    page.locator("a.mem-text", has_text="espresso").click()
    assert page.locator(".lead-memory mark", has_text="breakfast").count() == 1
    assert page.get_by_role("list", name="What answers the search").is_visible()
    visit.context.close()
