"""The steps of a climb in one folder: each takes what the one before left, and keeps what it has done.

A stage that finds its result made from the same inputs returns it; one that was interrupted goes on.
`pipeline.py` calls them in order.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stepladder import __version__
from stepladder.data.options import Cleaning, CorpusOptions, Dedup
from stepladder.data.prepare import load_corpus, prepare_corpus
from stepladder.errors import FingerprintError, PlanError, StoreError
from stepladder.eval.probed import probed_seconds
from stepladder.eval.table import TaskTable, task_table
from stepladder.ladder.branches import share_as_asked
from stepladder.ladder.budget import HORIZON, PACKING, Speed, affordable, design_for, measure_speed
from stepladder.ladder.calibrate import Bench
from stepladder.ladder.collect import usable
from stepladder.ladder.design import Rung
from stepladder.ladder.run import run_ladder, rung_plans
from stepladder.launch.local import run_plan
from stepladder.laws.diagnose import crossed
from stepladder.laws.fit import fit_law
from stepladder.laws.intervals import forecast
from stepladder.laws.known import KNOWN, KNOWN_MASKED
from stepladder.laws.registry import freeze, is_intact, write_forecasts
from stepladder.laws.score import score
from stepladder.laws.show import score_text
from stepladder.laws.table import read_observations
from stepladder.models.count import count_params, train_flops_per_token
from stepladder.models.export import export_folder
from stepladder.plan.choose import ChooseOptions, choose_plan
from stepladder.plan.machine import Machine, machine_from_json, measure_machine
from stepladder.plan.overlay import overlay_in
from stepladder.plan.rates import recipe_rule
from stepladder.records import (
    Brief,
    Corpus,
    Derived,
    Forecast,
    GoalBrief,
    Interval,
    Law,
    Observation,
    Plan,
    Report,
    Run,
    Score,
    from_json,
    to_json,
)
from stepladder.report.build import build_report
from stepladder.store import open_artefact, read_json, write_json
from stepladder.tune.evaluation import evaluation_files
from stepladder.tune.examples import example_task
from stepladder.tune.run import TuneOptions, tune_task
from stepladder.tune.tasks import read_task
from stepladder.units import format_count, format_seconds

LOSS_UNIT = "bits_per_byte"
BRIEF_FILE = "brief.json"
# [data] tasks names files, or with this prefix a labelled set that `stepladder tune` knows.
EXAMPLE = "example:"
_Z95_TO_80 = 1.959964 / 1.281552


@dataclass(frozen=True, kw_only=True, slots=True)
class Climb:
    """A brief and the folder in which it is climbed. `tune_examples` and `tune_epochs` bound the tuning.

    `patient`: the target gets its share of the time even where the ladder took longer than its own.
    """

    brief: Brief
    folder: Path
    quiet: bool = False
    patient: bool = False
    tune_examples: int = 0
    tune_epochs: int = 6

    def say(self, stage: str, text: str) -> None:
        """One line on stdout about a stage that is done."""
        if not self.quiet:
            print(f"{stage:<10}  {text}", flush=True)

    def override(self, name: str, otherwise: float) -> float:
        """A numeric override of the brief."""
        return float(self.brief.override.get(name, otherwise))


def open_climb(climb: Climb) -> Machine:
    """Claim the folder for the brief and look at the machine.

    Raises:
        FingerprintError: the folder belongs to another brief.
        PlanError: the brief asks for hardware that is not this machine.
    """
    if climb.brief.hardware.device != "this":
        raise PlanError(
            "a climb trains on the machine that it is started on",
            got=f"device = {climb.brief.hardware.device!r}",
            allowed='device = "this"',
            next_command="stepladder plan   (plans for any device)",
        )
    value = to_json(climb.brief)
    # Sources are covered by the corpus' own fingerprint and tasks by their results'; a budget may be raised
    # half-way: what was bought with the old one stays.
    fields = {key: value[key] for key in ("name", "objective", "hardware", "goal", "override")}
    open_artefact(climb.folder, fields, next_command="stepladder climb --out ANOTHER_FOLDER")
    if not (climb.folder / BRIEF_FILE).exists():
        write_json(climb.folder / BRIEF_FILE, value)
    path = climb.folder / "machine.json"
    if not path.exists():
        write_json(path, to_json(measure_machine(rates="cached", folder=climb.folder)))
    return machine_from_json(read_json(path))


def prepare(climb: Climb) -> Corpus:
    """Text of the brief → corpus/."""
    brief = climb.brief
    files = [name for name in brief.data.tasks if not name.startswith(EXAMPLE)]
    sets = evaluation_files(files, climb.folder / "evaluation", examples=climb.tune_examples)
    options = CorpusOptions(
        vocab_size=int(climb.override("vocab_size", CorpusOptions().vocab_size)),
        held_out=brief.data.held_out,
        seed=int(climb.override("seed", 0)),
        dedup=Dedup(jaccard=climb.override("dedup_jaccard", Dedup().jaccard)),
        cleaning=Cleaning(evaluation_sets=sets),
        max_bytes=int(climb.override("max_input_bytes", 0)),
        canaries=int(climb.override("canaries", 0)),
    )
    folder = climb.folder / "corpus"
    try:
        corpus = prepare_corpus(brief.data.sources, folder, options, quiet=climb.quiet)
    except FingerprintError:
        # Sources and tasks may hold other text by now (a package was installed): a climb keeps its corpus.
        asked = read_json(climb.folder / BRIEF_FILE)["data"]["sources"]
        if asked != list(brief.data.sources) or not (folder / "corpus.json").exists():
            raise
        corpus = load_corpus(folder)
        climb.say("data", "the text has changed since; this climb keeps the corpus that it began with")
    climb.say(
        "data",
        f"{format_count(corpus.tokens)} tokens from {corpus.kept_documents:,} of "
        f"{corpus.input_documents:,} documents (corpus/DATA_CARD.md)",
    )
    return corpus


def calibrate(climb: Climb, machine: Machine, corpus: Corpus) -> Speed:
    """A few dozen steps of real training for the speed of sizes and layouts → calibration/."""
    path = climb.folder / "calibration" / "speed.json"
    if not path.exists():
        bench = Bench(
            folder=path.parent,
            corpus="../../corpus",
            corpus_fingerprint=corpus.fingerprint,
            quiet=climb.quiet,
        )
        write_json(path, to_json(measure_speed(climb.brief, machine, corpus, bench)))
    speed = from_json(Speed, read_json(path))
    climb.say("calibrate", speed.speedup.how)
    return speed


def climb_small(climb: Climb, corpus: Corpus, speed: Speed) -> list[Observation]:
    """Design the ladder for its share of the budget and train it → ladder/."""
    path = climb.folder / "ladder" / "design.json"
    if not path.exists():
        rungs = affordable(
            lambda stretch: design_for(climb.brief, corpus, speed, stretch=stretch), patient=climb.patient
        )
        write_json(path, {"rungs": [to_json(rung) for rung in rungs]})
    rungs = [from_json(Rung, item) for item in read_json(path)["rungs"]]
    plans = rung_plans(
        rungs,
        recipe_rule(climb.brief.override),
        corpus="../../corpus",
        corpus_fingerprint=corpus.fingerprint,
        layout=speed.rung_layout,
        seed=int(climb.override("seed", 0)),
    )
    plans = share_as_asked(plans, climb.brief.override)
    rows = run_ladder(plans, path.parent, workers=speed.workers, quiet=climb.quiet)
    kept = usable(rows)
    ratios = sorted(row.tokens / row.params for row in kept)
    climb.say(
        "ladder",
        f"{len(kept)} of {len(plans)} rungs, {ratios[0]:.2g} to {ratios[-1]:.2g} tokens a parameter, losses "
        f"{min(row.loss for row in kept):.3f} to {max(row.loss for row in kept):.3f} {LOSS_UNIT}",
    )
    return rows


def learn(climb: Climb, observations: Sequence[Observation]) -> Law:
    """Fit the law to the rungs → law.json."""
    path = climb.folder / "law.json"
    if not path.exists():
        known = KNOWN_MASKED if climb.brief.objective == "masked" else KNOWN
        law = fit_law(read_observations(usable(observations), LOSS_UNIT), known)
        write_json(path, to_json(law))
    law = from_json(Law, read_json(path))
    terms = ", ".join(f"{name} {value:.3g}" for name, value in law.terms.items())
    climb.say("law", f"{terms}" + (f"; REFUSED: {law.refusal}" if law.refusal else ""))
    for warning in law.warnings:
        climb.say("", f"warning: {warning}")
    return law


def decide(
    climb: Climb,
    machine: Machine,
    corpus: Corpus,
    speed: Speed,
    observations: Sequence[Observation],
    law: Law,
) -> tuple[Plan, Forecast]:
    """Choose the target and freeze the forecast before it starts → plan.json, forecast.json."""
    plan_path, path = climb.folder / "plan.json", climb.folder / "forecast.json"
    if not path.exists():
        override = {"horizon": HORIZON, **climb.brief.override}
        brief = replace(climb.brief, override=override, goal=_within_ladder(climb, observations))
        options = ChooseOptions(
            size_column=law.size_column,
            like=speed.shape,
            layout=speed.layout,
            speedup=speed.speedup,
            spent_seconds=_spent_seconds(climb, speed, observations),
            overlay=overlay_in(climb.folder),
        )

        def choose(stretch: float) -> Plan:
            hours = brief.budget.hours and brief.budget.hours * stretch
            return choose_plan(
                replace(brief, budget=replace(brief.budget, hours=hours)),
                lambda params, tokens: forecast(law, params, tokens).loss,
                observations,
                machine,
                corpus,
                recipe_rule(brief.override),
                options,
            )

        plan = affordable(choose, patient=climb.patient)
        write_json(plan_path, to_json(plan))
        largest = max(row.flops for row in usable(observations))
        write_forecasts(path, [_freeze(plan, law, largest)], law=law.fingerprint, stepladder=__version__)
    plan = from_json(Plan, read_json(plan_path))
    said = from_json(Forecast, read_json(path)["forecasts"][0])
    if not is_intact(said):
        raise StoreError(
            f"{path} was changed after it was frozen",
            got=f"fingerprint {said.fingerprint}",
            next_command=f"mv {path} {path}.changed   (the forecast is then made again)",
        )
    seconds = said.costs["seconds"]
    climb.say(
        "plan",
        f"{format_count(plan.numbers['params'].value)} parameters on {format_count(plan.tokens)} tokens, "
        f"{said.horizon:.3g}x the compute of the largest rung",
    )
    climb.say(
        "forecast",
        f"loss {said.loss.value:.4f} (80 %: {said.loss.low80:.4f} to {said.loss.high80:.4f}) {LOSS_UNIT}, "
        f"{format_seconds(seconds.value)} ({format_seconds(seconds.low80)} to "
        f"{format_seconds(seconds.high80)}); frozen as {said.fingerprint}"
        + (f"; REFUSED: {said.reason}" if said.status == "refused" else ""),
    )
    return plan, said


def climb_high(climb: Climb) -> Run:
    """Train the target → target@1/."""
    run = run_plan(climb.folder / "plan.json", climb.folder / "target@1", quiet=climb.quiet)
    climb.say(
        "target",
        f"loss {run.heldout_bits_per_byte:.4f} {LOSS_UNIT} after {run.steps:,} steps in "
        f"{format_seconds(run.seconds)} ({run.status})",
    )
    return run


def tell(climb: Climb, said: Forecast, run: Run) -> list[Score]:
    """Forecast beside outcome → score.json."""
    scores = [score(said, run.heldout_bits_per_byte)] if math.isfinite(run.heldout_bits_per_byte) else []
    scores.append(
        Score(run=said.run, quantity="seconds", forecast=said.costs["seconds"], outcome=run.seconds)
    )
    write_json(climb.folder / "score.json", {"scores": [to_json(item) for item in scores]})
    for item in scores:
        climb.say("score", score_text(item))
    rungs = read_observations(climb.folder / "ladder" / "observations.csv").extra["in_context_score"]
    if text := crossed([float(value) for value in rungs], run.in_context_score):
        climb.say("", f"warning: {text}")
    return scores


def adapt(climb: Climb, run: Run) -> list[TaskTable]:
    """Fine-tune on each task of the brief, beside baselines → tune/<task>@1/."""
    tables = []
    for name in climb.brief.data.tasks if run.status == "ok" else ():
        known = name.removeprefix(EXAMPLE)
        task = (
            example_task(known, examples=climb.tune_examples)
            if name.startswith(EXAMPLE)
            else read_task(Path(name), examples=climb.tune_examples)
        )
        for note in task.notes:
            print(f"note: {note}", file=sys.stderr)
        folder = climb.folder / "tune" / f"{task.name}@1"
        tune_task(
            climb.folder / "target@1",
            task,
            folder,
            tokenizer=climb.folder / "corpus",
            options=TuneOptions(epochs=climb.tune_epochs),
            workers=2,
            quiet=climb.quiet,
        )
        table = task_table(folder)
        tables.append(table)
        climb.say("tune", f"{table.task}: {table.verdict}")
    return tables


def hand_over(climb: Climb, run: Run) -> Path | None:
    """Write the target for transformers → export/."""
    folder = climb.folder / "export"
    if run.status != "ok":
        return None
    if not (folder / "config.json").exists():
        export_folder(climb.folder / "target@1", folder, climb.folder / "corpus")
    climb.say("export", f"{folder} (transformers loads it)")
    return folder


def write_report(climb: Climb) -> Report:
    """Everything above on one page → report.html, MODEL_CARD.md."""
    report = build_report(climb.folder)
    climb.say("report", report.path)
    return report


def _freeze(plan: Plan, law: Law, largest_flops: float) -> Forecast:
    """Loss and costs of the plan, stamped."""
    count = count_params(plan.shape)
    size = count.nonembed if law.size_column == "nonembed_params" else count.total
    said = forecast(law, float(size), float(plan.tokens), run=plan.name)
    costs = {name: _interval(plan.numbers[name]) for name in ("seconds", "usd", "kwh", "kg_co2e")}
    horizon = train_flops_per_token(plan.shape) * plan.tokens / largest_flops
    return freeze(replace(said, costs=costs, horizon=horizon))


def _within_ladder(climb: Climb, observations: Sequence[Observation]) -> GoalBrief:
    """The goal with the size of the largest rung as the largest size, unless the brief fixes a size.

    Then only the tokens are extrapolated: beyond the ladder's sizes forecasts erred by 2.5 % (docs/log.md).
    """
    goal = climb.brief.goal
    if {"width", "params"} & climb.brief.override.keys():
        return goal
    largest = int(max(row.params for row in usable(observations)))
    return replace(goal, max_params=min(goal.max_params or largest, largest))


def _spent_seconds(climb: Climb, speed: Speed, observations: Sequence[Observation]) -> float:
    """Wall time of the ladder, and of asking it about tasks, as it counts against the budget."""
    spent = (
        (sum(row.seconds for row in observations) + probed_seconds(climb.folder)) / speed.workers / PACKING
    )
    share = climb.brief.budget.ladder_share * 3600 * (climb.brief.budget.hours or math.inf)
    if climb.patient and spent > share:
        climb.say(
            "plan",
            f"the ladder took {format_seconds(spent)} instead of {format_seconds(share)} (a busy machine?); "
            "the target still gets its own share",
        )
        return share
    return spent


def _interval(number: Derived) -> Interval:
    """80 and 95 % of a Derived, whose own ends are 80 %, in logarithms."""
    value = number.value
    if value <= 0:
        return Interval(value=value, low80=value, high80=number.high, low95=value, high95=number.high)
    low, high = max(number.low, value * 1e-6), number.high
    low95, high95 = (value * (end / value) ** _Z95_TO_80 for end in (low, high))
    return Interval(value=value, low80=low, high80=high, low95=low95, high95=high95)
