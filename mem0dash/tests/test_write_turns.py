"""Writes on SQLite: fair turns, no waiting for other connections, and nobody left behind."""

import gc
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import IntegrityError, OperationalError, connections, transaction
from django.db.utils import load_backend

from core.database.datastore import explain
from core.database.sqlite3 import base

PATIENCE = 60.0
ENGINE = settings.DATABASES["default"]["ENGINE"]

pytestmark = pytest.mark.one_form


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "turns.sqlite3"
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, word TEXT UNIQUE)")
        database.executemany("INSERT INTO t (word) VALUES (?)", [(str(i),) for i in range(500)])
        database.commit()
    return path


class Connections:
    """Connections of the product's kind to one file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.made: list[Any] = []

    def __call__(self, *, timeout: float = 20.0) -> Any:
        known = connections.settings["default"]
        options = {**known["OPTIONS"], "timeout": timeout}
        wanted = {**known, "NAME": str(self.file), "OPTIONS": options}
        made = load_backend(ENGINE).DatabaseWrapper(wanted, alias=f"turns-{len(self.made)}")
        made.inc_thread_sharing()
        connections[made.alias] = made
        self.made.append(made)
        return made


@pytest.fixture
def connect(file: Path, django_db_blocker: Any) -> Iterator[Connections]:
    made = Connections(file)
    with django_db_blocker.unblock():
        yield made
        for one in made.made:
            one.close()
            with suppress(AttributeError):  # another thread's list has it
                del connections[one.alias]


@pytest.fixture
def workers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(20) as pool:
        yield pool


@contextmanager
def stranger(file: Path) -> Iterator[None]:
    """Another program holds the write lock."""
    with closing(sqlite3.connect(file, isolation_level=None, timeout=20)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


@contextmanager
def begun(connection: Any) -> Iterator[None]:
    connections[connection.alias] = connection  # each thread has its own list
    with transaction.atomic(using=connection.alias):
        yield


def write(connection: Any, word: str) -> str:
    with begun(connection), connection.cursor() as cursor:
        cursor.execute("INSERT INTO t (word) VALUES (%s)", [word])
    return word


# --- No statement outlives its thread ------------------------------------------------------------
def _failed_begin(connection: Any) -> list[Any]:
    connection.settings_dict["OPTIONS"]["timeout"] = 0.05
    connection.close()
    kept: list[Any] = []
    try:
        with begun(connection):
            pass
    except OperationalError as error:
        kept.append(error)
    return kept


def _failed_statement(connection: Any) -> list[Any]:
    connection.settings_dict["OPTIONS"]["timeout"] = 0.05
    connection.close()
    kept: list[Any] = []
    cursor = connection.cursor()
    try:
        cursor.execute("UPDATE t SET word = 'a' WHERE id = 1")
    except OperationalError as error:
        kept += [error, cursor]
    return kept


def _left_half_read(connection: Any) -> list[Any]:
    cursor = connection.cursor()
    cursor.execute("SELECT * FROM t")
    cursor.fetchone()
    return [cursor]


def _left_generator(connection: Any) -> list[Any]:
    def rows() -> Iterator[Any]:
        cursor = connection.cursor()
        try:
            cursor.execute("SELECT * FROM t")
            yield from iter(cursor.fetchone, None)
        finally:
            cursor.close()

    left = rows()
    next(left)
    return [left]


@contextmanager
def _collector_off() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _sleeps(thread: int) -> int:
    status = Path(f"/proc/self/task/{thread}/status").read_text()
    return int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])


@pytest.mark.parametrize(
    "leave", [_failed_begin, _failed_statement, _left_half_read, _left_generator]
)
def test_collecting_in_a_write_transaction_waits_for_no_other_connection(
    leave: Callable[[Any], list[Any]],
    connect: Connections,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Collecting takes milliseconds. Where it waits, it does so until the other one gives up."""
    monkeypatch.setattr(base, "POLL_SECONDS", 25.0)
    threads: list[int] = []

    def begin(connection: Any) -> None:
        connection.settings_dict["OPTIONS"]["timeout"] = 25.0
        if connection.connection is not None:
            connection.connection.execute("PRAGMA busy_timeout = 25000")
        connection._seconds = 25.0
        threads.append(threading.get_native_id())
        with begun(connection):
            pass

    def leave_in_a_cycle() -> Any:
        connection = connect()
        kept = leave(connection)
        kept.append(kept)
        return connection

    with _collector_off(), ThreadPoolExecutor(1) as worker:
        with stranger(file):
            other = worker.submit(leave_in_a_cycle).result(PATIENCE)
        with stranger(file):
            waiting = worker.submit(begin, other)
            until(lambda: bool(threads))
            asleep = _sleeps(threads[0])
            # SQLite sleeps between its looks at the lock.
            until(lambda: _sleeps(threads[0]) >= asleep + 5)
            gc.collect()
            assert not waiting.done()
        waiting.result(PATIENCE)
        worker.submit(other.close).result(PATIENCE)


