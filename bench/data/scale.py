"""A small corpus in; what each step costs a document, and from that the bill for 10^9 documents, out.

    python bench/data/scale.py [SOURCE] [--megabytes 24] [--documents 1e9] [--machines 16] [--cores 32]

The documents of the source are packed into JSONL files, as large corpora are, and prepared at two sizes: in
one process on one thread, with every task's CPU seconds taken and the working folder kept, and once more by
two processes for their memory. The driver's cost is what grows between the two sizes; the rest (starting,
training the tokenizer) is paid once.
"""

import argparse
import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

# m7i.xlarge (4 vCPU), Linux, us-east-1, on demand: 0.202 USD an hour in April 2026 (AWS's price list as
# quoted by cloudinvent.co/?p=2894). A core here is one vCPU, as on the machine that measures.
USD_PER_CORE_HOUR = 0.0505
# What a kept document costs by arithmetic: 112 sketch values of 4 bytes; 14 band keys of 8 bytes, each with a
# label of 8; 16 bytes of hash with a label of 8.
ON_PAPER = {"read/values": 112 * 4, "bands": 14 * (8 + 8), "read/exact": 16 + 8}
# So small that it is full at both sizes: what training costs does not grow with the corpus either.
_TOKENIZER_BYTES = 1_000_000
# The driver holds one output shard at a time: small ones are full at both sizes, so that they are not taken
# for something that grows.
_SHARD_TOKENS = 500_000
_FILE_BYTES = 2_000_000


def pack(source: str, folder: Path, num_bytes: int) -> None:
    """Documents of `source` as JSONL files of about 2 MB in `folder`, a quarter of them in `folder`/small."""
    from stepladder.data.sources.listing import list_files, sample_files

    files = sample_files(list_files([source]), num_bytes, 0)
    small, lines, held, number = folder / "small", [], 0, 0
    small.mkdir(parents=True)
    for place, file in enumerate(files):
        text = Path(file.path).read_bytes().decode("utf-8", errors="replace")
        lines.append(json.dumps({"text": text, "domain": file.domain, "group": file.name}))
        held += file.num_bytes
        if held >= _FILE_BYTES or place == len(files) - 1:
            target = (small if number % 4 == 0 else folder) / f"{number:05d}.jsonl"
            target.write_text("\n".join(lines) + "\n")
            lines, held, number = [], 0, number + 1


def measure(source: str, workers: int) -> dict[str, Any]:
    """Prepare a corpus by this process; JSON values of what it took."""
    from stepladder.data.options import CorpusOptions
    from stepladder.data.prepare import prepare_corpus
    from stepladder.data.steps import STEPS

    steps: dict[str, float] = defaultdict(float)

    def timed(name: str, run: Any) -> Any:
        def step(arguments: Any) -> Any:
            before = time.process_time()
            result = run(arguments)
            steps[name] += time.process_time() - before
            return result

        return step

    for name, run in list(STEPS.items()):
        STEPS[name] = timed(name, run)
    # The working folder is measured after the end, when the preparation would have removed it.
    shutil.rmtree, remove = (lambda *_, **__: None), shutil.rmtree
    folder = Path(tempfile.mkdtemp(prefix="scale-"))
    shard = _SHARD_TOKENS if workers > 1 else 100_000_000
    options = CorpusOptions(workers=workers, tokenizer_sample_bytes=_TOKENIZER_BYTES, shard_tokens=shard)
    wall, started = time.monotonic(), time.process_time()
    try:
        corpus = prepare_corpus([source], folder / "corpus", options, quiet=True)
        spent = time.process_time() - started
        return {
            "documents": corpus.input_documents,
            "kept": corpus.kept_documents,
            "bytes": corpus.input_bytes,
            "seconds": time.monotonic() - wall,
            "cpu": spent,
            "steps": dict(steps),
            "driver_cpu": spent - sum(steps.values()),
            "driver_peak": _peak(resource.RUSAGE_SELF),
            "worker_peak": _peak(resource.RUSAGE_CHILDREN),
            "disk": _disk(folder / "corpus"),
            "results": sum(path.stat().st_size for path in (folder / "corpus" / ".work").rglob("*/*.json")),
            "parts": len(list((folder / "corpus" / ".work" / "read").glob("*.text"))),
        }
    finally:
        remove(folder)


