"""The wizard as somebody goes through it: in a real browser, from the link that `serve` prints."""

import re
from typing import Any, Final

from mem0dash.tests.browser import Site
from prove.server import Server

NAME: Final = "Mara Lind"
EMAIL: Final = "mara@example.org"
PASSWORD: Final = "birch window seat"
PROVIDER_KEY: Final = "sk-stub-0123456789abcdef"
WRONG_KEY: Final = "sk-wrong-0123456789abcde"

# Whether one sees what has the focus: a card shows it for the radio button inside. "" if so.
_FOCUS: Final = """() => {
  const held = document.activeElement;
  if (held === document.body) return "nothing has the focus";
  const shown = held.closest(".pick > label") ?? held;
  const { outlineStyle, outlineWidth, boxShadow } = getComputedStyle(shown);
  const outlined = outlineStyle !== "none" && parseFloat(outlineWidth) >= 1;
  const ringed = /\\b0px 0px 0px [1-9]/.test(boxShadow);
  const { top, bottom } = shown.getBoundingClientRect();
  const name = held.outerHTML.slice(0, 120);
  if (!held.matches(":focus-visible") || !(outlined || ringed)) return `no ring: ${name}`;
  return bottom > 0 && top < innerHeight ? "" : `out of sight: ${name}`;
}"""


def printed_link(server: Server) -> str:
    """What the terminal shows after the start."""
    found = re.search(r"http\S+/setup\?token=\S+", server.log.read_text())
    assert found is not None, server.log.read_text()
    return found[0]


def assert_found_with(site: Site, key: str) -> None:
    """An agent with this key finds what it stores."""
    client = site.server.client(key)
    client.add("I only fly out of Gothenburg.", user_id="mara")
    [found] = client.search("Which airport should I book from?", user_id="mara")
    assert found["memory"] == "I only fly out of Gothenburg."
    client.close()


class Walk:
    """One person on the way through the wizard."""

    def __init__(self, site: Site, **look: Any) -> None:
        self.site = site
        # Movements would be half-way done in a picture.
        self.visit = site.visit(reduced_motion="reduce", **look)
        self.page = self.visit.page

    def open_link(self) -> None:
        self.page.goto(printed_link(self.site.server), wait_until="load")

    def looks(self, name: str) -> None:
        self.visit.keep_looks(f"setup-{name}")

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def arrived(self, step: str) -> None:
        self.page.wait_for_url(f"**/setup/{step}")

    def told(self, text: str) -> Any:
        """The sentence `text`, once it is on the page."""
        found = self.page.get_by_text(text)
        found.first.wait_for()
        return found.first

    def fill(self, **values: str) -> None:
        """Fields by their labels, `_` for a space."""
        for label, value in values.items():
            self.page.get_by_label(label.replace("_", " ")).fill(value)

    def claim(self, password: str = PASSWORD) -> None:
        """The first step."""
        self.fill(Your_name=NAME, **{"E-mail_address": EMAIL}, Password=password)
        self.press("Create the account")

    def card(self, title: str, *, kind: str = "llm") -> Any:
        """Chooses a provider; the fields that this opens."""
        fieldset = self.page.locator("fieldset").nth(0 if kind == "llm" else 1)
        fieldset.locator("label", has=self.page.locator(f"b:text-is('{title}')")).click()
        return fieldset.get_by_role("group", name=title)

    def open_another_tab(self) -> Any:
        """The same page once more, behind this one."""
        tab = self.page.context.new_page()
        tab.goto(self.page.url)
        # In the background a browser takes its time.
        self.page.bring_to_front()
        return tab

    def has_focus(self, locator: Any) -> None:
        """Waits until it has the focus."""
        from playwright.sync_api import expect

        expect(locator).to_be_focused()

    def has_seen_focus(self, locator: Any) -> None:
        """Waits until it has the focus, and one sees that."""
        self.has_focus(locator)
        assert self.page.evaluate(_FOCUS) == ""

    def has_value(self, locator: Any, value: str) -> None:
        """Waits until a field holds this."""
        from playwright.sync_api import expect

        expect(locator).to_have_value(re.compile(re.escape(value)))

    def tab_to(self, locator: Any) -> None:
        """Goes there by the Tab key; the focus is seen wherever it comes by."""
        for _ in range(25):
            self.page.keyboard.press("Tab")
            assert self.page.evaluate(_FOCUS) == ""
            if locator.evaluate("e => e === document.activeElement"):
                return
        raise AssertionError(f"{locator} is not reached by Tab")
