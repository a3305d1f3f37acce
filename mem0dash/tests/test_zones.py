"""Days in time zones: where they begin and end, also where clocks are changed."""

import sys
import zoneinfo
from datetime import UTC, date, datetime, timedelta

import pytest

from core import zones

pytestmark = pytest.mark.one_form


@pytest.mark.parametrize(
    ("name", "day", "start", "hours"),
    [
        ("UTC", "2026-11-30", "2026-11-30T00:00", 24),
        ("Europe/Berlin", "2026-11-30", "2026-11-29T23:00", 24),
        ("Europe/Berlin", "2026-03-29", "2026-03-28T23:00", 23),
        ("Europe/Berlin", "2026-10-25", "2026-10-24T22:00", 25),
        ("America/New_York", "2026-03-08", "2026-03-08T05:00", 23),
        ("Asia/Kathmandu", "2026-11-30", "2026-11-29T18:15", 24),
        ("Australia/Lord_Howe", "2026-04-05", "2026-04-04T13:00", 24.5),
        # There is no midnight where clocks go from twelve to one.
        ("America/Havana", "2026-03-08", "2026-03-08T05:00", 23),
        # And two of them where they go back to it; the day begins with the first.
        ("America/Havana", "2026-11-01", "2026-11-01T04:00", 25),
        # Samoa went over the date line and had no such day.
        ("Pacific/Apia", "2011-12-30", "2011-12-30T10:00", 0),
    ],
)
def test_a_day_begins_and_ends_with_the_clocks_of_its_zone(
    name: str, day: str, start: str, hours: float
) -> None:
    zone = zones.find_zone(name)
    assert zone is not None
    first = zones.start_of(date.fromisoformat(day), zone)
    assert first == datetime.fromisoformat(start).replace(tzinfo=UTC)
    assert first.tzinfo is UTC
    assert zones.end_of(date.fromisoformat(day), zone) == first + timedelta(hours=hours)


@pytest.mark.parametrize("name", ["UTC", "Pacific/Kiritimati", "Pacific/Niue"])
@pytest.mark.parametrize("day", [date.min, date.max])
def test_the_ends_of_the_calendar_are_days_as_well(name: str, day: date) -> None:
    zone = zones.zone_named(name)
    assert zones.start_of(day, zone) <= zones.end_of(day, zone)


@pytest.mark.parametrize(
    "name",
    [
        *("", "Berlin", "europe/berlin", "localtime", "posix/Europe/Berlin", "posixrules"),
        *("/etc/localtime", "../UTC", "Europe/../UTC", "Europe", "Europe/Berlin\0", "+02:00"),
        *("Europe/Berlin ", "Europe/Berlin\n", "A" * 300, "ÜTC", "tzdata.zi"),
    ],
)
def test_what_is_no_zone_is_none(name: str) -> None:
    assert zones.find_zone(name) is None


def test_people_choose_from_places_of_the_regions() -> None:
    places = zones.list_zones()
    assert list(places) == sorted(places) and set(places) == set(zones.REGIONS)
    assert "Europe/Berlin" in places["Europe"] and len(places["America"]) > 100
    assert all(zones.find_zone(name) for names in places.values() for name in names)


def test_a_machine_without_a_database_of_zones_has_utc(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = zoneinfo.TZPATH
    zoneinfo.reset_tzpath(to=())
    zoneinfo.ZoneInfo.clear_cache()
    for function in (zones.find_zone, zones.zone_named, zones.list_zones):
        function.cache_clear()
    monkeypatch.setitem(sys.modules, "tzdata", None)
    try:
        assert zones.find_zone("UTC") is zones.zone_named("UTC") is UTC and zones.list_zones() == {}
        assert zones.find_zone("Europe/Berlin") is None
        with caplog.at_level("WARNING"):
            assert zones.zone_named("Europe/Berlin") is UTC
        assert "unknown time zone" in caplog.text
    finally:
        zoneinfo.reset_tzpath(to=kept)
        for function in (zones.find_zone, zones.zone_named, zones.list_zones):
            function.cache_clear()
