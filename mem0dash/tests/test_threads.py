"""The threads of the dispatcher, and what they open in all."""

import re
from pathlib import Path

import pytest
from django.db import OperationalError

from core.database.datastore import problem_of
from core.database.postgresql import sharing
from core.http import threads
from mem0dash.settings import BASE_DIR

pytestmark = pytest.mark.one_form

# Upkeep, jobs, the request log, the last uses of keys, and a look whether the server answers.
BESIDE = 15


def test_the_connections_of_the_documentation_are_those_that_the_threads_may_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = Path(BASE_DIR / "docs" / "scaling.md").read_text()
    [figure] = re.findall(r"which is (\d+) by default, and a\s+worker up to (\d+)", text)
    web, worker = map(int, figure)
    assert threads.most_connections() + BESIDE == web
    # PostgreSQL's own default, less those that it keeps for its superuser.
    assert web + worker < 97 - 5


def test_who_finds_no_connection_free_is_told_that_the_database_is_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sharing, "WAIT_SECONDS", 0.01)
    few = sharing.Few(2)
    few.take()
    assert not few.is_scarce
    few.take()
    assert few.is_scarce
    with pytest.raises(OperationalError) as refused:
        few.take()
    assert problem_of(refused.value) == "busy"
    few.give()
    few.take()
