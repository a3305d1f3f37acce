"""The third step: the first API key, shown once."""

from contextlib import suppress
from datetime import timedelta
from uuid import UUID

from django.db import transaction
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from django.views.decorators.http import require_http_methods

from accounts.web import redirect_browser
from apikeys.models import ApiKey
from apikeys.services import create_api_key, revoke_api_key
from apikeys.snippets import snippets, user_id_of
from core.errors import ConflictError, InvalidInputError
from core.http.public import base_url
from core.principal import Scope
from setup_wizard.forms import KeyForm
from setup_wizard.models import Progress
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

MADE_MEANWHILE = "A key was made already, perhaps in another tab, and shown there."
AGENT = (Scope.READ, Scope.WRITE)


@requires_open_setup
@require_http_methods(["GET", "HEAD", "POST"])
@requires_step
def first_key(request: StepRequest) -> HttpResponseBase:
    """Makes the key, or replaces it."""
    if not may_enter("key", request.progress):
        return redirect_browser(request, url_of(next_step(request.progress)))
    if request.method != "POST":
        return _shown(request, KeyForm())
    form = KeyForm(request.POST)
    if not form.is_valid():
        return _shown(request, form, status=422)
    try:
        row, key = _made(request, form)
    except ConflictError as error:
        request.progress.refresh_from_db()
        form.add_error(None, error.message)
        return _shown(request, KeyForm(), problem=error.message, status=409)
    except InvalidInputError as error:
        form.add_error("label", error.message)
        return _shown(request, form, status=422)
    request.progress.key = row
    return _shown(request, KeyForm(), key=key)


def _made(request: StepRequest, form: KeyForm) -> tuple[ApiKey, str]:
    """A new key, which ends the one before. ConflictError when that is not the one the form
    replaces: two tabs, or a form that is sent again, must not make a key that nobody has seen."""
    expiry = form.cleaned_data["expiry"]
    ends = None if expiry == "never" else timezone.now() + timedelta(days=int(expiry))
    with transaction.atomic():
        row, key = create_api_key(
            owner=request.account,
            maker=request.principal,
            project=request.project,
            label=form.cleaned_data["label"],
            scopes=AGENT if form.cleaned_data["rights"] == "agent" else None,
            expires_at=ends,
            actor=request.principal.actor,
        )
        former = _former(request)
        if not Progress.objects.filter(id=1, key=former).update(key=row):
            raise ConflictError(MADE_MEANWHILE)
        record_step(request, "key")
        if former is not None:
            with suppress(InvalidInputError):  # it was revoked elsewhere
                revoke_api_key(key_id=former, owner=request.account, actor=request.principal.actor)
    return row, key


def _former(request: StepRequest) -> UUID | None:
    """The key that existed when the form was shown."""
    sent = request.POST.get("former", "")
    try:
        return UUID(sent) if sent else None
    except ValueError:
        raise ConflictError(MADE_MEANWHILE) from None


def _shown(
    request: StepRequest, form: KeyForm, *, key: str = "", problem: str = "", status: int = 200
) -> HttpResponse:
    address = base_url(request)
    user_id = user_id_of(request.account.email)
    return render_step(
        request,
        "key",
        form=form,
        key=key,
        row=request.progress.key,
        problem=problem,
        snippets=snippets(base_url=address, key=key, user_id=user_id) if key else (),
        status=status,
    )
