"""The pages in a real browser: how they look, by keyboard, without a script, hostile texts."""

from collections.abc import Iterator
from typing import Any

import pytest

from mem0dash.tests.browser import EMAIL, PASSWORD, Site
from prove.server import Server, free_port

pytestmark = [pytest.mark.browser, pytest.mark.long]

TEXTS = (
    "Prefers window seats and always flies out of Gothenburg rather than Stockholm.",
    "Vegetarian since 2019; does not eat mushrooms.",
    "Wants answers in metric units.",
)
HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script>'


@pytest.fixture(scope="module")
def lived_in(site: Site) -> Site:
    """The site after some use: memories, failed adds, requests that went well and others."""
    client = site.server.client()
    for text in TEXTS:
        client.add(text, user_id="mara", agent_id="opencode")
    client.search("travel", user_id="mara")
    client.request("GET", "/memories/00000000-0000-0000-0000-000000000000")
    client.request("POST", "/memories", json={})
    client.request("GET", f"/memories?user_id={HOSTILE}", headers={"X-Mem0-Client": HOSTILE})
    client.request("DELETE", "/entities/user/" + "a-name-as-long-as-no-line-" * 6)
    client.close()
    site.server.manage("shell", "--verbosity", "0", "--command", FAILED_ADDS)
    return site


FAILED_ADDS = f"""
from datetime import timedelta
from django.utils import timezone
from accounts.models import Project
from memories.models import AddInput
now = timezone.now()
def fail(code, reason, cause, minutes):
    AddInput.objects.create(project=Project.objects.get(), outcome="failed", code=code,
        messages=[dict(role="user", content="I moved")], reason=reason, cause=cause,
        created_at=now - timedelta(minutes=minutes), finished_at=now)
for minutes in (12, 90, 95):
    fail("provider_auth_failed", "Provider rejected the request (authentication). Check your LLM "
         "provider API key on the Configuration page.",
         "HTTP 401: Incorrect API key provided: [redacted].", minutes)
fail("unknown", {HOSTILE!r}, {HOSTILE!r}, 4000)
"""


def test_the_overview_of_an_empty_server(site: Site) -> None:
    site.check_page("/dashboard", "overview-empty")


def test_signing_in_looks_right_also_when_it_fails(site: Site) -> None:
    site.check_page("/login", "login", signed_in=False)

    def fail(page: Any) -> None:
        page.get_by_label("E-mail address").fill("no address")
        page.get_by_role("button", name="Sign in").click()
        page.get_by_text("Enter a whole e-mail address").wait_for()
        page.get_by_text("Forgot your password?").click()

    site.check_page("/login", "login-failed", signed_in=False, act=fail)
    unthrottle(site)


def test_the_overview_of_a_server_in_use(lived_in: Site) -> None:
    lived_in.check_page("/dashboard", "overview")


def test_the_menus_open(lived_in: Site) -> None:
    def open_menus(page: Any) -> None:
        menu = page.get_by_role("button", name="Menu")
        if menu.is_visible():
            menu.click()
        page.locator(".rail-account > summary").click()

    lived_in.check_page("/dashboard", "menu", act=open_menus)


@pytest.mark.parametrize(
    ("path", "name", "status"),
    [
        ("/dashboard/nowhere", "404", 404),
        ("/logout", "405", 405),
        ("/nowhere", "404-anywhere", 404),
    ],
)
def test_errors_are_pages(site: Site, path: str, name: str, status: int) -> None:
    site.check_page(path, name, status=status)


def test_a_form_without_its_token_is_refused_with_a_page(site: Site) -> None:
    def drop_token(page: Any) -> None:
        page.context.clear_cookies()
        page.get_by_label("E-mail address").fill(EMAIL)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("heading", name="This form has expired").wait_for()

    site.check_page("/login", "csrf", signed_in=False, act=drop_token)


def test_one_signs_in_and_out_by_keyboard_alone(site: Site) -> None:
    visit = site.visit()
    page = visit.page
    visit.go("/dashboard")
    page.keyboard.press("Tab")
    assert page.locator(":focus").inner_text() == "Skip to content"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type(EMAIL)
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url("**/dashboard")
    menu = page.locator(".rail-account > summary")
    menu.focus()
    page.keyboard.press("Enter")
    assert page.get_by_role("button", name="Sign out").is_visible()
    page.keyboard.press("Escape")
    assert not page.get_by_role("button", name="Sign out").is_visible()
    assert menu.evaluate("e => e === document.activeElement")
    page.keyboard.press("Enter")
    for _ in range(4):
        page.keyboard.press("Tab")
    assert page.locator(":focus").inner_text() == "Sign out"
    page.keyboard.press("Enter")
    page.wait_for_url("**/login")
    visit.go("/dashboard")
    assert "/login" in page.url
    assert not visit.complaints


def test_all_of_it_works_without_a_script(lived_in: Site) -> None:
    unthrottle(lived_in)
    visit = lived_in.visit(width=390, java_script_enabled=False)
    page = visit.page
    visit.go("/dashboard")
    page.get_by_label("E-mail address").fill(EMAIL)
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    assert page.get_by_role("alert").inner_text().strip().startswith("The e-mail address or the")
    visit.sign_in()
    assert page.locator(".tile-n").first.inner_text() == "3"
    # The rail is open, for nothing could open it.
    assert page.get_by_role("link", name="Overview").is_visible()
    page.locator(".rail-account > summary").click()
    page.get_by_role("button", name="Dark").click()
    assert page.locator("html").get_attribute("data-bs-theme") == "dark"
    page.locator(".rail-account > summary").click()
    page.get_by_role("button", name="Sign out").click()
    assert page.url.endswith("/login")


