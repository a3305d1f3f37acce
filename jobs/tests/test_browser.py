"""The page of jobs in a real browser: how it looks, by keyboard, without a script."""

import re
from collections.abc import Iterator

import pytest

from mem0dash.tests.browser import Site

pytestmark = [pytest.mark.browser, pytest.mark.long]
PAGE = "/dashboard/jobs"

HOSTILE = "<script>document.title=1</script>"
FILL = f"""
from datetime import timedelta
from django.utils import timezone
from accounts.models import Account, Project
from jobs import schedules
from jobs.models import Job, Schedule
from memories.models import Memory, MemoryVector
from memories.models.bulk import Operation
from memories.models.server import Reembedding
project, owner, now = Project.objects.get(), Account.objects.get(), timezone.now()
schedules.ensure()
def ago(minutes): return now - timedelta(minutes=minutes)
def job(kind, state, **rest):
    Job.objects.create(kind=kind, state=state, project=rest.pop("project", project), **rest)
def run(minutes): return dict(started_at=ago(minutes), created_at=ago(minutes))
def end(minutes): return dict(run(minutes), finished_at=ago(minutes))
job("memories.drop-vectors", "running", payload={{"model_key": "openai/text-embedding-3-large"}},
    holder="elsewhere", leased_until=now + timedelta(days=1), done=371, total=1204,
    account=owner, **run(9))
job("memories.drop-vectors", "queued", payload={{"model_key": "ollama/nomic-embed-text/768"}},
    run_at=now + timedelta(hours=3), failures=3, reason="The database did not answer.",
    actor={{"key_prefix": "m0sk_Qd7x2Ka"}}, **run(15))
job("memories.drop-vectors", "failed", payload={{"model_key": "local " + "x" * 120}},
    reason="The receiver refused it: {HOSTILE}", code="x", account=owner, **end(90))
job("memories.drop-vectors", "cancelled", payload={{"model_key": "gemini/text-embedding-004/768"}},
    account=owner, **end(60 * 20))
tidying = {{row.kind: row for row in Schedule.objects.all()}}
for n in range(60):
    job("operations.prune-request-log", "succeeded", project=None, result="4,118 requests removed",
        schedule=tidying["operations.prune-request-log"], **end(60 * n + 20))
job("memories.retention", "succeeded", project=None, result="12 memories removed",
    schedule=tidying["memories.retention"], **end(200))
Operation.objects.create(project=project, action="delete", match={{"ids": []}}, words="user mara",
    count=12804, digest="", planned_at=now, state="done", done=12804, account=owner,
    created_at=ago(45), finished_at=ago(44))
Operation.objects.create(project=project, action="approve", match={{}}, words="agent travel",
    count=48, digest="", planned_at=now, state="stopped", account=owner, created_at=ago(200),
    problem="Something else matches than was shown: 2 memories were changed since.")
"""


@pytest.fixture(scope="module")
def used(site: Site) -> Iterator[Site]:
    """The site with jobs in every state."""
    site.server.manage("shell", "--verbosity", "0", "--command", FILL)
    yield site


def test_the_page_before_anything_happened(site: Site) -> None:
    site.check_page(PAGE, "jobs-empty")


@pytest.mark.parametrize(
    ("query", "name"),
    [("", "jobs"), ("?state=done&page=2", "jobs-done"), ("?state=schedules", "jobs-schedules")],
)
def test_jobs_of_every_state(used: Site, query: str, name: str) -> None:
    used.check_page(f"{PAGE}{query}", name)


def test_hostile_texts_do_nothing(used: Site) -> None:
    visit = used.visit(storage_state=used.signed_in())
    visit.go(PAGE)
    assert visit.page.get_by_text(HOSTILE).count() == 1
    assert visit.page.title() == "Jobs · mem0dash"
    visit.assert_sound("jobs-hostile")


def test_a_job_is_cancelled_and_retried_by_keyboard_and_without_a_script(used: Site) -> None:
    state = used.signed_in()
    for options in ({}, {"java_script_enabled": False, "width": 390}):
        visit = used.visit(storage_state=state, **options)
        page = visit.page
        visit.go(f"{PAGE}?state=waiting")
        for act, told in (("Cancel", "Cancelled."), ("Retry", "queued again")):
            row = page.locator("tr", has_text="nomic-embed-text")
            button = row.get_by_role("button", name=re.compile(f"^{act}"))
            button.focus()
            page.keyboard.press("Enter")
            page.get_by_text(told).wait_for()
            visit.go(f"{PAGE}?state={'done' if act == 'Cancel' else 'waiting'}")
        used.server.manage("shell", "--verbosity", "0", "--command", AGAIN)
        visit.context.close()


AGAIN = """
from datetime import timedelta
from django.utils import timezone
from jobs.models import Job
rows = Job.objects.filter(payload__model_key="ollama/nomic-embed-text/768")
rows.update(state="queued", run_at=timezone.now() + timedelta(hours=3), finished_at=None)
"""


def test_the_page_follows_what_runs_and_keeps_the_focus(used: Site) -> None:
    visit = used.visit(storage_state=used.signed_in())
    page = visit.page
    visit.go(PAGE)
    row = page.locator("tr", has_text="text-embedding-3-large")
    row.get_by_text("371 of 1,204").wait_for()
    button = row.get_by_role("button", name="Cancel")
    button.focus()
    code = "from jobs.models import Job; Job.objects.filter(state='running').update(done=900)"
    used.server.manage("shell", "--verbosity", "0", "--command", code)
    row.get_by_text("900 of 1,204").wait_for()
    assert button.evaluate("node => node === document.activeElement")
    visit.assert_sound("jobs-followed")
