"""The five steps: their order, which ones are done, who may open them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import update_wrapper
from typing import Any, Final, cast

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import reverse

from accounts import audit, setup
from accounts.audit import AuditAction, AuditTarget
from accounts.models import Account
from accounts.web import PageRequest, find_signed_in, identify, redirect_browser, sign_in_url
from core.errors import PermissionDeniedError
from core.pages.answers import error_page
from memories.providers import service as providers
from setup_wizard.models import Progress
from setup_wizard.presets import PRESETS

DONE: Final = (
    "Set-up was completed, and stays closed. Everything it asked for can be changed later."
)


@dataclass(frozen=True, slots=True)
class StepLink:
    """A step as the rail shows it; `url` where one can go to it."""

    name: str
    title: str
    detail: str
    done: bool
    current: bool
    url: str


# Name, title, and what it is about.
STEPS: Final = (
    ("administrator", "Administrator", "Your account"),
    ("provider", "Model provider", "Who extracts and embeds"),
    ("key", "First key", "For your first client"),
    ("use-case", "Use case", "What is worth remembering"),
    ("test", "Test", "Add and find one memory"),
)
NAMES: Final = tuple(name for name, _, _ in STEPS)


class StepRequest(PageRequest):
    """A request of the owner, who sets this server up."""

    account: Account
    progress: Progress


View = Callable[[HttpRequest], HttpResponseBase]
StepView = Callable[[StepRequest], HttpResponseBase]


def requires_open_setup(view: View) -> View:
    """Calls `view` until set-up is complete. After that every request gets 410, whatever its
    method."""

    def guarded(request: HttpRequest, /) -> HttpResponseBase:
        if setup.is_complete():
            return error_page(request, 410, DONE, template="setup_wizard/closed.html")
        return view(request)

    update_wrapper(guarded, view)
    return guarded


def requires_step(view: StepView) -> View:
    """Calls `view` for the owner; `@while_open` stands above it.

    403 for another account. A visitor who is not signed in is sent to sign-in, or to the first step
    while the instance has no owner.
    """

    def guarded(request: HttpRequest, /) -> HttpResponseBase:
        if setup.needs_setup():
            return redirect_browser(request, reverse("setup:start"))
        account = find_signed_in(request)
        if account is None:
            return redirect_browser(request, sign_in_url(request))
        if not account.is_owner:
            raise PermissionDeniedError("The owner of this server sets it up. Ask them to go on.")
        step_request = cast(StepRequest, identify(request, account))
        rows = Progress.objects.select_related("key")
        # Opening a page writes nothing; only sending a form writes the row.
        if request.method == "POST":
            step_request.progress, _ = rows.get_or_create(id=1)
        else:
            step_request.progress = rows.filter(id=1).first() or Progress()
        return view(step_request)

    update_wrapper(guarded, view)
    return guarded


def record_step(request: StepRequest, name: str) -> None:
    """Records in the audit that a step was done, in the transaction that stores it."""
    target = AuditTarget("step", name, STEPS[NAMES.index(name)][1])
    audit.record(AuditAction.SETUP_STEP, actor=request.principal.actor, target=target)


def next_step(progress: Progress) -> str:
    """The first step that is not done; the last one is never done before set-up is."""
    done = _done(progress)
    return next(name for name in NAMES if not done[name])


def may_enter(name: str, progress: Progress) -> bool:
    """Whether all steps before this one are done."""
    return NAMES.index(name) <= NAMES.index(next_step(progress))


def _done(progress: Progress) -> dict[str, bool]:
    return {
        "administrator": True,
        "provider": progress.provider_chosen_at is not None,
        "key": progress.key_id is not None,
        "use-case": progress.use_case_chosen_at is not None,
        "test": False,
    }


def url_of(name: str) -> str:
    return reverse(f"setup:{name}")


def render_step(request: HttpRequest, name: str, **context: Any) -> HttpResponse:
    """The page of a step; `status` may be among the context, `template` for a part of it."""
    status: int = context.pop("status", 200)
    template: str = context.pop("template", f"setup_wizard/{name.replace('-', '_')}.html")
    number = NAMES.index(name)
    frame = {
        "step_number": number + 1,
        "steps": list(_rail(request, name)),
        "back_url": url_of(NAMES[number - 1]) if number else "",
    }
    answer = render(request, template, {**frame, **context}, status=status)
    answer.headers["Cache-Control"] = "no-store"
    return answer


def _rail(request: HttpRequest, current: str) -> list[StepLink]:
    account: Account | None = getattr(request, "account", None)
    progress: Progress | None = getattr(request, "progress", None)
    if account is None or progress is None:
        return [
            StepLink(name, title, about, False, name == current, "") for name, title, about in STEPS
        ]
    done = _done(progress)
    values = _values(cast(StepRequest, request))
    return [
        StepLink(
            name,
            title,
            values[name] if done[name] else about,
            done[name],
            name == current,
            url_of(name) if may_enter(name, progress) else "",
        )
        for name, title, about in STEPS
    ]


def _values(request: StepRequest) -> dict[str, str]:
    """The results of the steps that are done."""
    progress, key = request.progress, request.progress.key
    return {
        "administrator": request.account.email,
        "provider": _provider(request),
        "key": f"{key.label}, {key.prefix}…{key.last4}" if key else "",
        "use-case": _use_case(progress),
        "test": "",
    }


def _provider(request: StepRequest) -> str:
    llm = providers.get_in_use(request.principal).llm
    model = llm["config"].get("model")
    return str(model) if model else "None: word for word"


def _use_case(progress: Progress) -> str:
    preset = PRESETS.get(progress.preset)
    return preset.title if preset else "No instructions"
