"""What a database's error says about its disk, and the file whose room is for deletes."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError

from core import disk
from core.database.datastore import explain, problem_of
from core.disk import MB, FreeSpace
from core.errors import DatastoreBusyError, DiskFullError, ReadOnlyError

pytestmark = pytest.mark.one_form


def failing(path: Path, *statements: str, how: str = "rwc") -> Exception:
    """The error of the last of these statements."""
    connection = sqlite3.connect(f"file:{path}?mode={how}", uri=True, timeout=0)
    try:
        for statement in statements[:-1]:
            connection.execute(statement)
        with pytest.raises(sqlite3.Error) as raised:
            connection.execute(statements[-1])
        return raised.value
    finally:
        connection.close()


def test_the_errors_of_sqlite_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite3"
    full = failing(
        path,
        "CREATE TABLE t (data)",
        "PRAGMA max_page_count = 3",
        "INSERT INTO t VALUES (zeroblob(100000))",
    )
    read_only = failing(path, "INSERT INTO t VALUES (1)", how="ro")
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    busy = failing(path, "INSERT INTO t VALUES (1)")
    holder.close()
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"<html>" * 1000)
    gone = failing(garbage, "SELECT * FROM t")
    assert [problem_of(e) for e in (full, read_only, busy, gone)] == [
        *("full", "read-only", "busy", "gone")
    ]
    try:
        raise OperationalError("as Django has it") from full
    except OperationalError as error:
        assert isinstance(explain(error, "away"), DiskFullError)
    assert isinstance(explain(read_only, "away"), ReadOnlyError)
    assert isinstance(explain(busy, "away"), DatastoreBusyError)
    assert explain(gone, "away").message == "away"


@pytest.mark.parametrize(
    ("state", "problem"),
    [("53100", "full"), ("25006", "read-only"), ("55P03", "busy"), ("57P01", "gone")],
)
def test_the_errors_of_postgresql_are_told_apart(state: str, problem: str) -> None:
    cause = Exception()
    cause.sqlstate = state  # type: ignore[attr-defined]
    error = OperationalError("as Django has it")
    error.__cause__ = cause
    assert problem_of(error) == problem


def test_the_floor_follows_the_size_of_the_file_system(tmp_path: Path) -> None:
    room = disk.room_of(tmp_path / "not" / "there" / "yet")
    assert room.folder == tmp_path and room.free > 0
    assert disk.LEAST_FLOOR <= room.floor <= disk.MOST_FLOOR


def test_the_reserve_is_given_to_deletes_and_taken_back(
    tmp_path: Path, settings: Any, monkeypatch: Any
) -> None:
    settings.DATABASE_FILE = tmp_path / "x.sqlite3"

    def leave(megabytes: int) -> None:
        monkeypatch.setattr(disk, "room_of", lambda f: FreeSpace(f, megabytes * MB, 8 * MB))
        disk.tend_reserve()

    reserve = tmp_path / "reserve"
    leave(100)
    assert reserve.stat().st_blocks * 512 >= 4 * MB
    assert reserve.stat().st_mode & 0o777 == 0o600
    leave(12)
    assert reserve.exists()
    leave(1)
    assert not reserve.exists()
    leave(20)
    assert not reserve.exists()  # adds need the room first
    leave(100)
    assert reserve.exists()
