"""Asks the configured providers for real: one call each."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from memories.engine import configuration
from memories.engine.configuration import SECTIONS
from memories.providers import service as providers


class Command(BaseCommand):
    help = "Makes one real call to each configured provider, and says how it went."

    def handle(self, *args: Any, **options: Any) -> None:
        current = configuration.current_configuration()
        failed = False
        for name, kind in SECTIONS.items():
            choice = getattr(current, name)
            if choice is None:
                own = "the local model" if name == "embedder" else "none"
                self.stdout.write(f"{name}: {own}")
                continue
            probe = providers.probe_choice(choice, kind)
            what = f"{name}: {choice.provider} {choice.model}"
            if probe.ok:
                dims = f", {probe.dims} dimensions" if probe.dims else ""
                self.stdout.write(f"{what}: answers in {probe.latency_ms:.0f} ms{dims}")
            else:
                failed = True
                self.stdout.write(f"{what}: {probe.code}. {probe.cause}\n  {probe.hint}")
        if failed:
            raise CommandError("A provider does not answer.")
