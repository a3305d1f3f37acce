"""The decisions that oauthlib asks for: who may get a code or a token, for what, and until when.

The grant is what counts (oauth.grants): it holds the project and the account's epoch, and its row
is locked while one of its codes or tokens is exchanged.
"""

from datetime import timedelta
from typing import Any, Final

from django.conf import settings
from django.db import transaction
from django.utils import timezone
from django.utils.crypto import constant_time_compare
from oauth2_provider.oauth2_validators import OAuth2Validator
from oauthlib.oauth2.rfc6749 import errors

from accounts.audit import AuditAction
from core.principal import Actor
from oauth import assertions, grants
from oauth.backend import ADDRESS, BASE, CLIENT, FOREIGN, REQUEST_ID, is_here
from oauth.documents import find_application
from oauth.metadata import GRANT_TYPES, KEY_METHOD
from oauth.models import AccessToken, AppGrant, Application, AuthorizationCode, RefreshToken
from oauth.scopes import DEFAULT, known
from oauth.tokens import digest_of

# Seconds in which a refresh token that was exchanged is exchanged again, and the access token
# before it goes on. Clients refresh from several processes at once, and lose answers.
OVERLAP_SECONDS: Final = 60


class Validator(OAuth2Validator):
    """settings.OAUTH2_PROVIDER names it."""

    # --- Clients -----------------------------------------------------------------------------
    def _load_application(self, client_id: str | None, request: Any) -> Application | None:
        cached = request.client
        if not isinstance(cached, Application) or cached.client_id != client_id:
            request.client = find_application(client_id, address=request.headers[ADDRESS])
        found: Application | None = request.client
        return found

    def client_authentication_required(self, request: Any, *args: Any, **kwargs: Any) -> bool:
        if getattr(request, "client_assertion", None):
            return True
        return bool(super().client_authentication_required(request, *args, **kwargs))

    def authenticate_client(self, request: Any, *args: Any, **kwargs: Any) -> bool:
        assertion = getattr(request, "client_assertion", None)
        if assertion:
            return self._signed(request, assertion)
        if not super().authenticate_client(request, *args, **kwargs):
            return False
        # It has no secret that could be wrong.
        return bool(request.client.token_endpoint_auth_method != KEY_METHOD)

    def _signed(self, request: Any, assertion: str) -> bool:
        if getattr(request, "client_assertion_type", None) != assertions.JWT_BEARER:
            return False
        client_id = request.client_id or assertions.client_id_of(assertion)
        app = self._load_application(client_id, request)
        if app is None:
            return False
        request.client_id = app.client_id
        base = request.headers[BASE]
        audience = [base, f"{base}/oauth/token"]
        address = request.headers[ADDRESS]
        return assertions.is_signed_by(app, assertion, audience=audience, address=address)

    def _check_secret(self, provided_secret: str, stored_secret: str) -> bool:
        if not stored_secret:  # a public client that sends an empty secret
            return not provided_secret
        return constant_time_compare(digest_of(provided_secret), stored_secret)

    # --- What may be asked for -----------------------------------------------------------------
    def validate_grant_type(
        self, client_id: str, grant_type: str, client: Any, request: Any, *args: Any, **kwargs: Any
    ) -> bool:
        return grant_type in GRANT_TYPES

    def validate_response_type(
        self, client_id: str, response_type: str, client: Any, request: Any, *args: Any, **kw: Any
    ) -> bool:
        return response_type == "code"

    def validate_scopes(
        self, client_id: str, scopes: list[str], client: Any, request: Any, *args: Any, **kw: Any
    ) -> bool:
        request.scopes = known(scopes) or list(DEFAULT)
        return True

    def is_within_original_scope(
        self, request_scopes: list[str], refresh_token: str, request: Any, *args: Any, **kw: Any
    ) -> bool:
        granted = request.app_grant.scopes.split()
        request.scopes = [name for name in known(request_scopes) if name in granted]
        return bool(request.scopes)

    def _resource(self, request: Any) -> str:
        """The address of /mcp here, for which every token is (RFC 8707). CustomOAuth2Error where
        the client asked for another one."""
        base = request.headers[BASE]
        asked = getattr(request, "resource", None) or []
        asked = asked.split() if isinstance(asked, str) else list(asked)
        # oauthlib keeps the last of several.
        asked += [value for name, value in request.decoded_body or [] if name == "resource"]
        if not all(is_here(uri, base) for uri in asked):
            raise errors.CustomOAuth2Error(
                error="invalid_target", description=FOREIGN, request=request
            )
        return f"{base}/mcp"

    # --- Codes ---------------------------------------------------------------------------------
    def _create_authorization_code(self, request: Any, code: Any, expires: Any = None) -> Any:
        """Grants what the person granted. The page of the consent adds `project` to the
        credentials."""
        if request.code_challenge_method != "S256":
            raise errors.InvalidRequestError(description="PKCE with S256 is required.")
        resource = self._resource(request)
        with transaction.atomic():
            grant = grants.open_grant(
                account=request.user,
                project=request.project,
                application=request.client,
                granted=request.scopes,
                resource=resource,
                actor=_actor(request, request.user.pk, via="session"),
                address=request.headers[ADDRESS],
            )
            if grant is None:
                raise errors.AccessDeniedError(request=request)
            return AuthorizationCode.objects.create(
                app_grant=grant,
                application=request.client,
                user=request.user,
                code=code["code"],
                expires=timezone.now() + _seconds("AUTHORIZATION_CODE_EXPIRE_SECONDS"),
                redirect_uri=request.redirect_uri,
                scope=grant.scopes,
                code_challenge=request.code_challenge,
                code_challenge_method=request.code_challenge_method,
                resource=[resource],
            )

    def validate_code(
        self, client_id: str, code: str, client: Any, request: Any, *args: Any, **kwargs: Any
    ) -> bool:
        codes = AuthorizationCode.objects.select_related("app_grant__account")
        found = codes.filter(code=code, application=client).first()
        if found is None or found.is_expired() or not grants.holds(found.app_grant):
            return False
        # What follows looks at this row: the code may be spent by then, by another exchange.
        request.found_code, request.scopes = found, found.scope.split()
        request.user, request.app_grant = found.app_grant.account, found.app_grant
        return True

    def confirm_redirect_uri(
        self, client_id: str, code: str, redirect_uri: str, client: Any, *args: Any, **kwargs: Any
    ) -> bool:
        [request] = args
        return bool(redirect_uri == request.found_code.redirect_uri)

    def get_code_challenge(self, code: str, request: Any) -> str:
        return str(request.found_code.code_challenge)

    def get_code_challenge_method(self, code: str, request: Any) -> str:
        return str(request.found_code.code_challenge_method)

    def invalidate_authorization_code(
        self, client_id: str, code: str, request: Any, *args: Any, **kwargs: Any
    ) -> None:
        """The code went when its tokens were stored, in the same transaction."""

    # --- Tokens --------------------------------------------------------------------------------
    def _save_bearer_token(self, token: Any, request: Any, *args: Any, **kwargs: Any) -> None:
        resource = self._resource(request)
        grant = grants.locked(AppGrant.objects.filter(pk=request.app_grant.pk)).first()
        if grant is None or not self._spend(request, grant):
            raise errors.InvalidGrantError(request=request)
        access = AccessToken(
            app_grant=grant,
            application=request.client,
            user=grant.account,
            scope=token["scope"],
            expires=timezone.now() + timedelta(seconds=token["expires_in"]),
            resource=[resource],
        )
        self._set_token_value(access, token["access_token"])
        access.save()
        refresh = RefreshToken(
            app_grant=grant,
            application=request.client,
            user=grant.account,
            access_token=access,
            token_family=grant.pk,
            resource=[resource],
        )
        self._set_token_value(refresh, token["refresh_token"])
        refresh.save()

    def _spend(self, request: Any, grant: AppGrant) -> bool:
        """Uses up the code, or the refresh token: it has its overlap from now on."""
        if request.grant_type == "authorization_code":
            codes = AuthorizationCode.objects.filter(code=request.code, app_grant=grant)
            return codes.delete()[0] > 0
        now = timezone.now()
        token = request.refresh_token_instance
        mine = RefreshToken.objects.filter(pk=token.pk, app_grant=grant, revoked=None)
        if mine.update(revoked=now, access_token=None, updated=now) and token.access_token_id:
            ends = now + timedelta(seconds=OVERLAP_SECONDS)
            calls = AccessToken.objects.filter(pk=token.access_token_id, expires__gt=ends)
            calls.update(expires=ends)
        # Where another request was faster, this is its sibling.
        return True

    def validate_refresh_token(
        self, refresh_token: str, client: Any, request: Any, *args: Any, **kwargs: Any
    ) -> bool:
        # One read decides: a second one could take a race for a replay.
        tokens = RefreshToken.objects.select_related("app_grant__account", "app_grant__application")
        found = tokens.filter(token_checksum=digest_of(refresh_token)).first()
        now = timezone.now()
        if found is None or found.application_id != client.pk:
            return False
        if found.revoked is not None and found.revoked <= now - timedelta(seconds=OVERLAP_SECONDS):
            # Somebody has a copy, and nobody knows who.
            self._end(found.app_grant, AuditAction.APP_REPLAYED, request)
            return False
        if found.created <= now - _seconds("REFRESH_TOKEN_EXPIRE_SECONDS"):
            return False
        if not grants.holds(found.app_grant):
            return False
        request.user, request.app_grant = found.app_grant.account, found.app_grant
        request.refresh_token, request.refresh_token_instance = refresh_token, found
        return True

    def get_original_scopes(self, refresh_token: str, request: Any, *args: Any, **kw: Any) -> str:
        return str(request.app_grant.scopes)

    def revoke_token(
        self, token: str, token_type_hint: str, request: Any, *args: Any, **kwargs: Any
    ) -> None:
        """RFC 7009: a refresh token ends the grant, and so does the access token beside it.

        An older access token ends alone. Tokens of other clients do not exist.
        """
        mine = {"token_checksum": digest_of(token), "application": request.client}
        refresh = RefreshToken.objects.select_related("app_grant").filter(**mine).first()
        if refresh is None:
            access = AccessToken.objects.filter(**mine).first()
            if access is None:
                return
            beside = RefreshToken.objects.select_related("app_grant")
            refresh = beside.filter(access_token=access, revoked=None).first()
            if refresh is None:
                access.delete()
                return
        self._end(refresh.app_grant, AuditAction.APP_REVOKED, request)

    def _end(self, grant: AppGrant, action: AuditAction, request: Any) -> None:
        actor = _actor(request, grant.account_id, via="oauth")
        grants.end(grant, action, actor, address=request.headers[ADDRESS])


def _actor(request: Any, account_id: Any, *, via: Any) -> Actor:
    return Actor(
        account_id=account_id,
        via=via,
        client=request.headers[CLIENT],
        request_id=request.headers[REQUEST_ID],
    )


def _seconds(name: str) -> timedelta:
    return timedelta(seconds=settings.OAUTH2_PROVIDER[name])
