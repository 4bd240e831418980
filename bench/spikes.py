"""How often the rule against spikes would have skipped a step of runs that are done.

    python bench/spikes.py FOLDER...

Replays `train/faults.py` over every metrics.jsonl of at least 100 steps below the folders. The first figure
is the house's rule (loss and gradient norm stand out), the second what skipping for either would do.
"""

import json
import sys
from pathlib import Path

from stepladder.train.faults import FaultPolicy, Guard, is_outlier


def main(folders: list[str]) -> None:
    """Print one JSON line, and one more for each step that would have been skipped."""
    counts = {"runs": 0, "steps": 0, "skipped": 0, "either": 0}
    for path in sorted({path for folder in folders for path in Path(folder).rglob("metrics.jsonl")}):
        lines = [json.loads(line) for line in path.read_text().splitlines() if line]
        if len(lines) < 100 or "grad_norm" not in lines[0]:
            continue
        guard = Guard(FaultPolicy(skips_spikes=True), {})
        losses: list[float] = []
        norms: list[float] = []
        for line in lines:
            loss, norm = line["loss"], line["grad_norm"]
            if loss is None or norm is None:
                continue
            counts["either"] += is_outlier(loss, losses[-128:]) or is_outlier(norm, norms[-128:])
            losses.append(loss)
            norms.append(norm)
            if reason := guard.judge(loss, norm):
                print(json.dumps({"run": str(path.parent), "step": line["step"], "reason": reason}))
        counts["runs"] += 1
        counts["steps"] += len(lines)
        counts["skipped"] += guard.skipped
    print(json.dumps(counts))


if __name__ == "__main__":
    main(sys.argv[1:])
