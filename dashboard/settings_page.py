"""What the instance owner sets for the whole server."""

from typing import Any, Final

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts.web import PageRequest, page
from mem0dash.errors import ConflictError, InvalidInputError
from mem0dash.templatetags.ui import number
from memories import late_interaction
from memories.late_interaction import Status

MANY: Final = 100_000
# A request is not to take longer: of a million memories, the rest is removed by another one.
REMOVAL_SECONDS: Final = 10.0
# The word of the model's state, and its colour.
_MODEL = {"ready": ("Ready", "ok"), "loading": ("Loading", "info"), "missing": ("Missing", "warn")}


@require_safe
@page
def settings_page(request: PageRequest) -> HttpResponse:
    """Late interaction: on or off, and how far its data is, which asks for itself until it is
    complete. The instance owner's."""
    context = _told(late_interaction.status(request.principal))
    partial = bool(request.htmx) and not request.htmx.history_restore_request
    name = "dashboard/_late_interaction.html" if partial else "dashboard/settings.html"
    return render(request, name, context)


@require_POST
@page
def switch(request: PageRequest) -> HttpResponse:
    """Switches late interaction on ("1") or off ("0"), for everyone."""
    wanted = request.POST.get("on", "")
    if wanted not in {"0", "1"}:
        raise InvalidInputError("Late interaction is switched on with 1 and off with 0.")
    is_on = wanted == "1"
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
        left = late_interaction.status(request.principal).kept
        more = f" {number(left)} are left: remove again." if left else ""
        messages.success(request, f"Removed what was kept of {what}.{more}")
    return redirect("dashboard:settings")


def _told(status: Status) -> dict[str, Any]:
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
