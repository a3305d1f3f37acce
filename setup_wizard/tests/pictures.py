"""Takes the pictures of the documentation: the wizard's steps, the overview, the memories with
sample data, and the page Connect.

    .venv/bin/python -m setup_wizard.tests.pictures

writes docs/images/setup-*.png, overview.png, memories.png and connect.png. It needs Chromium, and
the local embedding model (`make embedder`).
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import sync_playwright

from mem0dash.tests.browser import FLAGS, Site
from prove.environment import ROOT
from prove.server import Server
from setup_wizard.tests.walk import EMAIL, NAME, PASSWORD, Walk

IMAGES: Final = ROOT / "docs" / "images"
# Larger ones make a page of documentation slow.
LARGEST: Final = 150_000
# The same on every machine, as the pictures show it.
PORT: Final = 8000
INDEXED: Final = "all memories are in it"
ASKED: Final = (
    ("opencode 1.2", "How is this repository tested?"),
    ("travel-agent 0.4", "Which seat, and from where?"),
    ("kitchen-bot 3.1", "What must not be in the soup?"),
)
# Clients that have called, as they name themselves.
CONNECTED: Final = ("claude-code/2.1 (cli)", "Claude-User", "Visual Studio Code/1.120.0")


def main() -> None:
    browser_path = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser_path is None:
        sys.exit("Chromium is not installed: apt-get install chromium")
    os.environ.setdefault("MEM0DASH_MODEL_DIR", str(ROOT / "data" / "models"))
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        server = Server(Path(scratch) / "data", {"PORT": str(PORT)})
        server.port, server.url = PORT, f"http://127.0.0.1:{PORT}"
        browser = playwright.chromium.launch(executable_path=browser_path, args=FLAGS)
        try:
            server.start()
            walk = Walk(Site(server, browser))
            _wizard(walk)
            _overview(walk)
            _memories(walk)
            _connect(walk)
        finally:
            server.kill9()
            browser.close()


def _wizard(walk: Walk) -> None:
    page = walk.page
    walk.open_link()
    walk.fill(Your_name=NAME, **{"E-mail_address": EMAIL}, Password=PASSWORD)
    _take(page, "setup-1-account")
    walk.press("Create the account")
    walk.arrived("provider")
    _take(page, "setup-2-provider")
    walk.card("Ollama")
    _take(page, "setup-2-ollama")
    walk.card("No provider")
    walk.press("Save and continue")
    walk.arrived("key")
    walk.press("Make the key")
    walk.site.server.key = str(page.get_by_label("API key").inner_text())
    _take(page, "setup-3-key")
    page.get_by_role("link", name="I have copied it, continue").click()
    page.get_by_text("Coding assistant").click()
    walk.press("Propose instructions for it")
    walk.has_value(page.get_by_label("Instructions"), "Keep:")
    _take(page, "setup-4-use-case")
    walk.press("Save and continue")
    walk.arrived("test")
    walk.press("Add and find it")
    walk.told("Added, found and removed")
    _take(page, "setup-5-test")
    walk.press("Open the dashboard")
    page.wait_for_url("**/dashboard")


def _overview(walk: Walk) -> None:
    """The overview of a server that agents have used for a while."""
    server, page = walk.site.server, walk.page
    server.manage("demo")
    for name, query in ASKED:
        agent = server.client()
        body = {"query": query, "filters": {"user_id": "mara"}}
        agent.request("POST", "/search", json=body, headers={"X-Mem0-Client": name})
        agent.request("GET", "/memories?user_id=mara", headers={"X-Mem0-Client": name})
        agent.close()
    # The request log follows within seconds, the index within half a minute.
    for _ in range(60):
        walk.visit.go("/dashboard")
        if all(page.get_by_text(text).first.is_visible() for text in (INDEXED, ASKED[-1][0])):
            break
        page.wait_for_timeout(1000)
    _take(page, "overview")


def _memories(walk: Walk) -> None:
    """The memory browser: searched by meaning, with a memory open that was changed since."""
    page = walk.page
    walk.visit.go("/dashboard/memories?q=meat+or+fish&user_id=mara")
    page.locator("a.mem-text", has_text="Eats neither meat nor fish").click()
    page.locator(".history del").first.wait_for()
    page.set_viewport_size({"width": 1440, "height": 580})
    page.locator(".history li").last.scroll_into_view_if_needed()
    _take(page, "memories")


def _connect(walk: Walk) -> None:
    """The page Connect, with clients that have called."""
    page = walk.page
    for name in CONNECTED:
        client = walk.site.server.client()
        client.request("GET", "/memories?user_id=mara", headers={"User-Agent": name})
        client.close()
    page.set_viewport_size({"width": 1280, "height": 720})
    walk.visit.go("/dashboard/connect")
    page.locator("#state-vs-code").get_by_text("Connected", exact=True).wait_for()
    page.locator("#client-cursor > summary").click()
    cursor = page.locator("#client-cursor")
    cursor.get_by_role("button", name="Copy Configuration for Cursor", exact=True).click()
    cursor.get_by_text("Waiting for the first call").wait_for()
    page.locator("#client-claude-code > summary").click()
    _take(page, "connect")


def _take(page: Any, name: str) -> None:
    """A picture of the window, from the top, without the mouse on anything."""
    page.evaluate("scrollTo(0, 0)")
    page.evaluate("document.activeElement.blur()")
    page.mouse.move(0, 0)
    path = IMAGES / f"{name}.png"
    page.screenshot(path=path)
    size = path.stat().st_size
    sys.stdout.write(f"{path.relative_to(ROOT)}: {size:,} bytes\n")
    if size > LARGEST:
        sys.exit(f"{path} has {size:,} bytes, more than {LARGEST:,}")


if __name__ == "__main__":
    main()
