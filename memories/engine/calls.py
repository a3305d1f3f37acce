"""When a provider last answered this process, and since when it has failed."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from django.utils import timezone

from core.errors import ProviderError


class CallRecord:
    """The outcome of a provider's latest calls. Each attribute is written atomically, so threads
    may read at any time."""

    def __init__(self) -> None:
        self.answered_at: datetime | None = None
        # The first failure since the last answer, and the latest one; None while it answers.
        self.failing_since: datetime | None = None
        self.failure: ProviderError | None = None

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Records the outcome of the call in the block."""
        try:
            yield
        except ProviderError as error:
            self.failing_since = self.failing_since or timezone.now()
            self.failure = error
            raise
        self.failing_since = self.failure = None
        self.answered_at = timezone.now()
