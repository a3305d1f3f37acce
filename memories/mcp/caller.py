"""Who calls: the composition root says it, before the SDK takes the request."""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from core.principal import Principal


@dataclass(slots=True)
class Caller:
    """The caller of one request, and what became of the request: the status that REST would answer,
    and the thread that works on it, once there is one."""

    principal: Principal
    status: int = 200
    thread: int = 0


# It goes along into every task that the SDK begins for the request, and into no other.
current: Final[ContextVar[Caller]] = ContextVar("mcp_caller")
