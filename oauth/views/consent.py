"""The page on which a person allows an app, or denies it (RFC 6749 section 4.1.1).

The library checks the request and issues the code. Which project and which scopes, the person says
here, every time: nothing in the address skips the page.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Final

from django import forms
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.views.decorators.http import require_http_methods
from oauth2_provider.exceptions import FatalClientError, OAuthToolkitError
from oauth2_provider.views.base import BaseAuthorizationView
from oauthlib.oauth2.rfc6749 import errors

from accounts.models import Account, Project
from accounts.throttle import RateLimitedError
from accounts.web import PageRequest, page
from core.errors import ConflictError
from core.http.middleware import CONTENT_SECURITY_POLICY, client_address
from core.http.public import base_url
from core.http.waiting import waits_for
from core.pages.answers import error_page
from core.pages.forms import PageForm
from core.principal import Scope
from oauth import consent, limits
from oauth.consent import Offer
from oauth.library import add_issuer
from oauth.models import Application
from oauth.scopes import allowed, wire
from oauth.views import words
from oauth.views.endpoints import may_fetch_document

# Chrome holds a form to `form-action` through the redirect that answers it, and every app has a
# host of its own.
POLICY: Final = "; ".join(
    rule for rule in CONTENT_SECURITY_POLICY.split("; ") if not rule.startswith("form-action")
)
ALLOW: Final = "allow"
CANNOT: Final = "This app cannot be connected"
TOO_MANY: Final = "Too many answers came from pages that count no more. Try again later."
# Before the redirect is known to be the app's, people read why; nothing is sent anywhere.
_REFUSED: Final[dict[type[errors.OAuth2Error], str]] = {
    errors.InvalidRequestError: "The address of this request cannot be read.",
    errors.InvalidRequestFatalError: "The address of this request cannot be read.",
    errors.MissingClientIdError: "The address does not say which app asks.",
    errors.InvalidClientIdError: (
        "This server does not know the app. Registrations that nobody uses are removed: delete the "
        "connection in the app, and add it again."
    ),
    errors.MissingRedirectURIError: "The app does not say to which address its access goes.",
    errors.InvalidRedirectURIError: "The app wants its access sent to what is no address.",
    errors.MismatchingRedirectURIError: (
        "The app wants its access sent to an address that it has not registered, or that this "
        "server does not allow."
    ),
}
# What the app is told, as `error_description`: ASCII (RFC 6749 section 4.1.2.1).
_TOLD: Final[dict[type[errors.OAuth2Error], str]] = {
    errors.MissingResponseTypeError: "response_type is missing; it must be code.",
    errors.UnsupportedResponseTypeError: "response_type must be code.",
    errors.MissingCodeChallengeError: (
        "code_challenge is missing: this server requires PKCE with code_challenge_method S256."
    ),
    errors.UnsupportedCodeChallengeMethodError: "PKCE with S256 is required.",
    # Of `token` and the like, which the library knows and no app here may have.
    errors.UnauthorizedClientError: "response_type must be code.",
    errors.AccessDeniedError: "The person denied the request.",
}


@dataclass(frozen=True, slots=True)
class _Asked:
    """An authorization request that holds: what the library made of it, and what can be given."""

    application: Application
    credentials: dict[str, Any]
    offer: Offer


class ConsentForm(PageForm):
    """The answer: a project, and scopes that the account holds there."""

    takes: ClassVar[frozenset[str] | None] = frozenset({"decision"})

    ticket = forms.CharField(widget=forms.HiddenInput)
    project = forms.ChoiceField(widget=forms.Select(attrs={"class": "form-select"}))
    grant = forms.MultipleChoiceField(
        error_messages={"required": "Choose at least one permission, or deny."}
    )

    def __init__(self, *args: Any, offer: Offer, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.offer = offer
        self._choices("project", {str(one.id): one.name for one in offer.projects})
        self._choices("grant", {scope.value: scope.value for scope in offer.scopes})

    def _choices(self, name: str, choices: dict[str, str]) -> None:
        field = self.fields[name]
        assert isinstance(field, forms.ChoiceField)  # noqa: S101  (both are, see above)
        field.choices = list(choices.items())

    def clean(self) -> dict[str, Any]:
        """Says what the role lacks in the project: to leave it out in silence would give the app
        less than its person has read."""
        cleaned = super().clean() or self.cleaned_data
        project = self.offer.project(cleaned.get("project", ""))
        if project is None or "grant" not in cleaned:
            return cleaned
        scopes = frozenset(Scope(word) for word in cleaned["grant"])
        if lacking := scopes - self.offer.projects[project]:
            titles = ", ".join(
                told.title for scope, told in words.SCOPES.items() if scope in lacking
            )
            raise forms.ValidationError(
                f"Your role in {project.name} does not have: {titles}. Remove it, or choose "
                "another project."
            )
        return cleaned | {"project": project, "grant": scopes}


class ConsentView(BaseAuthorizationView):
    """Shows the request, and answers it. The library's own page decides by the address whether it
    is shown (`approval_prompt`, `prompt`); this one always is."""

    request: PageRequest

    def get(self, request: PageRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            asked = self._asked()
        except OAuthToolkitError as error:
            return self.error_response(error)
        first = {
            "ticket": consent.seal(_query(request), _session(request)),
            "project": str(next(iter(asked.offer.projects)).id),
        }
        return self._page(asked, ConsentForm(initial=first, offer=asked.offer))

    def post(self, request: PageRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            consent.check_ticket(request.POST.get("ticket", ""), _query(request), _session(request))
        except ConflictError as error:
            if wait := limits.count_failed_consent(client_address(request)):
                raise RateLimitedError(TOO_MANY, retry_after=wait) from error
            raise
        try:
            asked = self._asked()
            if request.POST.get("decision") != ALLOW:
                return self._answer(asked, None, frozenset())
            form = ConsentForm(request.POST, offer=asked.offer)
            if not form.is_valid():
                return self._page(asked, form, status=422)
            return self._answer(asked, form.cleaned_data["project"], form.cleaned_data["grant"])
        except OAuthToolkitError as error:
            return self.error_response(error)

    def _asked(self) -> _Asked:
        """What is asked for; OAuthToolkitError where nobody may have that."""
        names, credentials = self.validate_authorization_request(self.request)
        asking = credentials.pop("request")
        credentials["resource"] = self.request.GET.getlist("resource")
        offer = Offer.of(_account(self.request), allowed(names))
        return _Asked(asking.client, credentials, offer)

    def _page(self, asked: _Asked, form: ConsentForm, *, status: int = 200) -> HttpResponse:
        application, account = asked.application, _account(self.request)
        uri = asked.credentials["redirect_uri"]
        context = {
            "app": words.app_name(application.name),
            "is_known": consent.is_known(uri),
            "published_at": application.published_at,
            "registered_at": application.created,
            "destination": words.destination(uri),
            "account": account,
            "projects": list(asked.offer.projects),
            "scopes": _scopes(asked.offer, form, asked.offer.first_ticks(account, application)),
            "form": form,
            "here": self.request.get_full_path(),
        }
        return render(self.request, "oauth/consent.html", context, status=status)

    def _answer(
        self, asked: _Asked, project: Project | None, scopes: frozenset[Scope]
    ) -> HttpResponseBase:
        """The redirect to the app: with a code for these scopes, or the word that it was denied."""
        location, *_ = self.create_authorization_response(
            request=self.request,
            scopes=" ".join(wire(scopes)),
            credentials=asked.credentials | {"project": project},
            allow=project is not None,
        )
        return self.redirect(location, asked.application)

    def error_response(
        self, error: OAuthToolkitError, application: Application | None = None, **more: Any
    ) -> HttpResponseBase:
        """Tells the app; people, where nobody knows yet whether the redirect is the app's."""
        found = error.oauthlib_error
        if isinstance(error, FatalClientError):
            sentence = _REFUSED.get(type(found)) or str(found.description)
            return error_page(
                self.request, 400, sentence, template="error.html", title=CANNOT, again="", clear=""
            )
        found.description = _TOLD.get(type(found)) or found.description
        answer: HttpResponseBase = super().error_response(error, application, **more)
        return answer

    def redirect(self, redirect_to: str, application: Application | None) -> HttpResponseBase:
        """With `iss`, whatever the answer is (RFC 9207 section 2)."""
        if application is None:  # the library has lost it; a scheme of its own is the app's alone
            id_ = self.request.GET.get("client_id", "")
            application = Application.objects.filter(client_id=id_).first()
        told = add_issuer(redirect_to, base_url(self.request))
        answer: HttpResponseBase = super().redirect(told, application)
        return answer


