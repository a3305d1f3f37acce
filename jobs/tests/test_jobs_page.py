"""The page of jobs: what it says, who sees what, and what people can do there."""

import re
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import Account, AuditEntry, Membership, Project, Role
from accounts.tests.signing import sign_in
from core.errors import ConflictError, NotFoundError
from jobs import claims, queue, rows
from jobs.models import Job, Parked, Schedule
from jobs.rows import JobGroup, JobRow
from jobs.tests.conftest import claim

State = Job.State
pytestmark = [pytest.mark.django_db, pytest.mark.one_form]
PAGE = "/dashboard/jobs"
HOSTILE = "<script>alert(1)</script>"


class Elsewhere:
    """Another room's long work."""

    def __init__(self) -> None:
        self.found: list[JobRow] = []
        self.cancelled: list[str] = []

    def counts(self, principal: Any) -> dict[JobGroup, int]:
        return {group: sum(row.group == group for row in self.found) for group in JobGroup}

    def rows(self, principal: Any, group: JobGroup, limit: int) -> list[JobRow]:
        return [row for row in self.found if row.group == group][:limit]

    def cancel(self, principal: Any, row_id: str) -> None:
        if not any(row.id == row_id for row in self.found):
            raise NotFoundError("No such job.")
        if self.cancelled:
            raise ConflictError("It has ended already.")
        self.cancelled.append(row_id)


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    made = Elsewhere()
    monkeypatch.setattr(rows, "job_sources", lambda: {"elsewhere": made})
    return made


def admin_of(project: Project) -> Client:
    account = Account.objects.create(email=f"admin@{project.slug}.example", name="Ann")
    Membership.objects.create(project=project, account=account, role=Role.ADMIN)
    return sign_in(account)


def shown(signed_in: Client, **params: str) -> str:
    answer = signed_in.get(PAGE, params)
    assert answer.status_code == 200, answer.content
    return unescape(re.sub(r"\s+", " ", answer.content.decode()))


def titles(signed_in: Client, **params: str) -> list[str]:
    return re.findall(r'class="name"[^>]*>([^<]+)<', shown(signed_in, **params))


def failed(put: Any, make_kind: Any, **rest: Any) -> Job:
    kind = make_kind(name="test.failing", title="Failing work", backoff=())
    job = put("test.failing", **rest)
    reason = "The receiver refused it."
    queue.fail(claim("test.failing"), kind, reason=reason, code="x", retry_after=0, final=True)
    return job


def listed(owner: Client) -> dict[str, list[str]]:
    return {group: titles(owner, state=group) for group in JobGroup}


# --- What it says --------------------------------------------------------------------------------
def test_an_empty_page_says_what_it_is_for(signed_in):
    assert "No jobs yet" in shown(signed_in)
    assert "Nothing has failed" in shown(signed_in, state="failed")
    assert "hx-trigger" not in shown(signed_in)


def test_each_state_has_its_tab_and_all_are_together_running_first(signed_in, put, make_kind):
    make_kind(title="Running work", name="test.running")
    make_kind(title="Waiting work", name="test.waiting")
    failed(put, make_kind)
    put("test.waiting")
    put("test.running")
    running = claim("test.running")
    Job.objects.filter(pk=running.pk).update(done=371, total=1204)
    assert titles(signed_in) == ["Running work", "Waiting work", "Failing work"]
    assert listed(signed_in) == {
        "running": ["Running work"],
        "waiting": ["Waiting work"],
        "failed": ["Failing work"],
        "done": [],
    }
    page = shown(signed_in)
    assert "371 of 1,204" in page
    assert '<progress value="30"' in page
    assert 'hx-trigger="every 3s"' in page
    assert "The receiver refused it." in page
    assert "Retry 1 failed" in page


def test_reasons_for_waiting_are_told(signed_in, put, make_kind):
    make_kind(title="First", name="test.first", backoff=(3600.0,) * 3)
    put("test.first", lane="a")
    put("test.first", lane="a")
    kind = make_kind(title="Away", name="test.away")
    put("test.away")
    told = {"reason": "Refused.", "code": "x", "retry_after": 0, "final": False}
    queue.fail(claim("test.first"), make_kind(name="test.first", backoff=(3600.0,) * 3), **told)
    claims.park(kind.name, reason="The provider is away.", retry_after=600)
    page = shown(signed_in, state="waiting")
    assert "Attempt 2 of 4. Refused." in page
    assert "Behind an earlier job for the same thing" in page
    assert "The provider is away." in page
    assert page.count("Waiting until ") == 2
    Parked.objects.all().delete()
    assert shown(signed_in, state="waiting").count("Waiting until ") == 1


