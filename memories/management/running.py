"""What commands share: they write SQL; the process that serves updates its index."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from memories import runtime
from memories.engine import configuration
from memories.engine.engine import Engine


@contextmanager
def writing() -> Iterator[None]:
    """As `without_index`, with the configured providers."""
    engine = runtime.engine_of(configuration.current_configuration())
    runtime.install(runtime.Runtime(engine, None))
    try:
        yield
    finally:
        runtime.install(None)


def secret_from(path: str | None) -> str:
    """The secret in a file, or on standard input for "-": never on the command line, where every
    user of the machine can read it. OSError when it cannot be read."""
    if path is None:
        return ""
    return (sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")).strip()


@contextmanager
def without_index() -> Iterator[None]:
    """Services may be called in here: what they write stays pending for the serving process."""
    runtime.install(runtime.Runtime(Engine(None), None))
    try:
        yield
    finally:
        runtime.install(None)
