"""Sources and options in, a corpus folder out: read, deduplicate, trim, split, train a tokenizer, encode.

Each stage leaves its result under OUT/.work, so that an interrupted run goes on where it was; OUT itself
gets `tokenizer.json`, `train/`, `heldout/`, `index.json`, `audit.json`, `DATA_CARD.md`, `quarantine.jsonl`
and, last, `corpus.json`.
"""

import dataclasses
import hashlib
import json
import resource
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stepladder.data.audit import make_audit
from stepladder.data.card import data_card
from stepladder.data.decide import Documents, apply_trim, decide_duplicates, decide_split, load_documents
from stepladder.data.options import CorpusOptions
from stepladder.data.shards import INDEX_FILE, token_dtype, write_split
from stepladder.data.sources import SourceFile, list_files, sample_files, source_name, with_digests
from stepladder.data.steps import SPLITS, read_arrays, read_frame
from stepladder.data.tokenizer import END_ID, TOKENIZER_FILE, check_equal, load_tokenizer, train_tokenizer
from stepladder.data.worker import run_tasks
from stepladder.errors import DataError, MissingExtraError
from stepladder.progress import Progress
from stepladder.records import Corpus, Split, from_json, to_json
from stepladder.store import fingerprint, open_artefact, read_json, write_json, write_text

# Changes whenever the same inputs and options would give other bytes.
FORMAT = 2
CORPUS_FILE, AUDIT_FILE, CARD_FILE, QUARANTINE_FILE = (
    *("corpus.json", "audit.json", "DATA_CARD.md"),
    "quarantine.jsonl",
)
_TASK_BYTES, _TASK_FILES = 4_000_000, 1000
_PIECE_BYTES, _SMALLEST_PIECE, _PIECES = 1 << 20, 8192, 64
_CHECKED_DOCUMENTS, _CHECKED_BYTES = 300, 500_000


def prepare_corpus(
    sources: Sequence[str], out: Path, options: CorpusOptions, *, quiet: bool = False
) -> Corpus:
    """Prepare `sources` into the folder `out`; what a finished or interrupted run left there is reused.

    Raises:
        DataError: a source does not exist, or nothing is left to train on or to hold out.
        FingerprintError: `out` holds the corpus of other inputs or options.
        MissingExtraError: the extra `data` is not installed.
    """
    _require_extra()
    clock = _Clock()
    files = with_digests(list_inputs(sources, options))
    artefact = open_artefact(
        out, _identity(files, options), next_command=f"stepladder data ... --out {out}-2"
    )
    if artefact.is_done:
        return from_json(Corpus, read_json(out / CORPUS_FILE))
    job = _Job(out=out, options=options, files=files, quiet=quiet)
    clock.resume(job.work / "clock.json")

    documents, quarantined = _read(job)
    clock.save()
    with Progress("dedup", len(documents.rule), "documents", quiet=quiet) as progress:
        lines = decide_duplicates(job.work, documents, options.dedup_jaccard)
        progress.update(len(documents.rule))
    trimmed = job.run("trim", [{"chunk": chunk} for chunk in documents.chunks], documents.bounds)
    apply_trim(documents, trimmed)
    unit = decide_split(job.work, documents, lines, options)
    clock.save()
    is_fast = _tokenizer(job, documents)
    clock.save()
    index = _encode(job, documents, is_fast=is_fast)

    audit = make_audit(documents, quarantined, trimmed, index, unit)
    corpus = _corpus(audit, index, clock.read())
    write_json(out / AUDIT_FILE, audit)
    write_text(out / CARD_FILE, data_card(audit, options, _source_names(sources)))
    write_json(out / CORPUS_FILE, to_json(corpus))
    artefact.finish({"fingerprint": corpus.fingerprint})
    shutil.rmtree(job.work, ignore_errors=True)
    return corpus


def load_corpus(folder: Path) -> Corpus:
    """The record of a prepared corpus.

    Raises:
        DataError: `folder` holds none, or one whose preparation was interrupted.
    """
    if not (folder / CORPUS_FILE).exists():
        begun = (folder / ".work").exists()
        raise DataError(
            f"{folder} {'holds a corpus that is not finished' if begun else 'is not a prepared corpus'}",
            next_command=f"stepladder data PATH... --out {folder}",
        )
    return from_json(Corpus, read_json(folder / CORPUS_FILE))


