"""How long the loop waits for a checkpoint, asynchronous against blocking, one process and FSDP on two.

    python bench/checkpoints.py

A decoder of about 20 M parameters with AdamW state (240 MB). Each save is paired: the seconds until `save`
returns, and those until the checkpoint is whole, in one run; the blocking figure is what the loop would wait
if it waited for the second. The first save also makes the buffers and is left out. One JSON line a case.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SAVES = 5


def measure(processes: int) -> None:
    """One rank's part of a case; rank 0 prints."""
    import torch

    from stepladder.models.transformer import Transformer
    from stepladder.records import Layout, Recipe, Shape
    from stepladder.train import parallel
    from stepladder.train.checkpoint import Checkpointer
    from stepladder.train.optim import build_optimisers

    layout = Layout(processes=processes, shard="fsdp" if processes > 1 else "none")
    ranks = parallel.start(layout)
    shape = Shape(
        num_layers=6,
        width=384,
        num_heads=6,
        num_kv_heads=6,
        head_dim=64,
        ffn_width=1024,
        vocab_size=12_000,
        context_tokens=256,
    )
    model = Transformer(shape)
    params = sum(p.numel() for p in model.parameters())
    model, _ = parallel.place_model(model, layout, ranks)
    recipe = Recipe(batch_tokens=256, embed_lr=1e-3, head_lr=1e-3, hidden_lr=1e-3)
    folder = Path(ranks.share(tempfile.mkdtemp(prefix="checkpoints-") if ranks.rank == 0 else None))  # type: ignore[arg-type]
    checkpoints = Checkpointer(folder, model, build_optimisers(model, recipe), ranks)
    stalls, wholes = [], []
    for step in range(1, SAVES + 2):
        ranks.barrier()
        started = time.perf_counter()
        checkpoints.save(step, {"step": step})
        stalls.append(time.perf_counter() - started)
        checkpoints.wait()
        wholes.append(time.perf_counter() - started)
        assert checkpoints.newest_step == step
    if ranks.rank == 0:
        stall, whole = statistics.median(stalls[1:]), statistics.median(wholes[1:])
        case = {"processes": processes, "params": params, "bytes": 12 * params}
        case |= {"stall_ms": round(1e3 * stall), "blocking_ms": round(1e3 * whole)}
        case |= {"first_stall_ms": round(1e3 * stalls[0]), "share": round(stall / whole, 3)}
        print(json.dumps(case | {"torch": torch.__version__}), flush=True)
        shutil.rmtree(folder)
    ranks.barrier()
    parallel.finish()
    sys.stdout.flush()
    os._exit(0)


def main() -> None:
    """Both cases, each in processes of its own."""
    for processes in (1, 2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        ranks = [
            subprocess.Popen(
                [sys.executable, __file__, "--rank-of", str(processes)],
                env=os.environ
                | shared
                | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            )
            for rank in range(processes)
        ]
        for rank in ranks:
            rank.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rank-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank_of:
        measure(options.rank_of)
    else:
        main()
