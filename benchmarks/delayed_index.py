"""How many searches a second one process answers while the index server is some milliseconds away.

    .venv/bin/python -m benchmarks.delayed_index [--memories 2000] [--seconds 10]

It starts a PostgreSQL, the tests' index server, a proxy before it and one `serve`, and removes all
of them at the end. The index server and the proxy share the machine's cores with the server.
"""

import argparse
import asyncio
import itertools
import secrets
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cryptography.fernet import Fernet

from benchmarks import corpus
from benchmarks.client import Request, run
from benchmarks.processes import cpu_seconds
from memories.tests.qdrant_server import QdrantServer
from prove.postgres import Cluster
from prove.proxy import Proxy
from prove.server import Server

CLIENTS = 16
DELAYS_MS = (0, 30, 100)


def queries() -> Iterator[Request]:
    language = corpus.Language(seed=5)
    for _ in itertools.count():
        body = {"query": language.text(3, 6), "user_id": corpus.HEAVY_USER}
        yield Request("POST", "/search", body)


def main(memories: int, seconds: float) -> None:
    cluster = Cluster()
    folder = Path(tempfile.mkdtemp(prefix="mem0dash-delayed-"))
    index = QdrantServer(folder / "qdrant").start()
    proxy = Proxy(index.url)
    server = Server(
        folder / "data",
        {
            "DATABASE_URL": cluster.create_database("delayed"),
            "QDRANT_URL": proxy.url,
            "DJANGO_SETTINGS_MODULE": "benchmarks.settings",
            "SECRET_KEY": secrets.token_urlsafe(50),
            "JWT_SECRET": secrets.token_urlsafe(50),
            "ENCRYPTION_KEY": Fernet.generate_key().decode(),
        },
    )
    try:
        server.start()
        key = server.bootstrap()
        client = server.client()
        rows = [row.text for row in corpus.rows(memories)]
        for at in range(0, len(rows), 100):
            client.add(*rows[at : at + 100], user_id=corpus.HEAVY_USER)
        client.close()
        assert server.process is not None
        for delay in DELAYS_MS:
            proxy.tell(delay=delay / 1000, well=True)
            load = {"concurrency": CLIENTS, "keep": False}
            asyncio.run(run(server.port, key, queries(), seconds=2, **load))
            before = cpu_seconds(server.process.pid)
            found = asyncio.run(run(server.port, key, queries(), seconds=seconds, **load))
            count = len(found.latencies)
            cpu = (cpu_seconds(server.process.pid) - before) * 1000 / count
            print(
                f"+{delay} ms: {count / found.seconds:.0f} searches a second, median "
                f"{statistics.median(found.latencies) * 1000:.0f} ms, {cpu:.1f} ms of CPU each, "
                f"failed {found.failures or 'none'}",
                flush=True,
            )
    finally:
        server.kill9()
        proxy.kill()
        index.kill9()
        cluster.remove()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memories", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    main(options.memories, options.seconds)
