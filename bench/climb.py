"""Seeds in; how wrong the frozen forecasts of whole climbs were, as a table, out.

    python bench/climb.py --seeds 0 1 2 --out climbs
    python bench/climb.py --quick

Each climb is `stepladder demo` in a folder of its own; what an earlier call finished is kept.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path


def main() -> int:
    """Climb once for each seed and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("climbs"))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    print(
        "seed  horizon  forecast  measured    error  in 80 %  in 95 %  seconds forecast/measured  in 80 %"
        "  wall s"
    )
    errors, held = [], 0
    for seed in options.seeds:
        row = climb(options.out / f"seed{seed}", seed, quick=options.quick)
        loss, seconds = (score(row, name) for name in ("loss_bits_per_byte", "seconds"))
        errors.append(loss["relative_error"])
        held += inside(loss, "80")
        print(
            f"{seed:4d}  {row['forecast']['horizon']:6.2f}x  {loss['forecast']['value']:8.4f}  "
            f"{loss['outcome']:8.4f}  {loss['relative_error']:+7.2%}  {yes(inside(loss, '80')):>7}  "
            f"{yes(inside(loss, '95')):>7}  "
            f"{seconds['forecast']['value']:12.0f} / {seconds['outcome']:<10.0f}  "
            f"{yes(inside(seconds, '80')):>7}  {row['wall']:6.0f}",
            flush=True,
        )
    print(
        f"median absolute error {statistics.median(map(abs, errors)):.2%}, mean signed error "
        f"{statistics.mean(errors):+.2%}, {held} of {len(errors)} outcomes inside the 80 % interval"
    )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"largest process {peak:.2f} GiB")
    return 0


def climb(folder: Path, seed: int, *, quick: bool) -> dict:
    """One climb's JSON; wall seconds of the first, whole run are kept beside it."""
    started = time.monotonic()
    command = [
        sys.executable,
        "-m",
        "stepladder",
        "demo",
        "--folder",
        str(folder),
        "--seed",
        str(seed),
        "--json",
    ]
    done = subprocess.run([*command, *(["--quick"] if quick else [])], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    row = json.loads(done.stdout)
    kept = folder / "wall_seconds.txt"
    if not kept.exists():
        kept.write_text(str(time.monotonic() - started))
    return {**row, "wall": float(kept.read_text())}


def score(row: dict, quantity: str) -> dict:
    """The score of one quantity."""
    return next(item for item in row["scores"] if item["quantity"] == quantity)


def inside(item: dict, level: str) -> bool:
    """Whether the outcome lies in the interval of that level."""
    return item["forecast"][f"low{level}"] <= item["outcome"] <= item["forecast"][f"high{level}"]


def yes(value: bool) -> str:
    """Yes or NO."""
    return "yes" if value else "NO"


if __name__ == "__main__":
    sys.exit(main())
