"""Every command of README and tutorial is run as a reader would run it, in order, in a fresh folder."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The tutorial's climb takes a quarter of an hour; its test takes the same steps with less of each.
SMALL = """
[override]
vocab_size = 512
context_tokens = 64
num_layers = 2
num_heads = 2
rung_tokens = 40_000
rungs = 10
horizon = 4
"""


def blocks(page: str, *languages: str) -> list[str]:
    """Fenced code of these languages ("" for none), in order."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    return [code for language, code in found if language in languages]


def run(script: str, folder: Path) -> str:
    """The script's output; the test fails when a command of it does."""
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{script}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.timeout(600)
def test_readme(tmp_path: Path) -> None:
    shell = blocks("README.md", "bash")
    assert len(shell) >= 2
    shown = "".join(run(block, tmp_path) for block in shell)
    assert "run,loss,low80,high80,low95,high95,status" in shown
    assert (tmp_path / "stepladder.toml").exists()


def test_every_make_target_of_the_pages_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in ("README.md", "CONTRIBUTING.md", "AGENTS.md", "docs/index.md"):
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / page).read_text(), re.MULTILINE))
        assert named
        assert named <= targets, page


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_tutorial(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.glob("*.py"))[:160]:
        shutil.copy(path, texts)
    brief = blocks("docs/tutorial.md", "toml")[0].replace("hours = 0.25", "hours = 0.1")
    for block in blocks("docs/tutorial.md", ""):
        for line in filter(None, block.splitlines()):
            run(line, tmp_path)
            if line == "stepladder init":
                (tmp_path / "stepladder.toml").write_text(brief + SMALL)
    assert (tmp_path / "report.html").exists()
    assert (tmp_path / "export" / "config.json").exists()
