"""Every command of the pages about plans runs as a reader would run it, and prints what the page shows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGES = Path(__file__).parents[2] / "docs" / "plan"
NAMES = (
    "index.md",
    "example-4090.md",
    "example-8xh100-spot.md",
    "example-256.md",
    "hardware-you-do-not-have.md",
)
BLOCK = re.compile(r"^```(bash|toml)\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", NAMES)
def test_the_commands_of_a_page_print_what_it_shows(name: str, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1"}
    blocks = BLOCK.findall((PAGES / name).read_text(encoding="utf-8"))
    assert len(blocks) >= 4
    for language, code, shown in blocks:
        if language == "toml":
            (tmp_path / "stepladder.toml").write_text(code)
            continue
        command = ["bash", "-euo", "pipefail", "-c", code]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{code}\n{done.stderr}"
        # Prices age and models of speed improve: the figures may move, the first words of a line may not.
        assert _first_word(shown) == _first_word(done.stdout), code


def _first_word(text: str) -> str:
    return text.split(maxsplit=1)[0]
