"""Late interaction from the command line: how far its token states are, on, off, made, removed."""

import time
from argparse import ArgumentParser
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError

from accounts.queries import operator_of
from core.errors import ConflictError, Mem0dashError
from jobs import leases
from jobs.leases import HeldLease
from memories.backfill import token_states as token_work
from memories.engine import configuration
from memories.engine.engine import Engine
from memories.engine.local_model import WeightsError
from memories.engine.opening import open_reader
from memories.providers import late_interaction
from memories.providers.late_interaction import LateInteractionStatus
from memories.runtime import Runtime

WATCH_SECONDS: Final = 1.0
MODEL: Final = {
    "ready": "The model is ready.",
    "loading": "The model is loading.",
    "missing": "The model is not prepared: run manage.py prepare_embedder.",
}


class Command(BaseCommand):
    help = (
        "Says how late interaction is: whether it is on, and how many memories have their token "
        "states. The server makes those by itself; --make does it here and now."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--make", action="store_true", help="make what is missing, and wait")
        what.add_argument("--on", action="store_true", help="use token states in search")
        what.add_argument("--off", action="store_true", help="neither use nor make them")
        what.add_argument("--drop", action="store_true", help="remove them, while it is off")

    def handle(self, *args: Any, **options: Any) -> None:
        operator = operator_of("default")
        try:
            if options["on"] or options["off"]:
                late_interaction.switch(operator, bool(options["on"]))
            elif options["drop"]:
                count = late_interaction.drop(operator)
                self.stdout.write(f"Removed the token states of {count:,} memories.")
            elif options["make"]:
                self._make()
        except (Mem0dashError, WeightsError) as error:
            raise CommandError(str(error)) from error
        self._tell(late_interaction.status(operator))

    def _make(self) -> None:
        """Makes what is missing, or watches who does."""
        _check_on()
        reader = open_reader()
        if reader is None:
            raise CommandError(MODEL["missing"])
        runtime = Runtime(Engine(None, reader=reader), None)
        token_work.check_texts(reader.states_key, reader)
        while token_work.filter_lacking(reader.states_key).exists():
            try:
                with leases.hold(token_work.LEASE, token_work.LEASE_SECONDS) as lease:
                    progress = _Shown(self, lease, reader.states_key)
                    token_work.make_missing(runtime, gentle=False, show=progress)
            except ConflictError:
                # A server is at it.
                _check_on()
                self.show(reader.states_key)
                time.sleep(WATCH_SECONDS)

    def show(self, states_key: str) -> None:
        made, live = token_work.measure_progress(states_key)
        self.stdout.write(f"{made:,} of {live:,}")

    def _tell(self, status: LateInteractionStatus) -> None:
        by = "as the environment says" if status.by_environment else "as was chosen while running"
        self.stdout.write(f"Late interaction is {'on' if status.is_on else 'off'}, {by}.")
        self.stdout.write(MODEL[status.model])
        size = f"{status.bytes / 1e6:,.1f} MB"
        self.stdout.write(
            f"{status.made:,} of {status.live:,} memories have token states; {size} are kept."
        )


class _Shown:
    """After each batch: keeps the lease, and says now and then how far it is. LeaseLostError when
    another process has taken over, CommandError when it was switched off."""

    def __init__(self, command: Command, lease: HeldLease, states_key: str) -> None:
        self._command, self._lease, self._states_key = command, lease, states_key
        self._at = float("-inf")

    def __call__(self, made: int) -> None:
        self._lease.renew()
        if time.monotonic() - self._at >= WATCH_SECONDS:
            _check_on()
            self._command.show(self._states_key)
            self._at = time.monotonic()


def _check_on() -> None:
    if not configuration.current_configuration().late_interaction:
        raise CommandError("Late interaction is off: switch it on first, with --on.")
