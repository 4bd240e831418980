"""`stepladder eval`: a checkpoint and text, a tuned folder, or tasks in; scores out."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


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
    json_: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Measure held-out loss in bits per byte, score a tuned folder again, or run tasks of lm-eval.

    With --task each rung of a climb is asked about a task: what its gold answers cost, answers without and
    with examples, a head on frozen features. Before the target starts, its scores are forecast and frozen.
    """
    from stepladder.errors import DataError

    if task:
        return _ask(folder, task, (probes or [], share), json_)
    if harness:
        return _harness(folder, harness, (harness_path, limit, tokenizer), json_)
    if (folder / "task.json").exists():
        return _score(folder, json_)
    if on is None:
        raise DataError(
            "nothing to evaluate on", allowed="--on with a text file or a corpus folder; --harness with tasks"
        )
    from stepladder.eval.perplexity import evaluate_corpus, evaluate_text

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


def _harness(folder: Path, names: str, how: tuple[Path | None, int, Path | None], json_: bool) -> int:
    from stepladder.eval.harness import format_rows, run_harness
    from stepladder.records import to_json
    from stepladder.store import write_text

    path, limit, tokenizer = how
    tasks = [name.strip() for name in names.split(",") if name.strip()]
    found = run_harness(folder, tasks, path=path, limit=limit, tokenizer=tokenizer)
    kept = folder / "harness" / f"{'+'.join(tasks)}.json"
    write_text(kept, found.as_json() + "\n")
    rows = found.rows()
    if json_:
        print(json.dumps({"folder": str(folder), "kept": str(kept), "rows": [to_json(row) for row in rows]}))
        return 0
    print(format_rows(rows))
    print(f"lm-eval's own results, with every sample: {kept}")
    return 0


def _score(folder: Path, json_: bool) -> int:
    from stepladder.eval.table import format_table, task_table
    from stepladder.records import to_json

    table = task_table(folder)
    if json_:
        rows = [to_json(row) for row in table.rows]
        print(json.dumps({"task": table.task, "folder": str(folder), "verdict": table.verdict, "rows": rows}))
    else:
        print(format_table(table))
        print(table.verdict)
    return 0
