"""The page of the request log: what it counts, what it shows, to whom, and how it is narrowed."""

import re
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import Account, Membership, Project, Role
from accounts.tests.signing import sign_in
from operations import traffic as figures
from operations.models import RequestLog
from operations.traffic import TrafficFilter, measure_traffic

HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>\u202e'


@pytest.fixture(autouse=True)
def _nothing_kept() -> None:
    figures._kept.clear()


def asked(project: Project | None, minutes: float = 5, **fields: Any) -> RequestLog:
    values: dict[str, Any] = {
        "method": "GET",
        "path": "/memories",
        "status_code": 200,
        "latency_ms": 12.0,
        "auth_type": "api_key",
        "key_prefix": "m0sk_aaaaaaa",
        "client": "opencode/1.2",
        "created_at": timezone.now() - timedelta(minutes=minutes),
    }
    return RequestLog.objects.create(project=project, **values | fields)


def text_of(signed_in: Client, expected: int = 200, /, **params: Any) -> str:
    answer = signed_in.get(f"/dashboard/requests?{urlencode(params)}")
    assert answer.status_code == expected, answer.content[:300]
    return re.sub(r"\s+", " ", answer.content.decode())


def listed(signed_in: Client, **params: Any) -> list[str]:
    """The paths in the log, as shown."""
    return re.findall(r'<code class="path" title="([^"]*)"', text_of(signed_in, **params))


def test_an_empty_log_says_what_will_be_there(signed_in: Client) -> None:
    text = text_of(signed_in)
    assert "No requests in the last 24 hours" in text and "never a body" in text
    assert "<figure" not in text


def test_the_log_has_the_newest_first_with_who_and_how(
    signed_in: Client, project: Project, alice: Account
) -> None:
    asked(project, 30, path="/older")
    asked(
        project, 3, path="/newer", method="POST", status_code=404, account=alice, request_id="r-1"
    )
    text = text_of(signed_in)
    assert listed(signed_in) == ["/newer", "/older"]
    assert "m0sk_aaaaaaa…" in text and "opencode/1.2" in text and "Alice" in text
    assert '<span class="state warn">404</span>' in text and "<code>r-1</code>" in text


def test_others_see_nothing_of_it(
    project: Project, other_project: Project, alice: Account, bob: Account
) -> None:
    asked(project, path="/secret-place")
    answer = Client().get("/dashboard/requests")
    assert answer.status_code == 302 and answer.headers["Location"].startswith("/login")
    reviewer = Account.objects.create(email="r@example.org", name="R")
    Membership.objects.create(project=project, account=reviewer, role=Role.REVIEWER)
    for account in (bob, reviewer):
        client = sign_in(account)
        answer = client.get("/dashboard/requests")
        assert answer.status_code == 403 and b"secret-place" not in answer.content
        assert b"/dashboard/requests" not in client.get("/dashboard").content
    stranger = Account.objects.create(email="x@example.org", name="X")
    Membership.objects.create(project=other_project, account=stranger, role=Role.ADMIN)
    client = sign_in(stranger)
    assert "secret-place" not in text_of(client)


def test_neither_other_projects_nor_visits_of_pages_are_shown(
    signed_in: Client, project: Project, other_project: Project
) -> None:
    asked(other_project, path="/foreign")
    asked(None, path="/of-nobody", auth_type="none", status_code=401)
    asked(project, path="/dashboard", auth_type="session", key_prefix="")
    asked(project, path="/too-old", minutes=60 * 24 * 2)
    asked(project, path="/mine")
    asked(project, path="/signed-in", auth_type="bearer", key_prefix="")
    assert sorted(listed(signed_in)) == ["/mine", "/signed-in"]


FILTERS: list[tuple[dict[str, str], dict[str, Any], dict[str, Any]]] = [
    ({"key": "m0sk_bbbbbbb"}, {"key_prefix": "m0sk_bbbbbbb"}, {}),
    ({"key": "admin_api_key"}, {"auth_type": "admin_api_key", "key_prefix": ""}, {}),
    ({"client": "laptop"}, {"client": "laptop"}, {"client": "laptop 2"}),
    ({"method": "DELETE"}, {"method": "DELETE"}, {}),
    ({"path": "50%_"}, {"path": "/x/50%_off"}, {"path": "/x/50 off"}),
    ({"status": "4"}, {"status_code": 499}, {"status_code": 500}),
    ({"status": "5"}, {"status_code": 500}, {"status_code": 404}),
    ({"slow": "1000"}, {"latency_ms": 1000.0}, {"latency_ms": 999.0}),
    ({"period": "7d"}, {"minutes": 60 * 24 * 6}, {"minutes": 60 * 24 * 8}),
    ({"period": "30d"}, {"minutes": 60 * 24 * 29}, {"minutes": 60 * 24 * 31}),
]


