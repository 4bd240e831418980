"""Print how fast all layouts of 1,024 GPUs are costed, and how well published layouts are told apart.

Run: .venv/bin/python bench/plan/search.py (data: `../shared/reference/layout`, or a folder as argument)

Regret: measured seconds of the layout that would be chosen among those that were measured, over the fastest
of them (1 is the best). The constants of the step's terms were fitted to these rows too: that part is not a
held-out score. The rule is the least tensor, the least pipeline, the largest micro-batch.
"""

import csv
import itertools
import math
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from stepladder.models.shape import shape_for_width
from stepladder.plan.hardware import find_device
from stepladder.plan.layoutsearch import PAIR_LOG90, Place, rank_layouts
from stepladder.plan.steprows import config_of, refusal
from stepladder.plan.steptime import step_seconds
from stepladder.records import Layout, Recipe

REFERENCE = Path(__file__).parents[2].parent / "shared" / "reference" / "layout"
ALIKE = ("group", "sub", "hw", "hidden", "layers", "seq", "gbs", "gpus", "dtype", "framework", "recompute")
ROUNDS = 5

Row = Mapping[str, str]


def main() -> int:
    """Speed, then regret."""
    shape = shape_for_width(8192, 80, vocab_size=131_072, context_tokens=4096, num_heads=64)
    recipe = Recipe(batch_tokens=1024 * 4096, embed_lr=1.0, head_lr=1.0, hidden_lr=1.0)
    base = Layout(device="cuda", processes=1024, nodes=128, precision="bf16")
    place = Place(base=base, device=find_device("h100-sxm"))
    seconds = []
    for _ in range(ROUNDS):
        started = time.process_time()
        choice = rank_layouts(shape, recipe, place)
        seconds.append(time.process_time() - started)
    print(
        f"1,024 H100, 80 layers of 8,192: {choice.legal:,} legal layouts, {choice.fitting:,} fit, "
        f"{min(seconds):.2f} CPU seconds ({max(seconds):.2f} at most in {ROUNDS} rounds)"
    )
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else REFERENCE
    if (folder / "configs_public.csv").exists():
        regrets(folder / "configs_public.csv")
    return 0


def regrets(path: Path) -> None:
    """Regret by source, and the spread of the error in the ratio of two layouts."""
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            usable = row["status"] == "ok" and not row["trap"] and row["step_s"] and not refusal(row)
            if usable and float(row["experts"] or 0) <= 1:
                groups[tuple(row[name] for name in ALIKE)].append(row)
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    pairs: dict[str, list[float]] = defaultdict(list)
    for key, rows in groups.items():
        if len({layout_of(row) for row in rows}) < 3:
            continue
        measured = [float(row["step_s"]) for row in rows]
        forecast = step_seconds(config_of(rows)).tolist()
        by_model = measured[int(np.argmin(forecast))] / min(measured)
        by_rule = measured[min(range(len(rows)), key=lambda at: rule_key(rows[at]))] / min(measured)
        found[key[0]].append((by_model, by_rule))
        errors = [math.log(a / b) for a, b in zip(forecast, measured, strict=True)]
        pairs[key[0]] += [abs(one - other) for one, other in itertools.combinations(errors, 2)]
    for name, values in sorted(found.items()):
        model, rule = (np.array(column) for column in zip(*values, strict=True))
        print(
            f"{name}: {len(values)} choices, mean regret forecast {model.mean():.3f} "
            f"(worst {model.max():.2f}), rule {rule.mean():.3f} (worst {rule.max():.2f})"
        )
    spread = [float(np.quantile(errors, 0.9)) for errors in pairs.values()]
    print(
        f"nine in ten ratios of two layouts are forecast within {math.exp(np.median(spread)):.2f}x "
        f"(median of {len(spread)} sources; the search takes {math.exp(PAIR_LOG90):.2f})"
    )


def layout_of(row: Row) -> Sequence[str]:
    """What a choice is among."""
    return tuple(row[name] for name in ("tp", "pp", "cp", "mbs", "vpp"))


def rule_key(row: Row) -> tuple[float, float, float]:
    """The rule of thumb."""
    return float(row["tp"] or 1), float(row["pp"] or 1), -float(row["mbs"] or 1)


if __name__ == "__main__":
    raise SystemExit(main())
