"""A server that starts without an owner, set up over the network with the token that it shows."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.one_form

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS = 60


class Server:
    """`manage.py serve` on SQLite in a directory of its own, without a model."""

    def __init__(self, data: Path, **environment: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        self.out = data.with_suffix(".out")
        with self.out.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "serve"],
                cwd=ROOT,
                env={**kept, "MEM0DASH_DATA_DIR": str(data), "PORT": str(self.port), **environment},
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + SECONDS
        while self.ask("/healthz")[0] != 200:
            assert self.process.poll() is None, self.out.read_text()
            assert time.monotonic() < deadline, self.out.read_text()
            time.sleep(0.1)

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        url = f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except OSError:
            return 0, None

    def stop(self) -> str:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(SECONDS) == 0, self.out.read_text()
        return self.out.read_text()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def test_the_shown_token_makes_the_owner_once_and_is_gone(data: Path) -> None:
    server = Server(data)
    try:
        path = data / "setup_token"
        token = path.read_text().strip()
        assert path.stat().st_mode & 0o777 == 0o600
        greeting = server.out.read_text()
        assert f"/setup?token={token}\n" in greeting
        assert server.ask("/auth/setup-status") == (200, {"needsSetup": True})
        eve = {"name": "Eve", "email": "eve@example.org", "password": "correct horse battery"}
        assert server.ask("/auth/register", eve)[0] == 403
        status, tokens = server.ask("/auth/register", eve, **{"X-Setup-Token": token})
        assert status == 200, tokens
        assert not path.exists()
        assert server.ask("/auth/setup-status") == (200, {"needsSetup": False})
        assert server.ask("/auth/register", eve, **{"X-Setup-Token": token})[0] == 403
        bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
        status, key = server.ask("/api-keys", {"label": "first"}, **bearer)
        assert status == 201
        assert server.ask("/entities", **{"X-API-Key": key["key"]}) == (200, [])
        deadline = time.monotonic() + 10
        while not (requests := server.ask("/requests", **bearer)[1]):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert [(r["path"], r["status_code"]) for r in requests] == [("/entities", 200)]
    finally:
        written = server.stop()
    # What came after the greeting is the log.
    assert token not in written.replace(greeting, "")
    again = Server(data)
    try:
        assert again.ask("/auth/me", **bearer)[1]["email"] == "eve@example.org"
        assert server.ask("/auth/register", eve, **{"X-Setup-Token": token})[0] in {0, 403}
        assert not path.exists()
    finally:
        assert "setup token" not in again.stop()


def test_a_configured_token_is_not_shown_and_not_kept(data: Path) -> None:
    server = Server(data, SETUP_TOKEN="a token from the operator")
    try:
        assert not (data / "setup_token").exists()
        assert server.ask("/auth/setup-status") == (200, {"needsSetup": True})
    finally:
        assert "a token from the operator" not in server.stop()
