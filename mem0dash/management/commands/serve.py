"""Starts the service: migrate, check, one server process with its background work."""

import logging
import os
import signal
import sys
from typing import Any

import uvicorn
from django.conf import settings
from django.core.management.base import BaseCommand

from accounts import setup
from accounts.services import ensure_owner
from accounts.setup import offer_setup_token
from core import disk
from core.database import collecting
from core.env import ConfigurationError
from core.errors import Mem0dashError
from core.http.protocol import BoundedProtocol
from mem0dash.migration import prepare_database


class Command(BaseCommand):
    help = "Migrates the database, checks the configuration and serves on HOST:PORT."
    # serve runs the checks itself, after the migration.
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        disk.tend_reserve(may_make=False)
        prepare_database()
        self.check()
        ensure_owner()
        from memories import runtime
        from memories.background import upkeep

        try:
            runtime.install(runtime.open_runtime())
            upkeep.take_over(runtime.get_runtime())
        except Mem0dashError as error:
            raise ConfigurationError(error.message) from error
        collecting.start()
        server = uvicorn.Server(_uvicorn_config())
        socket = server.config.bind_socket()
        self._greet(socket.getsockname()[1])
        # uvicorn raises the signal once more after it has ended: that is no failure here.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        server.run(sockets=[socket])
        # uvicorn has ended on SIGTERM or SIGINT, and the runtime with it.
        sys.stdout.write("mem0dash has stopped.\n")
        _end_with_requests()

    def _greet(self, port: int) -> None:
        # "All addresses" is nothing to open in a browser; this machine's own is among them.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.HOST, settings.HOST)  # noqa: S104
        host = f"[{host}]" if ":" in host else host
        url = settings.PUBLIC_URL or f"http://{host}:{port}"
        self.stdout.write(f"mem0dash listens on {url}  (documentation: {url}/docs)")
        token = offer_setup_token()
        if not setup.is_complete():
            self._lead_to_setup(f"{url}/setup", token)
        self.stdout.flush()

    def _lead_to_setup(self, link: str, token: str | None) -> None:
        if not setup.needs_setup():
            self.stdout.write(f"Set-up is not finished. Go on in a browser:\n\n  {link}\n")
        elif token is None:
            self.stdout.write(f"Set it up in a browser, with your SETUP_TOKEN:\n\n  {link}\n")
        else:
            self.stdout.write(
                "Set it up in a browser. This link makes its owner, so keep it to yourself:\n\n"
                f"  {link}?token={token}\n"
            )


def _end_with_requests() -> None:
    """Ends the process where the interpreter would wait for requests that go on: a provider may
    hang for minutes."""
    from core.http.threads import answering

    if answering:
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)


def _uvicorn_config() -> uvicorn.Config:
    return uvicorn.Config(
        "mem0dash.asgi:application",
        http=BoundedProtocol,
        ws="none",
        host=settings.HOST,
        port=settings.PORT,
        log_config=None,
        access_log=False,
        server_header=False,
        # Addresses of proxies are middleware.client_address's business.
        proxy_headers=False,
        timeout_graceful_shutdown=settings.STOP_SECONDS,
        lifespan="on",
    )
