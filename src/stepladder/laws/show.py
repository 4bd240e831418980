"""A law and its forecasts in; the text that people read, and the CSV that programs read, out."""

import csv
import io
import math
from collections.abc import Sequence

from stepladder.laws.forms import form_named
from stepladder.laws.nextrun import NextRun
from stepladder.laws.registry import Frozen
from stepladder.records import Forecast, Law, Score
from stepladder.units import format_count, format_flops

COLUMNS = ("run", "loss", "low80", "high80", "low95", "high95", "status")


def law_text(law: Law, notes: Sequence[str] = ()) -> str:
    """Constants with 80 % intervals, certification, warnings."""
    form = form_named(law.form)
    quality = law.quality
    unit = "" if law.loss_unit == "unstated" else f" ({law.loss_unit.replace('_', ' ')})"
    lines = [f"law        loss{unit} = {form.equation}", f"source     {form.source}"]
    room = max(10, *(len(name) for name in law.terms))
    lines.append(f"{'constant':<{room}} {'value':>12} {'low 80 %':>12} {'high 80 %':>12}")
    lines += [
        f"{name:<{room}} {_g(value):>12} "
        f"{_g(quality[f'{name}_low80']):>12} {_g(quality[f'{name}_high80']):>12}"
        for name, value in law.terms.items()
    ]
    lines.append(f"runs       {law.points}, compute up to {format_flops(law.largest_flops)} FLOP (6ND)")
    seeds = quality.get("replicate_sigma", math.nan)
    verdict = "certified" if quality["certified"] else "NOT certified"
    lines.append(
        f"optimum    {verdict}: {quality['agreeing_starts']:.0f} starts agree to 1e-6, "
        f"{quality['success_share']:.0%} of all reached it"
    )
    lines.append(
        f"residuals  rms {quality['rms_residual']:.2%}, worst {quality['worst_residual']:.2%}, "
        f"noise {quality['sigma']:.2%}" + (f", seeds differ by {seeds:.2%}" if seeds == seeds else "")
    )
    if quality["rollout_cuts"] > 0:
        lines.append(
            f"roll-outs  {quality['rollout_cuts']:.0f} cuts: a tenfold horizon would have erred by "
            f"{1.35 * quality['rollout_rms']:.2%} rms, {-1.35 * quality['rollout_bias']:+.2%} on average"
        )
    if quality.get("earlier_rms"):
        lines.append(
            f"earlier    ladders of this kind missed by {1.35 * quality['earlier_rms']:.2%} at a tenfold "
            "horizon beyond what their runs could tell: added to the intervals"
        )
    if quality["weight_power"] > 0.25:
        lines.append(
            f"weights    C^{quality['weight_power']:g}: neighbouring runs err together, so the dear ones "
            "count most (--method plain fits as published)"
        )
    if "law_exponent" in quality:
        lines.append(f"best size  grows as C^{quality['law_exponent']:.3f} by this law")
        lines += [
            f"{'':<10} C^{quality[f'{name}_exponent']:.3f} by {words}, which reads this law's own losses "
            f"{quality[f'{name}_bias']:+.3f} off"
            for name, words in (("parabola", "isoFLOP parabolas"), ("envelope", "the envelope"))
            if f"{name}_exponent" in quality
        ]
    if law.spread.get("repeat"):
        repeat = law.spread["repeat"]
        lines.append(
            f"repetition the worth of a token seen again fades over {repeat['data_halflife']:.3g} epochs "
            f"({repeat['low'][0]:.3g} to {repeat['high'][0]:.3g})"
        )
        lines.append(f"{'':<10} {repeat['source']}")
        if repeat["harmful"]:
            lines.append(f"{'':<10} {repeat['harmful']} runs ended worse than a shorter one on the same data")
    lines += [f"note       {note}" for note in notes]
    lines += [f"warning    {warning}" for warning in law.warnings]
    lines += [f"REFUSED    {law.refusal}"] if law.refusal else []
    return "\n".join(lines)


