"""Time zones by their IANA names, and the start and end of a day in one."""

import logging
import re
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import cache, lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

logger = logging.getLogger(__name__)

UNIVERSAL: Final = "UTC"
REGIONS: Final = (
    *("Africa", "America", "Antarctica", "Arctic", "Asia"),
    *("Atlantic", "Australia", "Europe", "Indian", "Pacific"),
)
# Excludes the other entries of the zones' folder: `localtime`, `posix/…`, paths.
_NAME: Final = re.compile(r"[A-Z][A-Za-z0-9+_-]{0,31}(/[A-Z][A-Za-z0-9+_-]{0,31}){0,2}", re.ASCII)
_FIRST: Final = datetime.min.replace(tzinfo=UTC)
_LAST: Final = datetime.max.replace(tzinfo=UTC)


@lru_cache(maxsize=64)
def find_zone(name: str) -> tzinfo | None:
    """The zone of that name; None if it is invalid or this machine does not know it."""
    if name == UNIVERSAL:
        return UTC  # even on a machine without a database of zones
    if not _NAME.fullmatch(name):
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


@lru_cache(maxsize=64)
def zone_named(name: str) -> tzinfo:
    """The zone of that name, which was valid when it was chosen; UTC, with a warning, if this
    machine does not know it."""
    zone = find_zone(name)
    if zone is None:
        logger.warning("unknown time zone, days are in UTC", extra={"time_zone": name})
        return UTC
    return zone


@cache
def list_zones() -> dict[str, list[str]]:
    """The zones to choose from: the sorted names of each region; none on a machine without a
    database of zones."""
    by_region: dict[str, list[str]] = {}
    for name in sorted(available_timezones()):
        region, slash, _ = name.partition("/")
        if slash and region in REGIONS:
            by_region.setdefault(region, []).append(name)
    return by_region


def start_of(day: date, zone: tzinfo) -> datetime:
    """The start of the day in the zone, as UTC; clamped at the ends of the calendar."""
    try:
        return datetime.combine(day, time(), zone).astimezone(UTC)
    except OverflowError:
        return _FIRST if day.year == 1 else _LAST


def end_of(day: date, zone: tzinfo) -> datetime:
    """The end of the day in the zone, as UTC: 23 or 25 hours after its start when the clocks
    change."""
    try:
        return start_of(day + timedelta(days=1), zone)
    except OverflowError:
        return _LAST
