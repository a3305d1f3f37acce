"""The settings of a project, for administrators, and of the server, for the instance owner."""

from typing import Any, Final

from django import forms
from django.conf import settings
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts.models import Project
from accounts.services import set_time_zone
from accounts.web import PageRequest, page
from core import zones
from core.errors import ConflictError, InvalidInputError
from core.pages.forms import PageForm
from core.pages.partial import is_partial
from core.templatetags.ui import number
from memories.providers import late_interaction
from memories.providers.late_interaction import LateInteractionStatus

MANY: Final = 100_000
# Seconds that one request spends on removing. A million memories take several requests.
REMOVAL_SECONDS: Final = 10.0
# What the error names: a setting of the whole project.
TIME_ZONE: Final = "the time zone"
# The word of the model's state, and its colour.
_MODEL = {"ready": ("Ready", "ok"), "loading": ("Loading", "info"), "missing": ("Missing", "warn")}


class TimeZoneForm(PageForm):
    """The time zone of a project; nothing stands for the instance's."""

    time_zone = forms.ChoiceField(
        label="Zone of the project",
        required=False,
        error_messages={"invalid_choice": "Choose a time zone of the list."},
        widget=forms.Select(attrs={"class": "form-select"}),
    )

    def __init__(self, *args: Any, project: Project, **kwargs: Any) -> None:
        super().__init__(*args, initial={"time_zone": project.time_zone}, **kwargs)
        places = zones.list_zones()
        own = project.time_zone
        # Chosen on a machine that knew it; it stays until another one is chosen.
        listed = not own or own == zones.UNIVERSAL or any(own in names for names in places.values())
        choices: list[Any] = [
            ("", f"The server's ({settings.DEFAULT_TIME_ZONE})"),
            (zones.UNIVERSAL, zones.UNIVERSAL),
            *([] if listed else [(own, own)]),
            *((region, [(name, name) for name in names]) for region, names in places.items()),
        ]
        self.fields["time_zone"].choices = choices  # type: ignore[attr-defined]  # a ChoiceField


@require_safe
@page
def settings_page(request: PageRequest) -> HttpResponse:
    """The time zone of the project, for its administrators. Late interaction for the instance
    owner: on or off, and how far its data is, which asks for itself until it is complete."""
    if is_partial(request):
        context = _told(late_interaction.status(request.principal))
        return render(request, "dashboard/_late_interaction.html", context)
    return _shown(request, TimeZoneForm(project=request.project))


@require_POST
@page
def time_zone(request: PageRequest) -> HttpResponse:
    """Sets the time zone of the project; scope `admin`."""
    request.principal.require_project(TIME_ZONE)
    form = TimeZoneForm(request.POST, project=request.project)
    if not form.is_valid():
        return _shown(request, form, status=422)
    zone = form.cleaned_data["time_zone"]
    set_time_zone(request.principal, zone)
    where = zone or f"{settings.DEFAULT_TIME_ZONE}, the server's zone"
    messages.success(request, f"Days are in {where}, from now on.")
    return redirect("dashboard:settings")


def _shown(request: PageRequest, form: TimeZoneForm, *, status: int = 200) -> HttpResponse:
    principal = request.principal
    principal.require_project("the settings")
    context: dict[str, Any] = {"form": form, "time_zone": principal.project.time_zone}
    if principal.is_owner:
        context |= _told(late_interaction.status(principal))
    return render(request, "dashboard/settings.html", context, status=status)


@require_POST
@page
def switch(request: PageRequest) -> HttpResponse:
    """Switches late interaction on ("1") or off ("0"), for everyone."""
    value = request.POST.get("on", "")
    if value not in {"0", "1"}:
        raise InvalidInputError("Late interaction is switched on with 1 and off with 0.")
    is_on = value == "1"
    try:
        late_interaction.switch(request.principal, is_on)
    except ConflictError as error:
        messages.error(request, error.message)
        return redirect("dashboard:settings")
    more = "is used from now on" if is_on else "stays until it is removed"
    messages.success(
        request, f"Late interaction is {'on' if is_on else 'off'}. What is kept {more}."
    )
    return redirect("dashboard:settings")


@require_http_methods(["GET", "HEAD", "POST"])
@page
def remove(request: PageRequest) -> HttpResponse:
    """GET: what would be removed. POST: removes all token states that are kept."""
    status = late_interaction.status(request.principal)
    if status.is_on:
        messages.error(request, "Late interaction is on: switch it off before removing its data.")
        return redirect("dashboard:settings")
    if request.method != "POST":
        if not status.bytes:
            messages.info(request, "Nothing is kept that could be removed.")
            return redirect("dashboard:settings")
        return render(request, "dashboard/late_interaction_remove.html", _told(status))
    try:
        count = late_interaction.drop(request.principal, seconds=REMOVAL_SECONDS)
    except ConflictError as error:
        messages.error(request, error.message)
    else:
        what = "1 memory" if count == 1 else f"{number(count)} memories"
        remaining = late_interaction.status(request.principal).kept
        more = f" {number(remaining)} are left: remove again." if remaining else ""
        messages.success(request, f"Removed what was kept of {what}.{more}")
    return redirect("dashboard:settings")


def _told(status: LateInteractionStatus) -> dict[str, Any]:
    word, colour = _MODEL[status.model]
    unfinished = status.made < status.live and status.model != "missing"
    return {
        "status": status,
        "percent": 100 * status.made // status.live if status.live else 100,
        "each": status.bytes / status.kept if status.kept else 0,
        "model": word,
        "model_colour": colour,
        # It changes by itself.
        "is_moving": status.is_on and (unfinished or status.model == "loading"),
        # Seconds. To count a million memories takes two of them.
        "look_again": 3 if status.live < MANY else 30,
    }