def list_inputs(sources: Sequence[str], options: CorpusOptions) -> list[SourceFile]:
    """The files of the sources and of a held-out path, sampled to `max_bytes`; held-out files come last."""
    files = list_files(sources)
    if isinstance(options.held_out, str):
        held = list_files([options.held_out], held_out=True)
        places = {file.path for file in held}
        names = {file.name for file in files}
        held = [replace(f, name=f"held-out/{f.name}" if f.name in names else f.name) for f in held]
        files = [file for file in files if file.path not in places] + held
    chosen = sample_files(files, options.max_bytes, options.seed)
    if not chosen:
        raise DataError(
            "no source file fits into max_bytes",
            got=f"max_bytes {options.max_bytes}, smallest file {min(f.num_bytes for f in files)} bytes",
            allowed="0 for no cap, or more bytes",
        )
    return chosen


@dataclass(frozen=True, slots=True)
class _Job:
    out: Path
    options: CorpusOptions
    files: list[SourceFile]
    quiet: bool

    @property
    def work(self) -> Path:
        return self.out / ".work"

    def run(self, step: str, tasks: list[dict[str, Any]], sizes: Any) -> list[Any]:
        """Run the tasks of a step, with progress in documents (`sizes`: bounds) or bytes (`sizes`: list)."""
        amounts = np.diff(sizes).tolist() if isinstance(sizes, np.ndarray) else sizes
        unit = "documents" if isinstance(sizes, np.ndarray) else "bytes"
        common = {"folder": str(self.work)}
        tasks = [{**common, "index": index, **task} for index, task in enumerate(tasks)]
        workers = self.options.processes(sum(file.num_bytes for file in self.files))
        with Progress(step, sum(amounts), unit, quiet=self.quiet) as progress:
            return run_tasks(step, tasks, workers, lambda index, _: progress.advance(amounts[index]))


def _read(job: _Job) -> tuple[Documents, list[dict[str, Any]]]:
    options = job.options
    common = {
        "text_column": options.text_column,
        "piece_bytes": _piece_bytes(job.files, options),
        "languages": list(options.languages),
        "quality": options.quality,
    }
    groups = list(_tasks(job.files))
    tasks = [{**common, "files": [dataclasses.asdict(file) for file in group]} for group in groups]
    results = job.run("read", tasks, [sum(file.num_bytes for file in group) for group in groups])
    chunks = [chunk for result in results for chunk in result["chunks"]]
    quarantined = [entry for result in results for entry in result["quarantined"]]
    text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in quarantined)
    write_text(job.out / QUARANTINE_FILE, text)
    documents = load_documents(job.work, chunks) if chunks else None
    if documents is None or not documents.stays.any():
        reasons = "; ".join(f"{entry['source']}: {entry['reason']}" for entry in quarantined[:3])
        rules = ", ".join(sorted(set(documents.rule))) if documents else "none"
        raise DataError(
            "no document is left to train on",
            got=f"{len(documents.rule) if documents else 0} read, all removed ({rules}); "
            f"{len(quarantined)} quarantined{': ' + reasons if reasons else ''}",
            allowed="at least two documents of text; --no-quality keeps what the quality rules would remove",
            next_command=f"head {job.out / QUARANTINE_FILE}",
        )
    return documents, quarantined


def _tokenizer(job: _Job, documents: Documents) -> bool:
    """Train on a seeded sample of training documents; whether tiktoken gives equal ids on a sample."""
    options, path = job.options, job.out / TOKENIZER_FILE
    train = np.flatnonzero(documents.split == 0)
    sources, records = documents.column("file"), documents.column("record")
    digests = [
        hashlib.blake2b(f"{options.seed}:{sources[row]}:{records[row]}".encode(), digest_size=8).digest()
        for row in train
    ]
    order = train[sorted(range(len(train)), key=digests.__getitem__)]
    enough = np.cumsum(documents.rest[order]) - documents.rest[order] < options.tokenizer_sample_bytes
    sample = order[enough]
    with Progress("tokenizer", int(documents.rest[sample].sum()), "bytes", quiet=job.quiet) as progress:
        if not path.exists():
            texts = (text for _, text in _texts(job.work, documents, np.sort(sample)))
            write_text(path, train_tokenizer(texts, options.vocab_size))
        small = np.cumsum(documents.rest[sample]) < _CHECKED_BYTES
        small[0] = True
        checked = np.concatenate(
            [sample[small][:_CHECKED_DOCUMENTS], np.flatnonzero(documents.split == 1)[:50]]
        )
        texts = [text[:_CHECKED_BYTES] for _, text in _texts(job.work, documents, np.sort(checked))]
        is_equal = check_equal(load_tokenizer(path), texts) == 0
        progress.update(progress.total)
    return is_equal


def _texts(work: Path, documents: Documents, rows: np.ndarray) -> Iterator[tuple[int, str]]:
    """(row, trimmed text) of the wanted rows, chunk by chunk."""
    trimmed = np.isin(documents.rule, ["", "only_boilerplate", "heldout_overlap"])
    for number, chunk in enumerate(documents.chunks):
        own = documents.rows(number)
        own = own[trimmed[own]]
        places = np.flatnonzero(np.isin(own, rows, assume_unique=True))
        if len(places):
            texts = read_frame(work / "trim" / f"{chunk}.text")["text"]
            yield from zip(own[places].tolist(), texts.gather(places), strict=True)


