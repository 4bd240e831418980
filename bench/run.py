"""Nothing in; every benchmark that needs no GPU, one after the other, printed as it runs, out.

    make bench

The figures of the last runs, with date and machine, are kept in bench/README.md, bench/laws/README.md and
bench/plan/README.md.
"""

import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parent
COMMANDS = (
    ("the solver against its peers", ["laws/peers.py"]),
    ("ladders with a known truth", ["laws/synthetic.py", "4"]),
    ("hold-outs of public sets (needs the reference data)", ["laws/holdout.py"]),
    ("how size and data limit each other", ["laws/coupling.py"]),
    ("pooled corpora", ["laws/pooled.py"]),
    ("repeated data", ["laws/repeat.py"]),
    ("task metrics", ["laws/tasks.py"]),
    ("mixtures of domains", ["laws/mixture.py", "4"]),
    ("step time of published configurations (reference data)", ["plan/steps.py"]),
    ("regret of the chosen layout (reference data)", ["plan/choice.py"]),
    ("memory of published configurations (reference data)", ["plan/memory.py"]),
    ("hours of published runs (reference data)", ["plan/hours.py"]),
    ("energy of published runs (reference data)", ["plan/energy.py"]),
    ("goodput against a simulation", ["plan/goodput.py"]),
    ("all layouts of 1,024 GPUs", ["plan/search.py"]),
    ("what two cores are worth", ["train/scaling.py"]),
    ("speed of the loop's parts against plain PyTorch", ["train_step.py"]),
    ("three whole climbs (twenty minutes)", ["climb.py", "--out", "climbs"]),
    ("three ladders, targets of 10 and 30 times (an hour)", ["ladders.py", "--out", "ladders"]),
)


def main() -> int:
    """Run all; the exit code counts the benchmarks that failed."""
    failed = 0
    for title, words in COMMANDS:
        print(f"\n== {title}: python bench/{' '.join(words)}", flush=True)
        failed += subprocess.run([sys.executable, str(BENCH / words[0]), *words[1:]]).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
