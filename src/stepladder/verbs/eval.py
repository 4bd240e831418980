"""`stepladder eval`: a checkpoint and text, a tuned folder, or tasks in; scores out."""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from stepladder.errors import StepladderError


def eval(
    folder: Annotated[
        Path,
        Parameter(help="Run folder, Qwen3 folder, a folder that `tune` wrote, or a climb (with --task)."),
    ],
    *,
    on: Annotated[Path | None, Parameter(help="UTF-8 text file, or a corpus (its held-out split).")] = None,
    tokenizer: Annotated[Path | None, Parameter(help="Corpus folder or tokenizer.json.")] = None,
    overlap: Annotated[float, Parameter(help="Share of a window that only gives context.")] = 0.5,
    max_tokens: Annotated[int, Parameter(help="Tokens of a corpus split to use (0: all).")] = 65_536,
    task: Annotated[
        list[str] | None,
        Parameter(
            help="Ask each rung of a climb about these: files, or sets of `stepladder data example`.",
            consume_multiple=True,
        ),
    ] = None,
    probes: Annotated[
        list[Literal["answers", "shots", "frozen", "full"]] | None,
        Parameter(help="How to ask (default: answers, shots, frozen).", consume_multiple=True),
    ] = None,
    share: Annotated[
        float, Parameter(help="Of the ladder's core-seconds, what asking may take (0: no limit).")
    ] = 0.0,
    harness: Annotated[str, Parameter(help="Tasks of lm-eval, with commas between them.")] = "",
    harness_path: Annotated[Path | None, Parameter(help="Folder of YAML files with more such tasks.")] = None,
    limit: Annotated[int, Parameter(help="Documents of each such task (0: all).")] = 0,
    corpus: Annotated[
        Path | None,
        Parameter(help="Count test examples that stand in its training text (default: the model's own)."),
    ] = None,
    threshold: Annotated[
        float, Parameter(help="Share of an example's words that must lie in shared runs of 8 words.")
    ] = 0.5,
    json_: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Measure held-out loss in bits per byte, score a tuned folder again, or run tasks of lm-eval.

    With --task each rung of a climb is asked about a task: what its gold answers cost, answers without and
    with examples, a head on frozen features. Before the target starts, its scores are forecast and frozen.
    Test examples that stand in training text are counted, and scores without them told.
    """
    from stepladder.errors import DataError

    is_tuned = (folder / "task.json").exists()
    if corpus is not None and (task or not (harness or is_tuned)):
        raise _no_examples("--task" if task else str(folder))
    if task:
        return _ask(folder, task, (probes or [], share), json_)
    if harness:
        return _harness(folder, harness, (harness_path, limit, tokenizer), (corpus, threshold), json_)
    if is_tuned:
        return _score(folder, (corpus, threshold), json_)
    if on is None:
        raise DataError(
            "nothing to evaluate on", allowed="--on with a text file or a corpus folder; --harness with tasks"
        )
    return _read(folder, on, (tokenizer, overlap, max_tokens), json_)


def _read(folder: Path, on: Path, how: tuple[Path | None, float, int], json_: bool) -> int:
    from stepladder.eval.perplexity import evaluate_corpus, evaluate_text

    tokenizer, overlap, max_tokens = how
    if (on / "corpus.json").exists():
        result = evaluate_corpus(folder, on, overlap=overlap, max_tokens=max_tokens)
    else:
        result = evaluate_text(folder, on, tokenizer=tokenizer, overlap=overlap)
    if json_:
        print(json.dumps({"folder": str(folder), "on": str(on), **asdict(result)}))
        return 0
    print(f"{result.bits_per_byte:.4f} bits per byte  ({result.nats_per_token:.4f} nats per token)")
    print(f"over {result.tokens:,} tokens that spell {result.num_bytes:,} bytes of {on}")
    return 0


def _ask(folder: Path, tasks: list[str], how: tuple[Sequence[str], float], json_: bool) -> int:
    from stepladder.brief import load_brief
    from stepladder.eval.probed import PROBES_FILE
    from stepladder.records import to_json
    from stepladder.stages import EXAMPLE, Climb
    from stepladder.task_stages import probe_again, probes_text
    from stepladder.tune.examples import EXAMPLE_TASKS
    from stepladder.tune.probing import USUAL_STEPS

    steps, share = how
    brief = load_brief(folder / "stepladder.toml")
    asked = tuple(EXAMPLE + name if name in EXAMPLE_TASKS else name for name in tasks)
    climb = Climb(brief=replace(brief, data=replace(brief.data, tasks=asked)), folder=folder, quiet=json_)
    found = probe_again(climb, share=share or math.inf, steps=steps or USUAL_STEPS)
    if json_:
        rows = [{**asdict(probe.figure), "run": probe.run.run, "loss": probe.run.loss} for probe in found]
        print(json.dumps(to_json({"folder": str(folder), "probes": rows})))
    else:
        print(probes_text(found))
        print(folder / PROBES_FILE)
    return 0


def _harness(
    folder: Path,
    names: str,
    how: tuple[Path | None, int, Path | None],
    among: tuple[Path | None, float],
    json_: bool,
) -> int:
    from stepladder.data.prepare import load_corpus
    from stepladder.errors import StoreError
    from stepladder.eval.harness import format_overlaps, format_rows, run_harness
    from stepladder.eval.overlap import UNKNOWN
    from stepladder.models.words import find_corpus
    from stepladder.records import to_json
    from stepladder.store import write_text

    (path, limit, tokenizer), (named, threshold) = how, among
    corpus = named or find_corpus(folder)
    if named:
        load_corpus(named)  # a wrong folder is told before anything is evaluated
    tasks = [name.strip() for name in names.split(",") if name.strip()]
    found = run_harness(folder, tasks, path=path, limit=limit, tokenizer=tokenizer)
    kept = folder / "harness" / f"{'+'.join(tasks)}.json"
    write_text(kept, found.as_json() + "\n")
    rows, overlaps, uncounted = found.rows(), {}, "" if corpus else UNKNOWN
    if corpus:
        _say_corpus(corpus, named)
        try:
            overlaps = found.overlaps(corpus, threshold=threshold, quiet=json_)
        except StoreError as error:
            if named:
                raise
            uncounted = f"Overlap with training text was not counted: {error.wrong}."
    if json_:
        told = {"folder": str(folder), "kept": str(kept), "rows": rows, "overlap": overlaps}
        print(json.dumps(to_json(told | {"uncounted": uncounted})))
        return 0
    print(format_rows(rows))
    print(uncounted or format_overlaps(overlaps))
    print(f"lm-eval's own results, with every sample: {kept}")
    return 0


def _score(folder: Path, among: tuple[Path | None, float], json_: bool) -> int:
    from stepladder.eval.table import format_table, table_object, task_table

    corpus, threshold = among
    table = task_table(folder, corpus=corpus, threshold=threshold, quiet=json_)
    if table.overlap:
        _say_corpus(Path(table.overlap.corpus), corpus)
    if json_:
        print(json.dumps({"folder": str(folder), **table_object(table)}))
    else:
        print(format_table(table))
        print(table.verdict)
    return 0


def _say_corpus(corpus: Path, named: Path | None) -> None:
    if named is None:
        print(f"note: the model was trained on {corpus}: test examples are looked for there", file=sys.stderr)


def _no_examples(got: str) -> "StepladderError":
    from stepladder.errors import DataError

    return DataError(
        "--corpus looks for test examples in training text, and there are none here",
        got=got,
        allowed="a folder that `tune` wrote; --harness with tasks; a probe of a climb, such as "
        "ladder/r01@1/tasks/NAME@1",
        next_command="stepladder data check CORPUS --against FILE",
    )
