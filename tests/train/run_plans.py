"""Plans and folders in (plan.json=DIR[@STEP] ...); each trained in turn by the processes of one torchrun.

Started once for many layouts, since importing torch takes longer than training them. With a step the run is
stopped there, with a checkpoint. `--bucket-bytes N` before them sends gradients in smaller buckets.
"""

import contextlib
import sys
import threading
from pathlib import Path

import torch

from stepladder.train import averaging, parallel
from stepladder.train.loop import Stopped
from stepladder.train.worker import run_plan


def run(words: str) -> None:
    plan, _, rest = words.partition("=")
    out, _, last = rest.partition("@")
    stop = threading.Event()

    def hear(step: int, *_: float) -> None:
        # The loop asks before it tells, so the step after this one is the last.
        if last and step == int(last) - 1:
            stop.set()

    with contextlib.suppress(Stopped):
        run_plan(Path(plan), Path(out), stop, hear)


def main() -> None:
    torch.set_num_interop_threads(1)
    words = sys.argv[1:]
    if words[0] == "--bucket-bytes":
        averaging.BUCKET_BYTES = int(words[1])
        words = words[2:]
    for each in words:
        run(each)
    parallel.finish()


if __name__ == "__main__":
    main()
