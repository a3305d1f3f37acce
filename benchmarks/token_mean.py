"""Makes memories/engine/token_mean.npy: what the states of all word pieces have in common.

    python -m benchmarks.token_mean

The mean over the texts of the sample memories, which are no part of any figure. To change it is to
change token_reader.STATES_KEY: states with another mean taken off cannot be compared.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mem0dash.tests import environment  # noqa: F401  (own data, own database, before Django)

import django  # isort: skip

django.setup()

import numpy as np  # noqa: E402
from django.conf import settings  # noqa: E402

from memories.engine.local_embedder import LocalEmbedder  # noqa: E402

MEMORIES = Path(__file__).resolve().parent.parent / "memories"


def texts(part: Any) -> Iterator[str]:
    """Every text in the sample set, however deep."""
    if isinstance(part, dict):
        for name, value in part.items():
            if name in {"text", "content"} and isinstance(value, str):
                yield value
            else:
                yield from texts(value)
    elif isinstance(part, list):
        for value in part:
            yield from texts(value)


def main() -> None:
    embedder = LocalEmbedder.load(settings.MODEL_DIR)
    if embedder is None:
        raise SystemExit("The local model is not prepared: run `make embedder`.")
    data = json.loads((MEMORIES / "demo" / "demo_set.json").read_text(encoding="utf-8"))
    states = np.concatenate([embedder.states(text) for text in texts(data)])
    mean = states.mean(axis=0).astype(np.float32)
    path = MEMORIES / "engine" / "token_mean.npy"
    former = np.load(path) if path.exists() else np.zeros_like(mean)
    np.save(path, mean)
    print(f"{len(states):,} word pieces; changed by at most {np.abs(mean - former).max():.6f}")


if __name__ == "__main__":
    main()
