"""The page of jobs: running, waiting and failed ones; cancel, retry, run now."""

from dataclasses import dataclass
from typing import Any, Final

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts.web import PageRequest, local_path, page
from core import names
from core.errors import ConflictError, InvalidInputError
from core.pages.partial import is_partial
from jobs import service
from jobs.rows import JobGroup, JobRow

PER_PAGE: Final = 50
# Rows of each group on the page of all jobs.
OF_EACH: Final = 20
MOST_PAGES: Final = 200
SCHEDULES: Final = "schedules"
# The parameters of the list's address.
NAMES: Final = frozenset({"state", "page"})
_TABS: Final = (
    ("", "All"),
    (JobGroup.RUNNING, "Running"),
    (JobGroup.WAITING, "Waiting"),
    (JobGroup.FAILED, "Failed"),
    (JobGroup.DONE, "Done"),
)
_NONE: Final = {
    "": ("No jobs yet", "Work that takes longer than a request is listed here, with its progress."),
    JobGroup.RUNNING: ("Nothing is running", "Jobs appear here while they are being worked on."),
    JobGroup.WAITING: (
        "Nothing is waiting",
        "Jobs wait here for their turn or their next attempt.",
    ),
    JobGroup.FAILED: ("Nothing has failed", "A job that gave up is listed here with the reason."),
    JobGroup.DONE: ("Nothing is done yet", "Finished jobs stay here for a week."),
}


@dataclass(frozen=True, slots=True)
class _JobSelection:
    """The selection in the address: a group ("" for all) or the schedules, and the page."""

    state: str
    number: int

    @classmethod
    def of(cls, request: PageRequest) -> "_JobSelection":
        names.check_page(request.GET, NAMES)
        names.check_once(dict(request.GET.lists()), NAMES)
        state = request.GET.get("state", "")
        if state not in {"", *JobGroup, SCHEDULES}:
            choices = ", ".join([*JobGroup, SCHEDULES])
            raise InvalidInputError(f"Invalid filter: `state` must be one of {choices}.")
        number = names.page_number(request.GET.get("page", "1"), most=MOST_PAGES)
        return cls(state, number)

    @property
    def path(self) -> str:
        pairs = [("state", self.state)] * bool(self.state)
        pairs += [("page", str(self.number))] * (self.number > 1)
        query = "&".join(f"{name}={value}" for name, value in pairs)
        return reverse("jobs:jobs") + ("?" if query else "") + query


@require_safe
@page
def jobs(request: PageRequest) -> HttpResponse:
    """The list; scope `admin`. It reloads itself while a job runs or waits."""
    selected, principal = _JobSelection.of(request), request.principal
    counts = service.count_by_group(principal)
    scheduled = service.list_schedules(principal)
    context: dict[str, Any] = {
        "shown": selected,
        "running": counts[JobGroup.RUNNING],
        "failed": service.count_failed(principal),
        "scheduled": scheduled,
        "tabs": _tabs(selected, counts, len(scheduled)),
        # Seconds until the next reload.
        "look_again": 3 if counts[JobGroup.RUNNING] else 10 if counts[JobGroup.WAITING] else 0,
        "here": selected.path,
        "blank": _NONE.get(selected.state),
    }
    if selected.state != SCHEDULES:
        context |= _list_context(request, selected, counts)
    partial = is_partial(request)
    context["partial"] = partial
    return render(request, "jobs/_jobs.html" if partial else "jobs/jobs.html", context)


def _tabs(
    selected: _JobSelection, counts: dict[JobGroup, int], scheduled: int
) -> list[dict[str, Any]]:
    numbers = {"": sum(counts.values())} | {group.value: count for group, count in counts.items()}
    tabs = [(state, label, numbers[state]) for state, label in _TABS]
    if scheduled:
        tabs.append((SCHEDULES, "Schedules", scheduled))
    return [
        {
            "url": _JobSelection(state, 1).path,
            "label": label,
            "count": count,
            "current": state == selected.state,
        }
        for state, label, count in tabs
    ]


def _list_context(
    request: PageRequest, selected: _JobSelection, counts: dict[JobGroup, int]
) -> dict[str, Any]:
    if not selected.state:
        page_rows: list[JobRow] = []
        for group in JobGroup:
            page_rows += service.list_jobs(request.principal, group, start=0, limit=OF_EACH)
        return {
            "rows": page_rows,
            "is_cut": len(page_rows) < sum(counts.values()),
            "of_each": OF_EACH,
        }
    group, start = JobGroup(selected.state), (selected.number - 1) * PER_PAGE
    page_rows = service.list_jobs(request.principal, group, start=start, limit=PER_PAGE + 1)
    before, after = selected.number - 1, selected.number + 1
    has_more = len(page_rows) > PER_PAGE and after <= MOST_PAGES
    rows = page_rows[:PER_PAGE]
    return {
        "rows": rows,
        "first": start + 1,
        "last": start + len(rows),
        "count": max(counts[group], start + len(rows)),
        "previous": _JobSelection(group, before).path if before else "",
        "next": _JobSelection(group, after).path if has_more else "",
    }


@require_http_methods(["GET", "HEAD", "POST"])
@page
def cancel(request: PageRequest, source: str, row_id: str) -> HttpResponse:
    """GET: what cancelling means. POST: cancels."""
    if request.method != "POST":
        row = service.get_row(request.principal, source, row_id)
        return render(request, "jobs/cancel.html", {"row": row})
    return _act_and_redirect(
        request,
        lambda: service.cancel(request.principal, source, row_id),
        "Cancelled. What was done so far stays.",
    )


@require_POST
@page
def retry(request: PageRequest, job_id: str) -> HttpResponse:
    """Queues a job again."""
    act = "The job is queued again."
    return _act_and_redirect(request, lambda: service.retry(request.principal, job_id), act)


@require_POST
@page
def hurry(request: PageRequest, job_id: str) -> HttpResponse:
    """Lets a waiting job run now."""
    act = "The job runs as soon as there is room."
    return _act_and_redirect(request, lambda: service.run_now(request.principal, job_id), act)


@require_POST
@page
def retry_failed(request: PageRequest) -> HttpResponse:
    """Queues all failed jobs again."""
    count = service.retry_failed(request.principal)
    if count:
        messages.success(request, f"{count:,} {'job is' if count == 1 else 'jobs are'} queued.")
    else:
        messages.info(request, "No failed job could be retried.")
    return redirect("jobs:jobs")


@require_POST
@page
def schedule_run(request: PageRequest, schedule_id: int) -> HttpResponse:
    """Runs what a schedule does, now."""
    act = "The job runs as soon as there is room."
    return _act_and_redirect(
        request, lambda: service.run_schedule(request.principal, schedule_id), act
    )


def _act_and_redirect(request: PageRequest, act: Any, message: str) -> HttpResponse:
    try:
        act()
    except ConflictError as error:
        messages.warning(request, error.message)
    else:
        messages.success(request, message)
    back = request.POST.get("next", "")
    return redirect(local_path(back) if back else "jobs:jobs")
