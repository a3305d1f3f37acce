"""Changes the embedder while there are memories, and while search goes on."""

import time
from argparse import ArgumentParser
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError

from accounts.queries import operator_of
from core.errors import ConflictError, IndexUnavailableError, Mem0dashError, ProviderError
from memories import runtime
from memories.engine.catalogue import PROVIDERS
from memories.management.running import secret_from
from memories.models.server import Reembedding
from memories.providers import reembedding

WATCH_SECONDS: Final = 1.0


class Command(BaseCommand):
    help = (
        "Embeds every memory with another embedder, beside the present one, and then changes over "
        "at once. It can be interrupted and started again, and the server goes on with it."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--provider", help='such as openai or ollama; "local" for the own model')
        what.add_argument("--back", action="store_true", help="back to the former embedder")
        what.add_argument("--cancel", action="store_true", help="stop, and drop what was made")
        what.add_argument("--drop-former", action="store_true", help="remove former vectors")
        what.add_argument("--status", action="store_true", help="say how far it is")
        parser.add_argument("--model")
        parser.add_argument("--dims", type=int, help="where the model can be shortened")
        parser.add_argument("--base-url", help="the provider's address")
        parser.add_argument("--api-key-file", help='a file with the key; "-" reads standard input')

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            self._handle(options)
        except (Mem0dashError, OSError) as error:
            cause = error.cause if isinstance(error, ProviderError) else ""
            raise CommandError(f"{error} {cause}".strip()) from error

    def _handle(self, options: dict[str, Any]) -> None:
        operator = operator_of("default")
        if options["cancel"]:
            reembedding.cancel(operator)
            self.stdout.write("Cancelled; search was never changed.")
        elif options["drop_former"]:
            self.stdout.write(f"Removed {reembedding.drop_former(operator):,} former vectors.")
        elif options["status"]:
            job = Reembedding.objects.order_by("-id").first()
            self._tell(job) if job else self.stdout.write("Nothing was ever embedded anew.")
        else:
            self._run(self._begun(operator, options))

    def _begun(self, operator: Any, options: dict[str, Any]) -> Reembedding:
        job = reembedding.find_running()
        if options["back"]:
            return reembedding.start_back(operator)
        if options["provider"] is None:
            if job is None:
                raise CommandError("Name the new embedder: --provider, and --model.")
            return job
        provider = PROVIDERS.get(options["provider"])
        address = provider.address if provider and provider.address else "base_url"
        config = {
            "model": options["model"],
            "embedding_dims": options["dims"],
            "api_key": secret_from(options["api_key_file"]),
            address: options["base_url"],
        }
        filled_in = {name: value for name, value in config.items() if value}
        return reembedding.start(operator, {"provider": options["provider"], "config": filled_in})

    def _run(self, job: Reembedding) -> None:
        """Works, or watches who does, until search has changed over."""
        self._tell(job)
        while True:
            try:
                if job.embedded_at is None:
                    reembedding.work(job, show=self._show)
            except ConflictError:
                pass  # the server is at it, or it was cancelled: the state tells
            job.refresh_from_db()
            if job.state != Reembedding.State.RUNNING:
                break
            if job.embedded_at is not None:
                self._flip()
            else:
                self._show(*reembedding.measure_progress(job))
            time.sleep(WATCH_SECONDS)
            job.refresh_from_db()
        self._tell(job)

    def _flip(self) -> None:
        """The index belongs to the server, if one is running: then that one does it."""
        try:
            opened = runtime.open_runtime()
        except IndexUnavailableError:
            return
        try:
            reembedding.flip(opened)
        finally:
            opened.close()

    def _show(self, done: int, total: int) -> None:
        self.stdout.write(f"{done:,} of {total:,}")

    def _tell(self, job: Reembedding) -> None:
        self.stdout.write(str(job))
        if job.problem:
            self.stdout.write(f"Last problem: {job.problem}")
