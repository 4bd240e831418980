"""A decoder's folder in; tokens a CPU second generated with a cache, without, and by transformers, out.

    python bench/tasks/generate.py FOLDER [--tokens 128]

FOLDER is an export (`stepladder export`) with its tokenizer: ours and transformers load the same weights and
say the same text greedily. One thread, three rounds in turns, medians; one prompt and a batch of sixteen.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from transformers import AutoModelForCausalLM

from stepladder.models.generate import generate_many
from stepladder.models.hf import load_folder
from stepladder.models.transformer import Transformer

ROUNDS = 3


def main() -> int:
    """Print one line for each batch size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokens", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    ours = load_folder(options.folder).eval()
    theirs = AutoModelForCausalLM.from_pretrained(options.folder).eval()
    draw = torch.Generator().manual_seed(0)
    for batch in (1, 16):
        prompts = torch.randint(5, ours.shape.vocab_size - 5, (batch, 32), generator=draw)
        ways: dict[str, Callable[[], list[list[int]]]] = {
            "cached": lambda p=prompts: generate_many(ours, p.tolist(), options.tokens, end=-1),
            "uncached": lambda p=prompts: uncached(ours, p, options.tokens),
            "transformers": lambda p=prompts: theirs.generate(
                p,
                attention_mask=torch.ones_like(p),
                max_new_tokens=options.tokens,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )[:, 32:].tolist(),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        said = {}
        for _ in range(ROUNDS):
            for name, way in ways.items():
                started = time.process_time()
                said[name] = way()
                seconds[name].append(time.process_time() - started)
        speed = {name: batch * options.tokens / statistics.median(s) for name, s in seconds.items()}
        same = sum(a == b for a, b in zip(said["cached"], said["transformers"], strict=True))
        print(
            f"batch {batch}: "
            + ", ".join(f"{name} {value:,.0f} tokens/s" for name, value in speed.items())
            + f"; {speed['cached'] / speed['uncached']:.1f} x uncached, "
            f"{speed['cached'] / speed['transformers']:.2f} x transformers; {same} of {batch} texts equal"
        )
    return 0


@torch.no_grad()
def uncached(network: Transformer, prompts: torch.Tensor, tokens: int) -> list[list[int]]:
    """All positions again for each token."""
    rows, context = prompts, network.shape.context_tokens
    for _ in range(tokens):
        rows = torch.cat((rows, network(rows[:, -context:])[:, -1:].argmax(-1)), dim=1)
    return rows[:, prompts.shape[1] :].tolist()


if __name__ == "__main__":
    raise SystemExit(main())
