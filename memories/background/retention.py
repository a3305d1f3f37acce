"""What was deleted long enough ago is removed for good, by itself."""

from typing import Final

from jobs.kinds import Kind
from jobs.running import Run
from memories.editing import erasing as purge
from memories.providers import reembedding


def _purge(run: Run) -> None:
    count = purge.purge_all(run.beat)
    with run.finishing(f"{count:,} {'memory' if count == 1 else 'memories'} removed"):
        pass


def _drop(run: Run) -> None:
    model_key, total = run.payload["model_key"], 0
    while some := reembedding.drop_some(model_key):
        total += some
        run.beat(total)
    with run.finishing(f"{total:,} {'vector' if total == 1 else 'vectors'} removed"):
        pass


RETENTION: Final = Kind(
    name="memories.retention",
    title="Remove deleted memories",
    about=lambda _: "Those whose retention time is over, with old inputs, undo data and audit",
    handler=_purge,
    lease_seconds=120.0,
    schedule="every hour",
)
DROPPING: Final = Kind(
    name=reembedding.DROP,
    title="Remove unused vectors",
    about=lambda payload: str(payload.get("model_key", "")),
    handler=_drop,
)
