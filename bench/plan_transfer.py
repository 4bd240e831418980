"""Published steps in; how much the speed of a device changes with the number of devices, or the device, out.

`python bench/plan_transfer.py ../shared/reference/layout/configs_public.csv`: the spread that a plan adds to
speed measured elsewhere (`plan/pastruns.py`).
"""

import csv
import math
import sys
from collections import defaultdict
from itertools import combinations
from pathlib import Path
from statistics import mean, median

PEAKS = {
    "V100": 125,
    "A100": 312,
    "A800": 312,
    "H100": 989,
    "H200": 989,
    "B200": 2250,
    "GB200": 2500,
    "GB300": 2500,
}


def best_rates(path: Path) -> dict[tuple[str, ...], dict[tuple[str, int], float]]:
    """For each model of each source, tokens/s a device of the best layout, by device and their number."""
    found: dict[tuple[str, ...], dict[tuple[str, int], float]] = defaultdict(dict)
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["status"] != "ok" or row["trap"] or not row["tok_s_gpu"]:
                continue
            key = (
                row["group"],
                row["model"],
                row["layers"],
                row["hidden"],
                row["seq"],
                row["dtype"],
                row["experts"],
            )
            place = (row["hw"], int(float(row["gpus"])))
            found[key][place] = max(found[key].get(place, 0.0), float(row["tok_s_gpu"]))
    return found


def main() -> None:
    """Print the spreads, each source counted once."""
    doublings, devices = defaultdict(list), defaultdict(list)
    for key, rates in best_rates(Path(sys.argv[1])).items():
        for (hw, count), (other, more) in combinations(sorted(rates), 2):
            ratio = math.log(rates[other, more] / rates[hw, count])
            if hw == other and count != more:
                doublings[key[0]].append((abs(math.log2(more / count)), ratio * (1 if more > count else -1)))
            elif hw != other and count == more and hw in PEAKS and other in PEAKS:
                devices[key[0]].append(ratio - math.log(PEAKS[other] / PEAKS[hw]))
    for name, pairs in sorted(doublings.items()):
        each = [ratio / steps for steps, ratio in pairs]
        root = math.sqrt(mean(ratio**2 / steps for steps, ratio in pairs))
        print(
            f"{name:24s} {len(pairs):4d} pairs: {median(each):+.3f} a doubling, {root:.3f} x sqrt(doublings)"
        )
    roots = [math.sqrt(mean(r**2 / s for s, r in pairs)) for pairs in doublings.values()]
    print(f"all: median over sources {median(roots):.3f} x sqrt(doublings), largest {max(roots):.3f}")
    for name, ratios in sorted(devices.items()):
        print(
            f"{name:24s} {len(ratios):4d} pairs of devices: root mean square "
            f"{math.sqrt(mean(r**2 for r in ratios)):.3f}"
        )


if __name__ == "__main__":
    main()
