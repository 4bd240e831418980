"""`stepladder data labels curve`: a labelled set in; what more labels would bring, with intervals, out."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from stepladder.eval.baselines import TaskRows
    from stepladder.eval.curves import Learner
    from stepladder.laws.labels import LabelCurve, Purchase
    from stepladder.tune.tasks import Task

_TIMES = "2x,4x,8x"
_ONE_POINT = 1.0


def curve(
    labelled: Annotated[str, Parameter(name="SET", help="A set of data example, a file or a folder.")],
    /,
    *,
    at: Annotated[str, Parameter(help="How many labels: times those there are, or numbers.")] = _TIMES,
    price_usd_per_label: Annotated[float, Parameter(help="What one label costs.")] = 0.0,
    worth_usd_per_point: Annotated[float, Parameter(help="What a hundredth of the metric is worth.")] = 0.0,
    model: Annotated[
        Path | None, Parameter(name="--from", help="A run, for a network in place of the linear model.")
    ] = None,
    method: Annotated[
        Literal["frozen", "full", "lora"], Parameter(help="How the network learns: a head, or tuned.")
    ] = "frozen",
    tokenizer: Annotated[Path | None, Parameter(help="Corpus folder or tokenizer.json.")] = None,
    out: Annotated[Path | None, Parameter(help="Folder of the tuned networks.")] = None,
    draws: Annotated[int, Parameter(help="Random orders of the training rows.")] = 3,
    sizes: Annotated[int, Parameter(help="Sizes at most: all rows, a half, a quarter, ...")] = 6,
    columns: Annotated[str, Parameter(help="Names of columns: text=body,label=stars.")] = "",
    seed: Annotated[int, Parameter(help="Chooses the orders.")] = 0,
    json_: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Learn from a half, a quarter, ... of the labels, and forecast what more of them would bring.

    The linear model on TF-IDF by default; with --from a head on a network's frozen features, or the network
    tuned (--method full or lora). Dev and test stay as they are.
    """
    from stepladder.eval.curves import curve_sizes, measure_curve
    from stepladder.laws.labels import fit_labels, purchase
    from stepladder.verbs.data_labels import rows_of

    if model is None and method != "frozen":
        raise _without_network(labelled, method)
    task = _people_only(_set(labelled, columns))
    rows = rows_of(task)
    learn = _learner(task, rows, (model, method, tokenizer, out))
    points = measure_curve(rows, learn, draws=draws, sizes=curve_sizes(len(task.train), sizes), seed=seed)
    fitted = fit_labels(points)
    found = [purchase(fitted, count, price_usd_per_label) for count in _counts(at, fitted.sizes[-1])]
    learner = f"{method} network" if model else "linear model"
    stops = "" if fitted.refusal else _stops(fitted, price_usd_per_label, worth_usd_per_point)
    if json_:
        print(json.dumps(_object(task.name, learner, fitted, found, stops)))
        return 0
    for line in _lines(task.name, learner, fitted, found):
        print(line)
    print(f"REFUSED: {fitted.refusal}" if fitted.refusal else stops)
    return 0


def _without_network(labelled: str, method: str) -> Exception:
    from stepladder.errors import TaskError

    return TaskError(
        f"--method {method} needs a network to tune",
        got="no --from",
        allowed="--from with a run folder, or a Hugging Face folder",
        next_command=f"stepladder data labels curve {labelled} --from target@1 --method {method}",
    )


def _set(name: str, columns: str) -> "Task":
    from stepladder.eval.curves import check_kind
    from stepladder.verbs.data_labels import labelled_set

    task = labelled_set(name, columns)
    check_kind(task.kind, task.name)
    return task


def _people_only(task: "Task") -> "Task":
    """Without weak labels: the curve is one of labels that people give."""
    strong = tuple(one for one in task.train if not one.weak)
    if len(strong) < len(task.train):
        print(f"note: {len(task.train) - len(strong)} weak labels left out", file=sys.stderr)
    return replace(task, train=strong)


