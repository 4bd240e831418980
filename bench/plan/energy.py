"""Print how well energy given hours is forecast, on runs whose energy was measured (never hours x TDP).

Run: .venv/bin/python bench/plan/energy.py (data: `../shared/reference/compute`, or a folder as argument)
"""

import csv
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import stepladder.plan.power as power
from stepladder.plan.hardware import find_device
from stepladder.plan.published import size_of

REFERENCE = Path(__file__).parents[2].parent / "shared" / "reference" / "compute"
HALVES = np.geomspace(1e6, 1e10, 81)
# Jouppi et al., ISCA 2023: mean watts of the TPU v3 chip alone, for scoring its systems without their own
# measurements; the host's share on top is that of plan/power.py.
TPU_V3_CHIP = 220.0

Row = Mapping[str, str]


def measured(folder: Path) -> list[Row]:
    """Rows whose energy a counter or a meter gave."""
    if not folder.is_dir():
        raise SystemExit(f"the published runs are read from {folder}, which is absent")
    with (folder / "runs_public.csv").open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["energy_kind"].startswith("measured")]


def true_watts(row: Row) -> float:
    """Mean watts of a device, PUE taken out."""
    return float(row["energy_mwh"]) * 1e6 / float(row["acc_hours"]) / float(row["pue"] or 1)


def gpu_watts(row: Row, half: float) -> float:
    """The product's forecast with `half` as its one fitted constant."""
    device = find_device(row["hw_id"])
    size = size_of(row, device)
    kept, power._HALF_PARAMS = power._HALF_PARAMS, half
    try:
        alone = power.device_watts(device, size) if row["energy_scope"].startswith("gpu") else None
        return (alone or power.system_watts(device, size)).value
    finally:
        power._HALF_PARAMS = kept


def fit(rows: Sequence[Row]) -> float:
    """The size that half fills a device, with the least sum of absolute log errors."""
    return float(
        min(
            HALVES,
            key=lambda half: sum(abs(math.log(gpu_watts(row, half) / true_watts(row))) for row in rows),
        )
    )


def show(name: str, off: Sequence[float], note: str = "") -> None:
    """One line."""
    sizes = np.abs(np.array(off))
    print(f"{name:<52} n {len(off):>2}  median {np.median(sizes):.1%}  MAPE {sizes.mean():.1%}  {note}")


def main(folder: Path) -> None:
    """Print three ways of scoring, and each row."""
    rows = measured(folder)
    tpus = [row for row in rows if row["hw_id"].startswith("tpu")]
    gpus = [row for row in rows if row not in tpus]
    tdp = [0.9 * find_device(row["hw_id"]).tdp_watts / true_watts(row) - 1 for row in rows]
    show(".9 x TDP", tdp, "known: 39 %")
    print(f"size that half fills a device, of all {len(gpus)} runs on GPUs: {fit(gpus):.2g} parameters")

    def of_tpus(others_known: bool) -> list[float]:
        off = []
        for row in tpus:
            others = [math.log(true_watts(one)) for one in tpus if one is not row]
            watts = math.exp(np.mean(others)) if others_known else TPU_V3_CHIP * power._SYSTEM_OVER_DEVICE
            off.append(watts / true_watts(row) - 1)
        return off

    def of_gpus(key: str) -> list[float]:
        return [
            gpu_watts(row, fit([one for one in gpus if one[key] != row[key]])) / true_watts(row) - 1
            for row in gpus
        ]

    runs, families = of_gpus("id") + of_tpus(True), of_gpus("family") + of_tpus(False)
    show("one run left out", runs, "asked: 15 %")
    show("one family left out", families, "asked: 15 %")
    show("one family left out, GPUs only", families[: len(gpus)])
    spread = np.log1p(np.array(families[: len(gpus)]))
    print(f"standard deviation of their logs: {np.sqrt(np.mean(spread**2)):.2f} (device alone and node)")
    for row, run, family in zip(gpus + tpus, runs, families, strict=True):
        watts = true_watts(row)
        print(f"  {row['id']:<15} {row['hw_id']:<13} {row['energy_scope']:<11} {watts:>4.0f} W", end="")
        print(f"  {run:+.0%}  {family:+.0%}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else REFERENCE)
