"""A real server in its own process, with its own data directory and port."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import httpx

from prove.environment import ROOT, clean_environment

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 20.0


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_health(url: str, process: subprocess.Popen[Any], log: Path, *, seconds: float) -> None:
    """Returns once /healthz answers 200; RuntimeError with the log's end when it will not."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"ended with {process.returncode} while starting:\n{tail(log)}")
        try:
            if httpx.get(f"{url}/healthz", timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise RuntimeError(f"not healthy after {seconds:.0f} s:\n{tail(log)}")


def tail(log: Path, size: int = 2000) -> str:
    """The end of a log file."""
    return log.read_text(errors="replace")[-size:] if log.exists() else "(no log)"


class Client:
    """Calls of the OSS dialect. `request` answers whatever came; the others insist on 200."""

    def __init__(self, url: str, key: str = "", *, timeout: float = 60) -> None:
        headers = {"X-API-Key": key} if key else {}
        # No proxies from the environment: the server is on this machine.
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout, trust_env=False)

    def request(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        return self._http.request(method, path, **kwargs)

    def _insist(self, method: str, path: str, **kwargs: Any) -> Any:
        answer = self.request(method, path, **kwargs)
        assert answer.status_code == 200, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def add(self, *texts: str, **fields: Any) -> list[dict[str, Any]]:
        """Stores each text as one memory, word for word."""
        messages = [{"role": "user", "content": text} for text in texts]
        body = {"messages": messages, "infer": False, **fields}
        return list(self._insist("POST", "/memories", json=body)["results"])

    def search(self, query: str, *, top_k: int = 10, **filters: Any) -> list[dict[str, Any]]:
        body = {"query": query, "filters": filters, "top_k": top_k}
        return list(self._insist("POST", "/search", json=body)["results"])

    def listed(self, **params: Any) -> list[dict[str, Any]]:
        return list(self._insist("GET", "/memories", params=params)["results"])

    def get(self, memory_id: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self._insist("GET", f"/memories/{memory_id}")
        return found

    def update(self, memory_id: str, **fields: Any) -> None:
        self._insist("PUT", f"/memories/{memory_id}", json=fields)

    def delete(self, memory_id: str) -> None:
        self._insist("DELETE", f"/memories/{memory_id}")

    def history(self, memory_id: str) -> list[dict[str, Any]]:
        return list(self._insist("GET", f"/memories/{memory_id}/history"))

    def close(self) -> None:
        self._http.close()


class Server:
    """`manage.py serve` on a free port. The data directory outlives kills and restarts."""

    program: Sequence[str] = ("manage.py",)
    subcommand = "serve"

    def __init__(
        self,
        data_dir: Path,
        environment: Mapping[str, str] | None = None,
        *,
        wrapper: Sequence[str] = (),
    ) -> None:
        """`wrapper` is a command that becomes the one after it, such as `strace -D`."""
        self.data_dir = data_dir
        self.log = data_dir.parent / f"{data_dir.name}.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.key = ""
        self._wrapper = list(wrapper)
        self.environment = {
            **clean_environment(),
            "MEM0DASH_DATA_DIR": str(data_dir),
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "PYTHONUNBUFFERED": "1",
            **(environment or {}),
        }
        if model_dir := os.environ.get("MEM0DASH_MODEL_DIR"):
            self.environment.setdefault("MEM0DASH_MODEL_DIR", model_dir)
        self.process: subprocess.Popen[bytes] | None = None
        data_dir.mkdir(parents=True, exist_ok=True)

    def launch(self) -> None:
        """Starts the process and does not wait for it."""
        assert self.process is None, "the server is running already"
        command = [*self._wrapper, sys.executable, *self.program, self.subcommand]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=log, stderr=log
            )

    def start(self) -> float:
        """Starts the server; the seconds until it was healthy."""
        started = time.monotonic()
        self.launch()
        assert self.process is not None
        wait_for_health(self.url, self.process, self.log, seconds=START_SECONDS)
        return time.monotonic() - started

    def bootstrap(self) -> str:
        """Makes the owner and a first key, which `client` uses from now on."""
        arguments = ("--email", "owner@example.org", "--name", "Owner", "--password", "long enough")
        answer = json.loads(self.manage("bootstrap", *arguments, "--json").splitlines()[-1])
        self.key = str(answer["api_key"])
        return self.key

    def manage(self, *arguments: str) -> str:
        """The output of a management command on this server's data."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"manage.py {arguments[0]}: {done.stdout}{done.stderr}"
        return done.stdout

    def index_on_disk(self, command: str) -> dict[str, Any]:
        """What prove/index_on_disk.py answers; the server must not run."""
        assert self.process is None, "the index is in use by the server"
        environment = {**self.environment, "DJANGO_SETTINGS_MODULE": "mem0dash.settings"}
        done = subprocess.run(
            [sys.executable, "-m", "prove.index_on_disk", command],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    def make_key(self, *scopes: str, **entity_limit: Sequence[str]) -> str:
        """A key of the owner's with these scopes (none for all), limited to these entity values."""
        limit = {name: list(values) for name, values in entity_limit.items()} or None
        script = (
            "from accounts.models import Account, Project\n"
            "from accounts.services import DEFAULT_PROJECT\n"
            "from apikeys.services import create_api_key\n"
            "from core.principal import Scope\n"
            f"scopes = [Scope(name) for name in {list(scopes)!r}] or None\n"
            "_, key = create_api_key(owner=Account.objects.get(), label='proof', scopes=scopes,\n"
            f"    project=Project.objects.get(slug=DEFAULT_PROJECT), entity_limit={limit!r})\n"
            "print(key)\n"
        )
        return self.manage("shell", "--verbosity", "0", "--command", script).split()[-1]

    def client(self, key: str | None = None, *, timeout: float = 60) -> Client:
        return Client(self.url, self.key if key is None else key, timeout=timeout)

    def kill9(self) -> None:
        """Ends the process without any warning."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(timeout=STOP_SECONDS)
            self.process = None

    def stop(self) -> float:
        """Asks the server to end; the seconds it took. AssertionError unless it ends cleanly."""
        assert self.process is not None, "the server is not running"
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill9()
            raise AssertionError(
                f"still running {STOP_SECONDS:.0f} s after SIGTERM:\n{tail(self.log)}"
            ) from None
        self.process = None
        assert code == 0, f"ended with {code} on SIGTERM:\n{tail(self.log)}"
        return time.monotonic() - started

    def restart(self) -> float:
        self.stop()
        return self.start()

    def logged(self, *levels: str) -> list[dict[str, Any]]:
        """The JSON lines of these levels in the log, over all starts."""
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            if not line.startswith("{"):
                continue
            entry = json.loads(line)
            if str(entry.get("level", "")).lower() in levels:
                found.append(entry)
        return found
