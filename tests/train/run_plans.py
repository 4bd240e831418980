"""Plans and folders in (plan.json=DIR ...); each trained in turn by the processes of one torchrun.

Started once for many layouts, since importing torch takes longer than training them.
"""

import json
import sys
import threading
from pathlib import Path

import torch

from stepladder.train import parallel
from stepladder.train.worker import run_plan


def main() -> None:
    torch.set_num_interop_threads(1)
    for words in sys.argv[1:]:
        plan, out = (Path(word) for word in words.split("="))
        run_plan(plan, out, threading.Event(), lambda *_: None)
    parallel.finish()


if __name__ == "__main__":
    main()
