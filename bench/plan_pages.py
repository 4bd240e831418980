"""Pages of docs/plan in; the same pages with what their commands print now, out.

`python bench/plan_pages.py docs/plan/*.md`: each `bash` block is run, in order, in an empty folder that has
the page's `toml` block as stepladder.toml; a `text` block after it is replaced by its output.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

BLOCK = re.compile(r"^```(bash|toml)\n(.*?)^```\n(?:\n```text\n.*?^```\n)?", re.MULTILINE | re.DOTALL)


def outputs(page: str, folder: Path) -> Iterator[tuple[re.Match[str], str]]:
    """Each block of the page with what it printed; a failing one raises CalledProcessError."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for block in BLOCK.finditer(page):
        if block[1] == "toml":
            (folder / "stepladder.toml").write_text(block[2])
            yield block, ""
            continue
        command = ["bash", "-euo", "pipefail", "-c", block[2]]
        environment = {**os.environ, "PATH": path}
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{block[2]}\n{done.stdout}\n{done.stderr}")
        yield block, done.stdout


def refreshed(page: str) -> str:
    """The page with new output."""
    with tempfile.TemporaryDirectory() as folder:
        for block, text in list(outputs(page, Path(folder))):
            shown = f"\n```text\n{text.rstrip()}\n```\n" if text.strip() else ""
            page = page.replace(block[0], f"```{block[1]}\n{block[2]}```\n{shown}")
    return page


def main() -> None:
    """Rewrite the pages that are named."""
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(refreshed(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
