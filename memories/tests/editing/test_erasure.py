"""What is purged or erased leaves no trace of its words: not in any table, not in the index."""

import os
import uuid
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from django.apps import apps
from django.db import connection
from django.utils import timezone

from core.errors import EngineError
from memories import queries
from memories.background import retention
from memories.editing import service as services
from memories.filters import EVERYTHING
from memories.models import AddInput, Memory, MemoryTokens, MemoryVector, Revision
from memories.search.service import search_memories
from memories.tests.actions import add, said, settled
from memories.tests.spare_index import SpareIndex

WORD = "xylophonist"


def traces(word: str = WORD) -> list[str]:
    """Every table and column, in whatever type, that holds the word in any letter case."""
    found = []
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")
            names = [column[0] for column in cursor.description]
            for row in cursor.fetchall():
                for name, value in zip(names, row, strict=True):
                    value = bytes(value) if isinstance(value, memoryview) else value
                    if word in repr(value).lower():
                        found.append(f"{table}.{name}")
    return sorted(set(found))


def traces_on_disk(root: Path, word: str = WORD) -> list[str]:
    """The files of the index that hold the word."""
    return [
        str(path.relative_to(root))
        for path in sorted(root.rglob("*"))
        if path.is_file() and word.encode() in path.read_bytes().lower()
    ]


@pytest.fixture
def index_files(spare_index: SpareIndex, index_folder: Path) -> Path:
    """The folder of an index that no other test has used; to be asked for before the engine."""
    if os.environ.get("TEST_INDEX") == "qdrant":
        pytest.skip("the files of a server are its own")
    spare_index.close()
    return index_folder


@pytest.fixture
def told(owner, engine, embedder) -> uuid.UUID:
    """A memory that holds the word in text, metadata and history, after a first add that failed."""
    metadata = {"source": f"{WORD}-cli", "note": f"the {WORD}", "reviewed_by": WORD}
    embedder.error = ConnectionError("first attempt fails")
    with suppress(EngineError):
        add(owner, f"Anna is a {WORD}", metadata=metadata)
    embedder.error = None
    [one] = add(owner, f"Anna is a {WORD}", metadata=metadata)
    services.update_memory(owner, one, text=f"Anna was a {WORD.upper()}", metadata={"n": WORD})
    services.update_memory(owner, one, text="Anna retired", metadata={"note": "", "n": 1})
    services.update_memory(owner, one, text=f"Anna, once a {WORD}, retired")
    # The text can be read from token states; the dump would not know it there again.
    data = f"stands for the states of {WORD}".encode()
    MemoryTokens.objects.create(memory_id=one, states_key="states", data=data)
    return one


def test_the_dump_sees_every_table_and_finds_what_is_there(told):
    tables = set(connection.introspection.table_names())
    assert {model._meta.db_table for model in apps.get_models()} <= tables
    assert {name.split(".")[0] for name in traces()} >= {
        Memory._meta.db_table,
        Revision._meta.db_table,
        AddInput._meta.db_table,
        MemoryTokens._meta.db_table,
    }


def test_erasing_leaves_no_trace_in_any_table(owner, engine, told):
    assert services.erase_memories(owner, [told]) == 1
    assert traces() == []
    assert not MemoryVector.objects.filter(memory_id=told).exists()
    assert said(engine.index, WORD) == set()
    assert search_memories(owner, WORD, show_expired=True, threshold=0).hits == []


def test_erasing_what_is_deleted_already_leaves_no_trace_either(owner, engine, told):
    services.delete_memory(owner, told)
    assert services.erase_memories(owner, [told]) == 1
    assert traces() == []


def test_erasing_keeps_who_did_what_and_when(owner, engine, told):
    before = [(r.event, r.at, r.account_id, r.request_id) for r in queries.history(owner, told)]
    services.erase_memories(owner, [told])
    after = queries.history(owner, told)
    assert [(r.event, r.at, r.account_id, r.request_id) for r in after[:-1]] == before
    assert after[-1].event == "ERASE"
    assert {(r.old_text, r.new_text) for r in after} == {(None, None)}
    assert all(r.changes == {} for r in after)


def test_erasing_one_spares_the_others(owner, engine, told):
    [other] = add(owner, "Bert plays the violin", metadata={"source": "cli"})
    services.erase_memories(owner, [told])
    row = queries.get_memory(owner, other)
    assert (row.text, row.metadata, row.source) == (
        "Bert plays the violin",
        {"source": "cli"},
        "cli",
    )
    assert [hit.memory.id for hit in search_memories(owner, "violin").hits] == [other]
    assert "violin" in queries.history(owner, other)[0].new_text


def test_a_purge_leaves_no_trace_in_any_table(owner, engine, told):
    services.delete_memory(owner, told)
    assert traces() != []
    Memory.objects.filter(id=told).update(deleted_at=timezone.now() - timedelta(days=31))
    settled(engine)
    assert retention.purge_all() == 1
    assert traces() == []
    assert [r.event for r in queries.history(owner, told)][-1] == "DELETE"


def test_what_an_erased_memory_leaves_is_purged_in_its_time(owner, engine, told):
    services.erase_memories(owner, [told])
    settled(engine)
    Memory.objects.update(deleted_at=timezone.now() - timedelta(days=31))
    assert retention.purge_all() == 1
    assert not Memory.objects.exists()


def test_inputs_are_kept_for_thirty_days(owner, engine):
    add(owner, f"Anna is a {WORD}")
    AddInput.objects.update(created_at=timezone.now() - timedelta(days=29))
    retention.purge_all()
    assert AddInput.objects.count() == 1
    AddInput.objects.update(created_at=timezone.now() - timedelta(days=31))
    retention.purge_all()
    assert not AddInput.objects.exists()
    assert queries.list_memories(owner, where=EVERYTHING, limit=9)[0].text == f"Anna is a {WORD}"


def test_the_index_never_writes_a_text_to_its_files(index_files, owner, engine):
    add(owner, f"Anna is a {WORD}")
    settled(engine)
    assert said(engine.index, WORD)
    assert traces_on_disk(index_files) == []


def test_a_rebuild_leaves_nothing_of_the_erased_on_disk(index_files, owner, engine, told):
    add(owner, "Bert plays the violin")
    settled(engine)
    services.erase_memories(owner, [told])
    settled(engine)
    engine.indexer.rebuild()
    engine.indexer.settle()
    assert traces_on_disk(index_files) == []
    assert said(engine.index, "violin")
