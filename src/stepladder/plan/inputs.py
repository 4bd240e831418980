"""Paths in; what a plan is made from (runs with their seconds, a law, a corpus), and the plan, out."""

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stepladder.brief import check_brief, load_brief
from stepladder.laws.intervals import forecast
from stepladder.laws.table import read_observations
from stepladder.plan.choose import ChooseOptions, choose_plan, vocabulary_of
from stepladder.plan.derive import Z80
from stepladder.plan.hardware import known_device
from stepladder.plan.machine import Machine, measure_machine
from stepladder.plan.overlay import NAME, Overlay, measured_in, overlay_in
from stepladder.plan.pastruns import PastRun, past_runs
from stepladder.plan.prior import LossLaw, prior_loss_for
from stepladder.plan.rates import recipe_rule
from stepladder.plan.search import LIKE_DENSE
from stepladder.plan.whatif import Change, changed
from stepladder.records import Brief, Corpus, Interval, Law, Observation, Plan, Shape, from_json
from stepladder.store import read_json

# Before a run on this text was seen, the prior's level is unknown by 15 % (plan/prior.py). One run fixes it
# to what two seeds or two schedules differ by; away from its compute, by e-fold, published laws drift apart
# by about 2 % (a judgement: the exponents of arXiv:2001.08361, 2203.15556 and 2404.10102 side by side).
_LEVEL_SD, _RUN_SD, _DRIFT_SD = 0.15, 0.03, 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """Where measurements lie; what is None is looked for beside the brief."""

    law: Path | None = None
    observations: Path | None = None
    corpus: Path | None = None
    past: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """All that a plan is made from but the brief, which a what-if changes."""

    law: Law | None
    rows: tuple[Observation, ...]
    past: tuple[PastRun, ...]
    corpus: Corpus | None
    machine: Machine
    options: ChooseOptions
    notes: list[str] = field(default_factory=list)

    def plan(self, brief: Brief) -> Plan:
        """The plan for this brief (see `choose_plan`)."""
        options = replace(self.options, shape=_reshaped(self.options.shape, brief))
        is_cpu = _is_cpu(brief, self.machine, options.overlay)
        vocabulary = vocabulary_of(brief, self.corpus, options, is_cpu=is_cpu)
        loss = loss_of(self.law) if self.law else moved(prior_loss_for(vocabulary), self.past)
        rows = [*self.rows, *(run.observation() for run in self.past)]
        rates = recipe_rule(brief.override)
        return choose_plan(brief, loss, rows, self.machine, self.corpus, rates, options)


def gather(folder: Path, sources: Sources, brief: Brief, shape: Shape | None = None) -> Given:
    """Read everything once; `shape` fixes the model."""
    law_path = sources.law or first_of(folder, ("law.json",))
    runs = sources.observations or first_of(folder, ("observations.csv", "ladder/observations.csv"))
    text = sources.corpus or (folder / "corpus" if (folder / "corpus" / "corpus.json").exists() else None)
    law = law_from(law_path) if law_path else None
    own = folder / NAME if (folder / NAME).exists() else None
    notes = [f"read {path}" for path in (law_path, runs, text, own, *measured_in(folder)) if path]
    hardware, overlay = brief.hardware, overlay_in(folder)
    usual: dict[str, Any] = {
        "shape": shape,
        "device": hardware.device,
        "devices": hardware.count * hardware.nodes,
    }
    usual["own"] = overlay.devices
    past = past_runs(sources.past, usual)
    notes += [run.line() for run in past]
    if law and law.refusal:
        notes.append(f"the law refuses to forecast: {law.refusal}")
    return Given(
        law=law,
        rows=tuple(observations_from(runs)) if runs else (),
        past=tuple(past),
        corpus=corpus_from(text) if text else None,
        machine=measure_machine(rates="cached"),
        options=ChooseOptions(
            name=brief.name,
            corpus_folder=str(text or "corpus"),
            loss_source="law" if law else "prior",
            loss_unit=law.loss_unit.replace("_", " ") if law else "nats per token",
            like=family_from(runs) if runs else None,
            size_column=law.size_column if law else LIKE_DENSE,
            shape=shape,
            loss_from=_loss_from(law, law_path, past),
            overlay=overlay,
        ),
        notes=notes,
    )


