"""The OSS dialect's /auth routes: set-up, sessions, one's own account."""

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from pydantic import BaseModel, ConfigDict, StrictStr
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import services, sessions, setup, throttle
from accounts.models import Account
from accounts.queries import account_of, role_name
from accounts.web import visitor
from core.errors import ConflictError, InvalidCredentialError
from core.http.middleware import client_address
from core.rest.bodies import Email, body_of
from core.rest.schemas import MESSAGE, TEXT, TIME, UUID_TEXT, answers, object_of
from core.rest.shapes import instant_z
from core.rest.views import OpenView, OssView

SETUP_TOKEN_HEADER = OpenApiParameter(
    "X-Setup-Token", str, OpenApiParameter.HEADER, description="Shown by the server when it starts"
)

NEEDS_SETUP = object_of({"needsSetup": {"type": "boolean"}})
TOKENS = object_of({"access_token": TEXT, "refresh_token": TEXT, "token_type": TEXT})
ME = object_of({"id": UUID_TEXT, "name": TEXT, "email": TEXT, "role": TEXT, "created_at": TIME})


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Register(_Body):
    """The first owner; the setup token may also be sent as the header X-Setup-Token."""

    name: StrictStr
    email: Email
    password: StrictStr
    setup_token: StrictStr | None = None


class Login(_Body):
    """Address and password of an account."""

    email: Email
    password: StrictStr


class Refresh(_Body):
    """A refresh token. This request uses it up."""

    refresh_token: StrictStr


class MeUpdate(_Body):
    """What to change. A field that is missing or blank stays as it is."""

    name: StrictStr | None = None
    email: Email | None = None


class PasswordChange(_Body):
    """The current password, and the new one."""

    current_password: StrictStr
    new_password: StrictStr


class Onboarding(_Body):
    """The use case of the instance."""

    use_case: StrictStr


def _subject(request: Request) -> str:
    """The subject that rate limits count this request for."""
    return throttle.address_subject(client_address(request._request))


def _tokens(account: Account) -> dict[str, str]:
    return _token_shape(sessions.open_session(account))


def _token_shape(tokens: sessions.Tokens) -> dict[str, str]:
    return {
        "access_token": tokens.access,
        "refresh_token": tokens.refresh,
        "token_type": "bearer",
    }


class SetupStatusView(OpenView):
    @extend_schema(
        operation_id="setup_status",
        summary="Whether the first owner is still to be made",
        responses=answers(NEEDS_SETUP),
    )
    def get(self, request: Request) -> Response:
        return Response({"needsSetup": setup.needs_setup()})


class RegisterView(OpenView):
    @extend_schema(
        operation_id="register",
        summary="Make the first owner, with the setup token",
        parameters=[SETUP_TOKEN_HEADER],
        request=Register,
        responses=answers(TOKENS, 429),
    )
    def post(self, request: Request) -> Response:
        body = body_of(request, Register)
        token = request.headers.get("X-Setup-Token") or body.setup_token or ""
        address, actor = _subject(request), visitor(request._request)
        setup.require_setup_token(token, address=address, visitor=actor)
        try:
            owner = services.register_owner(
                email=body.email,
                name=body.name,
                password=body.password,
                actor=actor,
                address=address,
            )
        except ConflictError:  # another registration was faster
            raise setup.SetupClosedError(setup.CLOSED) from None
        return Response(_tokens(owner))


class LoginView(OpenView):
    @extend_schema(
        operation_id="login",
        summary="Open a session",
        request=Login,
        responses=answers(TOKENS, 429),
    )
    def post(self, request: Request) -> Response:
        body = body_of(request, Login)
        account = sessions.sign_in(
            email=body.email,
            password=body.password,
            address=_subject(request),
            visitor=visitor(request._request),
        )
        return Response(_tokens(account))


class RefreshView(OpenView):
    @extend_schema(
        operation_id="refresh",
        summary="Exchange a refresh token for a new pair of tokens",
        request=Refresh,
        responses=answers(TOKENS, 429),
    )
    def post(self, request: Request) -> Response:
        body = body_of(request, Refresh)
        address = _subject(request)
        try:
            tokens = sessions.refresh_session(
                body.refresh_token, address=address, visitor=visitor(request._request)
            )
        except InvalidCredentialError:
            throttle.take(throttle.REFRESH, address)
            raise
        return Response(_token_shape(tokens))


class MeView(OssView):
    @extend_schema(operation_id="get_me", summary="One's own account", responses=answers(ME))
    def get(self, request: Request) -> Response:
        return Response(self._shape(account_of(self.caller())))

    @extend_schema(
        operation_id="update_me",
        summary="Change one's own name and e-mail address",
        request=MeUpdate,
        responses=answers(ME, 409),
    )
    def patch(self, request: Request) -> Response:
        body = body_of(request, MeUpdate)
        principal = self.caller()
        account = account_of(principal)
        services.require_whole_account(principal, account)
        updated = services.update_account(
            account, name=body.name, email=body.email, actor=principal.actor
        )
        return Response(self._shape(updated))

    def _shape(self, account: Account) -> dict[str, Any]:
        return {
            "id": str(account.id),
            "name": account.name,
            "email": account.email,
            "role": role_name(account, self.caller().project.id),
            "created_at": instant_z(account.created_at),
        }


class ChangePasswordView(OssView):
    @extend_schema(
        operation_id="change_password",
        summary="Change one's own password, which ends every session",
        request=PasswordChange,
        responses=answers(MESSAGE, 429),
    )
    def post(self, request: Request) -> Response:
        body = body_of(request, PasswordChange)
        principal = self.caller()
        account = account_of(principal)
        services.require_whole_account(principal, account)
        services.change_password(
            account,
            current=body.current_password,
            new=body.new_password,
            actor=principal.actor,
        )
        return Response({"message": "Password updated."})


class OnboardingView(OssView):
    @extend_schema(
        operation_id="onboarding_complete",
        summary="Accepted for clients that report it; nothing is kept or sent on",
        request=Onboarding,
        responses=answers(MESSAGE),
    )
    def post(self, request: Request) -> Response:
        body_of(request, Onboarding)
        account_of(self.caller())
        return Response({"message": "Onboarding completed."})
