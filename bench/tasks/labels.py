"""Print how often the 80 % interval for accuracy at 4 times the labels holds the outcome.

    python bench/tasks/labels.py [--seeds 4] [--simulated 400] [--from FOLDER --tokenizer FOLDER]

Real sets: those of `stepladder data example` and tasks made of their rows. For each seed 100, 200, 400 and
800 rows of the training split are "labelled"; a curve is measured on them (halves down to 12 rows, three
draws), on one half of the test split; the outcome is the model's metric with 4 times the rows on the other
half, whose groups differ. Form and priors were chosen on the sets in CHOSEN. Those in WIDENED were looked at
next: 70 % were held, and the interval was widened to that of losses. Nothing was changed after those in LAST.
With --from the same for a linear head on frozen features.
Simulated: error = floor + a n^-b; wrong test rows are drawn by a probit of which shared difficulty explains
0, half or 90 %, and runs scatter with the rows that they have.
"""

import argparse
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import norm

from stepladder.eval.baselines import TaskRows
from stepladder.eval.curves import (
    METRICS,
    Learner,
    blind,
    curve_sizes,
    feature_learner,
    linear_learner,
    row_errors,
    row_order,
    test_groups,
)
from stepladder.eval.predictions import Row
from stepladder.laws.labels import CurvePoints, fit_labels, forecast_labels
from stepladder.tune.example_packages import package_records
from stepladder.tune.examples import example_task
from stepladder.tune.rows import Example, row_of
from stepladder.tune.tasks import split_task

STARTS, TIMES, DRAWS, TEST_ROWS, DEV_ROWS = (100, 200, 400, 800), 4, 3, 2_000, 400
Splits = dict[str, list[Row]]


def example(name: str, keep: Callable[[Row], bool] = lambda row: True) -> Splits:
    """The rows of an example set that `keep` likes."""
    task = example_task(name)
    return {
        split: [row for one in part if keep(row := row_of(one, task.kind))]
        for split, part in task.splits().items()
    }


def kinds(*labels: str) -> Splits:
    """Text kinds of two classes only."""
    return example("text-kind", lambda row: row["label"] in labels)


def ratings(kind: str) -> Splits:
    """Ratings of one kind of text."""
    return example("sentiment-rating", lambda row: row["group"].startswith(kind))


def sections() -> Splits:
    """The twelve commonest sections of packages."""
    rows = example("package-section")
    common = {label for label, _ in Counter(row["label"] for row in rows["train"]).most_common(12)}
    return {split: [row for row in part if row["label"] in common] for split, part in rows.items()}


def tag(name: str) -> Splits:
    """Whether a package has a tag."""
    rows = example("package-tags")
    return {
        split: [{**row, "label": str(name in row["labels"])} for row in part] for split, part in rows.items()
    }


def sizes_of_packages() -> Splits:
    """log10 of a package's installed kilobytes, from its description; a group is a source package."""
    records = [r for r in package_records() if r.get("Installed-Size", "").isdigit() and r.get("Long")]
    found = [
        Example(
            text=record["Long"][:1_500],
            targets=(repr(float(np.log10(int(record["Installed-Size"]) + 1))),),
            group=record.get("Source", record["Package"]).split()[0],
        )
        for record in random.Random(0).sample(records, min(6_000, len(records)))
    ]
    task = split_task("package-size", found, kind="rating")
    return {split: [row_of(one, "rating") for one in part] for split, part in task.splits().items()}


def languages(*names: str) -> Splits:
    """Which of these languages is a message of Django in? A group is its English source."""
    found = [
        Example(text=one.targets[0], targets=(language,), group=one.text)
        for language in names
        for part in example_task(f"django-{language}").splits().values()
        for one in part
    ]
    task = split_task("django-language", found)
    return {split: [row_of(one, "classification") for one in part] for split, part in task.splits().items()}


