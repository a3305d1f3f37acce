"""The pages for signing in and out."""

import math
from urllib.parse import urlencode

from django import forms
from django.conf import settings
from django.contrib.auth import logout as end_browser_session
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render, resolve_url
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from accounts import audit, sessions, setup, throttle
from accounts.audit import AuditAction, account_target
from accounts.services import EMAIL_LENGTH
from accounts.throttle import RateLimitedError
from accounts.web import find_signed_in, local_path, start_session, visitor
from core.errors import InvalidCredentialError
from core.http.middleware import client_address
from core.pages.forms import PageForm

KNOWN_COOKIE = "mem0dash_known"
KNOWN_SECONDS = 365 * 86_400
WRONG = "The e-mail address or the password is not right."


class LoginForm(PageForm):
    email = forms.EmailField(
        label="E-mail address",
        max_length=EMAIL_LENGTH,
        error_messages={
            "required": "Enter your e-mail address.",
            "invalid": "Enter a whole e-mail address, such as you@example.org.",
        },
        widget=forms.EmailInput(attrs={"autocomplete": "username", "spellcheck": "false"}),
    )
    password = forms.CharField(
        max_length=1000,
        strip=False,
        error_messages={"required": "Enter your password."},
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password"}),
    )


@sensitive_post_parameters("password")
@require_http_methods(["GET", "HEAD", "POST"])
def login(request: HttpRequest) -> HttpResponse:
    """The form, and signing in with it."""
    after = local_path(request.POST.get("next") or request.GET.get("next"))
    if setup.needs_setup() and settings.SETUP_ROUTE:
        return redirect(settings.SETUP_ROUTE)
    if request.method != "POST":
        if find_signed_in(request) is not None:
            return HttpResponseRedirect(after)
        return _shown(request, LoginForm(), after)
    form = LoginForm(request.POST)
    try:
        if not form.is_valid():
            return _shown(request, form, after, status=422)
        address = throttle.address_subject(client_address(request))
        return _signed_in(request, form, address, after)
    except RateLimitedError as error:
        form.add_error(None, f"Too many attempts. Try again in {_wait(error.retry_after or 60)}.")
        answer = _shown(request, form, after, status=429)
        answer.headers["Retry-After"] = str(error.retry_after)
        return answer
    except InvalidCredentialError:
        form.add_error(None, WRONG)
        return _shown(request, form, after, status=422)


@require_POST
def logout(request: HttpRequest) -> HttpResponse:
    """Ends the session of this browser. With `next`, signing in leads there."""
    account = find_signed_in(request)
    end_browser_session(request)
    if account is not None:
        actor = visitor(request).signed_in(account.id)
        address = throttle.address_subject(client_address(request))
        target = account_target(account)
        audit.record_sign_in(
            AuditAction.SESSION_CLOSED, actor=actor, target=target, address=address
        )
    if request.POST.get("next"):
        after = urlencode({"next": local_path(request.POST["next"])}, safe="/")
        return HttpResponseRedirect(f"{resolve_url(settings.LOGIN_URL)}?{after}")
    return redirect(settings.LOGIN_URL)


def _shown(request: HttpRequest, form: LoginForm, after: str, *, status: int = 200) -> HttpResponse:
    context = {"form": form, "next": after, "needs_setup": setup.needs_setup()}
    return render(request, "accounts/login.html", context, status=status)


def _signed_in(request: HttpRequest, form: LoginForm, address: str, after: str) -> HttpResponse:
    known = request.COOKIES.get(KNOWN_COOKIE, "")
    account = sessions.sign_in(
        email=form.cleaned_data["email"],
        password=form.cleaned_data["password"],
        address=address,
        browser=known,
        visitor=visitor(request),
    )
    start_session(request, account)
    answer = HttpResponseRedirect(after)
    answer.set_cookie(
        KNOWN_COOKIE,
        sessions.remember_browser(account, known),
        max_age=KNOWN_SECONDS,
        path=resolve_url(settings.LOGIN_URL),
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",
    )
    return answer


def _wait(seconds: int) -> str:
    if seconds < 90:
        return f"{seconds} seconds"
    return f"{math.ceil(seconds / 60)} minutes"
