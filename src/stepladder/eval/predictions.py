"""A folder of predictions on one test set in; what each method said, run by run, out (no torch).

predictions.jsonl has a line for each test example in order: index, gold, predicted, and where there is one
the probability of the prediction. Where a network scored the gold answer itself: answer_nats, answer_bytes.
"""

import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepladder.errors import TaskError
from stepladder.store import DONE_FILE, read_json, write_text

PREDICTIONS_FILE = "predictions.jsonl"
TUNED, SCRATCH, FROZEN, LORA = "fine-tuned", "from scratch", "frozen features", "LoRA"
ZERO_SHOT, FEW_SHOT = "zero-shot", "few-shot"
# In the order of tables: what is preferred where several were tried comes first.
NETWORKS = (TUNED, LORA, FROZEN, FEW_SHOT, ZERO_SHOT, SCRATCH)
_SHOWN_CHARACTERS = 60
Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """What one run said to every test example: labels, lists of labels, numbers or texts, by kind of task.

    `sure` are probabilities of what was said, `answer_nats` what the gold answers cost the network and
    `answer_bytes` how long they are; each is empty where it was not measured.
    """

    said: tuple[Any, ...]
    sure: tuple[float, ...] = ()
    answer_nats: tuple[float, ...] = ()
    answer_bytes: tuple[int, ...] = ()
    seconds: float = 0.0
    seed: int = 0

    def take(self, chosen: Sequence[int]) -> "Predictions":
        """Those of some examples."""

        def part(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(values[at] for at in chosen) if values else ()

        return Predictions(
            said=part(self.said),
            sure=part(self.sure),
            answer_nats=part(self.answer_nats),
            answer_bytes=part(self.answer_bytes),
            seconds=self.seconds,
            seed=self.seed,
        )


def gold_of(row: Row, kind: str) -> Any:
    """The gold value of a row of test.jsonl, in the form of predictions.jsonl."""
    if kind in ("span", "answer"):
        answers = row["answers"]
        return [answer if isinstance(answer, str) else answer["text"] for answer in answers]
    if kind == "multilabel":
        return sorted(map(str, row["labels"]))
    if kind == "rating":
        return float(row["rating"])
    return str(row[{"translation": "target", "summarisation": "summary"}.get(kind, "label")])


def asked_of(row: Row, kind: str) -> str:
    """What a row asks: its text, and its question where there is one."""
    if kind in ("span", "answer"):
        return f"{row['question']}\n{row['context']}"
    return str(row["source" if kind == "translation" else "text"])


def write_predictions(
    folder: Path, gold: Sequence[Any], said: Sequence[Any], sure: Sequence[float] = ()
) -> None:
    """predictions.jsonl of one method; one line a test example, in the order of test.jsonl."""
    lines = []
    for at, (truth, guess) in enumerate(zip(gold, said, strict=True)):
        line = {"index": at, "gold": truth, "predicted": guess}
        lines.append(line | ({"probability": round(sure[at], 6)} if len(sure) else {}))
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    write_text(folder / PREDICTIONS_FILE, text + "\n")


def read_methods(folder: Path, gold: Sequence[Any], kind: str) -> dict[str, list[Predictions]]:
    """Finished runs by method, ordered by seed.

    Raises:
        TaskError: a file is damaged, or its gold values are not those of the test set.
    """
    methods: dict[str, list[Predictions]] = defaultdict(list)
    for path in sorted(folder.glob(f"*/{PREDICTIONS_FILE}")):
        if not (path.parent / DONE_FILE).exists():
            continue  # an interrupted run
        rows, done = read_lines(path), read_json(path.parent / DONE_FILE)
        if [_value(row.get("gold"), kind) for row in rows] != [_value(one, kind) for one in gold]:
            raise TaskError(
                f"{path} does not belong to this test set",
                got=f"{len(rows)} predictions with other gold labels",
                allowed=f"the {len(gold)} labels of {folder / 'test.jsonl'}, in order",
                next_command=f"mv {path.parent} {path.parent}.old",
            )
        methods[done["method"]].append(_predictions(path, rows, done, kind))
    for runs in methods.values():
        runs.sort(key=lambda run: run.seed)
    return dict(methods)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file."""
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, ValueError) as error:
        raise TaskError(f"{path} is not readable JSON lines", got=str(error)) from error


def show_predictions(folder: Path, method: str = TUNED, *, count: int = 5, seed: int = 0) -> list[str]:
    """`count` test examples as lines: right or wrong, gold and predicted, probability, short text.

    Drawn with `seed` from the method's first run, so that nobody picked the nice ones. Texts and ratings are
    seldom equal to the gold ones, so only labels are marked right or wrong.
    """
    rows, kind = read_lines(folder / "test.jsonl"), kind_of(folder)
    gold = [gold_of(row, kind) for row in rows]
    runs = read_methods(folder, gold, kind)
    if method not in runs:
        raise TaskError(f"{folder} has no predictions of {method!r}", allowed=", ".join(sorted(runs)))
    run, lines = runs[method][0], []
    chosen = sorted(random.Random(seed).sample(range(len(rows)), min(count, len(rows))))
    told = [(_shown(run.said[at], kind), _shown(gold[at], kind)) for at in chosen]
    labelled = kind in ("classification", "multilabel")
    width = max(len(text) for pair in told for text in pair)
    for at, (said, truth) in zip(chosen, told, strict=True):
        sure = f" ({run.sure[at]:.2f})" if run.sure else ""
        text = _short(asked_of(rows[at], kind))
        if labelled:
            mark = "right" if gold[at] == run.said[at] else "WRONG"
            lines.append(f"{mark}  {said + sure:<{width + 7}}  gold {truth:<{width}}  {text}")
        else:
            lines += [text, f"  said {said}{sure}", f"  gold {truth}"]
    return lines


def kind_of(folder: Path) -> str:
    """The kind of task that a tuned folder holds."""
    return str(read_json(folder / "task.json").get("kind", "classification"))


def _predictions(path: Path, rows: Sequence[Row], done: Row, kind: str) -> Predictions:
    def column(name: str) -> tuple[Any, ...]:
        return tuple(row[name] for row in rows) if rows and all(name in row for row in rows) else ()

    try:
        return Predictions(
            said=tuple(_value(row["predicted"], kind, said=True) for row in rows),
            sure=tuple(float(value) for value in column("probability")),
            answer_nats=tuple(float(value) for value in column("answer_nats")),
            answer_bytes=tuple(int(value) for value in column("answer_bytes")),
            seconds=float(done["seconds"]),
            seed=int(done["seed"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise TaskError(
            f"{path} has predictions that are not of a {kind} task", got=f"{type(error).__name__}: {error}"
        ) from error


def _value(value: Any, kind: str, *, said: bool = False) -> Any:
    """A value as metrics take it."""
    if kind == "multilabel" or (kind in ("span", "answer") and not said):
        return [str(one) for one in value] if isinstance(value, list) else value
    return float(value) if kind == "rating" else str(value)


def _shown(value: Any, kind: str) -> str:
    if kind == "rating":
        return f"{value:.2f}"
    if isinstance(value, list):
        value = (", " if kind == "multilabel" else " | ").join(value)
    return _short(value) or ("(none)" if kind == "multilabel" else "(no answer)")


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