CHOSEN: dict[str, Callable[[], Splits]] = {
    "text-kind": lambda: example("text-kind"),
    "film or product": lambda: kinds("film review", "product review"),
    "sentiment": lambda: example("sentiment"),
    "docstring-topic": lambda: example("docstring-topic"),
    "package sections": sections,
    "devel::library": lambda: tag("devel::library"),
    "role::program": lambda: tag("role::program"),
    "rating, film": lambda: ratings("film"),
    "rating, tweet": lambda: ratings("tweet"),
    "rating, product": lambda: ratings("product"),
    "rating, editorial": lambda: ratings("editorial"),
}
WIDENED: dict[str, Callable[[], Splits]] = {
    "tweet or editorial": lambda: kinds("tweet", "editorial"),
    "django, Romance": lambda: languages("fr", "es", "it", "pt_BR"),
    "implemented-in::perl": lambda: tag("implemented-in::perl"),
    "interface::graphical": lambda: tag("interface::graphical"),
    "scope::utility": lambda: tag("scope::utility"),
    "role::shared-lib": lambda: tag("role::shared-lib"),
    "package size (rating)": sizes_of_packages,
}
LAST: dict[str, Callable[[], Splits]] = {
    "film or editorial": lambda: kinds("film review", "editorial"),
    "tweet or product": lambda: kinds("tweet", "product review"),
    "positive or negative": lambda: example("sentiment", lambda row: row["label"] != "neutral"),
    "django, Germanic": lambda: languages("de", "nl", "sv"),
    "role::devel-lib": lambda: tag("role::devel-lib"),
}
FROZEN = ("text-kind", "sentiment", "rating, film", "tweet or editorial", "role::shared-lib")


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """One forecast and what came; errors, not accuracies."""

    labels: int
    value: float
    outcome: float
    in80: bool
    in95: bool
    width80: float
    refusal: str


def judge(points: CurvePoints, labels: int, outcome: float, test_rows: int) -> Held:
    """Fit, forecast, compare; `outcome` is an error on `test_rows` other test rows."""
    curve = fit_labels(points)
    said = forecast_labels(curve, labels, test_rows=test_rows)
    metric = 1 - outcome if curve.is_share else outcome
    return Held(
        labels=points.pool,
        value=1 - said.value if curve.is_share else said.value,
        outcome=outcome,
        in80=said.held80(metric),
        in95=said.held95(metric),
        width80=said.high80 - said.low80,
        refusal=curve.refusal,
    )


def task_of(name: str, make: Callable[[], Splits]) -> TaskRows:
    """The set with a dev and a test split of the usual size."""
    rows, chooser = make(), random.Random(5)
    for split, most in (("dev", DEV_ROWS), ("test", TEST_ROWS)):
        rows[split] = chooser.sample(rows[split], min(most, len(rows[split])))
    return TaskRows(name=name, kind="rating" if "rating" in rows["train"][0] else "classification", rows=rows)


def forecasts(task: TaskRows, learn: Learner, seeds: int) -> Iterator[Held]:
    """All forecasts of one set."""
    gold, groups, guess = task.gold("train"), test_groups(task), row_errors(task, blind(task))
    for seed in range(seeds):
        order = row_order(gold, 1_000 + seed)
        side = np.random.default_rng(seed).random(groups.max() + 1)[groups] < 0.5
        with_all = {
            size: row_errors(task, learn(order[:size], ""))
            for size in {n * k for n in STARTS for k in (1, TIMES)}
            if size <= len(order)
        }
        for start in (n for n in STARTS if TIMES * n <= len(order)):
            sizes = curve_sizes(start)
            loss = np.empty((DRAWS, len(sizes), len(side)))
            for draw in range(DRAWS):
                own = order[:start][row_order([gold[row] for row in order[:start]], draw)]
                for at, size in enumerate(sizes):
                    full = size == start
                    loss[draw, at] = with_all[start] if full else row_errors(task, learn(own[:size], ""))
            points = CurvePoints(
                metric=METRICS[task.kind],
                sizes=np.array(sizes),
                loss=loss[..., side],
                groups=np.unique(groups[side], return_inverse=True)[1],
                blind=guess[side],
                pool=start,
            )
            outcome = with_all[TIMES * start][~side].mean()
            yield judge(points, TIMES * start, float(outcome), int((~side).sum()))


