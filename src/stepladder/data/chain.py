"""Files to read in; all steps run in order, each over parts or over ranges of keys, and their sums out.

The process that runs this holds a small record of each task and, of single documents, only what is bounded
by the size of the held-out text and of the tokenizer's sample.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stepladder.data.files import part_names, read_frame, write_array, write_parts
from stepladder.data.options import CorpusOptions
from stepladder.data.sources.listing import SourceFile
from stepladder.data.split import OVERLAP_SHARE, choose_groups, wanted_bytes
from stepladder.data.worker import Executor
from stepladder.errors import DataError
from stepladder.progress import Progress

# One range of keys is held by one task. Where all its rows are of documents with twins, their sketches are
# held as well: 448 bytes each.
RANGE_ROWS = 1_000_000
# Groups whose hash lies below this multiple of the wanted share are looked at: the wanted are among them.
_MARGIN = 4
_LARGEST_HASH = (1 << 64) - 1
# Steps that take long enough for a progress bar.
_SHOWN = ("read", "bands", "near", "lines", "trim", "contamination", "portray", "encode")


@dataclass(slots=True)
class Job:
    """A preparation at work. `parts` is filled by reading, `ranges` counts ranges of keys by step."""

    work: Path
    options: CorpusOptions
    executor: Executor
    quiet: bool
    parts: list[dict[str, Any]] = field(default_factory=list)
    ranges: dict[str, int] = field(default_factory=dict)

    def run(
        self, step: str, tasks: Sequence[Mapping[str, Any]], sizes: Sequence[int], unit: str
    ) -> list[Any]:
        """Run the tasks of a step with a progress bar; `sizes` says how much of `unit` each of them is."""
        full = [{"folder": str(self.work), "index": index, **task} for index, task in enumerate(tasks)]
        quiet = self.quiet or step not in _SHOWN
        with Progress(step, sum(sizes), unit, quiet=quiet, turns=step == "portray") as progress:
            return self.executor.run(step, full, lambda index, _: progress.advance(sizes[index]))

    def over_parts(self, step: str, first: Mapping[str, Any] | None = None, **arguments: Any) -> list[Any]:
        """Run a step over all parts; `first` is a task of another step that is begun before them."""
        before = [] if first is None else [first]
        tasks = [*before, *({"part": part["name"], **arguments} for part in self.parts)]
        sizes = [*(0 for _ in before), *(part["documents"] for part in self.parts)]
        return self.run(step, tasks, sizes, "documents")

    def over_ranges(self, step: str, count: int, **arguments: Any) -> list[Any]:
        """Run a step over `count` ranges of keys."""
        tasks = [{"partitions": count, **arguments} for _ in range(count)]
        return self.run(step, tasks, [1] * count, "ranges")


def read_files(job: Job, groups: Sequence[Sequence[SourceFile]], common: Mapping[str, Any]) -> list[Any]:
    """Read all files into parts; what each task quarantined."""
    tasks = [{**common, "files": [asdict(file) for file in group]} for group in groups]
    results = job.run("read", tasks, [sum(f.num_bytes for f in group) for group in groups], "bytes")
    job.parts = [part for result in results for part in result["parts"]]
    write_parts(job.work, job.parts)
    return [result["quarantined"] for result in results]


def find_copies(job: Job) -> dict[str, Any]:
    """Exact copies, then clusters of near-duplicates; how the search went, for the audit."""
    documents = sum(part["kept"] for part in job.parts)
    options = job.options.dedup
    exact = job.ranges["exact"] = _ranges(documents)
    job.over_ranges("exact", exact)
    bands = {"bands": options.bands, "band_rows": options.band_rows}
    job.over_parts("bands", exact=exact, **bands)
    count = job.ranges["bands"] = _ranges(documents * options.bands)
    near = job.over_ranges("near", count, jaccard=options.jaccard)
    last = _grow(job, count)
    job.over_ranges("leaders", count, before=last)
    return {
        **{name: sum(result[name] for result in near) for name in ("candidates", "joined")},
        "similarities": np.sum([result["similarities"] for result in near], axis=0).tolist(),
        **asdict(options),
    }


def _grow(job: Job, count: int) -> str:
    """Alternate star steps until nothing changes; the folder of the last edges."""
    before, known = "near", (-1, -1)
    # How many rounds it takes is not known before.
    with Progress("clusters", 0, "rounds", quiet=job.quiet, turns=True) as progress:
        for number in range(1, 200):
            for large in (True, False):
                step = f"star/{number:03d}{'a' if large else 'b'}"
                tasks = [
                    {"partitions": count, "partition": p, "before": before, "step": step, "large": large}
                    for p in range(count)
                ]
                results = job.run("star", tasks, [1] * count, "ranges")
                before = step
            found = (sum(r["edges"] for r in results), sum(r["sum"] for r in results) & _LARGEST_HASH)
            progress.update(number, f"{found[0]:,} edges")
            if found == known or found[0] == 0:
                return before
            known = found
    raise AssertionError("the number of rounds grows with the square of the logarithm of the corpus")


def cut_boilerplate(job: Job) -> list[dict[str, Any]]:
    """Verdicts on copies, then the lines that many documents share are cut; the results of trimming."""
    job.over_parts("lines", exact=job.ranges["exact"], partitions=job.ranges["bands"])
    count = job.ranges["lines"] = _ranges(sum(part["lines"] for part in job.parts))
    job.over_ranges("boilerplate", count)
    return job.over_parts("trim", partitions=count, seed=job.options.seed)


def hold_out(job: Job, trimmed: Sequence[Mapping[str, Any]]) -> str:
    """Choose what is held out and drop what overlaps training text; "file", "document" or "path"."""
    total, documents = (sum(result[name] for result in trimmed) for name in ("num_bytes", "documents"))
    unit = "path"
    if isinstance(job.options.held_out, float):
        unit, chosen = _choose(job, total, documents, job.options.held_out)
        write_array(job.work / "held_groups.npy", np.sort(chosen))
    splits = job.over_parts("split", unit=unit)
    held = [np.load(job.work / "split" / f"{name}.held.npy") for name in part_names(job.work)]
    ids, group = np.concatenate(held, axis=1)
    write_array(job.work / "held.npy", ids)
    count = job.ranges["lines"]
    job.over_ranges("overlap", count)
    lines, shared = sum(
        (np.load(job.work / "overlap" / f"{number:05d}.npy") for number in range(count)),
        np.zeros((2, len(ids)), dtype=np.int64),
    )
    _, inverse = np.unique(group, return_inverse=True)
    share = (np.bincount(inverse, shared) / np.maximum(np.bincount(inverse, lines), 1))[inverse]
    goes = share >= OVERLAP_SHARE
    write_array(job.work / "dropped.npy", ids[goes])
    write_array(job.work / "dropped_shares.npy", share[goes].astype(np.float32))
    _check_split(documents, sum(result["held"] for result in splits), int(goes.sum()))
    return unit


def _choose(job: Job, total: int, documents: int, share: float) -> tuple[str, np.ndarray]:
    """Whole files where there are enough of them, else single records or pieces of files."""
    for unit in ("file", "document"):
        results, chosen, held = _walk(job, unit, total, share)
        ends = [result[end] for result in results for end in ("first", "last") if result[end] is not None]
        groups = sum(result["groups"] for result in results)
        several = len(set(ends)) > 1
        if unit == "document":
            if not several:
                raise DataError(
                    "no held-out text can be chosen: all text lies in one document",
                    got=f"{documents} document(s) left of all sources",
                    allowed="two documents or more, or held-out text of its own",
                    next_command="stepladder data ... --held-out PATH",
                )
            return unit, chosen
        if several and (held / max(total, 1) <= max(2 * share, 0.2) or groups == documents):
            return unit, chosen
    raise AssertionError("the second unit always returns")


def _walk(job: Job, unit: str, total: int, share: float) -> tuple[list[Any], np.ndarray, int]:
    """(results, hashes of the groups to hold out, their bytes), looking at as few groups as are needed."""
    wanted = wanted_bytes(total, share)
    part_of_all = min(_MARGIN * wanted / max(total, 1), 1.0)
    while True:
        limit = _LARGEST_HASH if part_of_all >= 1 else int(part_of_all * _LARGEST_HASH)
        step = f"groups/{unit}-{limit:016x}"
        tasks = [{"part": p["name"], "unit": unit, "limit": limit, "step": step} for p in job.parts]
        results = job.run("groups", tasks, [p["documents"] for p in job.parts], "documents")
        sizes: dict[int, int] = {}
        for result in results:
            for name, size in result["chosen"]:
                sizes[name] = sizes.get(name, 0) + size
        chosen, held = choose_groups(sizes, wanted)
        if held >= wanted or limit == _LARGEST_HASH:
            return results, chosen, held
        part_of_all *= _MARGIN


def _check_split(documents: int, held: int, dropped: int) -> None:
    for name, count in (("training", documents - held), ("held-out", held - dropped)):
        if not count:
            overlap = f"; {dropped} held-out documents shared {OVERLAP_SHARE:.0%} or more of their lines"
            raise DataError(
                f"no {name} text is left",
                got=f"{documents} documents after cleaning and deduplication"
                f"{overlap if name == 'held-out' else ''}",
                allowed="more text, or another held-out share or path",
                next_command="stepladder data ... --held-out PATH",
            )


def draw_sample(job: Job, bytes_by_source: Mapping[str, int], quota: Mapping[str, int]) -> dict[str, int]:
    """Draw training texts by hash; for each source the hash up to which its texts fill its quota of bytes."""
    limits = {}
    for source, wanted in quota.items():
        share = _MARGIN * wanted / max(bytes_by_source[source], 1)
        limits[source] = _LARGEST_HASH if share >= 1 else int(share * _LARGEST_HASH)
    job.over_parts("sample", limits=limits, seed=job.options.seed)
    return _cuts(job, quota)


def _cuts(job: Job, quota: Mapping[str, int]) -> dict[str, int]:
    """For each source the hash at which its quota of bytes is full."""
    import polars as pl

    frames = [
        read_frame(job.work / "sample" / f"{name}.text").select(
            "order", "source", pl.col("text").str.len_bytes().alias("size")
        )
        for name in part_names(job.work)
    ]
    table = pl.concat(frames).sort("order")
    cuts = {}
    for source, wanted in quota.items():
        own = table.filter(pl.col("source") == source)
        before = own["size"].cum_sum() - own["size"]
        taken = own.filter(before < wanted)
        cuts[source] = int(taken["order"].max()) if len(taken) else 0
    return cuts


def _ranges(rows: int) -> int:
    return max(1, -(-rows // RANGE_ROWS))
