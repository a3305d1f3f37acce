"""The conformance suite of the Model Context Protocol, as its project publishes it on npm.

`make conformance` prints each scenario's result. What mem0dash's own tools cannot be asked is in
prove/conformance.yml; what stands before them is proved by a server that has everything
(prove/everything.py).
"""

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from prove import npm
from prove.connected_apps import App, Person
from prove.environment import ROOT
from prove.front import Front
from prove.server import Server, free_port

REVISIONS: Final = ("2025-11-25", "2026-07-28")
BASELINE: Final = ROOT / "prove" / "conformance.yml"
SECONDS: Final = 120


class Suite:
    """The suite's command line."""

    def __init__(self, folder: Path, results: Path) -> None:
        self._command = [
            str(folder / ".bin" / "node"),
            str(folder / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"),
        ]
        self._results = results

    def command(self, *arguments: str) -> list[str]:
        return [*self._command, *arguments, "--output-dir", str(self._results)]

    def server(self, url: str, revision: str, *options: str) -> str:
        """Runs what a revision requires; its summary. AssertionError where something fails."""
        command = self.command("server", "--url", url, "--requirements", revision, *options)
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        summary = done.stdout[done.stdout.find("=== SUMMARY ===") :]
        print(f"\n{revision} at {url}\n{summary}")
        assert done.returncode == 0, f"{summary}\n{done.stderr}"
        return summary


class Everything(Server):
    """A server of prove/everything.py, behind mem0dash's own door."""

    program: Sequence[str] = ("-m", "prove.everything")


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    folder = npm.installed(npm.NODE, npm.CONFORMANCE, npm.REMOTE)
    return Suite(folder, tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Everything(tmp_path_factory.mktemp("everything") / "data")
    try:
        made.start()
        made.bootstrap()
        yield made
    finally:
        made.kill9()


def token_of(server: Server) -> str:
    """An access token, of an app that the owner has allowed to read and write."""
    return App(server.url).connect(Person(server.url)).access


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_server_with_everything_passes_all_of_it_behind_our_authentication(
    suite: Suite, everything: Server, revision: str
) -> None:
    with Front([everything.port], token=token_of(everything)) as proxy:
        summary = suite.server(f"{proxy.url}/mcp", revision)
    assert "passed" in summary


@pytest.mark.parametrize("revision", REVISIONS)
def test_our_own_tools_pass_whatever_they_can_be_asked(
    suite: Suite, shared_server: Server, revision: str
) -> None:
    with Front([shared_server.port], token=token_of(shared_server)) as proxy:
        options = ("--expected-failures", str(BASELINE))
        summary = suite.server(f"{proxy.url}/mcp", revision, *options)
    # Not scored, because the suite's own server fails it.
    assert "✗ http-header-validation" not in summary


def test_the_authorization_server_passes_all_of_it(suite: Suite, shared_server: Server) -> None:
    port, url = free_port(), shared_server.url
    app = App(url, redirect=f"http://127.0.0.1:{port}/callback")
    options = ("--client-id", app.client_id, "--resource", f"{url}/mcp", "--port", str(port))
    process = subprocess.Popen(
        suite.command("authorization", "--url", url, *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        told = []
        for line in process.stdout:
            told.append(line)
            if line.startswith(f"{url}/oauth/authorize?"):
                person = Person(url)
                person.open(person.decide(line.strip()))
        summary = "".join(told)
        print(f"\nauthorization at {url}\n{summary[summary.find('=== SUMMARY') :]}")
        assert process.wait(timeout=SECONDS) == 0, summary
    finally:
        process.kill()
        process.wait()
