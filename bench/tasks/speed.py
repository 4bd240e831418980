"""Labelled texts in; tokens a second of fine-tuning, ours beside Hugging Face's Trainer and peft, out.

    PEER_PYTHON bench/tasks/speed.py [--rounds 3] [--precision fp32 bf16] [--attention sdpa] [--json FILE]

PEER_PYTHON has this package, transformers, accelerate and peft. All sides run in one process, in turns, with
the same weights (our export, loaded by transformers), the same batches (sorted by length, padded on the
right), precision, AdamW, clipping, threads and allocator. A loop is timed from the end of step `--warm` to
its last; CPU seconds are printed beside wall seconds, which count only on a quiet machine. Ours leaves
padding out of all but attention and, as transformers' head reads the last token's state, computes no other
in the last block; `--pool mean` makes it read all, as `stepladder tune` does by default. `--memory` prints
trained weights and peak memory of full tuning and LoRA instead, each in a process of its own.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from stepladder.data.tokens.tokenizer import load_tokenizer, train_tokenizer
from stepladder.models.export import export_folder
from stepladder.models.hf import random_network, save_folder
from stepladder.models.shape import shape_for_width
from stepladder.store import write_text
from stepladder.train.loop import train
from stepladder.train.meter import peak_rss_bytes, reset_peak
from stepladder.train.settle import use_fast_fp32
from stepladder.tune import worker
from stepladder.tune.adapters import Part
from stepladder.tune.batches import Batch, Encoded, TaskBatches
from stepladder.tune.examples import example_task
from stepladder.tune.objective import BestKeeper, Tuning
from stepladder.tune.run import TuneJob, TuneOptions
from stepladder.tune.tasks import write_task

RANK, ALPHA, BATCH = 8, 16.0, 32
_PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Clock:
    """Wall and CPU seconds at the end of each step."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []

    def tick(self, *_: object) -> None:
        self.marks.append((time.perf_counter(), time.process_time()))


def prepare(folder: Path, options: argparse.Namespace) -> None:
    """Write task, tokenizer, weights of a random network, and its export."""
    task = example_task("docstring-topic", examples=1500)
    texts = [example.text for example in task.train]
    write_task(task, folder / "task")
    write_text(folder / "words" / "tokenizer.json", train_tokenizer(texts, 4096))
    size = load_tokenizer(folder / "words").vocab_size
    shape = shape_for_width(
        options.width, num_layers=options.layers, vocab_size=size, context_tokens=256, tied_head=False
    )
    save_folder(random_network(shape, 0), folder / "run" / "model")
    export_folder(folder / "run", folder / "export", folder / "words")


class Case:
    """A folder made by `prepare`, a precision, how many steps, and what the heads read."""

    def __init__(self, folder: Path, precision: str, steps: int, attention: str, pool: str = "last") -> None:
        self.folder, self.precision, self.steps = folder, precision, steps
        self.attention, self.pool = attention, pool

    def job(self, method: str) -> TuneJob:
        """As `stepladder tune` makes it."""
        options = TuneOptions(
            epochs=1,
            batch_examples=BATCH,
            pool="mean" if self.pool == "mean" else "last",
            precision="bf16" if self.precision == "bf16" else "fp32",
            lora_rank=RANK,
            lora_alpha=ALPHA,
        )
        return TuneJob(
            model=str(self.folder / "run"),
            tokenizer=str(self.folder / "words"),
            task=str(self.folder / "task"),
            out=tempfile.mkdtemp(dir=self.folder),
            method="lora" if method == "lora" else "full",
            seed=0,
            options=options,
        )

    def batches(self) -> list[Batch]:
        """What both sides read."""
        source = TaskBatches(worker.encode_task(self.job("full")).splits["train"].rows, BATCH, 0)
        return [source.next()[0] for _ in range(self.steps)]


def ours(case: Case, method: str, clock: Clock) -> dict[str, int]:
    """The worker's own loop: metrics, meter and all. Dev is one batch, scored after one step more than is
    timed: the loop tells of a step when it has been judged, and the peers judge nothing.
    """
    job = case.job(method)
    task = worker.encode_task(job)
    model = worker.build_model(job, task.adapter)
    rows = task.splits["dev"].rows
    dev = Part(examples=(), rows=Encoded(texts=rows.texts[:BATCH], targets=rows.targets[:BATCH]))
    keeper = BestKeeper(Path(job.out), 0, threading.Event())
    source = TaskBatches(task.splits["train"].rows, BATCH, 0)
    told = worker.loop_job(job, model, source, keeper.stop, clock.tick)
    reset_peak()
    before = peak_rss_bytes()
    run = train(
        model, Tuning(task.adapter, dev, keeper), source, replace(told, steps=case.steps + 1, evaluations=0)
    )
    every = sum(parameter.numel() for _, parameter in torch.nn.Module.named_parameters(model))
    return {"trained": run.params, "params": every, "bytes": run.peak_bytes - before}


