"""Paging by the position of a row. Page 1,000 costs as much as page 1, and a new row does not shift
the pages after it."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from django.db.models import Q

from core.errors import InvalidInputError

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_WRITTEN_UUID: Final = re.compile(r"([0-9]{1,16})-([0-9a-f]{32})", re.ASCII)
_WRITTEN: Final = re.compile(r"([0-9]{1,16})-([0-9]{1,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class DescendingKey:
    """The position of a row in a list with the newest first; at the same time, the higher id
    first."""

    at: datetime
    id: int

    def __str__(self) -> str:
        """As addresses have it: microseconds since 1970, and the id."""
        return f"{(self.at - _EPOCH) // timedelta(microseconds=1)}-{self.id}"

    @classmethod
    def of(cls, text: str) -> "DescendingKey | None":
        """What `str` made of it; None for "". InvalidInputError for anything else."""
        if not text:
            return None
        match = _WRITTEN.fullmatch(text)
        if match is None:
            raise InvalidInputError("This address leads to no place in the list. Start at its top.")
        return cls(_EPOCH + timedelta(microseconds=int(match[1])), int(match[2]))

    def older(self, field: str) -> Q:
        """Holds for rows behind this one, by the time in `field`."""
        # The first condition is what an index on the time can start from.
        return Q(**{f"{field}__lte": self.at}) & (
            Q(**{f"{field}__lt": self.at}) | Q(id__lt=self.id)
        )


@dataclass(frozen=True, slots=True)
class AscendingKey:
    """The position of a row in a list with the oldest first; at the same time, the lower id
    first."""

    at: datetime
    id: UUID

    def __str__(self) -> str:
        """As answers have it: microseconds since 1970, and the id."""
        return f"{(self.at - _EPOCH) // timedelta(microseconds=1)}-{self.id.hex}"

    @classmethod
    def of(cls, text: str | None) -> "AscendingKey | None":
        """What `str` made of it; None for none. InvalidInputError for anything else."""
        if not text:
            return None
        match = _WRITTEN_UUID.fullmatch(text)
        if match is None:
            raise InvalidInputError(
                "This cursor is not one of this list's: send next_cursor of the page before, or "
                "none to start at the top."
            )
        return cls(_EPOCH + timedelta(microseconds=int(match[1])), UUID(match[2]))

    def newer(self, field: str) -> Q:
        """Holds for rows behind this one, by the time in `field`."""
        # The first condition is what an index on the time can start from.
        return Q(**{f"{field}__gte": self.at}) & (
            Q(**{f"{field}__gt": self.at}) | Q(id__gt=self.id)
        )