def test_a_statement_that_another_thread_dropped_is_closed_by_its_own(
    connect: Connections, workers: ThreadPoolExecutor
) -> None:
    connection = connect()
    kept = _left_half_read(connection)
    kept.append(kept)
    del kept
    workers.submit(gc.collect).result(PATIENCE)
    assert len(connection.abandoned) == 1
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    assert not connection.abandoned


# --- Turns ---------------------------------------------------------------------------------------
def test_writers_go_in_the_order_in_which_they_came(
    connect: Connections, workers: ThreadPoolExecutor
) -> None:
    first, done = connect(), []
    waiting: list[Future[None]] = []
    with begun(first):
        for number in range(8):
            other = connect()
            waiting.append(
                workers.submit(lambda o, n: done.append(write(o, n)), other, f"w{number}")
            )
            until(lambda: first.turns.waiting == len(waiting))
        assert not done
    for one in waiting:
        one.result(PATIENCE)
    assert done == [f"w{number}" for number in range(8)]


def test_a_read_waits_for_no_writer(connect: Connections, workers: ThreadPoolExecutor) -> None:
    first, reader = connect(), connect()

    def count() -> int:
        with reader.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM t")
            return int(cursor.fetchone()[0])

    with begun(first):
        assert workers.submit(count).result(PATIENCE) == 500


def _commits(connection: Any) -> None:
    write(connection, "new")


def _rolls_back(connection: Any) -> None:
    with pytest.raises(ZeroDivisionError), begun(connection):
        raise ZeroDivisionError


def _fails_in_a_transaction(connection: Any) -> None:
    with pytest.raises(IntegrityError):
        write(connection, "1")


def _closes(connection: Any) -> None:
    with begun(connection):
        connection.close()


