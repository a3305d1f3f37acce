"""The page Connect in a real browser: how it looks, and how a client's first call arrives."""

from typing import Any

import pytest

from mem0dash.tests.browser import Site, Visit

pytestmark = [pytest.mark.browser, pytest.mark.long]


def call(site: Site, client: str) -> None:
    """One call with the owner's key, by a client of this name."""
    made = site.server.client()
    headers = {"User-Agent": client}
    assert made.request("GET", "/memories?user_id=mara", headers=headers).status_code == 200
    made.close()


def opened(site: Site, **options: Any) -> Visit:
    visit = site.visit(storage_state=site.signed_in(), **options)
    visit.go("/dashboard/connect")
    return visit


def test_the_page_before_anything_is_connected(site: Site) -> None:
    def look(page: Any) -> None:
        assert page.locator(".state.none").count() == page.locator(".client").count()
        assert page.locator("main .btn-primary, .actions .btn-primary").count() == 1

    site.check_page("/dashboard/connect", "connect-empty", act=look)


def test_a_client_is_awaited_once_its_snippet_is_copied_and_green_after_its_first_call(
    site: Site,
) -> None:
    visit = opened(site)
    page = visit.page
    block = page.locator("#client-vs-code")
    block.locator("summary").first.click()
    block.get_by_role("button", name="Copy Configuration for VS Code", exact=True).click()
    block.get_by_text("Waiting for the first call").wait_for()
    assert block.get_attribute("open") is not None, "what somebody reads stays open"
    page.reload()
    block.get_by_text("Waiting for the first call").wait_for()

    said = page.evaluate_handle(
        """() => {
          const said = [];
          new MutationObserver(() => said.push(document.querySelector("#connect-news").textContent))
            .observe(document.querySelector("#connect-news"), {childList: true});
          return said;
        }"""
    )
    call(site, "Visual Studio Code/1.120.0")
    call(site, "Cursor/2.0")
    block.get_by_text("Connected", exact=True).wait_for()
    page.locator("#client-cursor").get_by_text("Connected", exact=True).wait_for()
    # Two answers more, and still it was told once.
    for _ in range(2):
        with page.expect_response("**/dashboard/connect*"):
            pass
    told = " ".join(" ".join(text.split()) for text in said.json_value())
    assert told.count("VS Code is connected.") == told.count("Cursor is connected.") == 1, told
    visit.assert_sound("after a first call")


def test_the_page_with_clients_in_every_state(site: Site) -> None:
    call(site, "claude-code/2.1.300 (cli)")
    call(site, "curl/8.5.0")
    visit = opened(site)
    page = visit.page
    page.locator("#client-claude-code").get_by_text("Connected", exact=True).wait_for()
    page.locator("#client-n8n > summary").click()
    page.locator("#client-n8n").get_by_role("button", name="Copy Endpoint for n8n").first.click()
    page.locator("#client-n8n").get_by_text("Waiting for the first call").wait_for()
    visit.keep_looks("connect-n8n")
    page.locator("#client-claude-code > summary").click()
    for way in page.locator("#client-claude-code .way > summary").all():
        way.click()
    page.get_by_text("Read it").first.click()
    visit.keep_looks("connect")


@pytest.mark.parametrize("client", ["claude", "chatgpt", "vs-code", "cursor", "opencode", "curl"])
def test_every_client_with_all_its_ways(site: Site, client: str) -> None:
    visit = opened(site, width=390)
    page = visit.page
    page.locator(f"#client-{client} > summary").click()
    for way in page.locator(f"#client-{client} .way > summary").all():
        way.click()
    visit.keep(f"connect-{client}-light-390")


def test_a_page_that_nobody_sees_does_not_ask(site: Site) -> None:
    visit = opened(site)
    page = visit.page
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.evaluate(
        """() => {
          Object.defineProperty(document, "hidden", {get: () => true, configurable: true});
          window.__held = 0;
          addEventListener("htmx:configRequest", (e) => { window.__held += e.defaultPrevented; });
        }"""
    )
    page.wait_for_function("() => window.__held > 0")
    assert not [url for url in asked if "/dashboard/connect" in url]
    page.evaluate("Object.defineProperty(document, 'hidden', {get: () => false})")
    with page.expect_response("**/dashboard/connect*"):
        pass


def test_without_a_script_the_page_tells_the_state_as_it_was_loaded(site: Site) -> None:
    call(site, "opencode/1.4")
    visit = site.visit(width=390, java_script_enabled=False)
    page = visit.sign_in().page

    def is_connected() -> bool:
        visit.go("/dashboard/connect")
        return "Connected" in page.locator("#state-opencode").inner_text().split("\n")[0]

    while not is_connected():  # the call is in the log within a second
        pass
    page.locator("#client-opencode > summary").click()
    assert page.locator("#client-opencode .how").first.is_visible()
    assert page.locator("[data-copy]:visible").count() == 0
    page.screenshot(path=".artifacts/screenshots/connect-no-script-390.png", full_page=True)
