"""Sources and options in, a corpus folder out: read, deduplicate, split, train a tokenizer, encode.

Each stage leaves its result under OUT/.work, so that an interrupted run goes on where it was; OUT itself
gets `tokenizer.json`, `train/`, `heldout/`, `ngrams/`, `index.json`, `audit.json`, `DATA_CARD.md`,
`quarantine.jsonl.zst`, `croissant.json` and, last, `corpus.json`.
"""

import datetime
import resource
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from stepladder import __version__
from stepladder.data.canaries import CANARIES, plant
from stepladder.data.card.audit import make_audit, quarantine_of
from stepladder.data.card.croissant import CROISSANT_FILE, corpus_files, croissant
from stepladder.data.card.datacard import data_card
from stepladder.data.card.profile import describe, one_in
from stepladder.data.card.steps import fold
from stepladder.data.chain import Job, cut_boilerplate, draw_sample, find_copies, hold_out, read_files
from stepladder.data.contamination.clear import clear_training
from stepladder.data.contamination.decontaminate import EvaluationIndex
from stepladder.data.contamination.evaluation_sets import read_evaluations
from stepladder.data.files import read_arrays, write_packed
from stepladder.data.finish import SPLITS
from stepladder.data.options import CorpusOptions
from stepladder.data.privacy.pii import merge_counts
from stepladder.data.reading import SPARED
from stepladder.data.sources.listing import (
    SourceFile,
    in_ranges,
    list_files,
    sample_files,
    source_name,
    with_digests,
)
from stepladder.data.tokens.shards import INDEX_FILE, token_dtype, write_split
from stepladder.data.tokens.tokenizer import (
    END_ID,
    TOKENIZER_FILE,
    load_own_tokenizer,
)
from stepladder.data.tokens.training import is_equal, sampled
from stepladder.data.tokens.vocabulary import cut_tokenizer, sample_quota
from stepladder.data.worker import Executor, LocalPool
from stepladder.errors import DataError, MissingExtraError
from stepladder.records import Corpus, Split, from_json, to_json
from stepladder.store import fingerprint, open_artefact, read_json, write_json, write_text

# Changes whenever the same inputs and options would give other bytes.
FORMAT = 4
CORPUS_FILE, AUDIT_FILE, CARD_FILE, QUARANTINE_FILE = (
    *("corpus.json", "audit.json", "DATA_CARD.md"),
    "quarantine.jsonl.zst",
)
VOCABULARY_FILE = "vocabulary.json"
ChooseVocabulary = Callable[[Mapping[int, float]], dict[str, Any]]
_TASK_BYTES, _TASK_FILES = 4_000_000, 1000
# A large corpus has larger tasks, not more of them: a document's id has room for 131,072.
_MOST_TASKS = 50_000
# A range of a large file holds several tasks' bytes, and is a task.
_RANGE_TASKS = 4
_PIECE_BYTES, _SMALLEST_PIECE, _PIECES = 1 << 20, 8192, 64
# Parts whose portraits one task adds up.
_FOLDED = 32