@pytest.mark.parametrize(("params", "fits", "other"), FILTERS)
def test_each_filter_leaves_what_it_says(
    signed_in: Client, project: Project, params: dict[str, str], fits: Any, other: Any
) -> None:
    in_time = {} if "period" in params else {"minutes": 1}
    wanted = asked(project, **in_time | fits)
    if "period" not in params:
        asked(project, path="/plain")
    if other:
        asked(project, **other)
    found = figures.list_newest(principal_of(project), chosen_of(params), limit=9)
    assert [row.pk for row in found] == [wanted.pk]
    assert len(listed(signed_in, **params)) == 1


def principal_of(project: Project) -> Any:
    from accounts.queries import operator_of

    return operator_of(project.slug)


def chosen_of(params: dict[str, str]) -> TrafficFilter:
    from operations.pages import RequestsForm

    form = RequestsForm(params)
    assert form.is_valid(), form.errors
    return form.traffic_filter()


def test_days_are_whole_days_in_utc(signed_in: Client, project: Project) -> None:
    day = (timezone.now() - timedelta(days=3)).replace(hour=0, minute=0, second=0, microsecond=0)
    for path, at in (
        ("/before", day - timedelta(microseconds=1)),
        ("/first", day),
        ("/last", day + timedelta(days=1, microseconds=-1)),
        ("/after", day + timedelta(days=1)),
    ):
        asked(project, path=path, created_at=at)
    said = f"{day:%Y-%m-%d}"
    assert listed(signed_in, since=said, until=said) == ["/last", "/first"]


def test_days_are_whole_days_in_the_zone_of_the_project(
    signed_in: Client, project: Project
) -> None:
    Project.objects.update(time_zone="Asia/Kathmandu")  # 5:45 before UTC
    day = (timezone.now() - timedelta(days=3)).replace(hour=0, minute=0, second=0, microsecond=0)
    begins = day - timedelta(hours=5, minutes=45)
    for path, at in (
        ("/before", begins - timedelta(microseconds=1)),
        ("/first", begins),
        ("/last", begins + timedelta(days=1, microseconds=-1)),
        ("/after", begins + timedelta(days=1)),
    ):
        asked(project, path=path, created_at=at)
    said = f"{day:%Y-%m-%d}"
    assert listed(signed_in, since=said, until=said) == ["/last", "/first"]
    assert "From (Asia/Kathmandu)" in text_of(signed_in, since=said)
    # Days begin elsewhere there: the chart says whose days it shows.
    assert "Requests per day (UTC)" in text_of(signed_in, since=said)


@pytest.mark.parametrize(
    "params",
    [
        {"status": "9"},
        {"slow": "fast"},
        {"slow": "0"},
        {"since": "yesterday"},
        {"until": "9999-12-31"},
        {"method": "BREW"},
        {"period": "1y"},
        {"client": "a\0b"},
        {"path": "x" * 501},
    ],
)
def test_a_filter_that_cannot_be_read_is_told_beside_its_field(
    signed_in: Client, project: Project, params: dict[str, str]
) -> None:
    asked(project, path="/not-shown")
    text = text_of(signed_in, 422, **params)
    assert 'class="field-error"' in text and "/not-shown" not in text


@pytest.mark.parametrize("behind", ["x", "1-", "-1", "1-2-3", "9" * 17 + "-1", "١-١"])
def test_a_place_that_is_none_is_refused(signed_in: Client, behind: str) -> None:
    assert "This address leads to no place" in text_of(signed_in, 400, behind=behind)


def test_a_form_with_empty_fields_leads_to_a_tidy_address(signed_in: Client) -> None:
    answer = signed_in.get("/dashboard/requests?period=&status=5&key=&slow=")
    assert answer.status_code == 302
    assert answer.headers["Location"] == "/dashboard/requests?status=5"


