"""A throw-away PostgreSQL cluster on loopback, for tests and proofs."""

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

HOW_TO_GET = "PostgreSQL is not installed: apt-get install postgresql"


def binaries() -> Path | None:
    """The folder with initdb, pg_ctl and createdb, or None."""
    found = shutil.which("initdb")
    # What is on the path may be a link to one program of several.
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    programs = ("initdb", "pg_ctl", "createdb")
    return next((f for f in folders if all((f / name).exists() for name in programs)), None)


def missing() -> bool:
    """Whether there is no PostgreSQL here; in CI that is an error."""
    if binaries() is not None:
        return False
    if os.environ.get("CI") == "true":
        raise RuntimeError(HOW_TO_GET)
    return True


class Cluster:
    """One cluster in a temporary folder, reachable over TCP on 127.0.0.1.

    One that is not `lasting` is quick: it leaves writing to the system, so that it outlives its
    processes but not the machine, and compiles no statement, which takes longer than to run it on
    the few rows of a test.
    """

    def __init__(self, *, lasting: bool = True) -> None:
        folder = binaries()
        if folder is None:
            raise RuntimeError(HOW_TO_GET)
        self.bin = folder
        self.settings = "" if lasting else " -c fsync=off -c full_page_writes=off -c jit=off"
        self.root = Path(tempfile.mkdtemp(prefix="mem0dash-postgres-"))
        self.port = _free_port()
        # PostgreSQL refuses to run as root; its own account does it there.
        self.as_root = os.geteuid() == 0
        if self.as_root:
            shutil.chown(self.root, "postgres", "postgres")
        access = ("--username", "mem0dash", "--auth", "trust")
        letters = ("--encoding", "UTF8", "--no-locale", "--no-sync")
        self._run("initdb", "--pgdata", str(self.data), *access, *letters)
        self.start()

    @property
    def data(self) -> Path:
        return self.root / "data"

    def url(self, database: str = "postgres") -> str:
        return f"postgres://mem0dash@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        options = (
            f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.root}"
            f"{self.settings}"
        )
        log = str(self.root / "log")
        self._run("pg_ctl", "-D", str(self.data), "-l", log, "-w", "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self.data), "-w", "-m", "immediate", "stop")

    def running(self) -> bool:
        """Whether it accepts connections."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def create_database(self, name: str) -> str:
        """Makes an empty database; its URL."""
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "mem0dash", name)
        return self.url(name)

    def remove(self) -> None:
        if self.running():
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
