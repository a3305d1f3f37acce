"""Two web processes on one PostgreSQL and one index server, at one address that takes turns."""

import secrets
from collections.abc import Mapping
from pathlib import Path

from cryptography.fernet import Fernet

from memories.tests.qdrant_server import QdrantServer
from prove.front import Front
from prove.server import Server


class Pair:
    """Used with `with`: all of it runs then, and has an owner and a first key."""

    def __init__(
        self, folder: Path, database_url: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.front = Front()
        self.url, self.database_url = self.front.url, database_url
        self._qdrant = QdrantServer(folder / "qdrant", api_key=secrets.token_hex(8)).start()
        self._environment = {
            "DATABASE_URL": database_url,
            "QDRANT_URL": self._qdrant.url,
            "QDRANT_API_KEY": self._qdrant.api_key,
            "PUBLIC_URL": self.url,
            "SECRET_KEY": secrets.token_urlsafe(50),
            "JWT_SECRET": secrets.token_urlsafe(50),
            "ENCRYPTION_KEY": Fernet.generate_key().decode(),
            **(environment or {}),
        }
        self.servers = [Server(folder / f"web{n}", self._environment) for n in range(2)]

    def __enter__(self) -> "Pair":
        try:
            for server in self.servers:
                server.start()
            self.servers[1].key = self.servers[0].bootstrap()
            self.front.stand_before([server.port for server in self.servers])
            self.front.__enter__()
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.front.__exit__(None, None, None)
        self._kill()

    def _kill(self) -> None:
        for server in self.servers:
            server.kill9()
        self._qdrant.kill9()
