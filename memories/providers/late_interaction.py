"""The setting of late interaction: on or off, the progress of its token states, their removal."""

import logging
import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from django.conf import settings
from django.db import transaction

from accounts import audit
from accounts.audit import AuditAction
from core.errors import ConflictError, IndexUnavailableError
from core.principal import Principal
from memories import runtime
from memories.backfill import token_states
from memories.engine import configuration
from memories.engine.catalogue import Configuration
from memories.engine.configuration import ChangedMeanwhileError
from memories.engine.local_model import WeightsError, find_prepared_model
from memories.engine.opening import as_reader
from memories.providers.service import CHANGE_ATTEMPTS
from memories.runtime import ModelState, Runtime

if TYPE_CHECKING:
    from memories.engine.token_reader import TokenReader

logger = logging.getLogger(__name__)

# The name of this instance-wide setting, for messages.
LATE_INTERACTION: Final = "late interaction"


@dataclass(frozen=True, slots=True)
class LateInteractionStatus:
    """Whether token states are used, and whether the environment decides that; the state of the
    model that reads them, used or not; how many live memories have states; how many memories have
    stored states, deleted ones included, and their size in bytes."""

    is_on: bool
    by_environment: bool
    model: ModelState
    made: int
    live: int
    kept: int
    bytes: int


def status(principal: Principal) -> LateInteractionStatus:
    """The state of late interaction. For the instance owner."""
    principal.require_instance(LATE_INTERACTION)
    row = configuration.latest_row()
    is_on = configuration.current_configuration().late_interaction
    with_states, live = token_states.measure_progress(_states_key())
    stored, size = token_states.measure_stored()
    return LateInteractionStatus(
        is_on=is_on,
        by_environment=row is None or "late_interaction" not in row.config,
        model=_model(is_on=is_on),
        made=with_states,
        live=live,
        kept=stored,
        bytes=size,
    )


def switch(principal: Principal, on: bool) -> None:
    """Switches late interaction on or off permanently: in this process now, in others within
    seconds.

    Stored states stay and are used again after switching on. For the instance owner; ConflictError
    if others keep changing the configuration.
    """
    principal.require_instance(LATE_INTERACTION)
    for attempt in range(1, CHANGE_ATTEMPTS + 1):
        former = configuration.current_configuration()
        if former.late_interaction == on:
            return
        try:
            _use(principal, replace(former, late_interaction=on))
        except ChangedMeanwhileError:
            if attempt == CHANGE_ATTEMPTS:
                raise
        else:
            logger.info("late interaction switched", extra={"on": on})
            return


def _use(principal: Principal, target: Configuration) -> None:
    reason = f"late interaction {'on' if target.late_interaction else 'off'}"

    action = (
        AuditAction.LATE_INTERACTION_ON
        if target.late_interaction
        else AuditAction.LATE_INTERACTION_OFF
    )

    def commit() -> int:
        with transaction.atomic():
            row = configuration.save(target, account_id=principal.account_id, reason=reason)
            audit.record(action, actor=principal.actor)
        return row.version

    running = _running()
    if running is None:
        commit()
    else:
        running.use(runtime.engine_of(target, running.engine, ask=False), commit)


def drop(principal: Principal, *, seconds: float = math.inf) -> int:
    """Removes stored token states, a portion at a time, for about so many seconds; how many. For
    the instance owner; ConflictError while they are in use."""
    principal.require_instance(LATE_INTERACTION)
    total, started = 0, time.monotonic()
    while time.monotonic() - started < seconds:
        # Checked each time, because somebody may switch it on meanwhile.
        if configuration.current_configuration().late_interaction:
            raise ConflictError("Late interaction is on: switch it off before removing its data.")
        with transaction.atomic():
            some = token_states.drop_some()
            if some and not total:
                audit.record(AuditAction.LATE_INTERACTION_REMOVED, actor=principal.actor)
        if not some:
            break
        total += some
    return total


def _running() -> Runtime | None:
    """The runtime of this process; None in a command."""
    try:
        return runtime.get_runtime()
    except IndexUnavailableError:
        return None


def _states_key() -> str:
    """The key of states that can be compared now, or could be if late interaction were on."""
    from memories.engine.token_reader import (
        STATES_KEY,
    )  # imports the tokenizer, which a start does not need

    running = _running()
    reader = _reader(running) if running else None
    return reader.states_key if reader else STATES_KEY


def _reader(running: Runtime) -> "TokenReader | None":
    return running.engine.reader or as_reader(running.engine.embedder)


def _model(*, is_on: bool) -> ModelState:
    running = _running()
    if running is not None:
        if _reader(running):
            return "ready"
        if is_on and running.engine.wants_reader:
            return running.reader_state
    # Nobody has tried to load the model: it counts as ready if it could be loaded.
    try:
        return "ready" if find_prepared_model(settings.MODEL_DIR) else "missing"
    except WeightsError:
        return "missing"
