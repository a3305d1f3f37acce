"""What compose.yaml passes on, what README.md promises, and what settings read are the same."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.conf import settings

from core.http.hosts import OWN_NAMES
from memories.engine.catalogue import PROVIDERS

pytestmark = pytest.mark.one_form

ROOT = Path(__file__).resolve().parent.parent.parent
SERVERS = ("mem0dash", "web", "worker")
# What the image decides: .env and the shell must not.
OWN = {"HOST", "PORT", "MEM0DASH_DATA_DIR", "MEM0DASH_MODEL_DIR"}
NAME = re.compile(r"`([A-Z][A-Z0-9_]+)`")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "compose.yaml").read_text())["services"])


def read_by_settings() -> set[str]:
    """The variables that settings ask core.env for."""
    tree = ast.parse((ROOT / "mem0dash" / "settings.py").read_text())
    asked: set[str] = set()
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "env"
        ):
            # Only what these read: `parse_list` and `load_secret` name theirs first, then a value.
            first = node.args if node.func.attr in {"text_of_either", "take_out"} else node.args[:1]
            asked |= {a.value for a in first if isinstance(a, ast.Constant)}
    return asked


def of_providers() -> set[str]:
    return {
        name
        for provider in PROVIDERS.values()
        for name in (*provider.variables, *provider.address_variables)
    }


def table() -> set[str]:
    """The first column of the table of variables in README.md."""
    text = (ROOT / "README.md").read_text()
    rows = text[text.index("| variable | default") :].split("\n\n")[0].splitlines()[2:]
    return {name for row in rows for name in NAME.findall(row.split("|")[1])}


def test_every_variable_that_is_read_is_documented() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    told = {name for page in pages for name in NAME.findall(page.read_text())}
    assert not (read_by_settings() | of_providers()) - told


def test_every_variable_in_the_table_is_read() -> None:
    assert not table() - read_by_settings() - of_providers()


@pytest.mark.parametrize("name", SERVERS)
def test_every_variable_in_the_table_reaches_the_server(
    services: dict[str, Any], name: str
) -> None:
    """From .env, as all others do, and from the shell."""
    service = services[name]
    assert service["env_file"] == [{"path": ".env", "required": False}]
    assert not table() - set(service["environment"])
    for variable, value in service["environment"].items():
        # A value of its own would stand above .env; one made of nothing would be an empty one.
        assert variable in OWN | {"DATABASE_URL", "QDRANT_URL", "QDRANT_API_KEY"} or value is None
    assert service["environment"]["HOST"] == "0.0.0.0"
    assert service["environment"]["PORT"] == "8000"


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_reaches_the_machine_below_and_has_the_time_to_end(
    services: dict[str, Any], name: str
) -> None:
    service = services[name]
    assert "host.docker.internal:host-gateway" in service["extra_hosts"]
    assert service["init"] is True
    assert int(service["stop_grace_period"].removesuffix("s")) >= settings.STOP_SECONDS + 10


def test_what_stands_in_env_gets_into_no_image_and_no_commit() -> None:
    for name, line in ((".dockerignore", ".env"), (".gitignore", "/.env")):
        assert line in (ROOT / name).read_text().splitlines(), name


def test_the_server_knows_the_names_that_its_network_has_for_it(services: dict[str, Any]) -> None:
    assert {name for name, service in services.items() if service.get("ports")} <= OWN_NAMES
