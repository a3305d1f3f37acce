"""Requests and activity in a real browser: how they look, by keyboard, without a script."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from mem0dash.tests.browser import Site
from prove.server import Server

pytestmark = [pytest.mark.browser, pytest.mark.long]

HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script>'
CLIENT = "opencode/1.2.3 (linux; x64) mem0-mcp/0.9.1"
REQUESTS = f"""
import math, random
from datetime import timedelta
from django.utils import timezone
from accounts.models import Account, Project
from operations.models import RequestLog
chance = random.Random(7)
project, owner, now = Project.objects.get(), Account.objects.get(), timezone.now()
ways = [("POST", "/memories", 420), ("POST", "/search", 38), ("GET", "/memories", 12),
        ("GET", "/memories/0b2f6c3e-6a0e-4d5e-9a3e-2f6c3e6a0e4d", 4), ("GET", "/entities", 9)]
keys = [("m0sk_Qd7x2Ka", {CLIENT!r}), ("m0sk_Lp09vZt", "mem0-python"), ("m0sk_h3Tz81s", ""),
        ("", {HOSTILE!r})]
rows = []
for n in range(900):
    method, path, usual = chance.choice(ways)
    key, client = chance.choices(keys, [60, 30, 8, 2])[0]
    status = chance.choices([200, 404, 422, 429, 502], [930, 30, 15, 10, 15])[0]
    ago = 24 * 60 * chance.random() ** 1.3
    if 300 < ago < 420 and chance.random() < 0.8:
        continue
    rows.append(RequestLog(project=project, account=owner if key else None, method=method,
        path=path, status_code=status, latency_ms=round(usual * math.exp(chance.gauss(0, 0.6)), 2),
        auth_type="api_key" if key else "admin_api_key", key_prefix=key, client=client,
        request_id=f"{{n:032x}}", created_at=now - timedelta(minutes=ago)))
RequestLog.objects.bulk_create(rows)
"""
DEEDS = f"""
from dataclasses import replace
from accounts import audit
from accounts.audit import AuditAction, AuditTarget, account_target
from accounts.models import Account, Project
from apikeys.services import create_api_key
from core.principal import OPERATOR, Actor
project, owner = Project.objects.get(), Account.objects.get()
actor = Actor(account_id=owner.id, via="session", client="Mozilla/5.0 (X11; Linux) Firefox/140.0")
create_api_key(owner=owner, project=project, label="laptop", actor=actor,
    entity_limit={{"user_id": ["mara", "jonas"]}})
ghost = AuditTarget("account", "", "ghost@example.org")
for n in range(9):
    audit.record_refusal(AuditAction.SESSION_REFUSED, actor=Actor(client="curl/8.5"),
        target=ghost, address="203.0.113.7")
audit.record(AuditAction.PROVIDERS_CONFIGURED, actor=actor, details={{
    "llm.model": ["gpt-5-mini", "gpt-5"], "llm.api_key": "changed",
    "llm.openai_base_url": [None, "https://llm.example.org/v1"]}})
told = ["Remember what people eat.", "Remember what people eat, and " * 40]
audit.record(AuditAction.INSTRUCTIONS_CHANGED, actor=actor, project_id=project.id,
    target=AuditTarget("project", project.id, project.name), details={{"instructions": told}})
audit.record(AuditAction.KEY_REVOKED, actor=OPERATOR, project_id=project.id,
    target=AuditTarget("key", "", {HOSTILE!r}), details={{"prefix": "m0sk_Qd7x2Ka"}})
audit.record(AuditAction.PROJECT_RESET,
    actor=replace(actor, via="api_key", key_prefix="m0sk_Qd7x2Ka"),
    project_id=project.id, target=AuditTarget("project", project.id, "default"))
