"""Invented memories: who owns them, what they say, and queries that find some of them."""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

HEAVY_USER = "user-heavy"
OTHER_USERS = tuple(f"user-{number:02d}" for number in range(50))
TURNS = 20
_START = datetime(2025, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Row:
    """One memory to store; `run_id` is empty for a lone fact."""

    text: str
    user_id: str
    run_id: str
    role: str
    created_at: datetime


class Language:
    """3,000 invented words, as unevenly common as words are (Zipf)."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        syllables = ["".join(pair) for pair in itertools.product("bdfgklmnprstvz", "aeiou")]
        words = ["".join(parts) for parts in itertools.product(syllables, repeat=3)]
        self.words = random.Random(0).sample(words, 3000)
        self.weights = list(itertools.accumulate(1 / (rank + 3) for rank in range(3000)))

    def text(self, low: int, high: int) -> str:
        """`low` to `high` words."""
        count = self.random.randint(low, high)
        return " ".join(self.random.choices(self.words, cum_weights=self.weights, k=count))


def _owners() -> Iterator[str]:
    """The heavy user every second time, the others in turn between."""
    for user in itertools.cycle(OTHER_USERS):
        yield HEAVY_USER
        yield user


def rows(count: int) -> Iterator[Row]:
    """`count` memories in order of time: after every run of 20 turns, 40 lone facts."""
    language, owners = Language(seed=1), _owners()
    made = runs = 0
    while made < count:
        in_run = made % (3 * TURNS) < TURNS
        runs += in_run
        owner = next(owners)
        for turn in range(min(TURNS if in_run else 1, count - made)):
            yield Row(
                text=language.text(8, 24),
                user_id=owner,
                run_id=f"run-{runs:06d}" if in_run else "",
                role="assistant" if turn % 2 else "user",
                created_at=_START + timedelta(minutes=made),
            )
            made += 1