def theirs(case: Case, method: str, clock: Clock) -> None:
    """Hugging Face's Trainer on the same batches; with peft's adapters where `method` is lora."""
    from transformers import (
        AutoModelForSequenceClassification,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    labels = len(worker.encode_task(case.job("full")).adapter.labels)
    model = AutoModelForSequenceClassification.from_pretrained(
        case.folder / "export", num_labels=labels, attn_implementation=case.attention
    )
    if method == "lora":
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=_PROJECTIONS, task_type="SEQ_CLS"
        )
        model = get_peft_model(model, config)
    rows = []
    for batch in case.batches():
        mask = np.arange(batch.ids.shape[1]) < batch.lengths[:, None]
        arrays = {"input_ids": batch.ids, "attention_mask": mask.astype(np.int64), "labels": batch.targets}
        rows.append({name: torch.from_numpy(array) for name, array in arrays.items()})

    class Tick(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            clock.tick()

    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(dir=case.folder),
        per_device_train_batch_size=1,
        max_steps=case.steps,
        bf16=case.precision == "bf16",
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        train_sampling_strategy="sequential",
        learning_rate=1e-4,
    )
    Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=lambda items: items[0],
        callbacks=[Tick()],
    ).train()


SIDES = {
    "ours, full": (ours, "full"),
    "Trainer, full": (theirs, "full"),
    "ours, LoRA": (ours, "lora"),
    "peft, LoRA": (theirs, "lora"),
}
# Printed: how many times as many tokens in the same time the first does.
RATIOS = (
    ("ours, full", "Trainer, full"),
    ("ours, LoRA", "peft, LoRA"),
    ("ours, LoRA", "ours, full"),
    ("peft, LoRA", "Trainer, full"),
)


def measure(case: Case, rounds: int, warm: int) -> dict[str, dict[str, list[float]]]:
    """Real tokens a wall and a CPU second of every side, a value for each round; the order turns round."""
    tokens = sum(int(batch.lengths.sum()) for batch in case.batches()[warm:])
    speeds: dict[str, dict[str, list[float]]] = {side: {"wall": [], "cpu": []} for side in SIDES}
    for number in range(rounds):
        for side in list(SIDES) if number % 2 == 0 else list(SIDES)[::-1]:
            clock, (run, method) = Clock(), SIDES[side]
            run(case, method, clock)
            (wall0, cpu0), (wall1, cpu1) = clock.marks[warm - 1], clock.marks[case.steps - 1]
            speeds[side]["wall"].append(tokens / (wall1 - wall0))
            speeds[side]["cpu"].append(tokens / (cpu1 - cpu0))
    return speeds


def show(speeds: dict[str, dict[str, list[float]]], title: str) -> None:
    """Medians, and medians of the ratios within a round with least and most."""
    print(f"\n{title}\n{'':16}tokens / wall s   tokens / CPU s")
    for side, found in speeds.items():
        print(f"{side:16}{statistics.median(found['wall']):15,.0f}{statistics.median(found['cpu']):17,.0f}")
    for first, second in RATIOS:
        texts = []
        for clock in ("cpu", "wall"):
            pairs = zip(speeds[first][clock], speeds[second][clock], strict=True)
            each = [a / b for a, b in pairs]
            texts.append(f"{clock} {statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})")
        print(f"{first} / {second}: {', '.join(texts)}")


def memory(options: argparse.Namespace) -> None:
    """Trained weights and the resident memory that training adds, each method in a process of its own."""
    for method in ("full", "lora"):
        words = [sys.executable, __file__, "--side", method, "--width", str(options.width)]
        words += ["--layers", str(options.layers), "--steps", str(options.steps)]
        said = subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
        found = json.loads(said)
        share = found["trained"] / found["params"]
        print(
            f"{method:5}{found['trained']:>12,} of {found['params']:,} weights trained ({share:.1%}), "
            f"{found['bytes'] / 2**20:,.0f} MiB more than before the first step"
        )


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--warm", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--attention", default="sdpa", help="of transformers: sdpa or eager")
    parser.add_argument("--pool", default="last", choices=("last", "mean"), help="of ours; theirs is last")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--side", help="one method, once; prints what it took (for --memory)")
    options = parser.parse_args()
    if options.memory:
        memory(options)
        return
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    use_fast_fp32()
    found = {}
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), options)
        if options.side:
            print(json.dumps(ours(Case(Path(name), "fp32", options.steps, "sdpa"), options.side, Clock())))
            return
        for precision in options.precision:
            case = Case(Path(name), precision, options.steps, options.attention, options.pool)
            found[precision] = measure(case, options.rounds, options.warm)
            size = f"{options.width} wide, {options.layers} layers"
            show(
                found[precision],
                f"{size}, {precision}, batches of {BATCH}, {options.attention}, {options.pool}",
            )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
