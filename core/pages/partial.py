"""Whether a request wants a part of its page or all of it."""

from typing import Protocol

from django_htmx.middleware import HtmxDetails


class FromHtmx(Protocol):
    """A request after the htmx middleware."""

    htmx: HtmxDetails


def is_partial(request: FromHtmx) -> bool:
    """Whether htmx will replace only a part. A page restored from the history is replaced whole."""
    return bool(request.htmx) and not request.htmx.history_restore_request
