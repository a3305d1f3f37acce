"""A real browser against a real server: fixtures, and what every page has to hold to.

Screenshots of every page are kept in .artifacts/screenshots for people to look at.
"""

import os
import shutil
from collections.abc import Iterator
from typing import Any, Final

import pytest

from prove.environment import ROOT
from prove.server import Server

EMAIL: Final = "owner@example.org"
PASSWORD: Final = "long enough"
SCREENSHOTS: Final = ROOT / ".artifacts" / "screenshots"
# Waits for what fades or moves, but for what goes on until an answer comes, and for what begins in
# a closed <details>: time stands still in there.
SETTLED: Final = """async () => {
  const ends = document.getAnimations().filter(a =>
    isFinite(a.effect.getComputedTiming().endTime) && a.effect.target.checkVisibility());
  await Promise.allSettled(ends.map(a => a.finished));
}"""
SIZES: Final = {1440: 900, 390: 844}
THEMES: Final = ("light", "dark")
FLAGS: Final = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
AXE: Final = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "resultTypes": ["violations"],
}
# Before any script of the page: what the policy refuses is written down where tests find it.
WATCH_POLICY: Final = """
window.__refused = [];
document.addEventListener("securitypolicyviolation", (e) => {
  window.__refused.push(`${e.violatedDirective} ${e.blockedURI} ${e.sample}`);
});
"""


def _missing(what: str) -> None:
    """Skipped where somebody works, failed where all of it has to run."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A running Chromium. Of the module, for Playwright keeps an event loop in its thread."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        _missing("Chromium is not installed: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, chromium: Any) -> Iterator["Site"]:
    """A server with an owner and a first key, and a browser to look at it with."""
    server = Server(tmp_path_factory.mktemp("site") / "data")
    try:
        server.start()
        server.bootstrap()
        yield Site(server, chromium)
    finally:
        server.kill9()


@pytest.fixture(scope="module")
def unclaimed_site(tmp_path_factory: pytest.TempPathFactory, chromium: Any) -> Iterator["Site"]:
    """A server on its first day: nobody has an account."""
    server = Server(tmp_path_factory.mktemp("unclaimed") / "data")
    try:
        server.start()
        yield Site(server, chromium)
    finally:
        server.kill9()


class Visit:
    """A browser's window with what it complained about."""

    def __init__(self, context: Any, url: str, theme: str = "light") -> None:
        self.context, self.url, self.theme = context, url, theme
        self.complaints: list[str] = []
        context.add_init_script(WATCH_POLICY)
        self.page = context.new_page()
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))

    def _hear(self, message: Any) -> None:
        # That an error page has an error's status is told as an error, too.
        expected = "Failed to load resource: the server responded with a status of 4"
        if message.type in {"error", "warning"} and not message.text.startswith(expected):
            self.complaints.append(f"{message.type}: {message.text}")

    def go(self, path: str) -> Any:
        """The response of the page at `path`."""
        return self.page.goto(self.url + path, wait_until="load")

    def sign_in(self, email: str = EMAIL, password: str = PASSWORD) -> "Visit":
        self.go("/login")
        self.page.get_by_label("E-mail address").fill(email)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.wait_for_url("**/dashboard**")
        return self

    def keep_looks(self, name: str) -> None:
        """Looks at the page as it stands in both themes and at both widths; keeps pictures."""
        was = self.page.viewport_size
        for theme in THEMES:
            self.page.emulate_media(color_scheme=theme)
            for width, height in SIZES.items():
                self.page.set_viewport_size({"width": width, "height": height})
                # A picture of all the page shows what sticks to the window where it stands now.
                self.page.evaluate("scrollTo(0, 0)")
                self.keep(f"{name}-{theme}-{width}")
        self.page.set_viewport_size(was)
        self.page.emulate_media(color_scheme=self.theme)

    def keep(self, name: str) -> None:
        """Looks at the page as it is shown, and keeps a picture of it."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.evaluate("document.fonts.ready")
        self.page.evaluate(SETTLED)
        path = SCREENSHOTS / f"{name}.png"
        self.page.screenshot(path=path, full_page=True, scale="css")
        self.assert_sound(name)

    def assert_sound(self, name: str) -> None:
        """No complaint, nothing refused by the policy, nothing beyond the window's edge, and no
        violation that axe finds."""
        from axe_playwright_python.sync_playwright import Axe

        # Of a colour on its way from one theme to the other the contrast says nothing.
        self.page.evaluate(SETTLED)
        overflow = self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert overflow <= 0, f"{name}: {overflow} px beyond the edge"
        refused = self.page.evaluate("window.__refused")
        assert not refused, f"{name}: the policy refused {refused}"
        found = Axe().run(self.page, options=AXE)
        assert found.violations_count == 0, f"{name}: {found.generate_report()}"
        assert not self.complaints, f"{name}: {self.complaints}"


class Site:
    """A server as people see it."""

    def __init__(self, server: Server, browser: Any) -> None:
        self.server, self.browser = server, browser
        self._state: Any = None

    def visit(self, *, width: int = 1440, theme: str = "light", **options: Any) -> Visit:
        """A window of its own, without cookies unless `storage_state` brings them."""
        context = self.browser.new_context(
            viewport={"width": width, "height": SIZES[width]},
            color_scheme=theme,
            device_scale_factor=2 if width < 500 else 1,
            is_mobile=width < 500,
            **options,
        )
        context.set_default_timeout(15_000)
        return Visit(context, self.server.url, theme)

    def signed_in(self) -> Any:
        """The cookies of the owner: signing in costs one of few attempts a minute."""
        if self._state is None:
            visit = self.visit().sign_in()
            self._state = visit.context.storage_state()
            visit.context.close()
        return self._state

    def check_page(
        self, path: str, name: str, *, status: int = 200, signed_in: bool = True, act: Any = None
    ) -> None:
        """Looks at a page in both themes and at both widths, with `act(page)` done on it, and
        keeps what it looked like."""
        state = {"storage_state": self.signed_in()} if signed_in else {}
        for width in SIZES:
            visit = self.visit(width=width, **state)
            answer = visit.go(path)
            assert answer.status == status, f"{name}-{width}: {answer.status}"
            if act is not None:
                act(visit.page)
            for theme in THEMES:
                visit.page.emulate_media(color_scheme=theme)
                visit.keep(f"{name}-{theme}-{width}")
            visit.context.close()
