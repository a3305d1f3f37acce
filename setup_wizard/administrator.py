"""The first step: the account that owns this server."""

import math

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.urls import reverse
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from accounts import setup, throttle
from accounts.services import create_owner, update_account
from accounts.throttle import RateLimitedError
from accounts.web import find_signed_in, redirect_browser, start_session, visitor
from core.errors import ConflictError, InvalidInputError, PermissionDeniedError
from core.http.middleware import client_address
from setup_wizard.forms import AdministratorForm, OwnAccountForm
from setup_wizard.steps import (
    StepRequest,
    next_step,
    render_step,
    requires_open_setup,
    requires_step,
    url_of,
)

WRONG_TOKEN = "This is not the setup token of this server."  # noqa: S105  (a sentence)


@sensitive_post_parameters("password", "setup_token")
@requires_open_setup
@require_http_methods(["GET", "HEAD", "POST"])
def start(request: HttpRequest) -> HttpResponseBase:
    """The target of the printed link: the form of the first account, or the current step."""
    too_late = request.method == "POST" and find_signed_in(request) is None  # which is to be told
    if not (setup.needs_setup() or too_late):
        # The link's token is used up. It must not be passed on, such as into the address of
        # sign-in.
        return redirect_browser(request, request.path) if request.GET else _go_on(request)
    if request.method != "POST":
        # Only sending the form checks the token, because wrong ones are counted.
        token = request.GET.get("token", "")
        return _shown(request, AdministratorForm(initial={"setup_token": token}), has_token=token)
    return _claim(request)


@requires_step
def _go_on(request: StepRequest) -> HttpResponseBase:
    return redirect_browser(request, url_of(next_step(request.progress)))


@requires_open_setup
@require_http_methods(["GET", "HEAD", "POST"])
@requires_step
def administrator(request: StepRequest) -> HttpResponseBase:
    """The new account: name and address can still be corrected."""
    account = request.account
    if request.method != "POST":
        initial = {"name": account.name, "email": account.email}
        return render_step(
            request, "administrator", form=OwnAccountForm(initial=initial), made=True
        )
    form = OwnAccountForm(request.POST)
    if form.is_valid():
        try:
            update_account(account, **form.cleaned_data, actor=request.principal.actor)
        except (InvalidInputError, ConflictError) as error:
            form.add_error("email", error.message)
        else:
            return redirect_browser(request, url_of("provider"))
    return render_step(request, "administrator", form=form, made=True, status=422)


def _claim(request: HttpRequest) -> HttpResponse:
    """Creates the owner, if the token is right. Of several tries at once, one succeeds."""
    form = AdministratorForm(request.POST)
    token = request.POST.get("setup_token", "")
    try:
        address = throttle.address_subject(client_address(request))
        setup.require_setup_token(token, address=address, visitor=visitor(request))
        if not form.is_valid():
            return _shown(request, form, status=422, has_token=token)
        account = create_owner(
            email=form.cleaned_data["email"],
            name=form.cleaned_data["name"],
            password=form.cleaned_data["password"],
            actor=visitor(request),
            address=address,
        )
    except RateLimitedError as error:
        wait = math.ceil((error.retry_after or 60) / 60)
        form.add_error(
            None, f"Too many attempts. Try again in {wait} minute{'' if wait == 1 else 's'}."
        )
        answer = _shown(request, form, status=429, has_token=token)
        answer.headers["Retry-After"] = str(error.retry_after)
        return answer
    except (setup.SetupClosedError, ConflictError):
        messages.error(
            request, "Somebody was faster: this server has an owner now. Sign in, if that was you."
        )
        return redirect_browser(request, reverse("login"))
    except PermissionDeniedError:
        form.add_error("setup_token", WRONG_TOKEN if token else [])
        return _shown(request, form, status=403)
    except InvalidInputError as error:
        form.add_error("password", error.message)
        return _shown(request, form, status=422, has_token=token)
    start_session(request, account)
    return redirect_browser(request, url_of("provider"))


def _shown(
    request: HttpRequest, form: AdministratorForm, *, has_token: str = "", status: int = 200
) -> HttpResponse:
    context = {"form": form, "has_token": bool(has_token), "made": False}
    return render_step(request, "administrator", status=status, **context)
