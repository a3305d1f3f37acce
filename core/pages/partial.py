"""Whether a request wants a part of its page, or all of it."""

from typing import Protocol

from django_htmx.middleware import HtmxDetails


class FromHtmx(Protocol):
    """A request behind the middleware of htmx."""

    htmx: HtmxDetails


def is_partial(request: FromHtmx) -> bool:
    """htmx replaces a part; but a page that it takes up from the history is replaced as a whole."""
    return bool(request.htmx) and not request.htmx.history_restore_request