def brief_value(path: Path) -> Mapping[str, Any]:
    """The brief as TOML has it, checked."""
    load_brief(path)
    return tomllib.loads(path.read_text(encoding="utf-8"))


def brief_with(value: Mapping[str, Any], where: Path, change: Change) -> Brief:
    """The checked Brief after a change; `where` stands in error texts."""
    label = f" with {change.label}" if change.label else ""
    return check_brief(changed(value, change), where.with_name(where.name + label.replace("/", " ")))


def moved(law: LossLaw, runs: Sequence[PastRun]) -> LossLaw:
    """The prior law, moved to where past runs ended; certain near them, less so far from their compute."""
    seen = [run for run in runs if run.loss > 0 and run.has_settled]
    if not seen:
        return law
    logs = [math.log(run.loss / law(run.params, run.tokens).value) for run in seen]
    precision = len(seen) / _RUN_SD**2
    shift = precision * sum(logs) / len(logs) / (precision + 1 / _LEVEL_SD**2)
    level = 1 / math.sqrt(precision + 1 / _LEVEL_SD**2)

    def loss(params: float, tokens: float) -> Interval:
        before = law(params, tokens)
        value, most = before.value * math.exp(shift), math.log(before.high80 / before.value) / Z80
        away = min(abs(math.log(params * tokens / run.params / run.tokens)) for run in seen)
        sd = min(math.hypot(level, _DRIFT_SD * away), most)
        near, far = math.exp(Z80 * sd), math.exp(1.96 * sd)
        return Interval(
            value=value, low80=value / near, high80=value * near, low95=value / far, high95=value * far
        )

    return loss


def _loss_from(law: Law | None, path: Path | None, past: Sequence[PastRun]) -> str:
    if law:
        return f"the law of {path}, form {law.form}, fitted to {law.points} runs,"
    seen = [run.name for run in past if run.loss > 0 and run.has_settled]
    return f"the published law (plan/prior.py) moved to where {', '.join(seen)} ended," if seen else ""


def _is_cpu(brief: Brief, machine: Machine, overlay: Overlay) -> bool:
    if brief.hardware.device == "this":
        return not machine.gpus
    device = known_device(brief.hardware.device, overlay.devices)
    return device is not None and device.kind == "cpu"


def _reshaped(shape: Shape | None, brief: Brief) -> Shape | None:
    """The fixed shape with what a change says of context and vocabulary."""
    if shape is None:
        return None
    over = brief.override
    named = {name: int(over[name]) for name in ("context_tokens", "vocab_size") if name in over}
    return replace(shape, **named)  # pyrefly: ignore


def observations_from(path: Path) -> list[Observation]:
    """Rows of an observations.csv (weight 0 left out) with seconds and joules where it has them."""
    table = read_observations(path)
    absent = [math.nan] * len(table)
    seconds, joules = (table.extra.get(name, absent) for name in ("seconds", "joules"))
    return [
        Observation(
            run=table.run[index],
            params=float(table.params[index]),
            tokens=float(table.tokens[index]),
            loss=float(table.loss[index]),
            nonembed_params=float(table.nonembed_params[index]),
            flops=float(table.flops[index]),
            seconds=float(seconds[index]),
            joules=float(joules[index]),
        )
        for index in range(len(table))
    ]


def law_from(path: Path) -> Law:
    """The law in a law.json."""
    return from_json(Law, read_json(path))


def loss_of(law: Law) -> LossLaw:
    """The law as the callable that `choose_plan` takes."""

    def loss(params: float, tokens: float) -> Interval:
        return forecast(law, params, tokens).loss

    return loss


def corpus_from(folder: Path) -> Corpus:
    """The record of a prepared corpus."""
    return from_json(Corpus, read_json(folder / "corpus.json"))


def family_from(observations: Path) -> Shape | None:
    """The shape of a rung whose plan lies in a folder beside observations.csv: the target keeps its depth,
    heads, vocabulary and context. None where the runs came from elsewhere."""
    for path in sorted(observations.parent.glob("*@*/plan.json")):
        return from_json(Plan, read_json(path)).shape
    return None


def first_of(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The first of `names` that exists in `folder`."""
    return next((folder / name for name in names if (folder / name).exists()), None)