def prepare_corpus(
    sources: Sequence[str],
    out: Path,
    options: CorpusOptions,
    *,
    quiet: bool = False,
    choose: ChooseVocabulary | None = None,
    executor: Callable[[int], Executor] = LocalPool,
) -> Corpus:
    """Prepare `sources` into the folder `out`; what a finished or interrupted run left there is reused.

    `choose` gets bytes per token by size of the vocabulary and gives JSON values with `vocab_size`; it is
    asked where the options leave the size open (0). `executor` gets a number of processes and gives where the
    tasks run; it does not change the result.

    Raises:
        DataError: a source or an evaluation set cannot be read, or nothing is left to train on or hold out.
        FingerprintError: `out` holds the corpus of other inputs or options.
        MissingExtraError: the extra `data` is not installed.
    """
    _require_extra()
    clock = _Clock()
    files = with_digests(list_inputs(sources, options))
    evaluation, examples = _evaluation(options)
    identity = {**_identity(files, options), "evaluation": examples}
    artefact = open_artefact(out, identity, next_command=f"stepladder data ... --out {out}-2")
    if artefact.is_done:
        return from_json(Corpus, read_json(out / CORPUS_FILE))
    with executor(options.processes(sum(file.num_bytes for file in files))) as pool:
        job = Job(work=out / ".work", options=options, executor=pool, quiet=quiet)
        clock.resume(job.work / "clock.json")
        quarantined = _read(job, out, files)
        clock.save()
        copies = find_copies(job)
        trimmed = cut_boilerplate(job)
        unit = hold_out(job, trimmed)
        cleared = clear_training(job, out, evaluation)
        clock.save()
        is_fast, told = _train_and_portray(job, out, choose)
        clock.save()
        told["canaries"] = plant(job.work, out, job.parts, options.canaries, options.seed)
        index = _encode(job, out, is_fast=is_fast)

    vocabulary = job.work / VOCABULARY_FILE
    decided = {
        "unit": unit,
        "vocabulary": read_json(vocabulary) if vocabulary.exists() else {},
        "pii": merge_counts([part["pii"] for part in job.parts]),
        **copies,
        **cleared,
    }
    audit = make_audit(job.work, told, quarantined, trimmed, index, decided)
    corpus = _corpus(audit, index, clock.read())
    _write_records(out, audit, corpus, options, _source_names(sources))
    artefact.finish({"fingerprint": corpus.fingerprint})
    shutil.rmtree(job.work, ignore_errors=True)
    return corpus


def _write_records(
    out: Path, audit: Mapping[str, Any], corpus: Corpus, options: CorpusOptions, sources: Sequence[str]
) -> None:
    """Audit, data card and Croissant, and last the record."""
    write_json(out / AUDIT_FILE, audit)
    write_text(out / CARD_FILE, data_card(audit, options, sources))
    described = {**options.identity(), **_publication(corpus), "sources": sources}
    write_json(out / CROISSANT_FILE, croissant(audit, described, corpus_files(out)))
    write_json(out / CORPUS_FILE, to_json(corpus))


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


def _read(job: Job, out: Path, files: Sequence[SourceFile]) -> dict[str, Any]:
    """Read all files into parts and write the quarantine out; what stands in it."""
    options = job.options
    groups = list(_tasks(files))
    common = {
        "piece_bytes": _piece_bytes(files, options),
        "reading": asdict(options.reading),
        "cleaning": asdict(options.cleaning),
    }
    quarantined = quarantine_of(read_files(job, groups, common))
    paths = [job.work / "read" / f"{task:05d}.quarantine.jsonl" for task in range(len(groups))]
    write_packed(out / QUARANTINE_FILE, paths)
    if not any(part["kept"] for part in job.parts):
        reasons = "; ".join(f"{entry['source']}: {entry['reason']}" for entry in quarantined["examples"])
        read = sum(part["documents"] for part in job.parts)
        rules = ", ".join(sorted({rule for part in job.parts for rule in part["rules"]})) or "none"
        raise DataError(
            "no document is left to train on",
            got=f"{read} read, all removed ({rules}); "
            f"{quarantined['documents']} quarantined{': ' + reasons if reasons else ''}",
            allowed="at least two documents of text; --no-quality keeps what the quality rules would remove",
            next_command=f"zstdcat {out / QUARANTINE_FILE} | head",
        )
    return quarantined