def _writes_alone(connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE t SET word = 'alone' WHERE id = 1")


def _fails_alone(connection: Any) -> None:
    with pytest.raises(IntegrityError), connection.cursor() as cursor:
        cursor.execute("INSERT INTO t (word) VALUES ('1')")


def _reads_what_it_wrote(connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO t (word) VALUES ('x'), ('y') RETURNING id")
        cursor.fetchone()


def _writes_many(connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO t (word) VALUES (%s)", [("x",), ("y",)])


def _loses_its_connection(connection: Any) -> None:
    with pytest.raises(Exception, match="closed"), begun(connection):
        connection.connection.close()
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")


@pytest.mark.parametrize(
    "ends",
    [
        *(_commits, _rolls_back, _fails_in_a_transaction, _closes, _writes_alone, _fails_alone),
        *(_reads_what_it_wrote, _writes_many, _loses_its_connection),
    ],
)
def test_the_turn_goes_on_however_a_write_ends(
    ends: Callable[[Any], None], connect: Connections, workers: ThreadPoolExecutor
) -> None:
    ends(connect(timeout=2))
    other = connect(timeout=2)
    assert workers.submit(write, other, "after").result(PATIENCE) == "after"


def test_a_second_connection_of_the_same_thread_is_told_that_it_cannot_write(
    connect: Connections, workers: ThreadPoolExecutor
) -> None:
    first, second = connect(), connect(timeout=0.1)
    with begun(first):
        with pytest.raises(OperationalError, match="locked"):
            write(second, "never")
        third = connect()
        waits = workers.submit(write, third, "later")
        until(lambda: first.turns.waiting == 1)
    assert waits.result(PATIENCE) == "later"


def test_who_waits_too_long_is_refused_and_leaves_the_line(
    connect: Connections, workers: ThreadPoolExecutor
) -> None:
    first, other = connect(), connect(timeout=0.05)
    with begun(first):
        with pytest.raises(OperationalError, match="locked"):
            workers.submit(write, other, "never").result(PATIENCE)
        assert first.turns.waiting == 0
    assert write(first, "later") == "later"


def test_while_a_stranger_holds_the_lock_one_waits_for_it_and_the_others_do_not(
    connect: Connections, file: Path, workers: ThreadPoolExecutor
) -> None:
    """However many want to write, no more than one thread is kept from other work."""
    with stranger(file):
        all_ = [connect(timeout=50) for _ in range(12)]
        waiting = [workers.submit(write, one, f"w{n}") for n, one in enumerate(all_)]
        until(lambda: sum(one.done() for one in waiting) == 11)
        refused = [one for one in waiting if one.done()]
        assert all("locked" in str(one.exception()) for one in refused)
        with pytest.raises(OperationalError, match="locked"):
            workers.submit(write, connect(timeout=50), "later").result(PATIENCE)
    [last] = [one for one in waiting if one not in refused]
    assert last.result(PATIENCE).startswith("w")
    assert write(all_[0], "after") == "after"


def test_a_write_without_a_transaction_waits_for_a_stranger_as_well(
    connect: Connections, file: Path, workers: ThreadPoolExecutor
) -> None:
    other = connect(timeout=50)
    other.ensure_connection()
    with stranger(file):
        waiting = workers.submit(_writes_alone, other)
        until(lambda: other.turns.blocked_since is not None)
        assert not waiting.done()
    waiting.result(PATIENCE)
    assert other.turns.blocked_since is None
    with other.cursor() as cursor:
        cursor.execute("SELECT word FROM t WHERE id = 1")
        assert cursor.fetchone() == ("alone",)


def test_fifty_writers_all_get_through(connect: Connections, workers: ThreadPoolExecutor) -> None:
    def many(connection: Any, number: int) -> None:
        for i in range(10):
            write(connection, f"{number}-{i}")
            _writes_alone(connection)

    all_ = [workers.submit(many, connect(timeout=60), n) for n in range(20)]
    for one in all_:
        one.result(PATIENCE)
    with connect().cursor() as cursor:
        cursor.execute("SELECT count(*) FROM t")
        assert cursor.fetchone() == (700,)


def test_a_refused_statement_leaves_the_connection_fit_for_the_next(connect: Connections) -> None:
    connection = connect()
    with begun(connection):
        inner = transaction.atomic(using=connection.alias)
        with pytest.raises(IntegrityError), inner, connection.cursor() as cursor:
            cursor.execute("INSERT INTO t (word) VALUES ('1')")
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO t (word) VALUES ('fits')")
    assert write(connection, "after") == "after"


# --- A file that is no longer there --------------------------------------------------------------
def removed(file: Path) -> None:
    file.unlink()


def renamed(file: Path) -> None:
    file.rename(file.with_name("elsewhere.sqlite3"))


def replaced(file: Path) -> None:
    copy = shutil.copy(file, file.with_name("copy.sqlite3"))
    Path(copy).rename(file)


def without_its_log(file: Path) -> None:
    Path(f"{file}-wal").unlink()


def without_its_folder(file: Path) -> None:
    file.parent.rename(file.parent.with_name("moved"))


LOST = "deleted, moved, replaced or emptied"
LOSSES = [removed, renamed, replaced, without_its_log, without_its_folder]


def _count(connection: Any) -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM t")
        return int(cursor.fetchone()[0])


@pytest.fixture
def file_in_a_folder(file: Path) -> Path:
    """So that the folder can go and the test's own stays."""
    folder = file.parent / "data"
    folder.mkdir()
    return file.rename(folder / file.name)


@pytest.mark.parametrize("lose", LOSSES)
def test_nothing_is_written_to_a_file_that_is_no_longer_there_and_reads_go_on(
    lose: Callable[[Path], None], file_in_a_folder: Path, connect: Connections
) -> None:
    connect.file = file_in_a_folder
    connection = connect()
    write(connection, "before")
    lose(file_in_a_folder)
    for attempt in (lambda: write(connection, "lost"), lambda: _writes_alone(connection)):
        with pytest.raises(OperationalError, match=LOST) as refused:
            attempt()
        error = explain(refused.value, "")
        assert (error.status, error.code, error.retry_after) == (503, "datastore_lost", 30)
    assert _count(connection) == 501


@pytest.mark.parametrize("lose", LOSSES)
def test_a_commit_is_refused_where_the_file_went_while_it_was_written(
    lose: Callable[[Path], None], file_in_a_folder: Path, connect: Connections
) -> None:
    connect.file = file_in_a_folder
    connection = connect()
    write(connection, "before")
    with (
        pytest.raises(OperationalError, match=LOST),
        begun(connection),
        connection.cursor() as cursor,
    ):
        cursor.execute("INSERT INTO t (word) VALUES ('lost')")
        lose(file_in_a_folder)
    assert _count(connection) == 501


@pytest.mark.parametrize("lose", LOSSES)
def test_no_new_connection_makes_an_empty_file_in_the_place_of_the_lost_one(
    lose: Callable[[Path], None], file_in_a_folder: Path, connect: Connections
) -> None:
    connect.file = file_in_a_folder
    write(connect(), "before")
    lose(file_in_a_folder)
    names = set(file_in_a_folder.parent.glob("*"))
    with pytest.raises(OperationalError, match=LOST):
        _count(connect())
    assert set(file_in_a_folder.parent.glob("*")) == names


def test_writes_go_on_once_the_file_is_back_in_its_place(file: Path, connect: Connections) -> None:
    connection = connect()
    write(connection, "before")
    aside = file.rename(file.with_name("aside.sqlite3"))
    with pytest.raises(OperationalError, match=LOST):
        write(connection, "lost")
    aside.rename(file)
    assert write(connection, "after") == "after"
    assert _count(connect()) == 502


def test_nothing_is_written_to_a_file_that_was_emptied(file: Path, connect: Connections) -> None:
    connection = connect()
    write(connection, "before")
    os.truncate(file, 0)
    with pytest.raises(OperationalError, match="emptied"):
        write(connection, "lost")


def test_a_file_that_nobody_has_open_may_be_made_anew(file: Path, connect: Connections) -> None:
    first = connect()
    write(first, "before")
    first.close()
    replaced(file)
    assert write(connect(), "after") == "after"


# --- The log -------------------------------------------------------------------------------------
def test_a_long_log_is_cut_off_once_no_reader_is_in_it(
    connect: Connections, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.database.sqlite3 import logs

    monkeypatch.setattr(logs, "LONG_BYTES", 100_000)
    monkeypatch.setattr(logs, "WAIT_MS", 50)
    connection, log = connect(), Path(f"{file}-wal")
    with closing(sqlite3.connect(file, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM t").fetchall()
        for number in range(60):
            write(connection, f"{number}" * 2000)
        assert log.stat().st_size > 100_000
        assert logs.shorten(connection) is False
        reader.execute("COMMIT")
    assert logs.shorten(connection) is True
    assert log.stat().st_size == 0
    assert write(connection, "after") == "after"


def test_the_log_of_one_large_write_does_not_stay(connect: Connections, file: Path) -> None:
    connection, log = connect(), Path(f"{file}-wal")
    with begun(connection), connection.cursor() as cursor:
        for number in range(20):
            cursor.execute("INSERT INTO t (word) VALUES (%s)", [f"{number}" * 1_000_000])
    assert log.stat().st_size > 12 * 2**20
    # The first write after it begins the log again.
    write(connection, "small")
    assert log.stat().st_size <= 8 * 2**20
