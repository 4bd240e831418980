"""Widths in; tokens a second of our training step and of the same network in transformers, paired, out.

    python bench/train_step.py --widths 64 128 256

One thread, CPU seconds, the same shape, batch, precision and AdamW (fused) on both sides, in turns. What
is compared are the network and the loss: our fused norms, rotations, written-out attention and head against
Qwen3ForCausalLM with its SDPA attention and its own loss. Not in it: loading, logging, evaluation.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from stepladder.models.families import config_for
from stepladder.models.shape import shape_for_width
from stepladder.models.transformer import Transformer
from stepladder.records import Recipe, Shape
from stepladder.train.head import HeadLoss
from stepladder.train.optim import build_optimisers
from stepladder.train.settle import use_fast_fp32

CONTEXT, BATCH_SEQUENCES, VOCABULARY = 128, 16, 2048
ROUNDS, STEPS = 9, 4


def main() -> int:
    """Print a line for each width and precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256])
    options = parser.parse_args()
    torch.set_num_threads(1)
    use_fast_fp32()
    print("width  params  precision   ours tokens/s  transformers tokens/s  ratio (least, median, most)")
    for width in options.widths:
        shape = shape_for_width(width, 4, vocab_size=VOCABULARY, context_tokens=CONTEXT)
        for precision in ("bf16", "fp32"):
            ours, theirs = our_step(shape, precision), their_step(shape, precision)
            pairs = [(seconds(ours), seconds(theirs)) for _ in range(ROUNDS + 1)][1:]
            ratios = sorted(peer / own for own, peer in pairs)
            rates = [BATCH_SEQUENCES * CONTEXT / statistics.median(side) for side in zip(*pairs, strict=True)]
            params = sum(p.numel() for p in Transformer(shape).parameters())
            print(
                f"{width:5d}  {params / 1e6:5.2f}M  {precision:9s}  {rates[0]:14,.0f}  {rates[1]:21,.0f}  "
                f"{ratios[0]:.2f} {statistics.median(ratios):.2f} {ratios[-1]:.2f}",
                flush=True,
            )
    return 0


def batch() -> torch.Tensor:
    """Random token ids, one more than the context."""
    draws = np.random.default_rng(0).integers(0, VOCABULARY, (BATCH_SEQUENCES, CONTEXT + 1))
    return torch.from_numpy(draws)


def recipe() -> Recipe:
    """AdamW on both sides."""
    return Recipe(
        batch_tokens=CONTEXT * BATCH_SEQUENCES,
        embed_lr=1e-3,
        head_lr=1e-3,
        hidden_lr=1e-3,
        optimiser="adamw",
    )


def our_step(shape: Shape, precision: str) -> Callable[[], None]:
    """One step of ours."""
    model = Transformer(shape)
    model.reset_parameters(torch.Generator().manual_seed(0))
    optimisers, ids = build_optimisers(model, recipe()), batch()

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            hidden = model.hidden(ids[:, :-1])
            loss = HeadLoss.apply(hidden.flatten(0, 1), model.lm_head.weight, ids[:, 1:].flatten())
        (loss / ids[:, 1:].numel()).backward()
        optimisers.step(1.0)

    return step


def their_step(shape: Shape, precision: str) -> Callable[[], None]:
    """One step of transformers' network of the same shape."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = {key: value for key, value in config_for(shape, {}, "float32").items() if key != "architectures"}
    model = Qwen3ForCausalLM(Qwen3Config(**config))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    ids = batch()

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            # The model shifts labels itself: the same predictions as ours.
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def seconds(step: Callable[[], None]) -> float:
    """CPU seconds of one step, over a few."""
    started = time.process_time()
    for _ in range(STEPS):
        step()
    return (time.process_time() - started) / STEPS


if __name__ == "__main__":
    sys.exit(main())