def _train_and_portray(job: Job, out: Path, choose: ChooseVocabulary | None) -> tuple[bool, dict[str, Any]]:
    """Train the tokenizer on a seeded sample, and describe all documents at the same time.

    Whether tiktoken gives equal ids on a sample, and tally and profile of the corpus.
    """
    sizes = {name: size for name, size in _bytes_by_source(job).items() if not name.startswith(SPARED)}
    cuts = draw_sample(job, sizes, sample_quota(sizes, None, job.options.tokenizer_sample_bytes))
    training = {"do": "vocabulary", "step": "vocabulary", "cuts": cuts, "vocab_size": job.options.vocab_size}
    share = one_in(sum(part["num_bytes"] for part in job.parts))
    told = job.over_parts("portray", first=training, profile_one_in=share)[0]
    trained = (job.work / "vocabulary" / TOKENIZER_FILE).read_text(encoding="utf-8")
    if not job.options.vocab_size:
        assert choose is not None, "vocab_size 0 asks for a choice"
        chosen = choose({int(size): value for size, value in told["bytes_per_token"]})
        write_json(job.work / VOCABULARY_FILE, chosen)
        trained = cut_tokenizer(trained, int(chosen["vocab_size"]))
    write_text(out / TOKENIZER_FILE, trained)
    is_fast = told["fast"] if job.options.vocab_size else is_equal(out, list(sampled(job.work, cuts)))
    names = [part["name"] for part in job.parts]
    tasks = [{"parts": names[start : start + _FOLDED]} for start in range(0, len(names), _FOLDED)]
    total = fold(job.run("fold", tasks, [len(task["parts"]) for task in tasks], "parts"))
    return is_fast, {**total["tally"], "profile": describe(total["profile"])}


def _bytes_by_source(job: Job) -> dict[str, int]:
    total: Counter[str] = Counter()
    for part in job.parts:
        total.update(part["sources"])
    return dict(sorted(total.items()))


def _encode(job: Job, out: Path, *, is_fast: bool) -> dict[str, Any]:
    """Index of the shards."""
    tokenizer = load_own_tokenizer(out)
    dtype = token_dtype(tokenizer.vocab_size)
    more = [CANARIES] if job.options.canaries else []
    names = {
        "sources": [*_bytes_by_source(job), *more],
        "domains": [*sorted({domain for part in job.parts for domain in part["domains"]}), *more],
    }
    results = job.over_parts(
        "encode",
        tokenizer=str(out / TOKENIZER_FILE),
        fast=is_fast,
        dtype=dtype.str,
        **names,
    )
    index: dict[str, Any] = {
        "dtype": dtype.name,
        "byteorder": "little",
        "vocab_size": tokenizer.vocab_size,
        "end_id": END_ID,
        **names,
        "splits": {},
    }
    folder = job.work / "encode"
    for split in SPLITS:
        entry = write_split(out, split, _encoded(folder, job, split), dtype, job.options.shard_tokens)
        entry["num_bytes"] = sum(result[split]["num_bytes"] for result in results)
        index["splits"][split] = entry
    write_json(out / INDEX_FILE, index)
    return index


def _encoded(folder: Path, job: Job, split: str) -> Iterator[tuple[Path, *tuple[np.ndarray, ...]]]:
    for part in job.parts:
        arrays = read_arrays(folder / f"{part['name']}.{split}.npz")
        yield folder / f"{part['name']}.{split}", arrays["lengths"], arrays["sources"], arrays["domains"]


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


def _publication(corpus: Corpus) -> dict[str, str]:
    """What Croissant wants to know of a publication; the date is that on which the corpus was made."""
    return {
        "version": "1.0.0",
        "datePublished": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "citeAs": f"Text corpus {corpus.fingerprint}, prepared with stepladder {__version__}.",
    }


def _evaluation(options: CorpusOptions) -> tuple[EvaluationIndex | None, str]:
    """The n-grams of all evaluation sets, and what stands for their contents wherever the files lie."""
    sets = read_evaluations([Path(name) for name in options.cleaning.evaluation_sets])
    if not sets:
        return None, ""
    return EvaluationIndex.build(sets), fingerprint([[one.name, one.texts] for one in sets])


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
    task_bytes = max(_TASK_BYTES, sum(file.num_bytes for file in files) // _MOST_TASKS)
    group: list[SourceFile] = []
    held = 0
    for file in in_ranges(files, _RANGE_TASKS * task_bytes):
        if group and (held + file.num_bytes > task_bytes or len(group) >= _TASK_FILES):
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