def forecast_text(forecasts: Sequence[Forecast], quantity: str = "loss") -> str:
    """One line a target."""
    word = quantity if len(quantity) <= 8 else "metric"
    head = (
        f"{'run':<20} {'params':>8} {'tokens':>8} {'horizon':>8} {word:>8} {'80 % interval':>19} "
        f"{'95 % interval':>19}  status"
    )
    lines = [head]
    for item in forecasts:
        loss = item.loss
        lines.append(
            f"{item.run[:20]:<20} {format_count(item.params):>8} {format_count(item.tokens):>8} "
            f"{item.horizon:>7.3g}x {loss.value:>8.4f} {loss.low80:>9.4f}–{loss.high80:<9.4f} "
            f"{loss.low95:>9.4f}–{loss.high95:<9.4f}  {item.status}"
        )
    reasons = dict.fromkeys(item.reason for item in forecasts if item.reason)
    return "\n".join([*lines, *(f"refused: {reason}" for reason in reasons)])


def next_runs_text(runs: Sequence[NextRun], target: str) -> str:
    """What to run next, with how far each run and those before it would narrow the fit at the target."""
    lines = [f"next runs that narrow the forecast of {target} most (spread of the fit after each)"]
    lines += [
        f"{format_count(item.params):>10} parameters  {format_count(item.tokens):>8} tokens  "
        f"{format_flops(item.flops):>9} FLOP  {item.left:>7.2%}  (-{item.narrows:.0%} of the variance)"
        for item in runs
    ]
    return "\n".join(lines)


def forecast_csv(forecasts: Sequence[Forecast], quantity: str = "loss") -> str:
    """The rows of forecast.csv."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([quantity if name == "loss" else name for name in COLUMNS])
    for item in forecasts:
        loss = item.loss
        numbers = (loss.value, loss.low80, loss.high80, loss.low95, loss.high95)
        writer.writerow([item.run, *(f"{number:.8g}" for number in numbers), item.status])
    return text.getvalue()


def _g(value: float) -> str:
    return f"{value:.5g}"


def score_text(result: Score) -> str:
    """A score in one line, a miss as plainly as a hit."""
    said = result.forecast
    word80 = "hit: inside" if said.held80(result.outcome) else "MISS: outside"
    word95 = "inside" if said.held95(result.outcome) else "OUTSIDE"
    return (
        f"{result.run}, {result.quantity}: forecast {said.value:.5g}, measured {result.outcome:.5g}, error "
        f"{_error(result)}; {word80} the 80 % interval {said.low80:.5g} to {said.high80:.5g}, "
        f"{word95} the 95 % interval {said.low95:.5g} to {said.high95:.5g}"
    )


def _error(result: Score) -> str:
    """Of the outcome; nothing is a share of a task's score of 0."""
    if result.outcome:
        return f"{result.relative_error:+.2%}"
    return f"{result.forecast.value:+.4g}"


def registry_text(found: Sequence[Frozen]) -> str:
    """One line a forecast, named by its folder and run."""
    lines = [f"{'run':<24} {'created':<26} {'fingerprint':<17} {'loss':>8} {'80 % interval':>19}  outcome"]
    for item in found:
        forecast, loss = item.forecast, item.forecast.loss
        if not item.intact:
            outcome = "CHANGED after it was frozen"
        elif item.score is None:
            outcome = "open" + (" (refused)" if forecast.status == "refused" else "")
        else:
            word = "held 80" if loss.held80(item.score.outcome) else "missed 80"
            word95 = "held 95" if loss.held95(item.score.outcome) else "missed 95"
            outcome = f"{item.score.outcome:.4f} ({_error(item.score)}, {word}, {word95})"
            outcome += f"; not counted: {item.uncounted}" if item.uncounted else ""
        name = f"{item.path.resolve().parent.name}/{forecast.run}"
        lines.append(
            f"{name[-24:]:<24} {forecast.created or 'not dated':<26} {forecast.fingerprint:<17} "
            f"{loss.value:>8.4f} {loss.low80:>9.4f}–{loss.high80:<9.4f}  {outcome}"
        )
    return "\n".join(lines)
