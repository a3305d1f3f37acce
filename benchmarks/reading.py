"""What it costs to make token states: texts read a second, and adds with and without them.

    python -m benchmarks.reading [--database sqlite | postgresql://…]

With the real local model, in process. `read` makes vector and states of many texts at once, as bulk
adds and the background job do; "one by one" is a single thread. Adds are verbatim, one memory each,
through the add service. Makes its own data directory and database, and removes both.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.processes import Database

TEXTS = 400
ADDS = 300
MANY = 100
ROOT = Path(__file__).resolve().parent.parent


def measure(database: Database) -> None:
    """Prints a table in Markdown."""
    import django

    django.setup()
    from django.core.management import call_command
    from django.db.models import Avg
    from django.db.models.functions import Length

    from accounts.models import Project
    from accounts.queries import project_view
    from core.principal import ALL_SCOPES, Principal
    from memories import runtime
    from memories.adding import service as adding
    from memories.engine.local_embedder import LocalEmbedder
    from memories.models import MemoryTokens
    from memories.tests import finding

    call_command("migrate", verbosity=0)
    running = runtime.open_runtime()
    runtime.install(running)
    project = project_view(Project.objects.get(slug="default"))
    principal = Principal(project=project, scopes=ALL_SCOPES, via="internal", is_owner=True)
    model = running.engine.embedder
    assert isinstance(model, LocalEmbedder), "the local model is not prepared: run `make embedder`"
    texts = [f"{text} #{n}" for n, text in enumerate(finding.texts() * 3)][:TEXTS]

    def add(*said: str) -> None:
        messages = [{"role": "user", "content": text} for text in said]
        adding.add_memories(principal, messages=messages, entities={"user_id": "u"}, infer=False)

    def show(name: str, count: int, do: Callable[[], Any]) -> None:
        do()
        cpu, started = time.process_time() + database.cpu_seconds(), time.perf_counter()
        do()
        seconds = time.perf_counter() - started
        cpu = time.process_time() + database.cpu_seconds() - cpu
        print(f"| {name} | {count / seconds:,.0f} | {cpu / count * 1000:.2f} |", flush=True)

    print("| what | texts a second | CPU ms each |")
    print("|---|---|---|")
    show("read, one by one", TEXTS, lambda: [model.read([text]) for text in texts])
    show("read, many at once", TEXTS, lambda: model.read(texts))
    show("vectors alone, many at once", TEXTS, lambda: model.embed(texts))
    reader = running.engine.reader
    for name, used in (("with states", reader), ("without", None)):
        running.engine.reader = used
        show(f"adds of one memory, {name}", ADDS, lambda: [add(text) for text in texts[:ADDS]])
        show(f"one add of {MANY} messages, {name}", MANY, lambda: add(*texts[:MANY]))
    sizes = MemoryTokens.objects.annotate(size=Length("data"))
    mean = sizes.aggregate(mean=Avg("size"))["mean"]
    print(f"\n{mean:,.0f} bytes of token states a memory (turns of the regression set)")
    running.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", default="sqlite", help="sqlite, or the URL of PostgreSQL")
    database = Database(parser.parse_args().database)
    models = Path(os.environ.get("MEM0DASH_DATA_DIR") or ROOT / "data") / "models"
    try:
        with tempfile.TemporaryDirectory(prefix="mem0dash-reading-") as folder:
            os.environ |= {
                "MEM0DASH_DATA_DIR": folder,
                "MEM0DASH_MODEL_DIR": str(models),
                "DJANGO_SETTINGS_MODULE": "mem0dash.settings",
                "LOG_LEVEL": "ERROR",
            }
            if database.url:
                os.environ["DATABASE_URL"] = database.url
            measure(database)
    finally:
        database.drop()


if __name__ == "__main__":
    main()