def test_who_started_it_stands_there(signed_in, put, owner, alice):
    put(principal=owner)
    Job.objects.filter(account=alice).update(actor={"key_prefix": "m0sk_abc"})
    put()
    Job.objects.filter(account=None).update(actor={"key_prefix": "m0sk_abc"})
    page = shown(signed_in)
    assert '<td class="c-by">Alice</td>' in page
    assert '<td class="c-by">key m0sk_abc…</td>' in page


def test_texts_of_others_do_nothing(signed_in, put, make_kind, elsewhere):
    make_kind(about=lambda payload: HOSTILE)
    put()
    Job.objects.update(state=State.FAILED, reason=HOSTILE)
    elsewhere.found = [JobRow("elsewhere", "1", HOSTILE, JobGroup.RUNNING, timezone.now())]
    assert HOSTILE not in signed_in.get(PAGE).content.decode()


def test_a_job_that_this_version_does_not_know_is_shown_and_cannot_be_retried(
    signed_in, put, _no_other_kinds
):
    job = put()
    Job.objects.update(state=State.FAILED)
    _no_other_kinds.clear()
    page = shown(signed_in)
    assert "This version does not know such jobs." in page
    assert f"/dashboard/jobs/queue/{job.pk}/retry" not in page
    assert "Retry 1 failed" not in page


def test_many_jobs_are_paged(signed_in, put):
    for _ in range(60):
        put()
    Job.objects.update(state=State.SUCCEEDED, finished_at=timezone.now())
    assert "latest 20 of each state" in shown(signed_in)
    page = shown(signed_in, state="done")
    assert "1–50 of 60" in page
    assert f'{PAGE}?state=done&page=2"' in page
    page = shown(signed_in, state="done", page="2")
    assert "51–60 of 60" in page
    assert f'{PAGE}?state=done"' in page


def test_more_jobs_cost_no_more_statements(
    signed_in, put, hourly, owner, django_assert_max_num_queries
):
    for _ in range(30):
        put(principal=owner)
    claim()
    for state in ("", "waiting", "schedules"):
        with django_assert_max_num_queries(32):
            shown(signed_in, **({"state": state} if state else {}))


def test_htmx_gets_the_list_and_what_changes_with_it(signed_in, put):
    put()
    answer = signed_in.get(PAGE, headers={"HX-Request": "true"}).content.decode()
    assert "<html" not in answer
    assert answer.count('hx-swap-oob="true"') == 2


@pytest.mark.parametrize(
    "params",
    [
        {"state": "Running"},
        {"state": "queued"},
        {"page": "0"},
        {"page": "201"},
        {"page": "٣"},
        {"page": "x"},
        {"kind": "a"},
        {"State": "done"},
    ],
)
def test_an_address_that_is_not_understood_is_refused(signed_in, params):
    answer = signed_in.get(PAGE, params)
    assert answer.status_code == 400
    said = answer.content.decode()
    assert "Invalid filter" in said or "does not understand" in said


# --- Long work of other rooms --------------------------------------------------------------------
def test_long_work_of_other_rooms_is_listed_among_the_jobs(signed_in, put, elsewhere):
    now = timezone.now()
    put()
    elsewhere.found = [
        JobRow(
            source="elsewhere",
            id="7",
            title="Re-embed memories",
            group=JobGroup.RUNNING,
            at=now,
            done=1,
            total=4,
            note="1 of 4",
            problem="The provider refuses.",
            url="/dashboard/memories",
            can_cancel=True,
            warning="All of it is lost.",
        ),
        JobRow("elsewhere", "6", "Old work", JobGroup.DONE, now - timedelta(hours=1)),
    ]
    assert titles(signed_in) == ["Re-embed memories", "Test work", "Old work"]
    page = shown(signed_in)
    assert '<span class="state warn">Running</span>' in page
    assert "The provider refuses." in page
    address = f"{PAGE}/elsewhere/7/cancel"
    assert f'href="{address}"' in page
    assert "All of it is lost." in signed_in.get(address).content.decode()
    assert elsewhere.cancelled == []
    assert signed_in.post(address).status_code == 302
    assert elsewhere.cancelled == ["7"]
    answer = signed_in.post(address, follow=True)
    assert "It has ended already." in answer.content.decode()
    assert signed_in.get(f"{PAGE}/elsewhere/8/cancel").status_code == 404
    assert signed_in.post(f"{PAGE}/elsewhere/8/cancel").status_code == 404


