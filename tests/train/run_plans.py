"""Plans and folders in (plan.json=DIR[@STEP] ...); each trained in turn by the processes of one torchrun.

Started once for many layouts, since importing torch takes longer than training them. With a step the run is
stopped there, with a checkpoint.
"""

import contextlib
import sys
import threading
from pathlib import Path

import torch

from stepladder.train import parallel
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
    for words in sys.argv[1:]:
        run(words)
    parallel.finish()


if __name__ == "__main__":
    main()
