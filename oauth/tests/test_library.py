"""What the next release of the library moves is imported in one place, and is still there."""

import ast
from pathlib import Path

import pytest

from oauth import library

pytestmark = pytest.mark.one_form

ROOT = Path(__file__).resolve().parent.parent
MOVING = (
    "oauth2_provider.cimd",
    "oauth2_provider.dcr",
    "oauth2_provider.oauth2_backends",
    "oauth2_provider.views.dynamic_client_registration",
)


def test_only_one_module_imports_what_moves() -> None:
    found = set()
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in MOVING:
                found.add(path.relative_to(ROOT).as_posix())
    assert found == {"library.py"}


def test_nothing_of_it_has_moved_yet() -> None:
    """The next release leaves names behind that come from elsewhere."""
    assert {getattr(library, name).__module__ for name in library.__all__} <= set(MOVING)