# --- Acting --------------------------------------------------------------------------------------
def test_a_job_is_cancelled_retried_and_hurried(signed_in, put):
    job = put(delay=3600)
    act = f"{PAGE}/queue/{job.pk}"
    here = f"{PAGE}?state=waiting"
    answer = signed_in.post(f"{act}/run", {"next": here})
    assert (answer.status_code, answer["Location"]) == (302, here)
    assert claim().pk == job.pk
    signed_in.post(f"{act}/cancel")
    assert "Cancelling" in shown(signed_in)
    Job.objects.update(state=State.CANCELLED)
    signed_in.post(f"{act}/retry")
    job.refresh_from_db()
    assert job.state == State.QUEUED
    signed_in.post(f"{act}/cancel")
    job.refresh_from_db()
    assert job.state == State.CANCELLED


def test_activity_says_who_acted_on_a_job(signed_in, put, make_kind):
    make_kind(title="Prune models", about=lambda payload: "of ollama")
    job = put(delay=3600)
    for act in ("run", "cancel", "retry"):
        signed_in.post(f"{PAGE}/queue/{job.pk}/{act}")
    said = unescape(signed_in.get("/dashboard/activity", {"kind": "jobs"}).content.decode())
    for sentence in (
        "Alice ran the job ‘Prune models’ before its time",
        "Alice cancelled the job ‘Prune models’",
        "Alice queued the job ‘Prune models’ again",
    ):
        assert sentence in said
    assert "of ollama" in said


def test_each_job_that_is_retried_with_others_has_its_own_entry(signed_in, put, make_kind):
    failed(put, make_kind, dedup_key="a")
    second = failed(put, make_kind, dedup_key="b", project_id=None)
    signed_in.post(f"{PAGE}/retry")
    retried = AuditEntry.objects.filter(action="job.retried").order_by("id")
    assert list(retried.values_list("project__name", flat=True)) == ["Default", None]
    assert retried[1].target_id == str(second.pk)


@pytest.mark.parametrize("act", ["retry", "run", "cancel"])
def test_what_is_refused_leaves_no_entry(signed_in, put, act):
    job = put()
    Job.objects.update(state=State.SUCCEEDED, finished_at=timezone.now())
    signed_in.post(f"{PAGE}/queue/{job.pk}/{act}")
    assert not AuditEntry.objects.filter(action__startswith="job.").exists()


@pytest.mark.parametrize("act", ["retry", "run", "cancel"])
def test_what_cannot_be_done_is_said(signed_in, put, act):
    job = put()
    Job.objects.update(state=State.SUCCEEDED, finished_at=timezone.now())
    answer = signed_in.post(f"{PAGE}/queue/{job.pk}/{act}", follow=True)
    assert re.search(
        r"has ended already|Only a job that failed|does not wait", answer.content.decode()
    )


def test_all_failed_jobs_are_retried_but_those_that_run_again_already(signed_in, put, make_kind):
    first = failed(put, make_kind, dedup_key="a")
    second = failed(put, make_kind, dedup_key="b")
    put("test.failing", dedup_key="b")
    answer = signed_in.post(f"{PAGE}/retry", follow=True)
    assert "1 job is queued." in answer.content.decode()
    states = dict(Job.objects.values_list("pk", "state"))
    assert (states[first.pk], states[second.pk]) == (State.QUEUED, State.FAILED)
    signed_in.post(f"{PAGE}/retry")
    assert "No failed job" in shown(signed_in)


