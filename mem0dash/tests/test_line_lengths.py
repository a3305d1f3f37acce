"""Lines of style sheets, scripts and templates fit into an editor's window."""

import re
from pathlib import Path
from typing import Final

import pytest
from django.conf import settings

pytestmark = pytest.mark.one_form

MOST: Final = 120
ROOT: Final = Path(settings.BASE_DIR)


def _files() -> list[Path]:
    """All but static/vendor, which is kept as it was published."""
    found = [*ROOT.glob("static/*"), *ROOT.glob("static/css/*"), *ROOT.glob("templates/**/*.html")]
    assert len(found) > 100
    return sorted(path for path in found if path.suffix in {".css", ".html", ".js"})


def test_no_line_of_a_style_script_or_template_is_longer_than_120_columns() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{number}: {len(line)}"
        for path in _files()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > MOST
    ]
    assert not long, "\n".join(long)


def test_every_style_sheet_is_linked_from_every_page_once() -> None:
    document = (ROOT / "templates" / "_document.html").read_text()
    linked = re.findall(r"{% static '(css/[^']+)' %}", document)
    assert sorted(linked) == sorted(f"css/{path.name}" for path in ROOT.glob("static/css/*.css"))