def _learner(
    task: "Task", rows: "TaskRows", how: tuple[Path | None, str, Path | None, Path | None]
) -> "Learner":
    """The linear model, a head on frozen features, or a network tuned anew for every size and draw."""
    from stepladder.eval.curves import feature_learner, linear_learner

    model, method, tokenizer, out = how
    if model is None:
        return linear_learner(rows)
    if method == "frozen":
        from stepladder.tune.view import pooled_features

        made = {
            split: pooled_features(model, rows.asked(split), tokenizer=tokenizer)
            for split in ("train", "dev", "test")
        }
        return feature_learner(rows, made)
    from stepladder.tune.curves import tuned_learner
    from stepladder.tune.run import TuneOptions

    folder = out or Path("labels") / f"{task.name}-{method}"
    return tuned_learner(model, task, folder, TuneOptions(methods=(method,)), tokenizer=tokenizer)  # pyrefly: ignore


def _counts(at: str, labels: int) -> list[int]:
    """Numbers of labels from "2x,4x" or "5000"."""
    from stepladder.errors import TaskError

    counts = []
    for word in filter(None, (part.strip() for part in at.split(","))):
        try:
            count = float(word[:-1]) * labels if word.endswith("x") else float(word)
        except ValueError:
            count = 0.0
        if not labels <= count <= 64 * labels:
            raise TaskError(
                f"--at cannot be {word!r}",
                got=at,
                allowed=f"1x to 64x, or {labels:,} to {64 * labels:,} labels, parted by commas",
                next_command=f"--at {_TIMES}",
            )
        counts.append(round(count))
    return counts


def _lines(name: str, learner: str, curve: "LabelCurve", found: "list[Purchase]") -> list[str]:
    """What was measured, then a row for each number of labels."""
    measured = ", ".join(
        f"{size:,}: {1 - error if curve.is_share else error:.3f}"
        for size, error in zip(curve.sizes, curve.error, strict=True)
    )
    lines = [f"{name}, {learner}: {curve.metric} by labels {measured}"]
    if curve.refusal:
        return lines
    lines.append(f"{'labels':>9} {curve.metric:>20} {'80 % interval':>16} {'points gained':>22} {'cost':>9}")
    for one in found:
        metric, cost = one.metric, ""
        if one.usd:
            per = f"${one.usd_per_point:,.0f} a point" if one.gain > 0 else "no gain"
            cost = f"${one.usd:,.0f}, {per}"
        lines.append(
            f"{one.labels:>9,} {metric.value:>20.3f} {metric.low80:>8.3f}–{metric.high80:.3f}  "
            f"{one.gain:>+7.1f} ({one.gain_low:+.1f} to {one.gain_high:+.1f})  {cost}".rstrip()
        )
    return lines


def _stops(curve: "LabelCurve", price: float, worth: float) -> str:
    """Where more labels stop paying: by price and worth, else where a doubling buys less than a point."""
    from stepladder.laws.labels import pays_until, purchase

    now, most = curve.sizes[-1], 8 * curve.sizes[-1]
    if price and worth:
        until = pays_until(curve, price, worth)
        if until <= now:
            return f"A point costs more than ${worth:,.0f} already: more labels do not pay."
        if until >= most * 0.999:
            return f"Labels still pay at 8 times as many ({most:,}); beyond that nothing is forecast."
        return f"Labels pay up to about {until:,.0f}; from there on a point costs more than ${worth:,.0f}."
    for times in (1, 2, 4):
        gain = purchase(curve, 2 * times * now).gain - (purchase(curve, times * now).gain if times > 1 else 0)
        if gain < _ONE_POINT:
            return f"From {times * now:,} labels on twice as many buy less than one point."
    return f"Up to {most:,} labels each doubling buys a point or more; beyond that nothing is forecast."


def _object(
    name: str, learner: str, curve: "LabelCurve", found: "list[Purchase]", stops: str
) -> dict[str, Any]:
    """What --json prints; no forecasts where they are refused."""
    rows: list[dict[str, Any]] = []
    for one in () if curve.refusal else found:
        # JSON has no infinity.
        rows.append({**asdict(one), "usd_per_point": one.usd_per_point if one.gain > 0 else None})
    return {
        "set": name,
        "learner": learner,
        "metric": curve.metric,
        "sizes": curve.sizes,
        "values": [1 - error if curve.is_share else error for error in curve.error],
        "forecasts": rows,
        "stops": stops,
        "refusal": curve.refusal,
    }
