"""Dates that a query names, and how close a memory is to them."""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Final

# Days outside the time that a query names after which closeness has halved.
DATE_HALF_LIFE: Final = 14.0
Interval = tuple[date, date]


def closeness(moment: datetime, interval: Interval) -> float:
    """1 inside the interval (days, both included), halving every 14 days outside of it."""
    day = moment.astimezone(UTC).date()
    outside = max((interval[0] - day).days, (day - interval[1]).days, 0)
    return float(0.5 ** (outside / DATE_HALF_LIFE))


_MONTHS: Final = {
    name: number
    for number, names in enumerate(
        (
            "january jan",
            "february feb",
            "march mar",
            "april apr",
            "may",
            "june jun",
            "july jul",
            "august aug",
            "september sept sep",
            "october oct",
            "november nov",
            "december dec",
        ),
        start=1,
    )
    for name in names.split()
}
_MONTH: Final = rf"(?P<month>{'|'.join(_MONTHS)})\.?"
_DAY: Final = r"(?P<day>[0-3]?\d)(?:st|nd|rd|th)?"
_YEAR: Final = r"(?P<year>(?:19|20)\d\d)"
_PARTS: Final = {"early": (1, 10), "mid": (10, 20), "middle of": (10, 20), "late": (20, 31)}
_PART: Final = r"(?:(?P<part>early|mid|middle of|late)[ -]+)?"
_PATTERNS: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\b{_YEAR}-(?P<month_number>\d\d)-(?P<day>\d\d)\b",
        rf"\b{_DAY}(?: of)? {_MONTH}(?:,? {_YEAR})?\b",
        rf"\b{_MONTH} {_DAY}(?:,? {_YEAR})?\b(?!\d)",
        rf"\b{_PART}{_MONTH},? {_YEAR}\b",
        rf"\b(?:in|during|since|of|around|last|this|from) {_PART}{_MONTH}\b",
        rf"\b(?P<part>early|mid|late)[ -]+{_MONTH}\b",
        rf"\b(?:in|during|since|of|around) {_YEAR}\b",
    )
)


def named_interval(query: str, now: datetime) -> Interval | None:
    """The day, month or year that the query names, first and last day; None when it names none.

    A date without a year is the latest such date that is not in the future.
    """
    for pattern in _PATTERNS:
        if (match := pattern.search(query)) is not None:
            interval = _interval(match.groupdict(), now.astimezone(UTC).date())
            if interval is not None:
                return interval
    return None


def _interval(groups: dict[str, str | None], today: date) -> Interval | None:
    name, number = groups.get("month"), groups.get("month_number")
    month = _MONTHS[name.lower()] if name else int(number) if number else None
    day = int(groups.get("day") or 0) or None
    part = (groups.get("part") or "").lower()
    if year := groups.get("year"):
        return _interval_of(int(year), month, day, part)
    # The latest that has begun; eight years hold a 29 February in any century.
    for earlier in range(9):
        interval = _interval_of(today.year - earlier, month, day, part)
        if interval is not None and interval[0] <= today:
            return interval
    return None


def _interval_of(year: int, month: int | None, day: int | None, part: str) -> Interval | None:
    try:
        if month is None:
            return date(year, 1, 1), date(year, 12, 31)
        if day is not None:
            return date(year, month, day), date(year, month, day)
        last = (date(year + month // 12, month % 12 + 1, 1) - timedelta(days=1)).day
        low, high = _PARTS.get(part, (1, last))
        return date(year, month, low), date(year, month, min(high, last))
    except ValueError:
        return None  # such as 31 June: not a date after all
