"""Refused requests of strangers fill no table: a few have rows, all are counted by address."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from accounts.tests.signing import sign_in
from core.http.finished import FinishedRequest
from operations import request_log, strangers
from operations.models import RefusedRequests, RequestLog

pytestmark = [pytest.mark.one_form, pytest.mark.usefixtures("gathering")]


def refused(number: int, address: str = "203.0.113.7", at: datetime | None = None) -> None:
    for _ in range(number):
        request_log.log_request(
            FinishedRequest(
                at or timezone.now(), "GET", "/memories", 401, 1.0, "id", "none", None, "", address
            )
        )


def counts() -> dict[str, int]:
    return dict(RefusedRequests.objects.values_list("address", "count"))


def test_a_thousand_refused_requests_have_few_rows_and_are_all_counted() -> None:
    refused(1000)
    request_log.rows.write()
    strangers.counts.write()
    assert RequestLog.objects.count() <= 2 * strangers.ROWS_A_MINUTE
    assert counts() == {"203.0.113.7": 1000}
    refused(5)
    strangers.counts.write()
    assert counts() == {"203.0.113.7": 1005}


def test_a_request_with_a_key_always_has_its_row(client: Any, key: Any, engine: Any) -> None:
    refused(200)
    request_log.rows.write()
    before = RequestLog.objects.count()
    for _ in range(3):
        client.get("/memories?user_id=a", headers={"X-API-Key": key()})
    request_log.rows.write()
    assert RequestLog.objects.count() == before + 3


def test_a_thousand_addresses_are_told_apart_up_to_a_bound() -> None:
    for number in range(1000):
        refused(1, f"203.0.{number // 250}.{number % 250}")
    strangers.counts.write()
    found = counts()
    assert len(found) <= strangers.ADDRESSES + 1
    assert sum(found.values()) == 1000


def test_numbers_outlive_an_outage_of_the_database(monkeypatch: Any) -> None:
    refused(7)
    with monkeypatch.context() as patch:
        patch.setattr(
            strangers, "_ADD", "INSERT INTO nowhere (hour, address, count) VALUES (%s, %s, %s)"
        )
        assert not strangers.counts.write()
    refused(1)
    strangers.counts.write()
    assert counts() == {"203.0.113.7": 8}


def test_old_numbers_go_with_the_rows() -> None:
    refused(1, at=timezone.now() - timedelta(days=31))
    refused(1)
    strangers.counts.write()
    request_log.prune()
    assert counts() == {"203.0.113.7": 1}


def test_the_owner_sees_how_many_were_refused_and_from_where(alice: Any, bob: Any) -> None:
    refused(1200)
    refused(30, "198.51.100.9")
    strangers.counts.write()
    client = sign_in(alice)
    told = " ".join(client.get("/dashboard/requests").content.decode().split())
    assert "refused 1,230 requests without a valid credential" in told
    assert "1,200 from 203.0.113.7, 30 from 198.51.100.9" in told


def test_the_lines_of_strangers_are_bounded_and_what_had_none_is_told(
    client: Any, db: None, caplog: Any, monkeypatch: Any
) -> None:
    from core.http import strangers as lines

    monkeypatch.setattr(lines.lines, "_most", 3)
    clock = [0.0]
    monkeypatch.setattr(lines.time, "monotonic", lambda: clock[0])
    lines.lines.clear()
    with caplog.at_level("INFO", logger="mem0dash.access"):
        for _ in range(10):
            client.get("/nowhere")
        assert len(caplog.records) == 3
        clock[0] = 61.0
        client.get("/nowhere")
    told = [record for record in caplog.records if hasattr(record, "requests")]
    assert [record.requests for record in told] == [7]
