"""How well memories are found: the ranker, the same without late interaction, and meaning and words
alone.

    python -m benchmarks.finding [--one-user]

Uses the regression set in memories/tests/data and the local embedding model.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from mem0dash.tests import environment  # noqa: F401  (own data, own database, before Django)

import django  # isort: skip

django.setup()

from django.core.management import call_command  # noqa: E402

from accounts.models import Project  # noqa: E402
from accounts.queries import project_view  # noqa: E402
from core.principal import ALL_SCOPES, Principal  # noqa: E402
from memories import runtime  # noqa: E402
from memories.tests import finding  # noqa: E402

RANKERS: dict[str, finding.Ranker] = {
    "ranker": finding.full,
    "first step": finding.first_step,
    "meaning": finding.dense_only,
    "words": finding.lexical_only,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one-user", action="store_true", help="everybody's memories in one pool")
    options = parser.parse_args()
    call_command("migrate", verbosity=0)
    root = Path(tempfile.mkdtemp(prefix="mem0dash-finding-"))
    running = runtime.open_runtime(index_root=root)
    runtime.install(running)
    project = project_view(Project.objects.get(slug="default"))
    principal = Principal(project=project, scopes=ALL_SCOPES, via="internal", is_owner=True)
    questions = finding.load(principal, one_user=options.one_user)
    report(principal, questions)
    running.close()
    shutil.rmtree(root)


def report(principal: Principal, questions: list[finding.Question]) -> None:
    kinds = sorted({q.kind for q in questions if q.relevant})
    names = " ".join(f"{name:>21}" for name in RANKERS)
    print(f"{'':14} {'':>4} {names}")
    heads = " ".join(f"{'r@3':>6} {'r@10':>6} {'mrr':>7}" for _ in RANKERS)
    print(f"{'kind':14} {'n':>4} {heads}")
    for kind in ["all", *kinds]:
        chosen = [q for q in questions if q.relevant and kind in ("all", q.kind)]
        cells = []
        for ranker in RANKERS.values():
            r3, r10 = (finding.recall(ranker, principal, chosen, at) for at in (3, 10))
            mrr = finding.reciprocal_rank(ranker, principal, chosen)
            cells.append(f"{100 * r3:6.1f} {100 * r10:6.1f} {100 * mrr:7.1f}")
        print(f"{kind:14} {len(chosen):4} {' '.join(cells)}")


if __name__ == "__main__":
    main()
