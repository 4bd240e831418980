"""Steps in; what float8 in the blocks does to the loss, and on a GPU to the speed, out.

    pip install 'stepladder[float8]'
    python bench/train/float8.py --case 1.3M --steps 300
    python bench/train/float8.py --case 1.3M --steps 300 --device cuda

Two runs with the same seed, plain and in float8, through the trainer. One JSON line each: held-out loss, mean
training loss of the last fiftieth, tokens a second of the run (of CPU time on a CPU, which emulates float8).
"""

import argparse
import json
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from cases import CASES, plan_of, write_corpus, write_plan

from stepladder.records import Layout
from stepladder.train import worker


def main() -> int:
    """Print one line a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--case", choices=CASES, default="1.3M")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    case, is_gpu = CASES[options.case], options.device == "cuda"
    clock = time.monotonic if is_gpu else time.process_time
    layout = Layout(device=options.device, precision="bf16" if is_gpu else "fp32")
    with tempfile.TemporaryDirectory(prefix="float8-") as name:
        folder = Path(name)
        write_corpus(case, folder / "corpus")
        for kind in ("plain", "float8"):
            chosen = replace(layout, float8=kind == "float8")
            plan = plan_of(case, folder / "corpus", options.steps, chosen)
            plan = replace(plan, recipe=replace(plan.recipe, warmup_share=0.02, decay_share=0.3))
            path, began = write_plan(plan, folder / f"{kind}.json"), clock()
            run = worker.run_plan(path, folder / kind, threading.Event(), _nothing)
            figures = {"heldout_loss": round(run.heldout_loss, 4), "loss": round(run.loss, 4)}
            speed = {"tokens_a_second": round(plan.tokens / (clock() - began))}
            print(json.dumps({"case": options.case, "kind": kind} | figures | speed), flush=True)
    return 0


def _nothing(*_: Any) -> None: ...


if __name__ == "__main__":
    raise SystemExit(main())
