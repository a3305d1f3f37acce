"""Timetables: "every 10 minutes", "every hour", "daily at 03:00"."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

_EVERY: Final = re.compile(r"every (?:([1-9][0-9]{0,3}) )?(minute|hour)s?", re.ASCII)
_DAILY: Final = re.compile(r"daily at ([01][0-9]|2[0-3]):([0-5][0-9])", re.ASCII)
_UNIT: Final = {"minute": timedelta(minutes=1), "hour": timedelta(hours=1)}


@dataclass(frozen=True, slots=True)
class Timetable:
    """An expression, and the time zone of its times of day. ValueError if it is invalid."""

    expr: str
    tz: str = "UTC"

    def __post_init__(self) -> None:
        if not (_EVERY.fullmatch(self.expr) or _DAILY.fullmatch(self.expr)):
            raise ValueError(f"Not a timetable: {self.expr!r}.")

    def after(self, slot: datetime, now: datetime) -> datetime:
        """The first slot after `now`, counted from an earlier slot; slots in between are skipped. A
        time of day that the clocks skip comes an hour later."""
        if match := _EVERY.fullmatch(self.expr):
            step = int(match[1] or 1) * _UNIT[match[2]]
            missed = max(0, (now - slot) // step)
            return slot + (missed + 1) * step
        match = _DAILY.fullmatch(self.expr)
        assert match is not None  # noqa: S101  (checked by __post_init__)
        zone, at = ZoneInfo(self.tz), time(int(match[1]), int(match[2]))
        day = now.astimezone(zone).date()
        today = datetime.combine(day, at, zone).astimezone(UTC)
        if today > now:
            return today
        return datetime.combine(day + timedelta(days=1), at, zone).astimezone(UTC)
