"""Cases in; tokens a second, MFU and memory of our loop and of a nanoGPT-style one on the same GPU out.

    python bench/train/gpu.py --rounds 3 --json gpu.json
    python bench/train/gpu.py --case 1B --sides ours-bf16-compiled ours-bf16-compiled-float8 nanogpt-compiled
    python bench/train/gpu.py --device cpu --case 1.3M --steps 6 --rounds 1      # whether it runs at all

Each side is a process of its own, started in turns: the same weights and batches, AdamW at one constant rate,
bf16 autocast. The other side is the same network written with PyTorch's own parts, compiled as a whole, with
logits of all positions at once and TF32 where products are fp32. MFU is of the catalogue's dense peak; FLOPs
count matrix products with whole attention scores. The largest gap between the losses is printed. No GPU was
at hand when this was written.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from cases import CASES, GPU_CASES, Case, write_corpus

from stepladder.plan.hardware import device_of_name
from stepladder.units import format_bytes

SIDES = ("ours-bf16-compiled", "ours-bf16", "ours-bf16-graphs", "nanogpt-compiled")
PEER = "nanogpt-compiled"
WARM = 5


def main() -> int:
    """Print a table a case; write JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", nargs="+", choices=[*GPU_CASES, *CASES], default=list(GPU_CASES))
    parser.add_argument("--sides", nargs="+", default=SIDES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40, help="of each side, with those of warm-up")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("error: no GPU here; --device cpu says whether the bench runs", file=sys.stderr)
        return 2
    peak, name = peak_of(options.device)
    told = f"{peak / 1e12:,.0f} TFLOP/s in bf16" if peak else "peak not known"
    print(f"{name}, {told}, torch {torch.__version__}")
    tables = {}
    with tempfile.TemporaryDirectory() as folder:
        for label in options.case:
            case, corpus = (CASES | GPU_CASES)[label], Path(folder) / label
            write_corpus(case, corpus, max(400_000, 4 * case.step_tokens))
            rounds = [one_round(label, corpus, options) for _ in range(options.rounds)]
            tables[label] = table(label, case, rounds, peak)
    if options.json:
        options.json.write_text(json.dumps({"device": name, "cases": tables}, indent=1))
    return 0


def peak_of(device: str) -> tuple[float, str]:
    """(dense bf16 FLOP/s of the catalogue, 0 where unknown; the device's name)."""
    if device == "cpu":
        return 0.0, "CPU"
    found = torch.cuda.get_device_properties(0)
    known = device_of_name(found.name, found.total_memory)
    return (1e12 * known.peaks.get("bf16", 0.0) if known else 0.0), found.name


def one_round(label: str, corpus: Path, options: argparse.Namespace) -> dict[str, dict]:
    """Every side once; one that fails says why and is left out."""
    found = {}
    for side in options.sides:
        command = [sys.executable, str(Path(__file__).with_name("side.py")), "--side", side, "--case", label]
        command += ["--corpus", str(corpus), "--steps", str(options.steps), "--warm", str(WARM)]
        command += ["--device", options.device]
        environment = os.environ | {"HF_HUB_OFFLINE": "1"}
        answer = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if answer.returncode:
            said = (answer.stderr.strip().splitlines() or ["?"])[-1]
            print(f"  {label} {side} failed: {said}", file=sys.stderr, flush=True)
            continue
        found[side] = json.loads(answer.stdout.strip().splitlines()[-1])
        print(
            f"  {label} {side}: {found[side]['tokens_per_second']:,.0f} tokens/s", file=sys.stderr, flush=True
        )
    return found


def table(label: str, case: Case, rounds: list[dict[str, dict]], peak: float) -> dict[str, dict]:
    """Print a case; the same as values."""
    print(f"\n{label}, {case.step_tokens:,} tokens a step, {len(rounds)} rounds: medians (least, most)")
    print(f"{'side':28s} {'tokens/s':>10s} {'MFU':>6s} {'memory':>10s}  {'times ' + PEER:>22s}  loss")
    rows = {}
    for side in dict.fromkeys(side for found in rounds for side in found):
        here = [found for found in rounds if side in found]
        rate = statistics.median(found[side]["tokens_per_second"] for found in here)
        row = {"tokens_per_second": rate, "mfu": case.flops_per_token * rate / peak if peak else None}
        row["peak_bytes"] = max(found[side].get("peak_bytes", 0) for found in here)
        ratios = [
            found[side]["tokens_per_second"] / found[PEER]["tokens_per_second"]
            for found in here
            if PEER in found
        ]
        losses, told = here[0][side]["losses"], ""
        if ratios:
            row["ratio"] = [statistics.median(ratios), min(ratios), max(ratios)]
            told = "{:.2f} ({:.2f}, {:.2f})".format(*row["ratio"])
            row["largest_loss_gap"] = max(
                abs(a - b) for a, b in zip(losses, here[0][PEER]["losses"], strict=False)
            )
        mfu = f"{row['mfu']:.1%}" if peak else "?"
        memory = format_bytes(row["peak_bytes"]) if row["peak_bytes"] else "?"
        gap = f", at most {row['largest_loss_gap']:.4f} apart" if ratios else ""
        span = f"{losses[0]:.3f} to {losses[-1]:.3f}{gap}"
        print(f"{side:28s} {rate:10,.0f} {mfu:>6s} {memory:>10s}  {told:>22s}  {span}")
        rows[side] = row
    return rows


if __name__ == "__main__":
    sys.exit(main())
