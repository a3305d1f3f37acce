"""Folders that cannot be written, files that others can read, and a lost encryption key."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core import folders
from mem0dash.tests.test_settings import manage

pytestmark = pytest.mark.one_form

NOBODY = 65_534


def as_nobody(ask: Callable[[], str]) -> str:
    """What `ask` says in a process of another user's."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setuid(NOBODY)
            os.write(writing, ask().encode())
        except BaseException as error:  # noqa: BLE001  (nothing of pytest's may run in here)
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        return answer.read()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may look into; pytest's own are one user's."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_who_may_not_write_is_named_with_what_to_do(open_folder: Path) -> None:
    data = open_folder / "data"
    data.mkdir()
    data.chmod(0o755)
    (data / "mem0dash.sqlite3").write_bytes(b"x")
    (data / "mem0dash.sqlite3").chmod(0o600)
    told = as_nobody(lambda: folders.unwritable(data))
    assert f"(uid {NOBODY})" in told and "root (uid 0)" in told
    assert f"chown -R {NOBODY} {data}" in told
    data.chmod(0o777)
    told = as_nobody(lambda: folders.unusable_database(data / "mem0dash.sqlite3"))
    assert "mem0dash.sqlite3 is not writable" in told and "chown" in told
    made = folders.unmakeable(data / "a" / "b", PermissionError(13, "no"))
    assert "cannot be used as a directory" in made


@pytest.fixture
def immutable() -> Iterator[Callable[[Path], None]]:
    """`immutable(path)` makes it so that nobody can write there, root neither."""
    done: list[Path] = []

    def make(path: Path) -> None:
        found = subprocess.run(["chattr", "+i", str(path)], capture_output=True, check=False)
        if found.returncode:
            pytest.skip("needs root and a file system that knows immutable files")
        done.append(path)

    if shutil.which("chattr") is None:
        pytest.skip("apt-get install e2fsprogs")
    yield make
    for path in done:
        subprocess.run(["chattr", "-i", str(path)], check=True)


@pytest.mark.parametrize("which", ["file", "folder"])
def test_an_immutable_database_is_read_only_and_no_other_users(
    tmp_path: Path, immutable: Callable[[Path], None], which: str
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    database = data / "mem0dash.sqlite3"
    database.write_bytes(b"x")
    assert not folders.is_read_only_file(database)
    immutable(database if which == "file" else data)
    assert folders.is_read_only_file(database)
    assert folders.unusable_database(database) == ""
    assert folders.unwritable(data) == ""


def test_a_database_in_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    done = manage(tmp_path, "check", DATABASE_URL=f"sqlite:///{tmp_path}/none/x.sqlite3")
    assert done.returncode == 1
    assert "none does not exist" in done.stderr and len(done.stderr.splitlines()) == 1


def test_what_the_server_writes_is_its_users_alone_and_open_files_are_closed(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    data.chmod(0o755)
    arguments = ("bootstrap", "--email", "a@example.org", "--password", "long enough 1")
    done = manage(data, *arguments)
    assert done.returncode == 0, done.stderr
    assert "chmod 700" in manage(data, "check").stderr
    database = data / "mem0dash.sqlite3"
    for file in data.rglob("*"):
        assert file.stat().st_mode & 0o077 == 0, file
    database.chmod(0o644)
    script = "from mem0dash.migration import prepare_database; prepare_database()"
    done = manage(data, "shell", "--verbosity", "0", "--command", script)
    assert done.returncode == 0, done.stderr
    assert database.stat().st_mode & 0o777 == 0o600


def test_a_lost_encryption_key_stops_the_start_and_nothing_is_written(tmp_path: Path) -> None:
    script = "from mem0dash.migration import prepare_database; prepare_database()"
    start = ("shell", "--verbosity", "0", "--command", script)
    assert manage(tmp_path, *start).returncode == 0
    key = (tmp_path / "encryption_key").read_text().strip()
    for name in ("encryption_key", "jwt_secret"):
        (tmp_path / name).unlink()
    before = sorted(tmp_path.iterdir())
    done = manage(tmp_path, "serve", PORT="0")
    assert done.returncode == 1
    assert done.stderr.count("ENCRYPTION_KEY is not set") >= 1 and "Traceback" not in done.stderr
    assert "listens on" not in done.stdout
    assert "mem0dash.W011" in manage(tmp_path, "check").stderr
    assert sorted(tmp_path.iterdir()) == before
    # From the environment it is as good.
    assert manage(tmp_path, *start, ENCRYPTION_KEY=key).returncode == 0
    assert not (tmp_path / "encryption_key").exists()


@pytest.mark.parametrize("name", ["encryption_key", "secret_key", "jwt_secret"])
def test_a_secret_that_was_overwritten_is_one_sentence_and_left_alone(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(b"\xf6\xff" * 22)
    done = manage(tmp_path, "check")
    assert done.returncode == 1 and "restore it from a backup" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / name).read_bytes() == b"\xf6\xff" * 22


def test_lost_session_secrets_are_made_again(tmp_path: Path) -> None:
    script = "from mem0dash.migration import prepare_database; prepare_database()"
    start = ("shell", "--verbosity", "0", "--command", script)
    assert manage(tmp_path, *start).returncode == 0
    for name in ("secret_key", "jwt_secret"):
        (tmp_path / name).unlink()
    assert manage(tmp_path, *start).returncode == 0
    assert (tmp_path / "secret_key").exists() and (tmp_path / "jwt_secret").exists()