def _peak(who: int) -> int:
    return resource.getrusage(who).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _disk(corpus: Path) -> dict[str, list[int]]:
    """[bytes, files] by stage and, where a stage leaves several kinds, by kind."""
    sizes: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    work = corpus / ".work"
    for path in corpus.rglob("*"):
        if path.is_file():
            stage = path.relative_to(work).parts[0] if work in path.parents else "corpus"
            kind = path.name.split(".")[1] if "." in path.name else path.name
            entry = sizes[stage if stage in ON_PAPER else f"{stage}/{kind}"]
            entry[0] += path.stat().st_size
            entry[1] += 1
    return dict(sizes)


def run_apart(source: Path, workers: int) -> dict[str, Any]:
    """`measure` in a process of its own, whose memory is nobody else's."""
    from stepladder.data.worker import ENVIRONMENT

    words = [sys.executable, __file__, str(source), "--measure", str(workers)]
    done = subprocess.run(words, env={**os.environ, **ENVIRONMENT}, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def slope(small: dict[str, Any], large: dict[str, Any], value: Any) -> tuple[float, float]:
    """(growth of `value` a document, what is left at no documents), neither below 0."""
    grown = (value(large) - value(small)) / (large["documents"] - small["documents"])
    grown = max(grown, 0.0)
    return grown, max(value(large) - grown * large["documents"], 0.0)


def report(small: dict[str, Any], large: dict[str, Any], two: list[dict[str, Any]], args: Any) -> None:
    """Print the measured costs and the bill as Markdown tables."""
    cores, documents = args.machines * args.cores, args.documents
    kept = large["kept"] / large["documents"]
    print(
        f"Measured on {large['documents']:,} documents of {large['bytes'] / large['documents']:,.0f} bytes "
        f"on average ({args.source}), {kept:.0%} of them kept; growth since {small['documents']:,}.\n"
    )
    print(f"| step | CPU s a GB | CPU µs a document | for {documents:.0e} documents |")
    print("|---|---|---|---|")
    core_seconds = 0.0
    for name, seconds in large["steps"].items():
        core_seconds += seconds / large["documents"] * documents
        hours = seconds / large["documents"] * documents / 3600
        _print_step(name, seconds, large, f"{hours:,.0f} core-hours, {hours / cores:.2f} h on {cores} cores")
    each, once = slope(small, large, lambda run: run["driver_cpu"])
    driver_hours = (each * documents + once) / 3600
    _print_step("the driver", each * large["documents"], large, f"{driver_hours:.2f} h on one core")
    print(
        f"\nThe driver spends {once:.1f} CPU seconds more at any size: imports, the tokenizer's training.\n"
    )
    _print_disk(large, documents)
    _print_bill(core_seconds, driver_hours, small, large, two, args)


def _print_step(name: str, seconds: float, run: dict[str, Any], bill: str) -> None:
    gigabyte, each = seconds / run["bytes"] * 1e9, seconds / run["documents"] * 1e6
    print(f"| {name} | {gigabyte:.1f} | {each:,.1f} | {bill} |")


def _print_disk(run: dict[str, Any], documents: float) -> None:
    """Kinds of files below 1 % of the whole are summed up."""
    total = sum(size for size, _ in run["disk"].values())
    print(f"| files | bytes a document | on paper, a kept document | TB for {documents:.0e} |")
    print("|---|---|---|---|")
    rest = 0
    for name, (size, _) in sorted(run["disk"].items()):
        if size < 0.01 * total and name not in ON_PAPER:
            rest += size
        else:
            _print_files(name, size, run, documents)
    _print_files("all others", rest, run, documents)
    _print_files("together", total, run, documents)
    print()


def _print_files(name: str, size: int, run: dict[str, Any], documents: float) -> None:
    each = size / run["documents"]
    print(f"| {name} | {each:,.0f} | {ON_PAPER.get(name, '')} | {each * documents / 1e12:.2f} |")


def _print_bill(
    core_seconds: float,
    driver_hours: float,
    small: dict[str, Any],
    large: dict[str, Any],
    two: list[dict[str, Any]],
    args: Any,
) -> None:
    from stepladder.data.chain import RANGE_ROWS

    hours = core_seconds / args.machines / args.cores / 3600 + driver_hours
    usd = hours * args.machines * args.cores * args.usd_per_core_hour
    worker = max(run["worker_peak"] for run in two)
    disk = sum(size for size, _ in large["disk"].values()) / large["documents"] * args.documents
    parts = large["parts"] / large["documents"] * args.documents
    ranges = large["kept"] / large["documents"] * args.documents * 14 / RANGE_ROWS
    files, few = slope(small, large, lambda run: sum(count for _, count in run["disk"].values()))
    storage = disk / 1e9 * args.usd_per_gb_month * hours / 730
    rows = {
        "core-hours of tasks": f"{core_seconds / 3600:,.0f}",
        "hours: tasks, then the driver alone": f"{hours:.1f}",
        "memory of a worker process, measured peak": f"{worker / 1e6:,.0f} MB",
        f"memory of a machine, {args.cores} processes": f"{worker * args.cores / 1e9:,.1f} GB",
        f"memory of the driver at {two[0]['documents']:,} and {two[1]['documents']:,} documents": (
            f"{two[0]['driver_peak'] / 1e6:,.0f} and {two[1]['driver_peak'] / 1e6:,.0f} MB"
        ),
        "results of tasks that the driver holds, as JSON": (
            f"{large['results'] / large['documents'] * args.documents / 1e9:,.1f} GB"
        ),
        "disk, all stages kept to the end": f"{disk / 1e12:.1f} TB",
        "files in the shared folder": f"{files * args.documents + few:,.0f}",
        f"files opened to sort band keys: {parts:,.0f} parts x {ranges:,.0f} ranges x 2": (
            f"{parts * ranges * 2:.1e}"
        ),
        f"machines, at {args.usd_per_core_hour} USD a core-hour": f"{usd:,.0f} USD",
        f"disk while it runs, at {args.usd_per_gb_month} USD a GB-month": (
            f"{storage:,.0f} USD" if args.usd_per_gb_month else "not counted"
        ),
    }
    print(f"| {args.documents:.0e} documents on {args.machines} machines of {args.cores} cores | |")
    print("|---|---|")
    for name, value in rows.items():
        print(f"| {name} | {value} |")


def main() -> None:
    """Read the arguments; measure, or print one measurement as JSON for the process that asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", nargs="?", default="python:code")
    parser.add_argument("--megabytes", type=float, default=24)
    parser.add_argument("--documents", type=float, default=1e9)
    parser.add_argument("--machines", type=int, default=16)
    parser.add_argument("--cores", type=int, default=32)
    parser.add_argument("--usd-per-core-hour", type=float, default=USD_PER_CORE_HOUR)
    parser.add_argument("--usd-per-gb-month", type=float, default=0.0, help="shared disk; 0: not counted")
    parser.add_argument("--measure", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        with contextlib.redirect_stdout(sys.stderr):
            told = measure(args.source, args.measure)
        print(json.dumps(told))
        return
    with tempfile.TemporaryDirectory(prefix="scale-") as name:
        folder = Path(name)
        pack(args.source, folder, round(args.megabytes * 1e6))
        sizes = (folder / "small", folder)
        small, large = (run_apart(size, 1) for size in sizes)
        two = [run_apart(size, 2) for size in sizes]
    report(small, large, two, args)


if __name__ == "__main__":
    main()
