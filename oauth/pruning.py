"""The job that deletes what is over: codes, tokens, grants, and apps that nobody uses."""

from collections.abc import Callable
from datetime import timedelta
from typing import Final

from django.conf import settings
from django.db.models import Exists, F, OuterRef, Q
from django.utils import timezone

from core.database import portions
from jobs.kinds import Kind
from jobs.running import JobRun
from oauth.models import AccessToken, AppGrant, Application, AuthorizationCode, RefreshToken

ROWS: Final = 500
# An app that registers, and for so long nobody grants it anything, is forgotten: it registers again
# when it is told that it is unknown.
UNUSED: Final = timedelta(hours=24)


def prune(*, beat: Callable[[int], object] = lambda total: None) -> int:
    """Deletes what is over and returns how many rows that were.

    A refresh token that was exchanged stays as long as it would have lasted: by it a copy is found
    out.
    """
    now = timezone.now()
    oldest = now - timedelta(days=settings.OAUTH_REFRESH_TOKEN_DAYS)
    live = RefreshToken.objects.filter(app_grant=OuterRef("pk"), revoked=None)
    codes = AuthorizationCode.objects.filter(app_grant=OuterRef("pk"))
    ended = Q(session_epoch__lt=F("account__session_epoch")) | Q(account__is_active=False)
    unused = ~Exists(AppGrant.objects.filter(application=OuterRef("pk")))
    over = (
        AuthorizationCode.objects.filter(expires__lte=now).order_by("expires"),
        AccessToken.objects.filter(expires__lte=now).order_by("expires"),
        RefreshToken.objects.filter(created__lte=oldest).order_by("created"),
        AppGrant.objects.filter(ended | (~Exists(live) & ~Exists(codes))).order_by("id"),
        Application.objects.filter(unused, updated__lte=now - UNUSED)
        .exclude(registration_source=Application.RegistrationSource.MANUAL)
        .order_by("updated"),
    )
    total = 0
    for rows in over:
        total += portions.delete(rows, ROWS, beat)
    return total


def _prune(run: JobRun) -> None:
    count = prune(beat=run.beat)
    with run.finishing(f"{count:,} {'row' if count == 1 else 'rows'} removed"):
        pass


PRUNING: Final = Kind(
    name="oauth.prune",
    title="Prune apps and tokens",
    about=lambda _: "Expired tokens, ended access, and apps that nobody allowed for a day",
    handler=_prune,
    lease_seconds=120.0,
    schedule="every hour",
)
