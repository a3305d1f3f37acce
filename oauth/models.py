"""Apps, what people granted them, and the tokens of each grant.

The library's five models are swapped, all in one migration: each token points to its grant, and
deleting the grant is what ends every token of it.
"""

import uuid
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.db import models
from oauth2_provider.models import (
    AbstractAccessToken,
    AbstractApplication,
    AbstractGrant,
    AbstractIDToken,
    AbstractRefreshToken,
)

from oauth import redirects
from oauth.labels import clean_label


class Application(AbstractApplication):
    """A client: registered by itself (RFC 7591) or by the document that its id points to (CIMD).

    `token_endpoint_auth_method`, `client_jwks` and `client_jwks_uri` are named and typed as in the
    library's next release. A secret is stored as its SHA-256 in hex (oauth.tokens).
    """

    token_endpoint_auth_method = models.CharField(max_length=32, default="none")
    client_jwks = models.TextField(blank=True, default="")
    client_jwks_uri = models.URLField(max_length=500, blank=True, default="")
    # The keys that the document at client_jwks_uri had, until they are fetched again.
    fetched_jwks = models.TextField(blank=True, default="")
    jwks_expires_at = models.DateTimeField(null=True, blank=True)
    client_uri = models.CharField(max_length=500, blank=True, default="")
    registered_from = models.CharField(max_length=45, blank=True, default="")

    class Meta(AbstractApplication.Meta):
        indexes = (models.Index(fields=["updated"], name="application_oldest"),)

    def clean(self) -> None:
        """Makes the name harmless; ValidationError for redirect URIs that nobody may register."""
        self.name = clean_label(self.name)
        super().clean()
        if not all(redirects.may_register(uri) for uri in self.redirect_uris.split()):
            raise ValidationError({"redirect_uris": redirects.REFUSED})

    def get_allowed_schemes(self) -> list[str]:
        own = {urlsplit(uri).scheme for uri in self.redirect_uris.split()}
        return sorted({"https", "http"} | own)

    def redirect_uri_allowed(self, uri: str) -> bool:
        # The operator's list counts also for what was registered before it was made.
        return redirects.is_listed(uri) and bool(super().redirect_uri_allowed(uri))

    @property
    def published_at(self) -> str:
        """The host of the document that describes the app; "" for one that registered itself."""
        is_published = self.registration_source == self.RegistrationSource.CIMD
        return (urlsplit(self.client_id).hostname or "") if is_published else ""


class AppGrant(models.Model):
    """What a person granted an app: in one project, with these scopes, from one consent on.

    It holds for the account's epoch at that time. Deleting it ends every token of it.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    account = models.ForeignKey("accounts.Account", models.CASCADE, related_name="app_grants")
    project = models.ForeignKey("accounts.Project", models.CASCADE, related_name="app_grants")
    application = models.ForeignKey(Application, models.CASCADE, related_name="grants")
    # Names of oauth.scopes.WIRE with spaces between them.
    scopes = models.CharField(max_length=100)
    # The address of /mcp that its tokens are for (RFC 8707).
    resource = models.CharField(max_length=500)
    session_epoch = models.PositiveIntegerField()
    created_at = models.DateTimeField(auto_now_add=True)
    last_used_at = models.DateTimeField(null=True)
    last_address = models.CharField(max_length=45, blank=True, default="")
    last_client = models.CharField(max_length=200, blank=True, default="")

    def __str__(self) -> str:
        return f"{self.application_id} for {self.account_id}"


class AuthorizationCode(AbstractGrant):
    """A code that is good for one exchange; the library calls it a grant."""

    app_grant = models.ForeignKey(AppGrant, models.CASCADE, related_name="codes")

    class Meta(AbstractGrant.Meta):
        indexes = (models.Index(fields=["expires"], name="code_oldest"),)


class AccessToken(AbstractAccessToken):
    """An access token, as its SHA-256."""

    app_grant = models.ForeignKey(AppGrant, models.CASCADE, related_name="access_tokens")

    class Meta(AbstractAccessToken.Meta):
        indexes = (models.Index(fields=["expires"], name="access_token_oldest"),)


class RefreshToken(AbstractRefreshToken):
    """A refresh token, as its SHA-256. `revoked` is when it was exchanged for the next one; its
    family is all of its grant."""

    app_grant = models.ForeignKey(AppGrant, models.CASCADE, related_name="refresh_tokens")

    class Meta(AbstractRefreshToken.Meta):
        indexes = [models.Index(fields=["created"], name="refresh_token_oldest")]  # noqa: RUF012  (typed as a list above it)


class IDToken(AbstractIDToken):
    """Never used, since this server is no OpenID provider. The library's access tokens refer to it,
    and were it the library's, its migrations and ours would wait for each other."""
