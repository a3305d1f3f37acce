"""The contracts about imports close: what nobody placed, and what stands in the wrong room, breaks
`make lint`."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.one_form

ROOT = Path(__file__).resolve().parents[2]
CONTRACTS: Any = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
LINT = Path(sys.executable).with_name("lint-imports")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of all that the contracts are about."""
    copy = tmp_path_factory.mktemp("house")
    shutil.copy(ROOT / "pyproject.toml", copy)
    for package in CONTRACTS["root_packages"]:
        shutil.copytree(
            ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__", "*.json")
        )
    return copy


def lint(house: Path) -> tuple[bool, str]:
    """Whether all contracts are kept, and what is said."""
    command = [str(LINT), "--no-cache"]
    done = subprocess.run(command, cwd=house, capture_output=True, text=True, timeout=60)
    return done.returncode == 0, done.stdout + done.stderr


def test_as_it_is_every_contract_is_kept(house: Path) -> None:
    kept, told = lint(house)
    assert kept, told


@pytest.mark.parametrize(
    ("module", "code", "contract"),
    [
        ("memories/search/new.py", "import mem0", "Only the engine knows mem0"),
        ("accounts/new.py", "from mem0 import Memory", "Only the engine knows mem0"),
        ("memories/views/new.py", "import qdrant_client", "Only the index knows Qdrant"),
        ("memories/mcp/new.py", "from memories import runtime", "Dialects and pages touch"),
        ("memories/mcp/new.py", "from memories.api.oss import shapes", "The rooms of memories"),
        ("memories/views/new.py", "import mcp_types", "Only the mouth for agents"),
        ("mem0dash/asgi_new.py", "from mcp.server import lowlevel", "Only the mouth for agents"),
        ("core/new.py", "from qdrant_edge import EdgeShard", "Only the index knows Qdrant"),
        ("memories/new.py", "", "The rooms of memories"),
        ("memories/new/__init__.py", "", "The rooms of memories"),
        ("jobs/new.py", "", "The queue, and what stands on it"),
        ("memories/storage/new.py", "from memories import queries", "The rooms of memories"),
        ("memories/views/new.py", "from memories.adding import extraction", "The doors of adding"),
        ("core/disk_new/__init__.py", "from accounts import models", "The apps:"),
        ("core/new.py", "", "What every app stands on"),
        ("mem0dash/new.py", "", "The composition root"),
        ("jobs/queue_new/__init__.py", "from memories import models", "The apps:"),
        ("accounts/new.py", "from mem0dash import settings", "The apps:"),
    ],
)
def test_what_stands_in_the_wrong_place_or_in_none_breaks_one(
    house: Path, module: str, code: str, contract: str
) -> None:
    file = house / module
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"{code}\n")
    try:
        kept, told = lint(house)
    finally:
        file.unlink()
        if file.name == "__init__.py":
            file.parent.rmdir()
    assert not kept
    broken = [line for line in told.splitlines() if line.startswith(contract)]
    assert any("BROKEN" in line for line in broken), told


def test_tests_may_reach_into_every_room(house: Path) -> None:
    file = house / "memories" / "tests" / "search" / "test_new.py"
    file.write_text("import mem0\nfrom memories.adding import extraction\n")
    try:
        kept, told = lint(house)
    finally:
        file.unlink()
    assert kept, told


def test_every_app_is_in_the_contracts() -> None:
    apps = {path.parent.name for path in ROOT.glob("*/apps.py")}
    assert apps == set(CONTRACTS["root_packages"])
    [layers] = [
        one["layers"] for one in CONTRACTS["contracts"] if one["name"].startswith("The apps")
    ]
    placed = {name.strip() for layer in layers for name in layer.split("|")}
    assert placed == apps
