"""What a new key comes with: first lines for each client, which run as they were copied."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from apikeys.snippets import snippets, user_id_of
from mem0dash.tests.browser import _missing
from prove.environment import clean_environment
from prove.server import Server

pytestmark = pytest.mark.one_form


@pytest.mark.parametrize(
    ("email", "user_id"),
    [
        ("eve@example.org", "eve"),
        ("Eve.Smith+tag@example.org", "eve.smith-tag"),
        ("o'hara\"$(x)`@example.org", "o-hara-x"),
        ("-rf@example.org", "rf"),
        ("''@example.org", "me"),
        ("łódź@example.org", "d"),
    ],
)
def test_the_user_id_in_snippets_needs_no_quoting(email: str, user_id: str) -> None:
    assert user_id_of(email) == user_id


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("snippets") / "data")
    try:
        running.start()
        running.bootstrap()
        yield running
    finally:
        running.kill9()


def run(server: Server, tmp_path: Path, client: str, *command: str, user_id: str) -> str:
    """What the snippet of this client prints, run as it was copied."""
    made = snippets(base_url=server.url, key=server.key, user_id=user_id)
    (code,) = (snippet.code for snippet in made if snippet.id == client)
    file = tmp_path / {"curl": "s.sh", "python": "s.py", "javascript": "s.mjs"}[client]
    file.write_text(code)
    done = subprocess.run(
        [*command, str(file)],
        env={**clean_environment(), "NO_PROXY": "*"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("client", ["curl", "python", "javascript"])
def test_a_snippet_adds_and_finds_a_memory(server: Server, tmp_path: Path, client: str) -> None:
    program = {"curl": "curl", "python": sys.executable, "javascript": "node"}[client]
    if shutil.which(program) is None:
        _missing(f"{program} is not installed")
    command = ("bash", "-eu") if client == "curl" else (program,)
    out = run(server, tmp_path, client, *command, user_id=f"of-{client}")
    assert "I only fly out of Gothenburg." in out
    if client == "curl":
        assert out.count("I only fly out of Gothenburg.") >= 2  # of adding, and of finding
    stored = server.client().listed(user_id=f"of-{client}")
    assert [row["memory"] for row in stored] == ["I only fly out of Gothenburg."]


def test_a_snippet_with_a_key_that_does_not_hold_fails_loudly(
    server: Server, tmp_path: Path
) -> None:
    made = snippets(base_url=server.url, key="m0sk_" + "x" * 43, user_id="me")
    (tmp_path / "s.py").write_text(next(s.code for s in made if s.id == "python"))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "s.py")],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0 and "401" in done.stderr
