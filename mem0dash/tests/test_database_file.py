"""A database file that cannot be right is refused in a sentence, and stays as it is."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from core.database import collecting, schema_version
from core.database.sqlite3 import files
from core.env import ConfigurationError
from core.version import VERSION
from mem0dash.tests.environment import ROOT

pytestmark = pytest.mark.one_form


@pytest.fixture(autouse=True)
def _looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_checked", set())


def manage(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "MEM0DASH_DATA_DIR": str(folder),
        "PORT": "0",
        "DJANGO_SETTINGS_MODULE": "mem0dash.settings",
    }
    environment.pop("DATABASE_URL", None)
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a migrated database."""
    folder = tmp_path_factory.mktemp("sound")
    done = manage(folder, "migrate", "--verbosity", "0")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound, tmp_path / "data")
    return tmp_path / "data"


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("mem0dash.sqlite3*"))}


def half(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def within_the_head(file: Path) -> None:
    os.truncate(file, 50)


def a_page_less(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def a_web_page(file: Path) -> None:
    file.write_text("<!doctype html><html><body>502 Bad Gateway</body></html>" * 300)


def a_few_words(file: Path) -> None:
    file.write_text("moved")


def zeros(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def emptied(file: Path) -> None:
    (file.parent / "index" / "000001").mkdir(parents=True)
    os.truncate(file, 0)


def nonsense_within(file: Path) -> None:
    body = bytearray(file.read_bytes())
    body[100:4096] = b"\xee" * 3996
    file.write_bytes(body)


DAMAGES = {
    half: "was cut off",
    within_the_head: "was cut off",
    a_page_less: "was cut off",
    a_web_page: "is not a SQLite database",
    a_few_words: "is not a SQLite database",
    zeros: "is not a SQLite database",
    emptied: "is empty",
    nonsense_within: "is damaged",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_no_database_is_refused_and_left_alone(
    damage: Callable[[Path], None], folder: Path
) -> None:
    file = folder / "mem0dash.sqlite3"
    damage(file)
    before = content(folder)
    with pytest.raises(ConfigurationError, match=DAMAGES[damage]) as refused:
        files.check(file)
    assert str(file) in str(refused.value)
    assert content(folder) == before


@pytest.mark.parametrize("command", [["serve"], ["check", "--deploy"], ["prune_request_logs"]])
def test_every_command_that_opens_it_says_so_in_one_sentence(
    command: list[str], folder: Path
) -> None:
    half(folder / "mem0dash.sqlite3")
    before = content(folder)
    done = manage(folder, *command)
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    assert "was cut off" in done.stderr.splitlines()[-1]
    assert content(folder) == before


def test_a_sound_file_is_opened(folder: Path) -> None:
    files.check(folder / "mem0dash.sqlite3")


def test_a_new_file_is_made(tmp_path: Path) -> None:
    files.check(tmp_path / "new.sqlite3")
    (tmp_path / "empty.sqlite3").touch()
    files.check(tmp_path / "empty.sqlite3")


@pytest.fixture
def killed(folder: Path, tmp_path: Path) -> Iterator[Path]:
    """What a server leaves that was killed: changes in the log which are not in the file yet."""
    file = folder / "mem0dash.sqlite3"
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA wal_autocheckpoint=0")
        database.execute("CREATE TABLE other (word TEXT)")
        database.execute("INSERT INTO other VALUES (?)", ["x" * 500_000])
        left = tmp_path / "left"
        shutil.copytree(folder, left)
    (left / "mem0dash.sqlite3-shm").unlink()
    yield left


def test_what_a_killed_server_left_is_opened(killed: Path) -> None:
    before = content(killed)
    files.check(killed / "mem0dash.sqlite3")
    after = content(killed)
    after.pop("mem0dash.sqlite3-shm", None)
    assert after == before


def test_a_server_that_was_killed_in_the_first_moment_starts_again(killed: Path) -> None:
    os.truncate(killed / "mem0dash.sqlite3", 0)
    files.check(killed / "mem0dash.sqlite3")


# --- A newer version's ---------------------------------------------------------------------------
def from_the_future(folder: Path, app: str = "memories") -> None:
    with closing(sqlite3.connect(folder / "mem0dash.sqlite3")) as database:
        database.execute(
            "INSERT INTO django_migrations (app, name, applied) VALUES (?, ?, ?)",
            [app, "0099_later", "2030-01-01"],
        )
        database.commit()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@pytest.mark.parametrize("command", [["serve"], ["check", "--deploy"]])
def test_code_older_than_the_database_refuses_to_start_and_names_both(
    command: list[str], folder: Path
) -> None:
    from_the_future(folder)
    before = content(folder)
    done = manage(folder, *command)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    said = done.stderr.splitlines()[-1]
    assert "memories.0099_later" in said and f"({VERSION})" in said and "newer version" in said
    assert content(folder) == before


def test_an_application_that_is_not_installed_says_nothing_about_the_version(folder: Path) -> None:
    from_the_future(folder, app="someone_elses")
    files.check(folder / "mem0dash.sqlite3")


@pytest.mark.parametrize("app", ["accounts", "jobs", "apikeys", "oauth", "operations", "auth"])
def test_every_installed_application_counts(app: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{app}.0099_later"):
        schema_version.refuse_newer([(app, "0001_initial"), (app, "0099_later")], "here")


def test_migrations_that_a_later_one_replaces_are_known() -> None:
    # None of ours does so yet.
    package = schema_version._package("memories")
    names = ["0001_initial"]
    migration = __import__(f"{package.__name__}.0001_initial", fromlist=["x"]).Migration
    former, migration.replaces = migration.replaces, [("memories", "0000_before")]
    try:
        assert schema_version._replaced(package, "memories", names) == {"0000_before"}
        schema_version.refuse_newer([("memories", "0000_before")], "here")
    finally:
        migration.replaces = former


# --- The collector -------------------------------------------------------------------------------
def test_the_collector_takes_the_young_by_their_number_and_the_old_by_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    clock = [0.0]
    monkeypatch.setattr(collecting.gc, "collect", asked.append)
    monkeypatch.setattr(collecting.gc, "get_threshold", lambda: (700, 10, 10))
    monkeypatch.setattr(collecting.time, "monotonic", lambda: clock[-1])
    collector = collecting.Collector()
    for now, counts, due in (
        (0.0, (700, 10, 10), None),
        (0.1, (701, 3, 2), 0),
        (0.2, (701, 11, 99), 1),
        (61.0, (0, 0, 1), 2),
        (62.0, (0, 0, 99), None),
    ):
        clock.append(now)
        monkeypatch.setattr(collecting.gc, "get_count", lambda counts=counts: counts)
        assert collector.collect_due() == due
    assert asked == [0, 1, 2]
