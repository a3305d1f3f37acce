"""Random memories with every column that the browser reads, for comparison with plain Python."""

import random
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from django.utils import timezone

from memories import texts
from memories.browse.selection import Selection
from memories.models import Collection, Confidence, Memory, ReviewStatus

WORDS = (
    *("Tee", "grüner", "Straße", "STRASSE", "django", "50%", "under_score", "it's", '"quoted"'),
    *("北京", "北京烤鸭", "قهوة", "الصباح", "🚀", "👩‍💻", "ΣΊΣΥΦΟΣ", "naïve", "back\\slash", "ﬁne"),
)


def make(project: Any, count: int, *, seed: int = 1, **fixed: Any) -> list[Memory]:
    """Stores `count` random memories by SQL alone; every tenth is deleted."""
    rng = random.Random(seed)
    now = timezone.now()
    rows = []
    for n in range(count):
        text = " ".join(rng.choices(WORDS, k=rng.randint(1, 6)))
        created = now - timedelta(minutes=rng.randrange(60 * 24 * 60))
        values = {
            "collection": rng.choice(Collection.values),
            "user_id": rng.choice(["", "mara", "jonas", f"u{n % 40}"]),
            "agent_id": rng.choice(["", "opencode", "claude"]),
            "app_id": rng.choice(["", "", "shop"]),
            "run_id": rng.choice(["", "", f"run-{n // 5}"]),
            "source": rng.choice(["", "cli", "import:x"]),
            "confidence": rng.choice(Confidence.values),
            "review_status": rng.choice(ReviewStatus.values),
            "expires_at": rng.choice([None, None, now + timedelta(days=rng.uniform(-20, 20))]),
            "expiration_date": rng.choice(
                [None, None, (now + timedelta(days=rng.randint(-20, 20))).date()]
            ),
            "metadata": rng.choice([{}, {"topic": "tea"}, {"topic": "code", "n": 5}, {"n": "5"}]),
            "created_at": created,
            "updated_at": rng.choice([created, now - timedelta(minutes=rng.randrange(5000))]),
            "deleted_at": now if rng.random() < 0.1 else None,
            **fixed,
        }
        text = values.pop("text", text)
        rows.append(
            Memory(
                id=uuid.UUID(int=rng.getrandbits(128), version=4),
                project=project,
                text=text,
                text_fold=texts.fold(text),
                fingerprint=texts.fingerprint(text),
                **values,
            )
        )
    Memory.objects.bulk_create(rows)
    return rows


def ends(row: Memory) -> datetime | None:
    """When a memory stops to hold, in plain words."""
    found = [row.expires_at] if row.expires_at else []
    if row.expiration_date:
        day = row.expiration_date + timedelta(days=1)
        found.append(datetime(day.year, day.month, day.day, tzinfo=UTC))
    return min(found) if found else None


def expiry(row: Memory, now: datetime) -> str:
    at = ends(row)
    if at is None:
        return "never"
    if at <= now:
        return "expired"
    # A date holds until the end of its day, here and there.
    week = now + timedelta(days=7)
    date_soon = row.expiration_date and row.expiration_date < week.date()
    soon = date_soon or (row.expires_at and row.expires_at <= week)
    return "soon" if soon else "later"


def fits(row: Memory, selection: Selection, *, without: str = "") -> bool:
    """The selection's meaning, in plain Python: created, updated and metadata are left out."""
    now = timezone.now()
    if bool(row.deleted_at) != selection.deleted or (row.deleted_at and not row.text):
        return False
    if selection.by_words and texts.fold(selection.q) not in texts.fold(row.text):
        return False
    for name, values in selection.fields.items():
        if name in {without, "deleted"}:
            continue
        if name == "expiry":
            own = expiry(row, now)
        elif name == "metadata":
            continue
        else:
            own = getattr(row, name)
        if own not in values:
            return False
    return True
