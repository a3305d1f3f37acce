"""The index of a stopped server: compares it with the database, or takes from it what it may lose.

A row whose `indexed_rev` equals its `rev` claims to be in the index on disk; the others may be or
not. Run as a script with the server's environment: `compare` prints JSON, `lose-tail` does to the
index what a power cut may do to it.
"""

import json
import sys
from typing import Any

import django

django.setup()

from django.conf import settings  # noqa: E402
from django.db.models import F  # noqa: E402

from memories.index.base import Point  # noqa: E402
from memories.index.edge import EdgeIndex  # noqa: E402
from memories.models import IndexState, Memory  # noqa: E402


def compare(index: EdgeIndex) -> dict[str, Any]:
    """`broken` are claims that do not hold, `pending` rows without a claim, `unknown` no rows."""
    held = {str(id_): rev for id_, rev in index.scan_ids()}
    rows = {
        str(id_): (rev, indexed, deleted is None)
        for id_, rev, indexed, deleted in Memory.objects.values_list(
            "id", "rev", "indexed_rev", "deleted_at"
        )
    }
    broken = [
        {"id": id_, "rev": rev, "in_index": held.get(id_), "live": live}
        for id_, (rev, indexed, live) in rows.items()
        if rev == indexed and held.get(id_) != (rev if live else None)
    ]
    return {
        "live": sum(live for _, _, live in rows.values()),
        "held": len(held),
        "broken": broken,
        "pending": sum(rev != indexed for rev, indexed, _ in rows.values()),
        "unknown": sorted(held.keys() - rows.keys()),
    }


def lose_tail(index: EdgeIndex) -> dict[str, Any]:
    """Undoes in the index what was not yet written down: additions go, what was deleted is back."""
    pending = list(Memory.objects.filter(rev__gt=F("indexed_rev")))
    index.delete([row.id for row in pending])
    index.upsert(
        [
            Point(
                row.id,
                row.indexed_rev,
                row.text,
                None,
                {
                    "project": str(row.project_id),
                    "user_id": row.user_id,
                    "review_status": row.review_status,
                },
            )
            for row in pending
            if row.deleted_at is not None
        ]
    )
    index.flush()
    return {"lost": len(pending)}


if __name__ == "__main__":
    state = IndexState.objects.get()
    opened = EdgeIndex(settings.DATA_DIR / "index" / f"{state.generation:06d}", state.dims)
    print(json.dumps({"compare": compare, "lose-tail": lose_tail}[sys.argv[1]](opened)))
    opened.close()
