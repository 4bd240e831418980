"""A Python and an index of packages in; a virtual environment with stepladder and its tools out.

Says in one line each what is installed and why. Standard library only: this runs before anything is
installed. torch comes first, because a package that depends on it would otherwise bring a CUDA build of
several gigabytes to a machine without a GPU.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TORCH_PIN = "2.13.0"
# PyTorch's own index of CPU wheels: used only when the configured index offers no small CPU wheel.
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
EXTRAS, GROUPS = "train,ui", ("dev",)
PIP_FOR_GROUPS = (25, 1)


def main() -> int:
    """Make the environment; return pip's exit code on failure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--torch", default="", help="a requirement (torch==2.13.0), wheel or index address")
    arguments = parser.parse_args()
    if sys.version_info < (3, 11):
        return fail(
            f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}", "PYTHON=python3.11 make"
        )
    if not shutil.which("gcc") and not shutil.which("cc"):
        say("no C compiler found: torch.compile and some source packages will not work")
    started = time.monotonic()
    python = make_venv(arguments.venv)
    try:
        upgrade_pip(python)
        install_torch(python, arguments.torch)
        say(f"stepladder[{EXTRAS}] from this folder, with the tools of its checks and tests")
        groups = [word for group in GROUPS for word in ("--group", group)]
        pip(python, "-e", f"{ROOT}[{EXTRAS}]", *groups, "-c", str(ROOT / "constraints.txt"))
    except subprocess.CalledProcessError as error:
        return fail(
            f"pip stopped with exit code {error.returncode}; its last lines stand above", "make setup"
        )
    say(f"ready in {time.monotonic() - started:.0f} s: {arguments.venv}/bin/stepladder --help")
    return 0


def make_venv(folder: Path) -> str:
    """Create the environment unless it is there; return its interpreter."""
    python = folder / "bin" / "python"
    if not python.exists():
        say(f"virtual environment {folder} (nothing is installed outside it)")
        venv.create(folder, with_pip=True)
    return str(python)


def upgrade_pip(python: str) -> None:
    """pip >= 25.1 understands dependency groups."""
    shown = subprocess.run(
        [python, "-m", "pip", "--version"], capture_output=True, text=True, check=True
    ).stdout
    found = tuple(int(part) for part in re.findall(r"\d+", shown)[:2])
    if found < PIP_FOR_GROUPS:
        say(f"pip {'.'.join(map(str, found))} -> newest, for dependency groups")
        pip(python, "--upgrade", "pip>=25.1")


def install_torch(python: str, wanted: str) -> None:
    """torch before everything else: as asked, CUDA where there is a GPU, else the CPU wheel."""
    if subprocess.run([python, "-c", "import torch"], capture_output=True).returncode == 0:
        say("torch is there already: kept")
        return
    if wanted.startswith(("http://", "https://")):
        say(f"torch from {wanted}: asked for by TORCH")
        pip(python, "torch", "--index-url", wanted)
    elif wanted:
        say(f"{wanted}: asked for by TORCH")
        pip(python, wanted)
    elif shutil.which("nvidia-smi") and subprocess.run(["nvidia-smi"], capture_output=True).returncode == 0:
        say("torch, CUDA build: an NVIDIA GPU is present")
        pip(python, "torch")
    elif offers_cpu_wheel(python):
        say(f"torch {TORCH_PIN}, CPU wheel of the configured index: no GPU here")
        pip(python, f"torch=={TORCH_PIN}")
    else:
        say("torch, CPU wheel of PyTorch's own index: no GPU here, and the configured index offers only CUDA")
        pip(python, "torch", "--index-url", TORCH_CPU_INDEX)


def offers_cpu_wheel(python: str) -> bool:
    """Whether installing the pinned torch would bring no CUDA libraries (asked of pip without installing)."""
    command = [python, "-m", "pip", "install", "--dry-run", "--quiet", "--report", "-", f"torch=={TORCH_PIN}"]
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        return False
    names = [item["metadata"]["name"].lower() for item in json.loads(answer.stdout)["install"]]
    return not any(name.startswith(("nvidia", "cuda", "triton")) for name in names)


def pip(python: str, *words: str) -> None:
    """pip install, quiet but for errors."""
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *words], check=True
    )


def say(text: str) -> None:
    """One line of what is done and why."""
    print(f"[setup] {text}", flush=True)


def fail(wrong: str, next_command: str) -> int:
    """Print the error in the form of the house; return 2."""
    print(f"error: {wrong}\n  next:    {next_command}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