def _encode(job: _Job, documents: Documents, *, is_fast: bool) -> dict[str, Any]:
    tokenizer = load_tokenizer(job.out)
    dtype = token_dtype(tokenizer.vocab_size)
    common = {"tokenizer": str(job.out / TOKENIZER_FILE), "fast": is_fast, "dtype": dtype.str}
    tasks = [{**common, "chunk": chunk} for chunk in documents.chunks]
    results = job.run("encode", tasks, documents.bounds)
    index: dict[str, Any] = {
        "dtype": dtype.name,
        "byteorder": "little",
        "vocab_size": tokenizer.vocab_size,
        "end_id": END_ID,
        "splits": {},
    }
    for split in SPLITS:
        folder = job.work / "encode"
        parts = (
            (folder / f"{chunk}.{split}", read_arrays(folder / f"{chunk}.{split}.npz")["lengths"])
            for chunk in documents.chunks
        )
        entry = write_split(job.out, split, parts, dtype, job.options.shard_tokens)  # pyrefly: ignore
        entry["num_bytes"] = sum(result[split]["num_bytes"] for result in results)
        index["splits"][split] = entry
    write_json(job.out / INDEX_FILE, index)
    return index


def _corpus(audit: dict[str, Any], index: dict[str, Any], spent: tuple[float, float]) -> Corpus:
    splits = {
        name: Split(documents=e["documents"], tokens=e["tokens"], num_bytes=e["num_bytes"])
        for name, e in index["splits"].items()
    }
    totals = audit["totals"]
    return Corpus(
        input_bytes=totals["input_bytes"],
        input_documents=totals["input_documents"],
        kept_documents=totals["kept_documents"],
        quarantined_documents=totals["quarantined_documents"],
        removed={rule: entry["documents"] for rule, entry in audit["removed"].items()},
        train=splits["train"],
        heldout=splits["heldout"],
        vocab_size=index["vocab_size"],
        seconds=round(spent[0], 3),
        cpu_seconds=round(spent[1], 3),
        fingerprint=fingerprint(index),
    )


def _identity(files: Sequence[SourceFile], options: CorpusOptions) -> dict[str, Any]:
    listing = [[f.name, f.digest, f.kind, f.source, f.domain, f.licence, f.held_out] for f in files]
    return {
        "kind": "corpus",
        "format": FORMAT,
        "files": len(files),
        "bytes": sum(file.num_bytes for file in files),
        "contents": fingerprint(listing),
        **options.identity(),
    }


def _piece_bytes(files: Sequence[SourceFile], options: CorpusOptions) -> int:
    """Long files are cut; the only one or two files of a corpus into pieces small enough to hold some out."""
    total = sum(file.num_bytes for file in files)
    alone = len(files) <= 2 and all(file.kind == "text" for file in files)
    if alone and isinstance(options.held_out, float) and total > 2 * _SMALLEST_PIECE:
        return min(max(total // _PIECES, _SMALLEST_PIECE), _PIECE_BYTES)
    return _PIECE_BYTES


def _tasks(files: Sequence[SourceFile]) -> Iterator[list[SourceFile]]:
    group: list[SourceFile] = []
    held = 0
    for file in files:
        if group and (held + file.num_bytes > _TASK_BYTES or len(group) >= _TASK_FILES):
            yield group
            group, held = [], 0
        group.append(file)
        held += file.num_bytes
    if group:
        yield group


def _source_names(sources: Sequence[str]) -> list[str]:
    return [source_name(source) for source in sources]


class _Clock:
    """Wall and CPU seconds of this process and its children, added to those of interrupted runs."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.monotonic(), self._used()
        self._before = (0.0, 0.0)
        self._file: Path | None = None

    @staticmethod
    def _used() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + children.ru_utime + children.ru_stime

    def resume(self, file: Path) -> None:
        self._file = file
        if file.exists():
            earlier = read_json(file)
            self._before = (earlier["seconds"], earlier["cpu_seconds"])

    def read(self) -> tuple[float, float]:
        wall, cpu = time.monotonic() - self._wall, self._used() - self._cpu
        return self._before[0] + wall, self._before[1] + cpu

    def save(self) -> None:
        seconds, cpu_seconds = self.read()
        assert self._file is not None
        write_json(self._file, {"seconds": seconds, "cpu_seconds": cpu_seconds})


def _require_extra() -> None:
    try:
        import polars  # noqa: F401
        import py3langid  # noqa: F401
        import rensa  # noqa: F401
        import tokenizers  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("preparing data", "data") from error
