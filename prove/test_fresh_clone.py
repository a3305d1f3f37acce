"""`git clone` and `make run`: the two commands of the README, on a machine that knows neither."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx
import pytest

from prove.conftest import need_program
from prove.environment import ROOT, clean_environment
from prove.server import STOP_SECONDS, Client, free_port, tail, wait_for_health

BUILD_SECONDS: Final = 300.0
AGAIN_SECONDS: Final = 10.0


class Checkout:
    """A clone whose service is run by make, as a person would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder.parent / "make.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **clean_environment(),
            "PORT": str(self.port),
            "MEM0DASH_DATA_DIR": str(folder.parent / "data"),
        }

    @contextmanager
    def running(self, seconds: float) -> Iterator[float]:
        """The service, which listens within `seconds`; how long it took. Ends it by SIGTERM."""
        started = time.monotonic()
        with self.log.open("ab") as log:
            make = subprocess.Popen(
                ["make", "run"],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            wait_for_health(self.url, make, self.log, seconds=seconds)
            yield time.monotonic() - started
            self._end(make)
        finally:
            if make.poll() is None:
                os.killpg(make.pid, signal.SIGKILL)
                make.wait()

    def _end(self, make: subprocess.Popen[bytes]) -> None:
        """make answers with the exit code of the server, which is its only child."""
        children = Path(f"/proc/{make.pid}/task/{make.pid}/children").read_text().split()
        assert len(children) == 1, children
        os.kill(int(children[0]), signal.SIGTERM)
        code = make.wait(timeout=STOP_SECONDS)
        assert code == 0, f"make ended with {code}:\n{tail(self.log)}"
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{self.url}/healthz", timeout=2, trust_env=False)

    def bootstrap(self) -> str:
        arguments = ["--email", "me@example.org", "--name", "Me", "--password", "long enough"]
        done = subprocess.run(
            [".venv/bin/python", "manage.py", "bootstrap", *arguments, "--json"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout.splitlines()[-1])
        assert answer["base_url"] == self.url
        return str(answer["api_key"])


def test_a_fresh_clone_runs_with_one_command_and_starts_at_once_the_second_time(
    tmp_path: Path,
) -> None:
    git, _ = need_program("git", "git"), need_program("make", "make")
    folder = tmp_path / "clone"
    clone = [git, "-c", "safe.directory=*", "clone", "--quiet", str(ROOT), str(folder)]
    subprocess.run(clone, check=True, timeout=60)
    checkout = Checkout(folder)

    with checkout.running(BUILD_SECONDS) as seconds:
        print(f"first `make run`: listening after {seconds:.1f} s")
        client = Client(checkout.url, checkout.bootstrap())
        [added] = client.add("My sister plays the cello in an orchestra", user_id="me")
        found = client.search("which instrument does a relative of mine play?", user_id="me")
        assert [hit["id"] for hit in found] == [added["id"]]

    with checkout.running(AGAIN_SECONDS) as seconds:
        print(f"second `make run`: listening after {seconds:.1f} s")
        assert [row["id"] for row in client.listed(user_id="me")] == [added["id"]]
        client.close()

    status = [git, "-C", str(folder), "status", "--porcelain"]
    changed = subprocess.run(status, capture_output=True, text=True, check=True).stdout
    assert changed == "", "running the service leaves the working tree as it was"
