"""Pieces of answers that several rooms render alike."""

from datetime import datetime


def instant_z(moment: datetime) -> str:
    """ISO 8601 in UTC, as mem0's server writes times of keys: 2026-11-20T07:52:51.448236Z."""
    return moment.isoformat().replace("+00:00", "Z")