_consent = ConsentView.as_view()


@waits_for(may_fetch_document)
@require_http_methods(["GET", "HEAD", "POST"])
@page
def authorize(request: PageRequest) -> HttpResponseBase:
    """The authorization endpoint. Who has not signed in does that first: before, nothing of the
    request is looked at."""
    if request.account is None:
        raise ConflictError(
            "AUTH_DISABLED is set: this server does not ask who anybody is, so nobody can allow an "
            "app. Connect the app without signing in."
        )
    answer = _consent(request)
    if answer.status_code != 400:
        answer.headers["Content-Security-Policy"] = POLICY
    if answer.status_code == 302:
        # Not on the page itself: its form would come from the origin "null", and be refused.
        answer.headers["Referrer-Policy"] = "no-referrer"
    return answer


def _account(request: PageRequest) -> Account:
    assert request.account is not None  # noqa: S101  (authorize has looked)
    return request.account


def _query(request: HttpRequest) -> str:
    return str(request.META.get("QUERY_STRING", ""))


def _session(request: HttpRequest) -> str:
    return request.session.session_key or ""


def _scopes(offer: Offer, form: ConsentForm, ticked: frozenset[Scope]) -> list[dict[str, Any]]:
    """The permissions on offer, in words; `ticked` unless the form was sent."""
    if form.is_bound:
        sent = form["grant"].value() or []
        ticked = frozenset(scope for scope in offer.scopes if scope.value in sent)
    rows = []
    for scope, told in words.SCOPES.items():
        if scope not in offer.scopes:
            continue
        only = ", ".join(project.name for project in offer.only_in(scope))
        about = f"{told.about}. Only in {only}" if only else told.about
        rows.append(
            {"value": scope.value, "title": told.title, "about": about, "ticked": scope in ticked}
        )
    return rows
