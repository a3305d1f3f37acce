"""Apps whose client_id is the address of a document about them (CIMD), and the keys they publish.

draft-ietf-oauth-client-id-metadata-document-01. The documents are fetched for strangers. So the
library's fetcher connects to public addresses alone, follows nothing and reads at most 16 KiB,
core.outbound guards the socket, and oauth.limits says how often.
"""

import json
import logging
import threading
from datetime import timedelta
from typing import Any, Final

from django.db import IntegrityError, transaction
from django.utils import timezone

from accounts.throttle import RateLimitedError
from oauth import limits
from oauth.library import CIMDError, SafeMetadataFetcher
from oauth.metadata import KEY_METHOD, ClientMetadata, MetadataError, may_fetch, read_metadata
from oauth.models import Application

logger = logging.getLogger(__name__)

LONGEST_ID: Final = 255
# Documents that this process fetches at a time: each holds a thread for up to five seconds.
_slots: Final = threading.BoundedSemaphore(4)


def find_application(client_id: str | None, *, address: str) -> Application | None:
    """The app with this id, for a caller at `address`; None for an unknown one.

    A document that is not known yet, or is due again, is fetched. An old one counts for as long as
    it cannot be.
    """
    if not client_id or len(client_id) > LONGEST_ID or not client_id.isprintable():
        return None
    found = Application.objects.filter(client_id=client_id).first()
    if not is_document(client_id):
        return found
    if not may_fetch(client_id):
        return None
    if found is not None and found.cimd_expires_at and found.cimd_expires_at > timezone.now():
        return found
    return _described(client_id, address=address) or found


def is_document(client_id: str) -> bool:
    """Whether the id is the address of a document."""
    return client_id.lower().startswith("https://")


def _described(client_id: str, *, address: str) -> Application | None:
    """The app as its document describes it now, stored; None where there is none to be had."""
    try:
        said, seconds = fetch(client_id, address=address)
        # Or a document could speak for the client that another one describes.
        if said.get("client_id") != client_id:
            raise CIMDError("its client_id is another one")
        return _store(client_id, _read(said), seconds)
    except (CIMDError, MetadataError, RateLimitedError) as error:
        why = str(error)[:300]
        logger.info("a client's document was refused", extra={"document": client_id, "cause": why})
        return None


def _read(said: dict[str, Any]) -> ClientMetadata:
    if "client_secret" in said or "client_secret_expires_at" in said:
        raise CIMDError("a document everybody reads has a secret")
    described = read_metadata(said, default_method="none")
    if described.method not in {"none", KEY_METHOD}:
        raise CIMDError("it wants a secret, which it has no way to get")
    if not described.name:
        raise CIMDError("it has no client_name")
    return described


def _store(client_id: str, described: ClientMetadata, seconds: int) -> Application:
    columns = {
        **described.columns,
        "user": None,
        "client_secret": "",
        "hash_client_secret": False,
        "registration_source": Application.RegistrationSource.CIMD,
        "cimd_expires_at": timezone.now() + timedelta(seconds=seconds),
        "fetched_jwks": "",
        "jwks_expires_at": None,
    }
    try:
        with transaction.atomic():
            return Application.objects.update_or_create(client_id=client_id, defaults=columns)[0]
    except IntegrityError:  # two requests saw it first
        return Application.objects.get(client_id=client_id)


def fetch(url: str, *, address: str) -> tuple[dict[str, Any], int]:
    """The JSON object at `url`, and for how many seconds it may be kept; CIMDError."""
    limits.take_document(url, address)
    if not _slots.acquire(blocking=False):
        raise CIMDError("too many documents are being fetched")
    try:
        said, seconds = SafeMetadataFetcher().fetch(url)
    except CIMDError:
        raise
    except Exception as error:
        # Whatever a stranger's address leads to, it is a document that cannot be had.
        raise CIMDError(f"{type(error).__name__}: {error}") from error
    finally:
        _slots.release()
    return said, seconds


def keys_of(app: Application, *, address: str, again: bool = False) -> dict[str, Any]:
    """The app's public keys as a JSON Web Key Set; `again` fetches what is kept. CIMDError,
    RateLimitedError."""
    if not app.client_jwks_uri:
        return _key_set(app.client_jwks)
    is_kept = app.jwks_expires_at is not None and app.jwks_expires_at > timezone.now()
    if is_kept and not again:
        return _key_set(app.fetched_jwks)
    if not may_fetch(app.client_jwks_uri):
        raise CIMDError("this server fetches no such jwks_uri")
    found, seconds = fetch(app.client_jwks_uri, address=address)
    app.fetched_jwks = json.dumps(found)
    app.jwks_expires_at = timezone.now() + timedelta(seconds=seconds)
    app.save(update_fields=["fetched_jwks", "jwks_expires_at"])
    return found


def _key_set(written: str) -> dict[str, Any]:
    found = json.loads(written or "{}")
    return found if isinstance(found, dict) else {}
