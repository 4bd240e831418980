"""One side of peers.py or gpu.py in a process of its own: steps of a training loop in; times and losses out.

python bench/train/side.py --side trainer-bf16 --case 1.3M --corpus DIR --steps 12 --warm 3
"""

import argparse
import itertools
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from cases import CASES, GPU_CASES, RATE, Case, plan_of, write_plan
from torch import Tensor, nn

from stepladder.data.tokens.shards import open_split
from stepladder.models.families import config_for
from stepladder.models.transformer import rotary_table
from stepladder.plan.machine import kept_probe
from stepladder.records import Layout
from stepladder.train import worker
from stepladder.train.batches import BatchSource
from stepladder.train.choices import choose, keep_choices
from stepladder.train.probe import product_rates


class Clock:
    """Wall and CPU seconds (all threads of this process) at the end of each step."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []
        self.losses: list[float] = []

    def tick(self) -> None:
        self.marks.append((time.perf_counter(), time.process_time()))

    def report(self, case: Case, warm: int, steps: int) -> dict[str, object]:
        """Tokens a second of wall and CPU time between the end of step `warm` and that of step `steps`."""
        (wall0, cpu0), (wall1, cpu1) = self.marks[warm - 1], self.marks[steps - 1]
        tokens = (steps - warm) * case.step_tokens
        return {
            "tokens_per_second": tokens / (wall1 - wall0),
            "tokens_per_cpu_second": tokens / (cpu1 - cpu0),
            "losses": self.losses[:steps],
        }


def ours(case: Case, options: argparse.Namespace, clock: Clock) -> None:
    """The worker's own loop: loader, metrics, meter and all, but no evaluations: the peers make none."""
    worker.count_evaluations = lambda *_: 0
    words = options.side.split("-")
    layout = Layout(
        threads=options.threads,
        precision="bf16" if "bf16" in words else "fp32",
        device=options.device,
        float8="float8" in words,
        cuda_graphs="graphs" in words,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = plan_of(case, options.corpus, options.steps + 1, layout)
        out = folder / "run"
        choices = choose(plan, kept_probe() if options.device == "cpu" else {})
        if "compiled" in words:
            choices["compile"] = replace(choices["compile"], value="blocks")
        out.mkdir()
        keep_choices(choices, out)

        def on_step(step: int, tokens: int, loss: float) -> None:
            clock.losses.append(loss)
            clock.tick()

        worker.run_plan(write_plan(plan, folder / "plan.json"), out, threading.Event(), on_step)


def batches(case: Case, corpus: Path) -> Iterator[np.ndarray]:
    """The batches that our run of seed 0 reads."""
    source = BatchSource(open_split(corpus, "train"), case.context, case.sequences, 0)
    while True:
        yield source.next()[0]


class PlainBlock(nn.Module):
    """The layout as one writes it with PyTorch's own parts; parameters are named as ours."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        shape, width = case.shape, case.width
        self.heads = shape.num_heads
        self.input_layernorm = nn.RMSNorm(width, eps=shape.variant.norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(width, eps=shape.variant.norm_eps)
        self.self_attn, self.mlp = nn.Module(), nn.Module()
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            self.self_attn.add_module(name, nn.Linear(width, width, bias=False))
        for name in ("q_norm", "k_norm"):
            self.self_attn.add_module(name, nn.RMSNorm(shape.head_dim, eps=shape.variant.norm_eps))
        for name in ("gate_proj", "up_proj"):
            self.mlp.add_module(name, nn.Linear(width, shape.ffn_width, bias=False))
        self.mlp.down_proj = nn.Linear(shape.ffn_width, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        attn, mlp, (batch, tokens, width) = self.self_attn, self.mlp, x.shape
        normed = self.input_layernorm(x)
        q, k, v = (
            project(normed).view(batch, tokens, self.heads, -1)
            for project in (attn.q_proj, attn.k_proj, attn.v_proj)
        )
        q, k = (turn(norm(y).transpose(1, 2), cos, sin) for norm, y in ((attn.q_norm, q), (attn.k_norm, k)))
        out = F.scaled_dot_product_attention(q, k, v.transpose(1, 2), is_causal=True)
        x = x + attn.o_proj(out.transpose(1, 2).reshape(batch, tokens, width))
        normed = self.post_attention_layernorm(x)
        return x + mlp.down_proj(F.silu(mlp.gate_proj(normed)) * mlp.up_proj(normed))


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class PlainModel(nn.Module):
    """Ids to logits."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        shape = case.shape
        self.embed_tokens = nn.Embedding(case.vocabulary, case.width)
        self.layers = nn.ModuleList(PlainBlock(case) for _ in range(case.layers))
        self.norm = nn.RMSNorm(case.width, eps=shape.variant.norm_eps)
        self.lm_head = nn.Linear(case.width, case.vocabulary, bias=False)
        cos, sin = rotary_table(case.context, shape.head_dim, shape.variant.rope_theta)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        return self.lm_head(self.norm(x))


def plain(case: Case, options: argparse.Namespace, clock: Clock) -> None:
    """A loop with PyTorch's defaults; as "nanogpt" with what nanoGPT turns on: bf16, fused AdamW, TF32."""
    words, device = options.side.split("-"), torch.device(options.device)
    is_tuned = "nanogpt" in words
    if is_tuned and device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    model = PlainModel(case)
    model.load_state_dict(worker.build_model(case.shape, 0, "sdpa").state_dict())
    model.to(device)
    compute = torch.compile(model) if "compiled" in words else model
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=is_tuned or None
    )
    for batch in itertools.islice(batches(case, options.corpus), options.steps):
        tokens = torch.from_numpy(batch).to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=is_tuned):
            logits = compute(tokens[:, :-1])
            loss = F.cross_entropy(logits.view(-1, logits.shape[-1]), tokens[:, 1:].reshape(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        clock.losses.append(loss.item())
        clock.tick()


def trainer(case: Case, options: argparse.Namespace, clock: Clock) -> None:
    """Hugging Face Trainer on Qwen3ForCausalLM; "tuned" sets the flags that help it."""
    from torch.utils.data import SequentialSampler
    from transformers import Qwen3Config, Qwen3ForCausalLM, Trainer, TrainerCallback, TrainingArguments

    words = options.side.split("-")
    if "tuned" in words:
        torch.set_float32_matmul_precision("medium")
    config = {
        k: v
        for k, v in config_for(case.shape, {}, "float32").items()
        if k not in ("architectures", "use_cache")
    }
    attention = "eager" if "eager" in words else "sdpa"
    model = Qwen3ForCausalLM(
        Qwen3Config(
            **config,
            attn_implementation=attention,
        )
    )
    weights = worker.build_model(case.shape, 0, "sdpa").state_dict()
    named = {name if name.startswith("lm_head") else f"model.{name}": w for name, w in weights.items()}
    model.load_state_dict(named)
    rows = itertools.islice(batches(case, options.corpus), options.steps)

    class Windows(torch.utils.data.Dataset):
        """Read when asked, as a map-style dataset over a memory map does."""

        def __init__(self) -> None:
            self.tokens: list[np.ndarray] = []

        def __len__(self) -> int:
            return options.steps * case.sequences

        def __getitem__(self, index: int) -> dict[str, Tensor]:
            while index >= len(self.tokens):
                self.tokens.extend(next(rows))
            row = torch.from_numpy(self.tokens[index])
            # Shifted here: as many positions as the other sides compute.
            return {"input_ids": row[:-1], "labels": row[:-1], "shift_labels": row[1:]}

    class InOrder(Trainer):
        def _get_train_sampler(self, dataset: object = None) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

    class Ticks(TrainerCallback):
        def on_step_end(self, *args: object, **kwargs: object) -> None:
            clock.tick()

        def on_log(self, args: object, state: object, control: object, logs: dict, **kwargs: object) -> None:
            if "loss" in logs:
                clock.losses.append(float(logs["loss"]))

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            use_cpu=True,
            bf16="bf16" in words,
            max_steps=options.steps,
            per_device_train_batch_size=case.sequences,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            adam_beta2=0.95,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            **({"optim": "adamw_torch_fused"} if "tuned" in words else {}),
        )
        os.dup2(2, 1)  # what it prints is not our answer
        InOrder(model=model, args=arguments, train_dataset=Windows(), callbacks=[Ticks()]).train()


def main() -> int:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", required=True)
    parser.add_argument("--case", choices=CASES | GPU_CASES, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warm", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    answer = os.fdopen(os.dup(1), "w")
    torch.set_num_threads(options.threads)
    case, clock = (CASES | GPU_CASES)[options.case], Clock()
    if options.side == "products":
        rates = product_rates(0.5, "cpu")
        print(json.dumps({name: row["large_gflops"] for name, row in rates.items()}), file=answer)
        return 0
    sides = {"ours": ours, "plain": plain, "nanogpt": plain, "trainer": trainer}
    sides[options.side.split("-")[0]](case, options, clock)
    report = clock.report(case, options.warm, options.steps)
    if options.device == "cuda":
        report["peak_bytes"] = torch.cuda.max_memory_allocated()
    print(json.dumps(report), file=answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