def test_a_chosen_theme_holds_whatever_the_system_has(site: Site) -> None:
    visit = site.visit(theme="dark", storage_state=site.signed_in())
    page = visit.page
    visit.go("/dashboard")

    def background() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    dark = background()
    for name, attribute in (("Light", "light"), ("System", None), ("Dark", "dark")):
        page.locator(".rail-account > summary").click()
        page.get_by_role("button", name=name).click()
        page.wait_for_load_state()
        assert page.locator("html").get_attribute("data-bs-theme") == attribute
        assert (background() == dark) is (name != "Light")
    assert page.url.endswith("/dashboard")


def test_refreshing_replaces_the_overview_and_keeps_the_focus(lived_in: Site) -> None:
    visit = lived_in.visit(storage_state=lived_in.signed_in())
    page = visit.page
    visit.go("/dashboard")
    client = lived_in.server.client()
    [row] = client.add("A fourth one", user_id="mara")
    refresh = page.get_by_role("link", name="Refresh")
    refresh.focus()
    page.keyboard.press("Enter")
    page.locator(".tile-n", has_text="4").first.wait_for()
    # Until htmx has put everything in its place, the page is paler.
    page.locator(".htmx-request").first.wait_for(state="detached")
    assert refresh.evaluate("e => e === document.activeElement")
    assert page.locator("#overview").count() == 1
    kept = page.evaluate("JSON.stringify([{...sessionStorage}, {...localStorage}])")
    assert "<" not in kept, "pages are not kept where the next person finds them"
    visit.assert_sound("after refreshing")
    client.delete(row["id"])
    client.close()


def test_an_outage_is_told_and_ends(lived_in: Site) -> None:
    visit = lived_in.visit(storage_state=lived_in.signed_in())
    page = visit.page
    visit.go("/dashboard")
    told = page.locator("[data-offline]")
    assert not told.is_visible()
    visit.context.set_offline(True)
    page.get_by_role("link", name="Refresh").click()
    told.wait_for()
    visit.context.set_offline(False)
    page.get_by_role("link", name="Refresh").click()
    told.wait_for(state="hidden")


def test_stored_texts_are_inert(lived_in: Site) -> None:
    visit = lived_in.visit(storage_state=lived_in.signed_in())
    visit.go("/dashboard")
    page = visit.page
    assert page.get_by_text(HOSTILE).count() >= 2
    assert page.locator("main img, main script").count() == 0
    assert page.title() == "Overview · mem0dash"
    visit.assert_sound("hostile texts")


def unthrottle(site: Site) -> None:
    """Tests sign in more often than people."""
    site.server.manage(
        "shell",
        "--verbosity",
        "0",
        "--command",
        "from accounts.models import Attempt; Attempt.objects.all().delete()",
    )


@pytest.fixture(scope="module")
def troubled_site(tmp_path_factory: pytest.TempPathFactory, chromium: Any) -> Iterator[Site]:
    """A server whose language model is not there, and without an embedding model."""
    environment = {
        "MEM0_LLM_PROVIDER": "ollama",
        "OLLAMA_BASE_URL": f"http://127.0.0.1:{free_port()}",
        "PROVIDER_ATTEMPTS": "1",
        "MEM0DASH_MODEL_DIR": str(tmp_path_factory.mktemp("no-model")),
    }
    server = Server(tmp_path_factory.mktemp("troubled") / "data", environment)
    try:
        server.start()
        server.bootstrap()
        client = server.client()
        body = {"messages": [{"role": "user", "content": "I moved to Malmö"}], "user_id": "mara"}
        assert client.request("POST", "/memories", json=body).status_code == 502
        client.close()
        yield Site(server, chromium)
    finally:
        server.kill9()


def test_the_overview_says_what_is_out_of_order_and_what_to_do(troubled_site: Site) -> None:
    def look(page: Any) -> None:
        told = page.get_by_label("What is out of order")
        assert "Language model: failing, since" in told.inner_text()
        assert "Nothing listens at http://127.0.0.1" in told.inner_text()
        assert "Embedder: not ready" in told.inner_text()
        assert "manage.py prepare_embedder" in told.inner_text()
        failed = page.get_by_role("region", name="Failed adds")
        assert "Provider is unreachable" in failed.inner_text()

    troubled_site.check_page("/dashboard", "overview-problems", act=look)


def test_an_error_behind_the_page_is_told_and_leaves_the_page_as_it_is(lived_in: Site) -> None:
    visit = lived_in.visit(storage_state=lived_in.signed_in())
    page = visit.page
    visit.go("/dashboard")
    sentence = '<p data-error>The database does not answer. <img src="x"></p>'
    page.route("**/dashboard", lambda route: route.fulfill(status=502, body=sentence))
    page.get_by_role("link", name="Refresh").click()
    told = page.locator(".toastish")
    told.wait_for()
    assert told.inner_text() == "The database does not answer."
    assert page.locator(".tile-n").first.is_visible()
    assert page.locator("#overview").get_attribute("aria-busy") is None


def test_a_session_that_has_ended_leads_to_sign_in_and_back(lived_in: Site) -> None:
    unthrottle(lived_in)
    visit = lived_in.visit().sign_in()
    page = visit.page
    page.context.clear_cookies(name="mem0dash_session")
    page.get_by_role("link", name="Refresh").click()
    page.wait_for_url("**/login")
    visit.sign_in()
    assert page.url.endswith("/dashboard")
    assert not visit.complaints
