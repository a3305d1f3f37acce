"""Starts and stops the real server, and reads what it and PostgreSQL cost from /proc."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

ROOT = Path(__file__).resolve().parent.parent
_TICK = os.sysconf("SC_CLK_TCK")
START_SECONDS = 60


def _stat(pid: int) -> list[str]:
    # The name, in parentheses, may hold blanks.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu_seconds(pid: int, *, reaped_children: bool = False) -> float:
    """User and system time of all threads; with that of the children it has waited for."""
    fields = _stat(pid)
    return sum(map(int, fields[11 : 15 if reaped_children else 13])) / _TICK


def memory_mib(pid: int) -> dict[str, float]:
    """Resident memory: all of it, and what is not backed by files."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return {
        name: round(int(status[key].split()[0]) / 1024, 1)
        for name, key in (("rss", "VmRSS"), ("anonymous", "RssAnon"), ("peak", "VmHWM"))
    }


class Database:
    """A fresh database for one run: a file in the data directory, or one of a PostgreSQL server."""

    def __init__(self, url: str) -> None:
        self.url: str | None = None
        self._postmaster = 0
        self._admin = url
        if url == "sqlite":
            return
        self._name = f"mem0dash_bench_{secrets.token_hex(4)}"
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self._name)))
            backend = connection.info.backend_pid
        stat = Path(f"/proc/{backend}/stat")
        if not stat.exists() or "(postgres)" not in stat.read_text():
            raise SystemExit(
                "PostgreSQL must run on this machine: its CPU time is read from /proc."
            )
        self._postmaster = int(_stat(backend)[1])
        self.url = urlunsplit(urlsplit(url)._replace(path=f"/{self._name}"))

    def cpu_seconds(self) -> float:
        """What the whole cluster has used: the processes that run, and those that have ended."""
        if not self._postmaster:
            return 0.0
        total = cpu_seconds(self._postmaster, reaped_children=True)
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    if int(_stat(int(folder.name))[1]) == self._postmaster:
                        total += cpu_seconds(int(folder.name))
                except (FileNotFoundError, ProcessLookupError):
                    continue  # it has ended, and counts with the postmaster next time
        return total

    def drop(self) -> None:
        if self.url is not None:
            with psycopg.connect(self._admin, autocommit=True) as connection:
                statement = sql.SQL("DROP DATABASE {} WITH (FORCE)")
                connection.execute(statement.format(sql.Identifier(self._name)))


class Provider:
    """The tests' model provider in its own process: its CPU time is not the server's."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "memories.tests.provider"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


class Server:
    """`manage.py serve` with its own data directory, port and database."""

    def __init__(self, data_dir: Path, database: Database, *, settings: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.admin_key = secrets.token_urlsafe(24)
        self.database = database
        self._log = data_dir / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        ours = ("MEM0", "DJANGO_", "DATABASE_URL", "ADMIN_API_KEY", "AUTH_DISABLED", "OPENAI_")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(ours)},
            "MEM0DASH_DATA_DIR": str(data_dir),
            "DJANGO_SETTINGS_MODULE": settings,
            "ADMIN_API_KEY": self.admin_key,
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
        }
        if database.url:
            self.environment["DATABASE_URL"] = database.url

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server has not been started"
        return self._process.pid

    def command(self, *arguments: str) -> str:
        """Runs python with these arguments in the server's environment; the last line it prints."""
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
        return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""

    def bootstrap(self) -> str:
        """Migrates and makes the owner; the first API key."""
        words = ("--email", "owner@example.org", "--password", secrets.token_hex(12), "--json")
        return str(json.loads(self.command("manage.py", "bootstrap", *words))["api_key"])

    def start(self) -> dict[str, Any]:
        """Starts the server; seconds and CPU seconds until the first 200 on /healthz."""
        started = time.perf_counter()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "manage.py", "serve"],
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        while not self._healthy():
            if self._process.poll() is not None or time.perf_counter() - started > START_SECONDS:
                raise SystemExit(f"The server did not start:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.01)
        seconds = time.perf_counter() - started
        return {"seconds": round(seconds, 2), "cpu_seconds": cpu_seconds(self.pid)}

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=5) as r:
                return bool(r.status == 200)
        except (urllib.error.URLError, ConnectionError):
            return False

    def use_llm(self, url: str) -> None:
        """Extracts with the model at this OpenAI-compatible URL, from the next start on."""
        self.environment |= {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "sk-benchmark"}

    def stop(self) -> None:
        """Ends the server as an operator would, and waits for it."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=40)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
