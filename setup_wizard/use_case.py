"""The fourth step: the use case, and the instructions for extraction."""

from typing import Any

from django.db import transaction
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from django.views.decorators.http import require_http_methods

from accounts.queries import instructions_of
from accounts.services import set_instructions
from accounts.web import redirect_browser
from core.errors import InvalidInputError, NotConfiguredError, ProviderError
from core.http.waiting import ProviderWait, waits_for, waits_when_posted
from memories.providers import service as providers
from memories.providers.drafts import NONE
from setup_wizard.forms import UseCaseForm
from setup_wizard.models import Progress
from setup_wizard.presets import PRESETS
from setup_wizard.steps import (
    StepRequest,
    may_enter,
    next_step,
    record_step,
    render_step,
    requires_open_setup,
    requires_step,
    url_of,
)

WRITE_SOMETHING = "Say in a sentence what memories are for, or choose one of the others."


@waits_for(waits_when_posted(ProviderWait.PROVIDERS))
@requires_open_setup
@require_http_methods(["GET", "HEAD", "POST"])
@requires_step
def use_case(request: StepRequest) -> HttpResponseBase:
    """Choosing a use case, generating instructions for it, saving them."""
    progress = request.progress
    if not may_enter("use-case", progress):
        return redirect_browser(request, url_of(next_step(progress)))
    if request.method != "POST":
        initial = {
            "preset": progress.preset,
            "use_case": progress.use_case,
            "instructions": instructions_of(request.project.id),
        }
        return _shown(request, UseCaseForm(initial=initial))
    if request.POST.get("action") == "skip":
        return _saved(request, preset="", use_case="", instructions="")
    form = UseCaseForm(request.POST)
    if not form.is_valid():
        return _shown(request, form, status=422)
    if request.POST.get("action") == "write":
        return _written(request, form)
    return _saved(request, **form.cleaned_data)


def _written(request: StepRequest, form: UseCaseForm) -> HttpResponse:
    """The form with instructions for its use case: the LLM's, or where there is none the
    preset's."""
    preset = PRESETS[form.cleaned_data["preset"]]
    own, former = form.cleaned_data["use_case"].strip(), form.cleaned_data["instructions"].strip()
    message = preset.message
    if _has_llm(request):
        wanted = "\n".join(filter(None, (preset.use_case, own)))
        if not wanted:
            form.add_error("use_case", WRITE_SOMETHING)
            return _shown(request, form, status=422)
        try:
            instructions, message = providers.generate_instructions(request.principal, wanted)
        except (ProviderError, NotConfiguredError, InvalidInputError) as error:
            cause = getattr(error, "cause", "")
            return _shown(request, form, problem=error.message, cause=cause, status=422)
        _keep(request, test_message=message[:2000])
    else:
        instructions = preset.instructions
    data: Any = form.data
    data = data.copy()
    data["instructions"] = instructions
    written = UseCaseForm(data)
    # The person reads them next.
    written.fields["instructions"].widget.attrs["autofocus"] = True
    return _shown(request, written, former=former if former != instructions else "")


def _saved(
    request: StepRequest, *, preset: str, use_case: str, instructions: str
) -> HttpResponseBase:
    with transaction.atomic():
        set_instructions(
            project_id=request.project.id,
            instructions=instructions,
            actor=request.principal.actor,
        )
        _keep(request, preset=preset, use_case=use_case.strip(), use_case_chosen_at=timezone.now())
        record_step(request, "use-case")
    return redirect_browser(request, url_of("test"))


def _keep(request: StepRequest, **values: object) -> None:
    Progress.objects.filter(id=1).update(**values)


def _has_llm(request: StepRequest) -> bool:
    return bool(providers.get_in_use(request.principal).llm["provider"] != NONE)


def _shown(
    request: StepRequest,
    form: UseCaseForm,
    *,
    former: str = "",
    problem: str = "",
    cause: str = "",
    status: int = 200,
) -> HttpResponse:
    return render_step(
        request,
        "use-case",
        form=form,
        presets=PRESETS.values(),
        picked=form["preset"].value(),
        has_llm=_has_llm(request),
        former=former,
        problem=problem,
        cause=cause,
        status=status,
    )
