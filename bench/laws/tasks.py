"""Print how well task metrics of the dearest 20 and 30 % of Gadre's runs are forecast from the others.

Of the 46 tasks those count that rise clearly above chance: in both corpora (C4, RedPajama) the mean over the
dearest fifth of all runs exceeds chance, and the mean over the cheapest third, by five points. Beside them
the mean over all 46. Each corpus by itself: every row of the table is four hold-outs.
The factors of the intervals were set before the first run of this file; that the choice counts free constants
only was set after it, for ladders of 8 to 10 synthetic runs: counting all chose the exponential too often.
Run: .venv/bin/python bench/laws/tasks.py
"""

import csv
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from sets import REFERENCE, load, split

from stepladder.laws.fit import fit_law
from stepladder.laws.link import LINKS
from stepladder.laws.table import Table
from stepladder.laws.tasks import TaskRuns, fit_task, forecast_task
from stepladder.records import Forecast

CORPORA, SHARES, CLEAR = ("gadre-rpj", "gadre-c4"), (0.2, 0.3), 0.05
# Test examples by the accuracy of guessing: exp_data/eval_metadata.csv of mlfoundations/scaling (MIT).
EXAMPLES = {
    0.0: "jeopardy 2117 bigbench_qa_wikidata 20321 lambada_openai 5153 bigbench_conlang_translation 164 "
    "bigbench_dyck_languages 1000 bigbench_cs_algorithms 1320 bigbench_operators 210 squad 10570 coqa 7983 "
    "bigbench_repeat_copy_logic 32 simple_arithmetic_nospaces 1000 simple_arithmetic_withspaces 1000 "
    "pubmed_qa_labeled 1000",
    0.25: "mmlu_zeroshot 14042 hellaswag_zeroshot 10042 arc_easy 2376 arc_challenge 2376 mmlu 14042 "
    "commonsense_qa 1221 openbook_qa 500 bigbench_novel_concepts 32 hellaswag 10042 math_qa 2983 logi_qa 651 "
    "bigbench_language_identification 10000 bigbench_conceptual_combinations 103 agi_eval_lsat_ar 230 "
    "bigbench_elementary_math_qa 38160 bigbench_logical_deduction 1500 agi_eval_lsat_rc 268 "
    "agi_eval_lsat_lr 510 bigbench_understanding_fables 189 agi_eval_sat_en 206",
    0.5: "bigbench_misconceptions 219 copa 100 siqa 1954 piqa 1838 bigbench_strange_stories 174 "
    "bigbench_strategy_qa 2289 winograd 273 winogrande 1267 boolq 3270 winogender_mc_female 60 "
    "winogender_mc_male 60 enterprise_pii_classification 3395 bbq 58492",
}
TASKS = {
    name: (chance, int(count))
    for chance, text in EXAMPLES.items()
    for name, count in zip(text.split()[::2], text.split()[1::2], strict=True)
}
MEAN = "mean of 46"
ROUTES = {
    "two-step": tuple(name for name, link in LINKS.items() if link.from_loss),
    "direct": tuple(name for name, link in LINKS.items() if not link.from_loss),
    "chosen": tuple(LINKS),
}


def runs_of(table: Table, name: str) -> TaskRuns:
    """The runs with one task's accuracy, or with the mean of all."""
    with (REFERENCE / "gadre_downstream_wide.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["run_id"]: row for row in csv.DictReader(file)}
    names = list(TASKS) if name == MEAN else [name]
    values = np.array([np.mean([float(rows[run][item]) for item in names]) for run in table.run])
    chance = float(np.mean([TASKS[item][0] for item in names]))
    examples = 0 if name == MEAN else TASKS[name][1]
    return TaskRuns(table=table, values=values, metric=name, chance=chance, examples=examples)


def rises(name: str) -> bool:
    """The rule of the module's docstring."""
    for corpus in CORPORA:
        table = load(corpus)
        runs, order = runs_of(table, name), np.argsort(table.params * table.tokens)
        cheap, dear = order[: len(order) // 3], order[-(len(order) // 5) :]
        if runs.values[dear].mean() < max(runs.values[cheap].mean(), runs.chance) + CLEAR:
            return False
    return True


def hold_out(name: str, route: str) -> list[tuple[Forecast, float, str]]:
    """Forecast, outcome and link of every held-out run of the four hold-outs."""
    out = []
    for corpus in CORPORA:
        for share in SHARES:
            train, held = split(load(corpus), share)
            task = fit_task(runs_of(train, name), fit_law(train), links=ROUTES[route])
            outcomes = runs_of(held, name).values
            for params, tokens, outcome in zip(held.params, held.tokens, outcomes, strict=True):
                out.append((forecast_task(task, params, tokens), float(outcome), task.chosen))
    return out


def line(found: list[tuple[Forecast, float, str]]) -> str:
    """Mean absolute and signed error in points, coverage, median width, refused share."""
    if not found:
        return "none"
    error = 100 * np.array([item.loss.value - outcome for item, outcome, _ in found])
    held80 = np.mean([item.loss.held80(outcome) for item, outcome, _ in found])
    held95 = np.mean([item.loss.held95(outcome) for item, outcome, _ in found])
    width = 100 * np.median([item.loss.high95 - item.loss.low95 for item, _, _ in found])
    refused = np.mean([item.status == "refused" for item, _, _ in found])
    return (
        f"{len(found):>5} {np.mean(np.abs(error)):>6.2f} {np.mean(error):>+7.2f} {held80:>6.2f} "
        f"{held95:>6.2f} {width:>8.1f} {refused:>8.0%}"
    )


def main() -> None:
    """One block a route: a line a task, the forecasts that were not refused, and all."""
    started = time.perf_counter()
    names = [name for name in TASKS if rises(name)]
    print(f"{len(names)} of {len(TASKS)} tasks rise by {100 * CLEAR:.0f} points in both corpora")
    for route in ROUTES:
        found = {name: hold_out(name, route) for name in (*names, MEAN)}
        print(f"\n{route:<26}{'runs':>5} {'error':>6} {'signed':>7} {'in 80':>6} {'in 95':>6} ", end="")
        print(f"{'width95':>8} {'refused':>8}")
        for name, rows in found.items():
            links = "" if route != "chosen" else "  " + ", ".join(dict.fromkeys(link for _, _, link in rows))
            print(f"{name:<26}{line(rows)}{links}")
        every = [row for name in names for row in found[name]]
        print(f"{'tasks, not refused':<26}{line([row for row in every if row[0].status == 'ok'])}")
        print(f"{'tasks, refused':<26}{line([row for row in every if row[0].status != 'ok'])}")
        print(f"{'tasks, all':<26}{line(every)}")
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