def test_paging_shows_each_request_once_while_others_come_in(
    signed_in: Client, project: Project
) -> None:
    same = timezone.now() - timedelta(minutes=9)
    expected = [f"/{n:03}" for n in range(120)]
    for n, path in enumerate(expected):
        # Many at the same moment: then the id decides.
        asked(project, path=path, created_at=same + timedelta(seconds=n // 40))
    seen: list[str] = []
    address: str | None = "/dashboard/requests?method=GET"
    while address:
        text = re.sub(r"\s+", " ", signed_in.get(address).content.decode())
        seen += re.findall(r'<code class="path" title="([^"]*)"', text)
        asked(project, 0, path="/came-later")
        older = re.search(r'href="(\?[^"]*)" rel="next"', text)
        address = "/dashboard/requests" + older[1].replace("&amp;", "&") if older else None
        assert address is None or "method=GET" in address
    assert seen == expected[::-1]


def test_figures_are_those_of_the_rows(project: Project, alice: Account) -> None:
    now = timezone.now()
    rows = [
        asked(
            project,
            minutes=17 * n,
            status_code=(200, 201, 404, 500, 302)[n % 5],
            latency_ms=float((n * 37) % 4000) + 0.5,
            key_prefix=f"m0sk_key{n % 3}",
            account=alice if n % 3 else None,
            client=f"client-{n % 4}",
        )
        for n in range(80)
    ]
    found = measure_traffic(principal_of(project), TrafficFilter())
    assert found.unit == "hour"
    assert found.all.total == 80
    assert found.all.errors == sum(row.status_code >= 400 for row in rows)
    for start, hour in found.slots.items():
        inside = [r for r in rows if start <= r.created_at < start + timedelta(hours=1)]
        assert hour.total == len(inside), start
        assert hour.statuses[5] == sum(r.status_code >= 500 for r in inside)
        if inside:
            exact = sorted(r.latency_ms for r in inside)[-(-len(inside) // 2) - 1]
            assert hour.p50 == pytest.approx(exact, rel=0.05, abs=0.05)
    assert len(found.slots) in {24, 25} and min(found.slots) <= now - timedelta(hours=23)
    for caller, of in found.callers:
        inside = [r for r in rows if r.key_prefix == caller.key_prefix]
        assert (of.total, of.last) == (len(inside), max(r.created_at for r in inside))
        exact = sorted(r.latency_ms for r in inside)
        assert of.p95 == pytest.approx(exact[-(-len(exact) * 95 // 100) - 1], rel=0.05)
    assert {c.key_prefix: c.account_id for c, _ in found.callers}["m0sk_key0"] is None
    assert [(name, of.total) for name, of in found.clients] == [
        (f"client-{n}", 20) for n in range(4)
    ]


def test_longer_times_are_told_by_the_day_and_by_the_month(project: Project, settings: Any) -> None:
    settings.REQUEST_LOG_RETENTION_DAYS = 400
    now = timezone.now()
    for days in (1, 20, 200):
        asked(project, created_at=now - timedelta(days=days))
    by_day = measure_traffic(principal_of(project), TrafficFilter(period="30d"))
    assert (by_day.unit, by_day.all.total) == ("day", 2)
    assert sum(f.total for f in by_day.slots.values()) == 2
    by_month = measure_traffic(
        principal_of(project), TrafficFilter(since=(now - timedelta(days=399)).date())
    )
    assert (by_month.unit, by_month.all.total) == ("month", 3)
    of = (now - timedelta(days=200)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    assert by_month.slots[of].total >= 1
    # However far back the address asks: the log does not reach further.
    assert (
        len(
            measure_traffic(
                principal_of(project), TrafficFilter(since=datetime(1970, 1, 1).date())
            ).slots
        )
        < 16
    )


def test_any_number_of_clients_stays_a_short_table(signed_in: Client, project: Project) -> None:
    for n in range(60):
        asked(project, client=f"made-up-{n:02}")
    for _ in range(3):
        asked(project, client="the-busy-one")
    found = measure_traffic(principal_of(project), TrafficFilter())
    assert len(found.clients) == figures.SHOWN_CLIENTS
    assert found.clients[0][0] == "the-busy-one"
    assert found.all.total == 63


def test_charts_say_in_a_table_what_they_draw(signed_in: Client, project: Project) -> None:
    for _ in range(7):
        asked(project, 1, latency_ms=2500.0)
    asked(project, 1, status_code=503)
    text = text_of(signed_in)
    assert "8 requests, of which 0 were refused and 1 failed." in text
    tables = re.findall(r"<tbody>(.*?)</tbody>", text)
    counted = re.findall(r"<td>(\d+)</td><td>(\d+)</td><td>(\d+)</td>", tables[0])
    assert [sum(map(int, column)) for column in zip(*counted, strict=True)] == [7, 0, 1]
    assert "2.5 s" in tables[1]
    assert 'role="img"' in text and " style=" not in text


def test_the_number_of_statements_does_not_grow(
    signed_in: Client, project: Project, alice: Account, monkeypatch: Any
) -> None:
    # How all parts are is asked anew every ten seconds.
    monkeypatch.setattr("dashboard.shell.count_problems", lambda: 0)

    def statements() -> int:
        with CaptureQueriesContext(connection) as caught:
            text_of(signed_in)
        return len(caught)

    asked(project, account=alice)
    text_of(signed_in)
    before = statements()
    for n in range(60):
        asked(
            project,
            n,
            key_prefix=f"m0sk_{n}",
            client=f"c{n}",
            account=Account.objects.create(email=f"{n}@example.org", name=f"N{n}"),
        )
    assert statements() == before


def test_figures_that_took_long_are_good_for_a_while(project: Project, monkeypatch: Any) -> None:
    caller = principal_of(project)
    monkeypatch.setattr(figures._kept, "long", -1.0)
    monkeypatch.setattr(figures._kept, "least", 3600.0)
    asked(project)
    assert measure_traffic(caller, TrafficFilter()).all.total == 1
    asked(project)
    assert measure_traffic(caller, TrafficFilter()).all.total == 1
    # Another question is asked anew.
    assert measure_traffic(caller, TrafficFilter(method="GET")).all.total == 2


def test_where_counting_takes_long_the_log_comes_first(
    signed_in: Client, project: Project, monkeypatch: Any
) -> None:
    monkeypatch.setattr(figures, "FEW", 2)
    for n in range(3):
        asked(project, path=f"/asked/{n}")
    text = text_of(signed_in, status="2")
    assert "/asked/0" in text and "<figure" not in text
    assert 'hx-get="?status=2&amp;figures=1" hx-trigger="load"' in text
    assert 'href="?status=2&amp;figures=1"' in text
    # With a script the figures alone come after, without one the whole page with them.
    path = "/dashboard/requests?status=2&figures=1"
    alone = signed_in.get(path, headers={"HX-Request": "true"}).content.decode()
    assert "<figure" in alone and "/asked/0" not in alone and "hx-trigger" not in alone
    whole = signed_in.get(path).content.decode()
    assert "<figure" in whole and "/asked/0" in whole


def test_texts_of_clients_are_inert(signed_in: Client, project: Project) -> None:
    asked(project, path=f"/{HOSTILE}", client=HOSTILE, request_id=HOSTILE)
    for text in (
        text_of(signed_in),
        text_of(signed_in, client=HOSTILE),
        text_of(signed_in, path=HOSTILE),
    ):
        assert "<img" not in text and "<script>alert" not in text


def test_htmx_gets_the_figures_and_the_log_alone(signed_in: Client, project: Project) -> None:
    asked(project, path="/here")
    answer = signed_in.get("/dashboard/requests", headers={"HX-Request": "true"})
    text = answer.content.decode()
    assert "<html" not in text and 'id="requests"' in text and "/here" in text
    assert "HX-Request" in answer.headers["Vary"]


def test_the_overview_leads_to_it(signed_in: Client, project: Project, engine: Any) -> None:
    asked(project)
    assert 'href="/dashboard/requests"' in signed_in.get("/dashboard").content.decode()


def test_reading_changes_nothing_and_nothing_else_is_possible(
    signed_in: Client, project: Project
) -> None:
    asked(project)
    for method in ("post", "put", "patch", "delete"):
        assert getattr(signed_in, method)("/dashboard/requests").status_code == 405
    assert RequestLog.objects.count() == 1
