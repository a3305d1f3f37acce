"""A request that is over: its id, and what log, metrics and the access line take note of."""

import logging
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Final

from django.conf import settings
from django.http import HttpRequest
from django.utils.module_loading import import_string

from core.http import strangers
from core.principal import Principal

access_log = logging.getLogger("mem0dash.access")
_INBOUND_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class FinishedRequest:
    """A finished request as log and metrics take note of it; `ms` is how long it took.

    `route` is the template of its address, such as "/memories/{memory_id}"; "" where no route of
    ours is.
    """

    at: datetime
    method: str
    path: str
    status: int
    ms: float
    request_id: str
    auth_type: str
    principal: Principal | None
    route: str = ""
    address: str = ""


def id_of(request: HttpRequest) -> str:
    """The id that the client gave its request, where it is a sane one; else a new one."""
    inbound = request.headers.get("X-Request-ID", "")
    return inbound if _INBOUND_ID.fullmatch(inbound) else secrets.token_hex(4)


def take_note(handled: FinishedRequest) -> None:
    """Tells the request log and the metrics, and writes the access line."""
    _named(settings.REQUEST_LOG)(handled)
    _named(settings.REQUEST_METRICS)(handled)
    principal = handled.principal
    if principal is None:
        has_line, passed_over = strangers.lines.take()
        if passed_over:
            told = {"requests": passed_over}
            access_log.warning("requests without a credential have no lines", extra=told)
        if not has_line:
            return
    access_log.info(
        "request",
        extra={
            "request_id": handled.request_id,
            "method": handled.method,
            "path": handled.path,
            "status": handled.status,
            "ms": handled.ms,
            "address": handled.address,
            "account": str(principal.account_id or "") if principal else "",
            "key": principal.key_prefix if principal else "",
            "app": principal.app if principal else "",
            "project": principal.project.slug if principal else "",
        },
    )


@cache
def _named(path: str) -> Any:
    return import_string(path)
