"""Commands for operators. They write SQL; the process that serves brings its index after it."""

from collections.abc import Iterator
from contextlib import contextmanager

from memories import runtime
from memories.engine.engine import Engine


@contextmanager
def without_index() -> Iterator[None]:
    """Services may be called in here: what they write stays pending for the serving process."""
    runtime.install(runtime.Runtime(Engine(None), None))
    try:
        yield
    finally:
        runtime.install(None)