"""


def run(server: Server, code: str) -> None:
    server.manage("shell", "--verbosity", "0", "--command", code)


@pytest.fixture(scope="module")
def used(site: Site) -> Iterator[Site]:
    """The site after a day of use."""
    client = site.server.client()
    [row] = client.add(
        "Prefers window seats and always flies out of Gothenburg rather than Stockholm.",
        user_id="mara",
        agent_id="travel-agent",
    )
    text = "Prefers aisle seats and always flies out of Gothenburg, never out of Stockholm."
    client.update(row["id"], text=text, metadata={"reviewed": "by hand", "topics": ["travel"]})
    [gone] = client.add("Vegetarian since 2019; does not eat mushrooms.", user_id="jonas")
    client.delete(gone["id"])
    client.add(f"{HOSTILE} wants answers in metric units.", user_id="mara")
    client.add(" ".join(["A memory that is as long as a page."] * 60), user_id="mara")
    client.add("يفضل الشاي على القهوة", user_id="mara")
    client.close()
    run(site.server, REQUESTS)
    run(site.server, DEEDS)
    yield site


def test_both_pages_before_anything_happened(site: Site) -> None:
    site.check_page("/dashboard/activity", "activity-empty")
    site.check_page("/dashboard/requests", "requests-empty")


def test_the_requests_of_a_day(used: Site) -> None:
    used.check_page("/dashboard/requests", "requests")


def test_requests_under_a_filter(used: Site) -> None:
    def look(page: Any) -> None:
        page.get_by_text("As a table").first.click()
        assert page.get_by_role("link", name="Remove filter: Status").is_visible()

    query = urlencode({"status": "4", "key": "m0sk_Qd7x2Ka", "client": CLIENT})
    used.check_page(f"/dashboard/requests?{query}", "requests-filtered", act=look)
    used.check_page("/dashboard/requests?slow=599999&period=7d", "requests-none")


def test_the_filter_menu_of_the_requests(used: Site) -> None:
    def open_menu(page: Any) -> None:
        page.locator(".filter-menu > summary").click()
        page.get_by_label("Took at least (ms)").wait_for()

    used.check_page("/dashboard/requests", "requests-menu", act=open_menu)
    used.check_page("/dashboard/requests?slow=0&until=9999-12-31", "requests-wrong", status=422)


def test_the_activity_of_a_day(used: Site) -> None:
    used.check_page("/dashboard/activity", "activity")


def test_the_filter_menu_of_the_activity(used: Site) -> None:
    def open_menu(page: Any) -> None:
        page.locator(".filter-menu > summary").click()
        page.get_by_label("Memory id").wait_for()

    used.check_page("/dashboard/activity?event=UPDATE", "activity-menu", act=open_menu)
    used.check_page("/dashboard/activity?event=ERASE", "activity-none")


def test_hostile_texts_do_nothing(used: Site) -> None:
    visit = used.visit(storage_state=used.signed_in())
    for path, title in (("activity", "Activity"), ("requests", "Requests")):
        visit.go(f"/dashboard/{path}")
        assert visit.page.get_by_text(HOSTILE).count() >= 1
        assert visit.page.locator("main img, main script").count() == 0
        assert visit.page.title() == f"{title} · mem0dash"
        visit.assert_sound(path)


def test_a_filter_is_set_and_taken_off_by_keyboard_and_without_a_script(used: Site) -> None:
    state = used.signed_in()
    for options in ({}, {"java_script_enabled": False, "width": 390}):
        visit = used.visit(storage_state=state, **options)
        page = visit.page
        visit.go("/dashboard/activity")
        summary = page.locator(".filter-menu > summary")
        summary.focus()
        page.keyboard.press("Enter")
        page.get_by_label("What").select_option("UPDATE")
        page.get_by_role("button", name="Show").focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**/dashboard/activity?event=UPDATE")
        assert page.locator(".activity > li").count() == 1
        assert page.locator("ins").first.inner_text() == "aisle"
        page.get_by_role("link", name="Remove filter: What").click()
        page.wait_for_url("**/dashboard/activity")
        assert page.locator(".activity > li").count() > 5


def test_the_export_comes_as_a_file(used: Site) -> None:
    visit = used.visit(storage_state=used.signed_in())
    page = visit.page
    visit.go("/dashboard/activity?event=DELETE")
    page.locator("summary", has_text="Export").click()
    with page.expect_download() as coming:
        page.get_by_role("link", name="CSV").click()
    assert coming.value.suggested_filename.endswith(".csv")
    lines = coming.value.path().read_text().splitlines()
    assert len(lines) == 2 and "Vegetarian" in lines[1]
    assert not visit.complaints


def test_refreshing_and_paging_the_log(used: Site) -> None:
    visit = used.visit(storage_state=used.signed_in())
    page = visit.page
    visit.go("/dashboard/requests")
    first = page.locator(".log tbody tr").count()
    assert first == 50
    page.get_by_role("link", name="Older").click()
    page.wait_for_url("**behind=*")
    assert page.locator(".log tbody tr").count() == 50
    assert page.locator("figure").count() == 0
    page.get_by_role("link", name="Newest").click()
    page.get_by_role("heading", name="Requests per hour").wait_for()
    total = page.locator("#requests .chart-words").first.inner_text()
    client = used.server.client()
    client.search("travel", user_id="mara")
    client.close()
    # The log is written once a second.
    for _ in range(40):
        page.get_by_role("link", name="Refresh").click()
        page.locator("#requests:not([aria-busy])").wait_for()
        if page.locator("#requests .chart-words").first.inner_text() != total:
            break
        page.wait_for_timeout(100)
    assert page.locator("#requests .chart-words").first.inner_text() != total
    assert page.locator("#requests").count() == 1
    visit.assert_sound("after refreshing")
