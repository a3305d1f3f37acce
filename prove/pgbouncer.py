"""PgBouncer before a PostgreSQL, in transaction mode: each transaction may get another connection
of the server."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from prove.postgres import Cluster
from prove.server import free_port

HOW_TO_GET = "PgBouncer is not installed: apt-get install pgbouncer"
START_SECONDS = 20.0


def program() -> str | None:
    """The path of PgBouncer; the folder of daemons is not on everybody's path."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


class PgBouncer:
    """One on loopback, with few connections of the server for all clients."""

    def __init__(self, cluster: Cluster, *, connections: int = 12) -> None:
        found = program()
        assert found is not None, HOW_TO_GET
        self.cluster, self.port = cluster, free_port()
        self.root = Path(tempfile.mkdtemp(prefix="mem0dash-pgbouncer-"))
        self.log = self.root / "pgbouncer.log"
        settings = self.root / "pgbouncer.ini"
        settings.write_text(
            f"""[databases]
* = host=127.0.0.1 port={cluster.port} user=mem0dash
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {connections}
max_client_conn = 1000
server_lifetime = 20
logfile = {self.log}
"""
        )
        command = [found, str(settings)]
        if os.geteuid() == 0:
            # It refuses to run as root; PostgreSQL's own account does it.
            shutil.chown(self.root, "postgres", "postgres")
            shutil.chown(settings, "postgres", "postgres")
            command[1:1] = ["-u", "postgres"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/"
        )
        started = time.monotonic()
        while not self._answers():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() - started < START_SECONDS, "PgBouncer does not answer"
            time.sleep(0.05)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def url(self, database: str) -> str:
        return f"postgres://mem0dash@127.0.0.1:{self.port}/{database}"

    def remove(self) -> None:
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=20)
        shutil.rmtree(self.root, ignore_errors=True)
