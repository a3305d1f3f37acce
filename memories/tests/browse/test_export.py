"""Exports hold exactly what the selection does, in every format, in one stable order."""

import csv
import io
import json
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.http import QueryDict
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from core.errors import InvalidInputError, PermissionDeniedError
from core.principal import Scope
from memories.browse import export
from memories.browse.selection import Selection
from memories.models import Memory
from memories.tests import crowd


def of(query: str) -> Selection:
    return Selection.of(QueryDict(query))


def read(principal, query: str, format_: str):
    content = b"".join(export.export(principal, of(query), format_)).decode()
    if format_ == "json":
        return json.loads(content)
    if format_ == "jsonl":
        return [json.loads(line) for line in content.splitlines()]
    return list(csv.DictReader(io.StringIO(content, newline="")))


@pytest.mark.parametrize("format_", ["json", "jsonl", "csv"])
@pytest.mark.parametrize(
    "query",
    [
        "",
        "user_id=mara",
        "user_id=mara&user_id=&confidence=low",
        "run_id=run-3",
        "q=tee&mode=words",
        "q=te&mode=words&agent_id=",
        "deleted=yes",
        "expiry=soon&sort=expiring",
        "user_id=nobody",
    ],
)
def test_it_holds_what_is_selected_oldest_first(owner, project, monkeypatch, query, format_):
    monkeypatch.setattr(export, "BATCH", 7)
    rows = [r for r in crowd.make(project, 150) if crowd.fits(r, of(query))]
    expected = sorted(rows, key=lambda r: (r.created_at, r.id))
    assert [r["id"] for r in read(owner, query, format_)] == [str(r.id) for r in expected]


def test_every_column_is_there_with_its_type(owner, project):
    at = datetime(2026, 11, 20, 12, 30, 15, 123456, tzinfo=UTC)
    [row] = crowd.make(
        project, 1, text="grüner 🚀 tee", created_at=at, updated_at=at, deleted_at=None,
        expires_at=at + timedelta(days=1), expiration_date=at.date(), user_id="mara",
        metadata={"a": [1, None, {"b": "ü"}]}, categories=["x"], batch_id=uuid.uuid4(),
    )  # fmt: skip
    [record] = read(owner, "", "jsonl")
    assert list(record) == list(export.COLUMNS)
    assert record["memory"] == "grüner 🚀 tee"
    assert record["metadata"] == {"a": [1, None, {"b": "ü"}]}
    assert record["categories"] == ["x"]
    assert record["batch_id"] == str(row.batch_id)
    assert record["created_at"] == "2026-11-20T12:30:15.123456Z"
    assert datetime.fromisoformat(record["expires_at"]) == at + timedelta(days=1)
    assert record["expiration_date"] == "2026-11-20"
    assert record["deleted_at"] is record["reviewed_at"] is None
    [cells] = read(owner, "", "csv")
    assert list(cells) == list(export.COLUMNS)
    assert json.loads(cells["metadata"]) == record["metadata"]
    assert cells["created_at"] == record["created_at"]
    assert cells["deleted_at"] == ""
    assert read(owner, "", "json") == [record]


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\n=1",
        "  =1",
        "=cmd|' /C calc'!A0",
        "\uff1d1",
    ],
)
def test_cells_are_inert_in_a_spreadsheet(owner, project, text):
    crowd.make(project, 1, text=text, user_id=text.strip(), deleted_at=None)
    [cells] = read(owner, "", "csv")
    # A spreadsheet that ends a line there finds one more apostrophe before the sign.
    assert cells["memory"] == f"'{text}".replace("\r=", "\r'=").replace("\n=", "\n'=")
    assert cells["user_id"] == f"'{text.strip()}"
    [record] = read(owner, "", "jsonl")
    assert record["memory"] == text


def test_cells_keep_lines_commas_and_quotes(owner, project):
    text = 'one, "two"\nthree\r\nfour'
    crowd.make(project, 1, text=text, deleted_at=None)
    assert read(owner, "", "csv")[0]["memory"] == text


def test_every_memory_that_stays_comes_once_while_others_come_and_go(owner, project, monkeypatch):
    monkeypatch.setattr(export, "BATCH", 100)
    at = timezone.now() - timedelta(days=1)
    stable = crowd.make(project, 1050, deleted_at=None, created_at=at)  # all at the same instant
    going = crowd.make(project, 50, seed=2, deleted_at=None)
    seen = []
    for number, piece in enumerate(export.export(owner, Selection(), "jsonl")):
        seen += [json.loads(line)["id"] for line in piece.splitlines()]
        crowd.make(project, 5, seed=50 + number, deleted_at=None)
        Memory.objects.filter(id=going[number].id).delete()
    assert len(seen) == len(set(seen))
    assert {str(row.id) for row in stable} <= set(seen)


def test_it_begins_at_once_and_reads_one_batch_after_another(owner, project, monkeypatch):
    monkeypatch.setattr(export, "BATCH", 10)
    crowd.make(project, 35, deleted_at=None)
    pieces = export.export(owner, Selection(), "jsonl")
    with CaptureQueriesContext(connection) as captured:
        first = next(pieces)
    assert len(captured) == 1
    assert len(first.splitlines()) == 10
    with CaptureQueriesContext(connection) as captured:
        list(pieces)
    assert len(captured) == 4


def test_it_refuses_before_the_first_piece(owner, project, other_project):
    for selection, format_ in ((of("q=tea"), "json"), (of(""), "xlsx")):
        with pytest.raises(InvalidInputError):
            export.export(owner, selection, format_)
    member = replace(owner, scopes=frozenset({Scope.READ, Scope.WRITE}))
    nobody = replace(owner, scopes=frozenset({Scope.WRITE}))
    for principal, selection in ((nobody, of("")), (member, of("deleted=yes"))):
        with pytest.raises(PermissionDeniedError):
            export.export(principal, selection, "json")


def test_it_stays_in_the_project_and_within_the_limit(owner, project, other_project):
    crowd.make(other_project, 20)
    crowd.make(project, 20, seed=2, user_id="jonas", deleted_at=None)
    mine = crowd.make(project, 5, seed=3, user_id="mara", deleted_at=None)
    mara = replace(owner, entity_limit={"user_id": frozenset({"mara"})})
    assert {r["id"] for r in read(mara, "", "json")} == {str(r.id) for r in mine}
    assert len(read(owner, "", "jsonl")) == 25
