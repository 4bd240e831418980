"""`stepladder tune`: a checkpoint and labelled examples in, tuned models beside cheap baselines out."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from stepladder.tune.tasks import Task

ALL = "all"
# What --task all takes where nothing else is asked for: 2 cores tune a model of 4 M parameters in minutes.
_ALL_EXAMPLES = 500

KindName = Literal["classification", "multilabel", "rating", "span", "answer", "translation", "summarisation"]


def tune(
    model: Annotated[Path, Parameter(name="--from", help="Run folder, or a Hugging Face folder.")],
    *,
    task: Annotated[
        str,
        Parameter(
            help="File or folder of examples, a set of `stepladder data example`, or all: one of each kind."
        ),
    ],
    kind: Annotated[KindName | None, Parameter(help="By default what the keys of a row say.")] = None,
    columns: Annotated[str, Parameter(help="Names of columns: text=body,label=stars.")] = "",
    out: Annotated[Path | None, Parameter(help="Folder to write; by default tune/TASK.")] = None,
    tokenizer: Annotated[Path | None, Parameter(help="Corpus folder or tokenizer.json.")] = None,
    methods: Annotated[
        list[Literal["full", "lora", "frozen", "scratch"]] | None,
        Parameter(help="full, lora, frozen, scratch; by default full and scratch.", consume_multiple=True),
    ] = None,
    seeds: Annotated[int, Parameter(help="Runs of each method.")] = 1,
    epochs: Annotated[int, Parameter(help="Passes over the training examples, at most.")] = 4,
    rate: Annotated[float, Parameter(help="Learning rates against those of a run from scratch.")] = 1.0,
    lora_rank: Annotated[int, Parameter(help="Columns of the adapters of LoRA.")] = 8,
    lora_alpha: Annotated[float, Parameter(help="Adapters are added alpha / rank times.")] = 16.0,
    examples: Annotated[
        int, Parameter(help=f"Use at most this many examples (0: all; of --task all {_ALL_EXAMPLES}).")
    ] = 0,
    shots: Annotated[bool, Parameter(help="Also ask a decoder as it is, without and with examples.")] = True,
    workers: Annotated[int, Parameter(help="Processes side by side (0: one a core).")] = 0,
    tracker: Annotated[list[str] | None, Parameter(help="trackio, wandb, tensorboard or mlflow.")] = None,
    dry_run: Annotated[bool, Parameter(negative="", help="Only say what it is going to cost.")] = False,
    json_: Annotated[bool, Parameter(name="--json", negative="", help="One JSON object a task.")] = False,
) -> int:
    """Fine-tune on labelled examples and compare with cheap baselines and the network from scratch.

    Each kind of task has its own head, prompt and score (docs/tune.md). The best weights on dev are kept.
    """
    from stepladder.train.trackers import name_trackers
    from stepladder.tune.run import TuneOptions, check_options, tune_task, usable_cores

    options = TuneOptions(
        methods=tuple(methods or ("full", "scratch")),
        seeds=seeds,
        epochs=epochs,
        rate=rate,
        lora_rank=lora_rank,
        lora_alpha=lora_alpha,
    )
    check_options(options)
    name_trackers(tracker)
    tasks = _tasks(model, task, (kind, columns), examples)
    workers, runs = workers or usable_cores(), len(options.methods) * options.seeds
    _announce(tasks, runs)
    if dry_run or len(tasks) > 1:
        _tell_cost(model, tasks, tokenizer, (runs, epochs, workers, shots), dry_run)
    for one in () if dry_run else tasks:
        folder = (out or Path("tune")) / one.name if out is None or len(tasks) > 1 else out
        tune_task(model, one, folder, tokenizer=tokenizer, options=options, workers=workers, quiet=json_)
        if shots:
            _ask(folder, model, tokenizer, json_)
        _show(folder, options.methods[0], json_, quiet=len(tasks) > 1)
    return 0


def _ask(folder: Path, model: Path, tokenizer: Path | None, quiet: bool) -> None:
    """Answers of the model as it is."""
    from stepladder.tune.shots import write_shots

    write_shots(folder, model, tokenizer=tokenizer, quiet=quiet)


def _tell_cost(
    model: Path,
    tasks: "Sequence[Task]",
    tokenizer: Path | None,
    how: tuple[int, int, int, bool],
    dry_run: bool,
) -> None:
    """Tokens and seconds before anything is started; `how` is runs, epochs, workers and shots."""
    from stepladder.tune.suite import Scope, cost_lines

    runs, epochs, workers, shots = how
    scope = Scope(runs=runs, epochs=epochs, workers=workers, shots=shots)
    for line in cost_lines(model, tasks, tokenizer, scope):
        print(line, file=sys.stdout if dry_run else sys.stderr)


def _announce(tasks: "Sequence[Task]", runs: int) -> None:
    for one in tasks:
        sizes = ", ".join(f"{len(part):,} {split}" for split, part in one.splits().items())
        labels = f"; {len(one.labels)} labels" if one.labels else ""
        print(f"{one.name} ({one.kind}): {sizes}{labels}; {runs} runs", file=sys.stderr)
        for note in one.notes:
            print(f"note: {note}", file=sys.stderr)


def _tasks(model: Path, name: str, how: tuple[KindName | None, str], examples: int) -> "Sequence[Task]":
    """What --task names."""
    from stepladder.errors import TaskError
    from stepladder.models.export import read_shape, weights_folder
    from stepladder.tune.examples import EXAMPLE_TASKS, example_task
    from stepladder.tune.readers import parse_columns
    from stepladder.tune.suite import as_kind, suite
    from stepladder.tune.tasks import read_task

    kind, columns = how
    if name == ALL:
        causal = read_shape(weights_folder(model)).causal
        tasks, missing = suite(examples=examples or _ALL_EXAMPLES, written=causal)
        for sentence in missing:
            print(f"note: {sentence}", file=sys.stderr)
        if not tasks:
            raise TaskError("no example set can be made on this machine", got="; ".join(missing))
        return tasks
    if name in EXAMPLE_TASKS:
        task = example_task(name, examples=examples)
        return [as_kind(task, kind) if kind else task]
    return [read_task(Path(name), kind=kind, columns=parse_columns(columns), examples=examples)]


def _show(folder: Path, method: str, json_: bool, *, quiet: bool) -> None:
    from stepladder.eval.table import format_table, show_predictions, table_object, task_table
    from stepladder.tune.run import METHODS

    table = task_table(folder)
    if json_:
        print(json.dumps({"folder": str(folder), **table_object(table)}))
        return
    if quiet:
        print(f"\n{table.task}")
    print(format_table(table))
    print(table.verdict)
    label = next(text for key, text in METHODS.items() if key == method)
    if not quiet and label in {row.method for row in table.rows}:
        print(f"\nfive test examples, drawn at random, by the {label} network:")
        print("\n".join(show_predictions(folder, label)))
    print(f"\n{folder / 'results.json'}")
