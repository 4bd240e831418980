"""`stepladder tune`: a checkpoint and labelled examples in, tuned models beside cheap baselines out."""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def tune(
    model: Annotated[Path, Parameter(name="--from", help="Run folder, or a folder in the Qwen3 layout.")],
    *,
    task: Annotated[
        str,
        Parameter(
            help='JSONL of {"text", "label"}, a folder with train/dev/test.jsonl, or an example: text-kind, '
            "sentiment, docstring-topic."
        ),
    ],
    out: Annotated[Path | None, Parameter(help="Folder to write; by default tune/TASK.")] = None,
    tokenizer: Annotated[Path | None, Parameter(help="Corpus folder or tokenizer.json.")] = None,
    methods: Annotated[
        list[Literal["full", "frozen", "scratch"]] | None,
        Parameter(help="full, frozen, scratch; by default full and scratch.", consume_multiple=True),
    ] = None,
    seeds: Annotated[int, Parameter(help="Runs of each method.")] = 1,
    epochs: Annotated[int, Parameter(help="Passes over the training examples, at most.")] = 4,
    rate: Annotated[float, Parameter(help="Learning rates against those of a run from scratch.")] = 1.0,
    examples: Annotated[int, Parameter(help="Use at most this many examples (0: all).")] = 0,
    workers: Annotated[int, Parameter(help="Processes side by side (0: one a core).")] = 0,
    json_: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Fine-tune a classifier and compare it with a linear model, the network from scratch and guessing."""
    from stepladder.eval.table import SCRATCH, TUNED
    from stepladder.tune.examples import EXAMPLE_TASKS, example_task
    from stepladder.tune.run import TuneOptions, tune_task, usable_cores
    from stepladder.tune.tasks import read_task

    options = TuneOptions(
        methods=tuple(methods or ("full", "scratch")), seeds=seeds, epochs=epochs, rate=rate
    )
    loaded = (
        example_task(task, examples=examples)
        if task in EXAMPLE_TASKS
        else read_task(Path(task), examples=examples)
    )
    folder = out or Path("tune") / loaded.name
    runs = len(options.methods) * options.seeds
    sizes = ", ".join(f"{len(part):,} {split}" for split, part in loaded.splits().items())
    print(f"{loaded.name}: {sizes}; {len(loaded.labels)} labels; {runs} runs", file=sys.stderr)
    for note in loaded.notes:
        print(f"note: {note}", file=sys.stderr)
    tune_task(
        model,
        loaded,
        folder,
        tokenizer=tokenizer,
        options=options,
        workers=workers or usable_cores(),
        quiet=json_,
    )
    return _show(folder, TUNED if "full" in options.methods else SCRATCH, json_)


def _show(folder: Path, method: str, json_: bool) -> int:
    from stepladder.eval.table import format_table, show_predictions, task_table
    from stepladder.records import to_json

    table = task_table(folder)
    if json_:
        rows = [to_json(row) for row in table.rows]
        print(json.dumps({"task": table.task, "folder": str(folder), "verdict": table.verdict, "rows": rows}))
        return 0
    print(format_table(table))
    print(table.verdict)
    if method in {row.method for row in table.rows}:
        print(f"\nfive test examples, drawn at random, by the {method} network:")
        print("\n".join(show_predictions(folder, method)))
    print(f"\n{folder / 'results.json'}")
    return 0
