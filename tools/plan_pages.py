"""Pages of docs/plan in; the same pages with what their commands print today out.

python tools/plan_pages.py
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PAGES = Path(__file__).parents[1] / "docs" / "plan"
BLOCK = re.compile(r"^```(bash|toml)\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)


def main() -> None:
    """Run the blocks of each page in a folder of its own, in order."""
    for page in sorted(PAGES.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if "```bash\nstepladder plan" not in text:
            continue
        with tempfile.TemporaryDirectory() as folder:
            new = BLOCK.sub(lambda found, at=Path(folder): refreshed(found, at), text)
        print(f"{page.name}: {'changed' if new != text else 'as it was'}")
        page.write_text(new, encoding="utf-8")


def refreshed(found: re.Match[str], folder: Path) -> str:
    """The block, and after a command its output."""
    language, code, shown = found.groups()
    if language == "toml":
        (folder / "stepladder.toml").write_text(code)
    if language == "toml" or shown is None:
        return found[0]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["bash", "-euo", "pipefail", "-c", code]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True
    )
    return f"```bash\n{code}```\n\n```text\n{done.stdout}```\n"


if __name__ == "__main__":
    main()
