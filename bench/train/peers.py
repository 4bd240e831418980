"""Cases in; tokens a second of whole training loops, ours and its peers, in paired rounds, out.

    python bench/train/peers.py --rounds 5 --json peers.json [--peer-python PYTHON]

Each side is a process of its own on pinned cores, started in turns; a ratio is the median over rounds of
(ours / peer), with least and most. Loading and logging of every step are in it, start and warm-up are not.
All sides have the same weights, batches, AdamW and constant rate: the largest gap between their losses is
printed. `--peer-python` names an interpreter that has transformers and accelerate.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from cases import CASES, write_corpus

from stepladder.launch.environment import worker_environment
from stepladder.plan.machine import measure_machine
from stepladder.records import Layout

SIDES = {
    "bf16": (
        "ours-bf16",
        "ours-bf16-compiled",
        "plain",
        "trainer-fp32",
        "trainer-bf16",
        "trainer-bf16-tuned",
        "trainer-bf16-tuned-eager",
    ),
    "fp32": (
        "ours-fp32",
        "ours-fp32-compiled",
        "plain",
        "trainer-fp32",
        "trainer-fp32-tuned",
        "trainer-fp32-tuned-eager",
    ),
}
# Steps that are not counted; compiling happens in the first.
WARM = 3


def main() -> int:
    """Print the tables; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12, help="of each side, with those of warm-up")
    parser.add_argument("--precision", choices=SIDES, help="default: bf16 where the CPU has it")
    parser.add_argument("--sides", nargs="+", help="instead of all of the precision")
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    machine = measure_machine(rates="none")
    precision = options.precision or ("bf16" if machine.has_bf16 else "fp32")
    print(f"{machine.cpu}, {machine.cores} cores, bf16 instructions: {'yes' if machine.has_bf16 else 'no'}")
    tables = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.case:
            corpus = Path(folder) / name
            write_corpus(CASES[name], corpus)
            for threads in options.threads:
                sides = options.sides or SIDES[precision]
                rounds = [one_round(sides, name, corpus, threads, options) for _ in range(options.rounds)]
                tables[f"{name}, {threads} threads"] = table(name, threads, rounds, precision)
    if options.json:
        options.json.write_text(json.dumps(tables, indent=1))
    return 0


def one_round(
    sides: tuple[str, ...], case: str, corpus: Path, threads: int, options: argparse.Namespace
) -> dict[str, dict]:
    """Every side once."""
    found = {}
    for side in ("products", *sides):
        tuned = side.startswith("ours") or "tuned" in side
        environment = worker_environment(Layout(threads=threads)) if tuned else dict(os.environ)
        environment |= {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        cores = sorted(os.sched_getaffinity(0))[-threads:]
        command = ["taskset", "-c", ",".join(map(str, cores))]
        command += [options.peer_python if side.startswith("trainer") else sys.executable]
        command += [str(Path(__file__).parent / "side.py"), "--side", side, "--case", case]
        command += ["--corpus", str(corpus), "--threads", str(threads)]
        command += ["--steps", str(options.steps), "--warm", str(WARM)]
        answer = subprocess.run(command, capture_output=True, text=True, env=environment)
        if answer.returncode:
            print(f"  {side} failed: {(answer.stderr.strip().splitlines() or ['?'])[-1]}", flush=True)
            continue
        found[side] = json.loads(answer.stdout.strip().splitlines()[-1])
        if side == "products":
            told = ", ".join(f"{name} {rate:,.0f} GFLOP/s" for name, rate in found[side].items())
        else:
            told = f"{found[side]['tokens_per_cpu_second']:,.0f} tokens a CPU second"
        print(f"  {side}: {told}", file=sys.stderr, flush=True)
    return found


def table(name: str, threads: int, rounds: list[dict[str, dict]], precision: str) -> dict:
    """Print a case; the same as values."""
    case, sides = CASES[name], [side for side in rounds[0] if side != "products"]
    print(f"\n{name}, {threads} threads, {len(rounds)} rounds; ratios ours / peer: median (least, most)")
    own = [side for side in sides if side.startswith("ours")]
    rows = {}
    print(f"{'side':26s} {'tokens/s':>9s} {'per CPU s':>9s}" + "".join(f"  {side:>26s}" for side in own))
    for side in sides:
        here = [found for found in rounds if side in found]
        rate, cpu = (
            statistics.median(found[side][key] for found in here)
            for key in ("tokens_per_second", "tokens_per_cpu_second")
        )
        ratios = {}
        for mine in own:
            pairs = sorted(
                found[mine]["tokens_per_cpu_second"] / found[side]["tokens_per_cpu_second"]
                for found in here
                if mine in found
            )
            if pairs:
                ratios[mine] = {"median": statistics.median(pairs), "least": pairs[0], "most": pairs[-1]}
        told = "".join(f"  {r['median']:11.2f} ({r['least']:.2f}, {r['most']:.2f})" for r in ratios.values())
        print(f"{side:26s} {rate:9,.0f} {cpu:9,.0f}{told}", flush=True)
        rows[side] = {"tokens_per_second": rate, "tokens_per_cpu_second": cpu, "ratios_cpu": ratios}
        if "plain" in rounds[0] and side in rounds[0]:
            gaps = [
                abs(a - b)
                for a, b in zip(rounds[0][side]["losses"], rounds[0]["plain"]["losses"], strict=False)
            ]
            rows[side]["largest_loss_gap_to_plain"] = max(gaps)
            rows[side]["first_and_last_loss"] = [rounds[0][side]["losses"][i] for i in (0, -1)]
    if threads == 1:
        for side in own:
            # The faster of the kernels that have this precision: oneDNN's fp32 counts where it is one.
            names = ("fp32", "fp32_medium") if precision == "fp32" else (precision,)
            peak = statistics.median(max(found["products"][name] for name in names) for found in rounds)
            share = case.flops_per_token * rows[side]["tokens_per_cpu_second"] / (1e9 * peak)
            rows[side]["share_of_product_rate"] = share
            print(f"{side}: {share:.0%} of {peak:.0f} GFLOP/s, the rate of large {precision} products")
    for side, row in rows.items():
        if "largest_loss_gap_to_plain" in row:
            first, last = row["first_and_last_loss"]
            gap = row["largest_loss_gap_to_plain"]
            print(f"{side}: loss {first:.3f} to {last:.3f}, at most {gap:.4f} from plain's")
    return rows


if __name__ == "__main__":
    sys.exit(main())
