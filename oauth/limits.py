"""How often strangers may do what costs something: counted in the database, for all processes.

Failures alone count where somebody may be right: a client with a right code or token always passes.
"""

import logging
from typing import Final

from django.conf import settings
from django.db import Error as AnyDatabaseError

from accounts import throttle
from accounts.throttle import Limit, RateLimitedError, address_subject
from core.database.sqlite3.turns import at_most

logger = logging.getLogger(__name__)

# Apps that register themselves. Cloud services do that from few addresses, for all their people.
REGISTER_HERE: Final = Limit("oauth-register-here", 60, 3600, 60)
REGISTER: Final = Limit("oauth-register", 600, 3600, 60)
# Documents that are fetched for strangers: one of them, for one address, and all.
DOCUMENT: Final = Limit("oauth-document", 3, 60, 60)
DOCUMENTS_HERE: Final = Limit("oauth-documents-here", 20, 60, 60)
DOCUMENTS: Final = Limit("oauth-documents", 120, 60, 60)
# An assertion is good once, for as long as one may last.
ASSERTION: Final = Limit("oauth-assertion", 1, 3600, 60)
# How long a refusal waits for others that write, to be counted.
COUNTING_SECONDS: Final = 1.0


def take_registration(address: str) -> None:
    """RateLimitedError where so many apps have registered that this one has to wait."""
    throttle.take(REGISTER_HERE, address_subject(address))
    throttle.take(REGISTER, "")


def take_document(url: str, address: str) -> None:
    """RateLimitedError where so many documents were fetched that this one has to wait."""
    throttle.take(DOCUMENT, url)
    throttle.take(DOCUMENTS_HERE, address_subject(address))
    throttle.take(DOCUMENTS, "")


def is_first_use(assertion: str) -> bool:
    """Whether an assertion comes for the first time; `assertion` names it and its client."""
    try:
        throttle.take(ASSERTION, assertion)
    except RateLimitedError:
        return False
    return True


def count_failed_token(address: str) -> int:
    """Counts a failure at the token endpoint; the seconds to wait where it is one too many, or
    0."""
    return _count(
        "oauth-token",
        settings.RATE_LIMIT_TOKEN_FAILURES,
        settings.RATE_LIMIT_TOKEN_WINDOW_SECONDS,
        address,
    )


def count_failed_consent(address: str) -> int:
    """Counts an answer to a request for consent that counts for nothing; the seconds to wait where
    it is one too many, or 0."""
    return _count(
        "oauth-consent",
        settings.RATE_LIMIT_CONSENT_FAILURES,
        settings.RATE_LIMIT_CONSENT_WINDOW_SECONDS,
        address,
    )


def _count(name: str, most: int, seconds: int, address: str) -> int:
    if not most:
        return 0
    try:
        with at_most(COUNTING_SECONDS):
            throttle.take(Limit(name, most, seconds, seconds), address_subject(address))
    except RateLimitedError as error:
        return error.retry_after or seconds
    except AnyDatabaseError:
        logger.warning("a failure of OAuth could not be counted", exc_info=True)
    return 0
