"""This machine in; what it computes a second, how exactly, and how fast processes talk, out (as JSON).

    python -m stepladder.train.probe --json [--quick]

One process of this module is started for each count of threads, since threads cannot be taken back; two
more measure the link between processes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from stepladder.models.blockmask import attend_blocks, document_blocks

# Products of a training step: (rows, inner, columns) of a small and of a middling model.
_PRODUCTS = {"small": (1024, 96, 288), "large": (2048, 1024, 1024)}
_CONTEXTS = (128, 256, 512, 1024)
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_LINK_BYTES = (4 * 2**10, 4 * 2**20)


def seconds_of(action: Callable[[], object], budget: float, device: str = "cpu") -> float:
    """Shortest time of `action` within about `budget` seconds, after two calls that warm it up.

    On one thread of a CPU these are CPU seconds: what other programs take is not in them. A record that was
    made on a busy machine had 11 GFLOP/s where the core gives 160.
    """
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    for _ in range(2):
        action()
    best, end = float("inf"), time.perf_counter() + budget
    while True:
        started = clock()
        action()
        best = min(best, clock() - started)
        if time.perf_counter() >= end:
            return best


def product_rates(budget: float, device: str) -> dict[str, dict[str, float]]:
    """GFLOP/s of forward products by precision and size, and the relative error against fp64."""
    draw = torch.Generator().manual_seed(0)
    out: dict[str, dict[str, float]] = {}
    for name, precision in (("fp32", "highest"), ("fp32_medium", "medium"), ("bf16", "highest")):
        torch.set_float32_matmul_precision(precision)
        dtype = torch.bfloat16 if name == "bf16" else torch.float32
        figures = {}
        for size, (rows, inner, columns) in _PRODUCTS.items():
            wide, matrix = (torch.randn(*s, generator=draw) for s in ((rows, inner), (columns, inner)))
            left, right = (x.to(device, dtype) for x in (wide, matrix))
            figures[f"{size}_gflops"] = (
                2e-9
                * rows
                * inner
                * columns
                / seconds_of(_synced(lambda a=left, b=right: a @ b.T, device), budget, device)
            )
            if size == "small":
                exact = wide.double() @ matrix.double().T
                error = ((left @ right.T).double().cpu() - exact).norm() / exact.norm()
                figures["relative_error"] = error.item()
        out[name] = figures
    torch.set_float32_matmul_precision("highest")
    return out


def attention_seconds(
    budget: float,
    device: str,
    precisions: Sequence[str] = tuple(_DTYPES),
    contexts: Sequence[int] = _CONTEXTS,
) -> list[dict[str, float | str]]:
    """Forward and backward of 4 heads of dimension 64 over 4,096 tokens: written out, and SDPA."""
    rows: list[dict[str, float | str]] = []
    for precision in precisions:
        dtype = _DTYPES[precision]
        for context in contexts:
            q, k, v = (
                torch.randn(4096 // context, 4, context, 64, device=device, dtype=dtype).requires_grad_()
                for _ in range(3)
            )
            bias = torch.full((context, context), float("-inf"), device=device, dtype=dtype).triu(1)

            def explicit(q: Tensor = q, k: Tensor = k, v: Tensor = v, bias: Tensor = bias) -> None:
                scores = (q * 0.125) @ k.mT + bias
                (F.softmax(scores, dim=-1) @ v).sum().backward()

            def sdpa(q: Tensor = q, k: Tensor = k, v: Tensor = v) -> None:
                F.scaled_dot_product_attention(q, k, v, is_causal=True).sum().backward()

            row: dict[str, float | str] = {
                "precision": precision,
                "context_tokens": context,
                "explicit_seconds": seconds_of(_synced(explicit, device), budget, device),
                "sdpa_seconds": seconds_of(_synced(sdpa, device), budget, device),
            }
            rows.append(row | (_document_seconds(q, k, v, budget) if q.is_cuda else {}))
    return rows


def _document_seconds(q: Tensor, k: Tensor, v: Tensor, budget: float) -> dict[str, float]:
    """With four documents in a sequence: SDPA with a dense mask, FlexAttention by blocks."""
    batch, _, tokens, _ = q.shape
    document = (torch.arange(tokens, device=q.device) * 4 // tokens).expand(batch, tokens).contiguous()
    blocks = document_blocks(document)
    dense = (document[:, None, :, None] == document[:, None, None]) & torch.ones(
        tokens, tokens, dtype=torch.bool, device=q.device
    ).tril()

    def sdpa() -> None:
        F.scaled_dot_product_attention(q, k, v, attn_mask=dense).sum().backward()

    def flex() -> None:
        attend_blocks(q, k, v, blocks).sum().backward()

    device = str(q.device)
    return {
        "sdpa_masked_seconds": seconds_of(_synced(sdpa, device), budget, device),
        "flex_seconds": seconds_of(_synced(flex, device), budget, device),
    }


def link_rates(budget: float, folder: Path, rank: int) -> dict[str, float]:
    """All-reduce between two gloo processes: latency of 4 KiB, and bytes of the tensor a second at 4 MiB."""
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    figures = {}
    for num_bytes in _LINK_BYTES:
        values = torch.zeros(num_bytes // 4)
        # Both sides must call it equally often, so the count is fixed by a first measurement of rank 0.
        started = time.perf_counter()
        for _ in range(3):
            dist.all_reduce(values)
        count = torch.tensor([max(int(3 * budget / (time.perf_counter() - started)), 5)])
        dist.broadcast(count, src=0)
        best = float("inf")
        for _ in range(int(count)):
            started = time.perf_counter()
            dist.all_reduce(values)
            best = min(best, time.perf_counter() - started)
        figures[f"all_reduce_{num_bytes}_bytes_seconds"] = best
    figures["all_reduce_bytes_per_second"] = (
        _LINK_BYTES[-1] / figures[f"all_reduce_{_LINK_BYTES[-1]}_bytes_seconds"]
    )
    dist.barrier()
    dist.destroy_process_group()
    return figures


def probe(*, quick: bool = False) -> dict[str, Any]:
    """Everything, in about 20 seconds (5 when quick): JSON values."""
    budget = 0.02 if quick else 0.15
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = sorted({1, cores})
    out: dict[str, Any] = {
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": cores,
        "threads": {str(count): _child(["--rates", str(count)], budget) for count in threads},
        "gpus": [_gpu(index, budget) for index in range(torch.cuda.device_count())],
    }
    with tempfile.TemporaryDirectory() as folder:
        other = _start(["--link", "1", "--folder", folder], budget)
        out["link"] = _child(["--link", "0", "--folder", folder], budget) if dist.is_available() else {}
        other.communicate()
    # The figures that planning reads: large products by precision and threads, and the link in GB/s.
    measured = {count: found["products"] for count, found in out["threads"].items() if "products" in found}
    out["gemm_gflops"] = {
        precision: {count: products[precision]["large_gflops"] for count, products in measured.items()}
        for precision in ("fp32", "fp32_medium", "bf16")
    }
    out["allreduce_gbps"] = out["link"].get("all_reduce_bytes_per_second", 0.0) / 1e9
    return out


def _gpu(index: int, budget: float) -> dict[str, Any]:
    device = f"cuda:{index}"
    properties = torch.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "products": product_rates(budget, device),
        "attention": attention_seconds(budget, device),
    }


def _synced(action: Callable[[], object], device: str) -> Callable[[], object]:
    if device == "cpu":
        return action

    def wait() -> None:
        action()
        torch.cuda.synchronize(device)

    return wait


def _start(words: list[str], budget: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "stepladder.train.probe", "--budget", str(budget), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _child(words: list[str], budget: float) -> dict[str, Any]:
    """What one process of this module measured; its failure is told in place of figures."""
    process = _start(words, budget)
    said, _ = process.communicate()
    if process.returncode:
        return {"failed": f"exit code {process.returncode}"}
    return json.loads(said)


def main(words: list[str] | None = None) -> int:
    """Print the measurements as one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m stepladder.train.probe")
    parser.add_argument("--json", action="store_true", help="one line instead of indented JSON")
    parser.add_argument("--quick", action="store_true", help="shorter and less exact")
    parser.add_argument("--budget", type=float, default=0.15, help=argparse.SUPPRESS)
    parser.add_argument("--rates", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--link", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.rates:
        torch.set_num_threads(options.rates)
        figures: dict[str, Any] = {"products": product_rates(options.budget, "cpu")}
        if options.rates == 1:
            figures["attention"] = attention_seconds(options.budget, "cpu")
    elif options.link is not None:
        torch.set_num_threads(1)
        figures = link_rates(options.budget, options.folder, options.link)
    else:
        figures = probe(quick=options.quick)
    print(json.dumps(figures, indent=None if options.json else 2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
