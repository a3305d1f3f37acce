"""A throw-away PostgreSQL cluster on loopback, for tests and proofs."""

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

HOW_TO_GET = "PostgreSQL is not installed: apt-get install postgresql"


def binaries() -> Path | None:
    """The folder with initdb and pg_ctl, or None."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


def missing() -> bool:
    """Whether there is no PostgreSQL here; in CI that is an error."""
    if binaries() is not None:
        return False
    if os.environ.get("CI") == "true":
        raise RuntimeError(HOW_TO_GET)
    return True


class Cluster:
    """One cluster in a temporary folder, reachable over TCP on 127.0.0.1."""

    def __init__(self) -> None:
        folder = binaries()
        if folder is None:
            raise RuntimeError(HOW_TO_GET)
        self.bin = folder
        self.root = Path(tempfile.mkdtemp(prefix="mem0dash-postgres-"))
        self.port = _free_port()
        # PostgreSQL refuses to run as root; its own account does it there.
        self.as_root = os.geteuid() == 0
        if self.as_root:
            shutil.chown(self.root, "postgres", "postgres")
        self._run("initdb", "--pgdata", str(self.data), "--username", "mem0dash", "--auth", "trust")
        self.start()

    @property
    def data(self) -> Path:
        return self.root / "data"

    def url(self, database: str = "postgres") -> str:
        return f"postgres://mem0dash@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        options = (
            f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.root}"
        )
        log = str(self.root / "log")
        self._run("pg_ctl", "-D", str(self.data), "-l", log, "-w", "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self.data), "-w", "-m", "immediate", "stop")

    def create_database(self, name: str) -> str:
        """Makes an empty database; its URL."""
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "mem0dash", name)
        return self.url(name)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.root, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.bin / program), *arguments]
        if self.as_root:
            command = [
                "setpriv",
                "--reuid=postgres",
                "--regid=postgres",
                "--clear-groups",
                *command,
            ]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr or done.stdout}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
