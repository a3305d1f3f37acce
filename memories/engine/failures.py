"""Translates exceptions of the providers' SDKs into ProviderError, with a cause in words."""

import email.utils
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from core.errors import ProviderError
from memories.readings import BAD_REPLY

AUTH: Final = "provider_auth_failed"
LIMITED: Final = "provider_rate_limited"
TIMEOUT: Final = "provider_timeout"
UNAVAILABLE: Final = "provider_unavailable"
REFUSED: Final = "provider_bad_request"
MALFORMED: Final = BAD_REPLY
UNKNOWN: Final = "unknown"

# The sentences of mem0's own server, which its clients show.
MESSAGES: Final = {
    AUTH: "Provider rejected the request (authentication). "
    "Check your LLM provider API key on the Configuration page.",
    LIMITED: "Provider rate limit hit. Retry shortly.",
    TIMEOUT: "Provider timed out. Retry shortly.",
    UNAVAILABLE: "Provider is unreachable or returned a server error.",
    REFUSED: "Provider rejected the request as malformed.",
    MALFORMED: "Provider answered with something that cannot be used.",
    UNKNOWN: "Upstream provider error.",
}
# Another attempt may succeed.
PASSING: Final = frozenset({LIMITED, TIMEOUT, UNAVAILABLE})

_BY_NAME: Final = {
    "AuthenticationError": AUTH,
    "PermissionDeniedError": AUTH,
    "RateLimitError": LIMITED,
    "APITimeoutError": TIMEOUT,
    "TimeoutException": TIMEOUT,
    "TimeoutError": TIMEOUT,
    "APIConnectionError": UNAVAILABLE,
    "TransportError": UNAVAILABLE,
    "ConnectionError": UNAVAILABLE,
    "EndpointConnectionError": UNAVAILABLE,
    "gaierror": UNAVAILABLE,
    "SSLError": UNAVAILABLE,
    "ConnectTimeoutError": TIMEOUT,
    "ReadTimeoutError": TIMEOUT,
    "JSONDecodeError": MALFORMED,
    "DecodingError": MALFORMED,
    "APIResponseValidationError": MALFORMED,
    "UnknownApiResponseError": MALFORMED,
    "NoCredentialsError": AUTH,
    "BadRequestError": REFUSED,
    "NotFoundError": REFUSED,
    "UnprocessableEntityError": REFUSED,
}
CAUSE_LENGTH: Final = 300
READ_LENGTH: Final = 20_000
# This many characters from a secret's start or end count as a secret too.
SECRET_PART: Final = 8
# The longest wait that callers are asked for: a day.
RETRY_AFTER_MOST: Final = 86_400


def translate(error: BaseException, *, secrets: tuple[str, ...] = ()) -> ProviderError:
    """`error` of an SDK as ProviderError: its code by class name or status along the causes.

    `cause` is the provider's message for people, without the `secrets` and with at most 300
    characters.
    """
    for link in _chain(error):
        if isinstance(link, ProviderError):
            return link
    code, where = _classify(error)
    cause = _cause(where, secrets)
    if code == UNAVAILABLE and status_of(where) is None:
        # SDKs say only "Connection error." for every network problem.
        *_, root = _chain(where)
        reason = _cause(root, secrets)
        cause = cause if reason in cause else f"{cause} ({reason})"
    return failure(code, cause, retry_after=_retry_after(where))


def failure(code: str, cause: str = "", *, retry_after: int | None = None) -> ProviderError:
    """A ProviderError with the sentence that belongs to `code`."""
    return ProviderError(MESSAGES[code], code=code, cause=cause, retry_after=retry_after)


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an SDK's exception carries, by itself or in its response."""
    response = getattr(error, "response", None)
    candidates = [getattr(error, name, None) for name in ("status_code", "code", "http_status")]
    candidates.append(getattr(response, "status_code", None))
    if isinstance(response, Mapping):  # botocore's
        candidates.append((response.get("ResponseMetadata") or {}).get("HTTPStatusCode"))
    return next((s for s in candidates if isinstance(s, int) and 100 <= s <= 599), None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _classify(error: BaseException) -> tuple[str, BaseException]:
    """The code, and the exception of the chain that it was read from."""
    for link in _chain(error):
        # A timeout first: the SDKs derive it from their connection errors.
        for class_ in type(link).__mro__:
            if class_.__name__ in _BY_NAME:
                return _BY_NAME[class_.__name__], link
        if (status := status_of(link)) is not None:
            return _of_status(status), link
    return UNKNOWN, error


def _of_status(status: int) -> str:
    if status in {401, 403}:
        return AUTH
    if status == 429:
        return LIMITED
    if status in {408, 504}:
        return TIMEOUT
    if status < 300:
        return MALFORMED  # a success that its SDK could not read
    return UNAVAILABLE if status >= 500 else REFUSED


def _cause(error: BaseException, secrets: tuple[str, ...]) -> str:
    status = status_of(error)
    text = str(getattr(error, "message", "") or error)[:READ_LENGTH]
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = _without(text, secret)
    # Drop characters that databases do not store.
    text = " ".join(text.encode("utf-8", "replace").decode().replace("\0", " ").split())
    text = text[:CAUSE_LENGTH] + ("…" if len(text) > CAUSE_LENGTH else "")
    prefix = f"HTTP {status}: " if status is not None and str(status) not in text else ""
    return prefix + (text or type(error).__name__)


def _without(text: str, secret: str) -> str:
    """`text` without the secret, and without the parts of it that remain where libraries truncate a
    long message."""
    for length in range(len(secret), min(SECRET_PART, len(secret)) - 1, -1):
        for part in (secret[:length], secret[-length:]):
            text = text.replace(part, "[redacted]")
    return text


def _retry_after(error: BaseException) -> int | None:
    """Seconds that the provider asks to wait, from its Retry-After header (RFC 9110, 10.2.3)."""
    # Some SDKs raise without the response; another exception in the chain has it.
    value = next((header for link in _chain(error) if (header := _retry_header(link))), None)
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    # Rounded up, because an early retry is refused again.
    return None if math.isnan(seconds) else math.ceil(min(max(0.0, seconds), RETRY_AFTER_MOST))


def _retry_header(error: BaseException) -> str | None:
    response = getattr(error, "response", None)
    headers: Any = getattr(response, "headers", None)
    if isinstance(response, Mapping):  # botocore's
        headers = (response.get("ResponseMetadata") or {}).get("HTTPHeaders")
    if not isinstance(headers, Mapping):
        return None
    value = next((v for k, v in headers.items() if str(k).lower() == "retry-after"), None)
    return value if isinstance(value, str) else None
