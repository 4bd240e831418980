"""A case and a precision in; where the CPU seconds of a training step go, by share, out.

    python bench/train/profile_step.py --case 5.7M 1.3M --precision bf16 fp32

One thread, loader to optimiser. Shares are of the profiler's own sum, so that other programs on the machine
change them little; the profiler itself costs a few per cent, which falls on what has many small calls.
"""

import argparse
import os
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from cases import CASES, Case, plan_of, write_corpus
from torch.profiler import ProfilerActivity, profile, record_function

from stepladder.data.tokens.shards import open_split
from stepladder.records import Layout
from stepladder.train import worker
from stepladder.train.batches import BatchSource
from stepladder.train.choices import usual_attention
from stepladder.train.head import HeadLoss
from stepladder.train.optim import build_optimisers
from stepladder.train.precision import autocast
from stepladder.train.settle import use_fast_fp32

# Names of PyTorch's operations begin with these; the first that fits counts, the rest is elementwise work.
PARTS = {
    "products": ("aten::mm", "aten::addmm", "mkldnn::", "aten::mkldnn"),
    "attention": ("aten::bmm", "aten::baddbmm", "aten::_scaled_dot", "aten::_softmax"),
    "norms": ("RMSNorm", "NormRotate", "aten::linalg_vector_norm", "aten::rsqrt", "aten::addcmul"),
    "activation": ("aten::silu",),
    "casts": ("aten::copy_", "aten::_to_copy", "aten::to"),
    "head, without products": ("HeadLoss", "aten::scatter", "aten::gather", "aten::log"),
    "embedding": ("aten::embedding", "aten::index_select"),
    "optimiser": ("aten::_fused_adamw", "Optimizer"),
    "loader": ("loader",),
    "calls without work": ("aten::t", "aten::view", "aten::as_strided", "autograd::", "aten::empty"),
}
STEPS = 2


def main() -> int:
    """Print a table for each case and precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--precision", nargs="+", default=["bf16", "fp32"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    use_fast_fp32()
    for name in options.case:
        with tempfile.TemporaryDirectory() as folder:
            write_corpus(CASES[name], Path(folder))
            for precision in options.precision:
                show(name, CASES[name], Path(folder), precision)
    return 0


def show(name: str, case: Case, corpus: Path, precision: str) -> None:
    """Run a step to warm up and a few under the profiler."""
    layout = Layout(precision="bf16" if precision == "bf16" else "fp32")
    model = worker.build_model(case.shape, 0, usual_attention(case.shape.context_tokens, "cpu", precision))
    optimisers = build_optimisers(model, plan_of(case, corpus, 1, layout).recipe)
    source = BatchSource(open_split(corpus, "train"), case.context, case.sequences, 0)

    def step() -> None:
        with record_function("loader"):
            tokens = torch.from_numpy(source.next()[0])
        with autocast(layout):
            hidden = model.hidden(tokens[:, :-1])
            loss = HeadLoss.apply(hidden.flatten(0, 1), model.lm_head.weight, tokens[:, 1:].flatten())
        (loss / case.step_tokens).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimisers.step(1.0)

    step()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(STEPS):
            step()
    shares: dict[str, float] = defaultdict(float)
    for event in found.key_averages():
        named = (part for part, starts in PARTS.items() if event.key.startswith(starts))
        shares[next(named, "other elementwise work")] += event.self_cpu_time_total / STEPS
    total = sum(shares.values())
    print(
        f"\n{name}, {precision}: {total / 1e3:.0f} ms a step of {case.step_tokens} tokens under the profiler"
    )
    for part, microseconds in sorted(shares.items(), key=lambda item: -item[1]):
        print(f"  {part:24s} {microseconds / total:6.1%}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
