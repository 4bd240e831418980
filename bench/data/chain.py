"""The whole chain, raw text to shards: MB per CPU second, two processes against one, largest process.

    python bench/data/chain.py [SOURCE...] [--gigabytes 0.3 1 4] [--folder FOLDER]

Without --gigabytes the sources are prepared once with one process on one core and once with two on two, and
the bytes of both results are compared. With it, JSON lines of that size are made first: the sources' text
again and again, each time with other words in other places, so that it is not all near-duplicate.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from stepladder.data.sources.listing import list_files
from stepladder.data.sources.read import Reader


def main() -> None:
    """Print one line a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", nargs="*", default=["python:installed"])
    parser.add_argument("--gigabytes", type=float, nargs="*", default=[])
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--max-bytes", type=int, default=0)
    parser.add_argument("--ceiling", action="store_true", help="two unrelated chains at once against one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as place:
        folder = Path(place)
        if arguments.ceiling:
            ceiling(arguments.sources, folder, arguments.max_bytes)
            return
        if not arguments.gigabytes:
            runs = {n: prepare(arguments.sources, folder, n, arguments.max_bytes) for n in arguments.workers}
            walls = [run[0] for run in runs.values()]
            print(
                f"wall seconds, {arguments.workers[0]} against {arguments.workers[-1]} processes: "
                f"{walls[0] / walls[-1]:.2f}x; same bytes: {len({run[1] for run in runs.values()}) == 1}"
            )
        for size in arguments.gigabytes:
            made = make(arguments.sources, folder / f"{size}.jsonl", round(size * 1e9))
            prepare([str(made)], folder, arguments.workers[-1], 0)
            made.unlink()


def prepare(sources: list[str], folder: Path, workers: int, max_bytes: int) -> tuple[float, str]:
    """(wall seconds, digest of the shards) of one run of `stepladder data`, whose figures are printed."""
    out = folder / "corpus"
    words = [*command(sources, out, workers, max_bytes), "--json"]
    started = time.monotonic()
    # One process would otherwise use the threads of polars and of the tokenizer's training on every core.
    cores = sorted(os.sched_getaffinity(0))[:workers]
    words = ["taskset", "-c", ",".join(map(str, cores)), *words]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    watch = Watch(process.pid)
    text, _ = process.communicate()
    wall = time.monotonic() - started
    watch.stop()
    told = json.loads(text)
    megabytes = told["input_bytes"] / 1e6
    print(
        f"{megabytes:8.0f} MB  {workers} process(es)  {wall:7.1f} s  {told['cpu_seconds']:7.1f} CPU s  "
        f"{megabytes / told['cpu_seconds']:5.2f} MB per CPU s  "
        f"largest process {watch.largest / 1e6:5.0f} MB  "
        f"all together {watch.together / 1e6:5.0f} MB",
        flush=True,
    )
    digest = hashlib.sha256()
    for path in sorted(path for path in out.rglob("*") if path.suffix in (".bin", ".i64", ".u16")):
        digest.update(path.read_bytes())
    digest.update((out / "tokenizer.json").read_bytes())
    shutil.rmtree(out)
    return wall, digest.hexdigest()


def ceiling(sources: list[str], folder: Path, max_bytes: int) -> None:
    """What two cores can give at most: two chains with nothing in common, each on a core of its own."""

    def together(count: int) -> float:
        started, running = time.monotonic(), []
        for core in sorted(os.sched_getaffinity(0))[:count]:
            words = [*command(sources, folder / f"alone{core}", 1, max_bytes), "--json"]
            words = ["taskset", "-c", str(core), *words]
            running.append(subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        codes = [process.wait() for process in running]
        if any(codes):
            sys.exit("a chain failed")
        for core in sorted(os.sched_getaffinity(0))[:count]:
            shutil.rmtree(folder / f"alone{core}")
        return time.monotonic() - started

    together(1)  # the files are in memory afterwards
    rounds = [(together(1), together(2)) for _ in range(3)]
    for one, two in rounds:
        print(f"one chain {one:.1f} s, two at once {two:.1f} s: {2 * one / two:.2f}x")
    print(f"median: {statistics.median(2 * one / two for one, two in rounds):.2f}x is the most here")


def command(sources: list[str], out: Path, workers: int, max_bytes: int) -> list[str]:
    """The words of one run of `stepladder data`."""
    words = [sys.executable, "-m", "stepladder", "data", *sources, "--out", str(out)]
    return [*words, "--workers", str(workers), "--max-bytes", str(max_bytes)]


class Watch:
    """Largest resident size of one process of a tree, and of all together, looked at ten times a second."""

    def __init__(self, pid: int) -> None:
        self.largest = self.together = 0
        self._pid, self._done = pid, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        """End the watch."""
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(0.1):
            sizes = [size for pid in _tree(self._pid) if (size := _private(pid))]
            self.largest = max([self.largest, *sizes])
            self.together = max(self.together, sum(sizes))


def _tree(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        children = []
    return [pid, *(other for child in children for other in _tree(int(child)))]


def _private(pid: int) -> int:
    """Resident bytes that are not pages of mapped files (those the kernel may drop at any time)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    found = [int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon")]
    return found[0] if found else 0


def make(sources: list[str], path: Path, num_bytes: int) -> Path:
    """JSON lines of about `num_bytes` of text."""
    draw = np.random.default_rng(0)
    reader, written, turn = Reader(text_column="text", piece_bytes=1 << 20), 0, 0
    with path.open("w", encoding="utf-8") as stream:
        while written < num_bytes:
            for batch in reader.batches(list_files(sources)):
                for text in batch["text"]:
                    lines = text.split("\n")
                    if turn:
                        draw.shuffle(lines)
                        lines = [line + f" {draw.integers(1 << 40):x}" if line else line for line in lines]
                    line = json.dumps({"text": "\n".join(lines)}) + "\n"
                    stream.write(line)
                    written += len(line)
                if written >= num_bytes:
                    break
            turn += 1
    return path


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
