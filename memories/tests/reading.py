"""A running engine with the real local model, which reads token states."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.conf import settings

from memories import runtime
from memories.engine.engine import Engine
from memories.engine.local_embedder import load_embedder
from memories.tests.spare_index import SpareIndex


def local_model() -> Any:
    """The prepared model; without one the test is skipped, and fails where all of it has to run."""
    model = load_embedder()
    if model is None:
        message = f"no model in {settings.MODEL_DIR}: run `make embedder`"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    return model


@contextmanager
def reading_engine(model: Any, spare_index: SpareIndex) -> Iterator[runtime.Runtime]:
    """A runtime whose embedder is the local model, with late interaction on."""
    with spare_index.indexer(model.model_key, model.dims) as indexer:
        running = runtime.Runtime(Engine(model, reader=model), indexer)
        runtime.install(running)
        yield running
        runtime.install(None)