def simulated(draw: np.random.Generator, shared: float) -> Held | None:
    """One power law; None where its errors at few labels would be larger than guessing allows."""
    test_rows, labels = int(draw.choice([200, 500, 1_000, 2_000])), int(draw.choice([200, 400, 800, 1_600]))
    sizes = np.array(curve_sizes(labels, int(draw.integers(5, 7))))
    floor, exponent, last = draw.uniform(0, 0.8), draw.uniform(0.15, 0.8), draw.uniform(0.05, 0.45)
    scatter = draw.uniform(0.0, 0.1)

    def error(count: int) -> float:
        return last * (floor + (1 - floor) * (count / labels) ** -exponent)

    if error(sizes[0]) > 0.8:
        return None
    worth = draw.normal(size=TIMES * labels)

    def wrong(rows: np.ndarray, hard: np.ndarray) -> np.ndarray:
        run = scatter * worth[rows].sum() / len(rows) * np.sqrt(labels)
        share = min(error(len(rows)) * np.exp(run), 0.95)
        own = np.sqrt(shared) * hard + np.sqrt(1 - shared) * draw.normal(size=len(hard))
        return (own < norm.ppf(share)).astype(float)

    hard = draw.normal(size=test_rows)
    loss = np.empty((DRAWS, len(sizes), test_rows))
    for at in range(DRAWS):
        order = draw.permutation(labels)
        for place, size in enumerate(sizes):
            loss[at, place] = loss[0, place] if at and size == labels else wrong(order[:size], hard)
    points = CurvePoints(
        metric="accuracy",
        sizes=sizes,
        loss=loss,
        groups=np.arange(test_rows),
        blind=(draw.random(test_rows) < min(1.2 * error(sizes[0]), 0.9)).astype(float),
        pool=labels,
    )
    outcome = wrong(np.arange(TIMES * labels), draw.normal(size=test_rows))
    return judge(points, TIMES * labels, float(outcome.mean()), test_rows)


def line(name: str, found: list[Held]) -> str:
    """Coverage, its standard error as if forecasts were independent, bias and size of errors, width."""
    if not found:
        return f"{name:<24} {0:>5}"
    in80 = np.mean([one.in80 for one in found])
    miss = np.log([max(one.outcome, 1e-3) / one.value for one in found])
    return (
        f"{name:<24} {len(found):>5} {in80:>6.2f} {np.sqrt(in80 * (1 - in80) / len(found)):>5.2f} "
        f"{np.mean([one.in95 for one in found]):>6.2f} {100 * np.mean(miss):>+7.1f} "
        f"{100 * np.median(np.abs(miss)):>6.1f} {100 * np.median([one.width80 for one in found]):>7.1f}"
    )


HEAD = f"{'':<24} {'count':>5} {'in 80':>6} {'s.e.':>5} {'in 95':>6} {'bias %':>7} {'miss %':>6} {'width':>7}"


def table(title: str, found: dict[str, list[Held]]) -> None:
    """A line a set, then all that were not refused, those that were, and both."""
    print(f"\n{title}\n{HEAD}")
    for name, held in found.items():
        print(line(name, held), f" refused {sum(bool(one.refusal) for one in held)}")
    every = [one for held in found.values() for one in held]
    print(line("not refused", [one for one in every if not one.refusal]))
    print(line("refused", [one for one in every if one.refusal]))
    print(line("all", every), flush=True)


def frozen_features(task: TaskRows, folder: Path, tokenizer: Path | None) -> Learner:
    """A learner on the frozen features of a network."""
    from stepladder.tune.view import pooled_features

    made = {
        split: pooled_features(folder, task.asked(split), tokenizer=tokenizer) for split in ("dev", "test")
    }
    # No more training rows than the largest size needs.
    used = np.unique(
        np.concatenate([row_order(task.gold("train"), 1_000 + seed)[:3_200] for seed in range(1)])
    )
    texts = task.asked("train")
    train = np.zeros((len(texts), made["dev"].shape[1]))
    train[used] = pooled_features(folder, [texts[row] for row in used], tokenizer=tokenizer)
    return feature_learner(task, {**made, "train": train})


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--simulated", type=int, default=400)
    parser.add_argument("--from", dest="model", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    options = parser.parse_args()
    started = time.process_time()
    draw, made = np.random.default_rng(0), dict[str, list[Held]]()
    for at in range(options.simulated):
        shared = (0.0, 0.5, 0.9)[at % 3]
        while (one := simulated(draw, shared)) is None:
            pass
        made.setdefault(f"shared difficulty {shared:g}", []).append(one)
    table(f"simulated power laws at {TIMES} times the labels", made)
    if options.model:
        found = {}
        for name in FROZEN:
            task = task_of(name, {**CHOSEN, **WIDENED}[name])
            learn = frozen_features(task, options.model, options.tokenizer)
            found[name] = list(forecasts(task, learn, 1))
        table("linear head on frozen features, one seed", found)
    else:
        for title, sets in (
            ("sets that form and priors were chosen on", CHOSEN),
            ("sets after which the interval was widened from 1.15 to 1.2 deviations", WIDENED),
            ("sets that were looked at last", LAST),
        ):
            found = {}
            for name, make in sets.items():
                task = task_of(name, make)
                found[name] = list(forecasts(task, linear_learner(task), options.seeds))
            table(f"linear model, {title}", found)
    print(f"{time.process_time() - started:.0f} s of CPU")


if __name__ == "__main__":
    main()
