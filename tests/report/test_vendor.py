"""The vendored JavaScript is what its record says, and fit to stand inside a page."""

import hashlib
import json
from importlib import resources

import pytest

from stepladder.report.page import VENDORED

FOLDER = resources.files("stepladder.report") / "vendor"
RECORD = json.loads((FOLDER / "checksums.json").read_text(encoding="utf-8"))


def test_every_file_is_recorded():
    assert set(VENDORED) == set(RECORD)
    scripts = {path.name for path in FOLDER.iterdir() if path.name.endswith(".js")}
    assert set(RECORD) == scripts


@pytest.mark.parametrize("name", VENDORED)
def test_checksum_version_and_licence(name):
    content = (FOLDER / name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == RECORD[name]["sha256"]
    # vega and vega-lite export their version; vega-embed's stands in its own bundle too.
    assert f'"{RECORD[name]["version"]}"'.encode() in content
    assert RECORD[name]["licence"] == "BSD-3-Clause"
    licence = (FOLDER / RECORD[name]["licence_file"]).read_text(encoding="utf-8")
    assert "University of Washington Interactive Data Lab" in licence


@pytest.mark.parametrize("name", VENDORED)
def test_no_file_ends_its_script_element(name):
    text = (FOLDER / name).read_text(encoding="utf-8").lower()
    assert "</script" not in text
    assert "<!--" not in text