@pytest.mark.parametrize("id_", ["0", "999999", "9" * 30, "abc", "-1"])
@pytest.mark.parametrize("act", ["retry", "run", "cancel"])
def test_what_is_no_job_is_not_found(signed_in, id_, act):
    assert signed_in.post(f"{PAGE}/queue/{id_}/{act}").status_code == 404
    assert signed_in.post(f"{PAGE}/unknown/{id_}/cancel").status_code == 404


def test_the_way_back_stays_on_this_server(signed_in, put):
    job = put(delay=60)
    answer = signed_in.post(f"{PAGE}/queue/{job.pk}/run", {"next": "https://evil.example/"})
    assert answer["Location"] == "/dashboard"


# --- Who ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("role", [Role.MEMBER, Role.REVIEWER])
def test_only_administrators_see_jobs(alice, bob, put, role):
    job = put()
    Membership.objects.update(role=role)
    signed_in = sign_in(bob)
    assert signed_in.get(PAGE).status_code == 403
    for path in ("retry", f"queue/{job.pk}/cancel", f"queue/{job.pk}/retry", "schedules/1/run"):
        assert signed_in.post(f"{PAGE}/{path}").status_code == 403
    assert f'href="{PAGE}"' not in signed_in.get("/dashboard").content.decode()


def test_jobs_of_others_do_not_exist(alice, put, make_kind, project, other_project):
    make_kind(name="test.instance", title="Instance work", backoff=())
    of_project, of_instance = put(), put("test.instance", project_id=None)
    stranger, admin, owner = admin_of(other_project), admin_of(project), sign_in(alice)
    assert titles(stranger) == []
    assert titles(admin) == ["Test work"]
    assert sorted(titles(owner)) == ["Instance work", "Test work"]
    for signed_in, job in ((stranger, of_project), (stranger, of_instance), (admin, of_instance)):
        for act in ("cancel", "retry", "run"):
            assert signed_in.post(f"{PAGE}/queue/{job.pk}/{act}").status_code == 404
        assert signed_in.get(f"{PAGE}/queue/{job.pk}/cancel").status_code == 404
    Job.objects.update(state=State.FAILED)
    admin.post(f"{PAGE}/retry")
    states = dict(Job.objects.values_list("pk", "state"))
    assert states == {of_project.pk: State.QUEUED, of_instance.pk: State.FAILED}


# --- Schedules -----------------------------------------------------------------------------------
@pytest.fixture
def hourly(make_kind: Any) -> Schedule:
    from jobs import schedules

    make_kind(name="test.hourly", title="Hourly work", schedule="every hour")
    schedules.ensure()
    return Schedule.objects.get()


def test_schedules_tell_their_last_run_their_next_and_the_result(signed_in, hourly):
    page = shown(signed_in, state="schedules")
    assert "Hourly work" in page
    assert "Every hour" in page
    assert "Not yet" in page
    signed_in.post(f"{PAGE}/schedules/{hourly.pk}/run")
    signed_in.post(f"{PAGE}/schedules/{hourly.pk}/run")
    job = claim()
    assert (job.schedule_id, job.account.name) == (hourly.pk, "Alice")
    assert AuditEntry.objects.filter(action="job.started", target_id=str(job.pk)).exists()
    assert claim() is None
    assert "Run now" not in shown(signed_in, state="schedules")
    queue.finish(job, result="12 memories removed")
    page = shown(signed_in, state="schedules")
    assert "12 memories removed" in page
    assert '<span class="state ok">Done</span>' in page
    assert f"{hourly.next_run_at:%H:%M} UTC" in page


def test_schedules_are_the_owners(alice, project, hourly):
    admin = admin_of(project)
    assert "state=schedules" not in shown(admin)
    assert "No schedules" in shown(admin, state="schedules")
    assert admin.post(f"{PAGE}/schedules/{hourly.pk}/run").status_code == 404
    assert sign_in(alice).post(f"{PAGE}/schedules/999/run").status_code == 404
    assert not Job.objects.exists()


def test_what_ended_last_stands_first(signed_in, put, make_kind):
    make_kind(title="Old job", name="test.old")
    make_kind(title="New job", name="test.new")
    old = put("test.old")
    put("test.new", project_id=None)
    queue.finish(claim("test.new"))
    queue.cancel(old)
    assert titles(signed_in, state="done") == ["Old job", "New job"]
