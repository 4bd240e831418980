"""A law and a target in; a Forecast with intervals of 80 and 95 %, or a refusal with its reason, out.

The width adds up, in squares, what each source of error amounts to at the target: bootstrap draws of the
constants, half of the spread to other forms and weights, the noise of a single run, 0.4 of the error that the
law made in roll-outs, and, where earlier ladders of its kind were scored, what they missed by beyond their
own intervals; the last two grow as 0.35 + log10(C / C_fit). The factors are set so that hold-outs of
ten public sets and synthetic ladders are covered (figures in bench/laws/README.md).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from stepladder.errors import LawError
from stepladder.laws.discount import PUBLISHED, effective_tokens, most_useful_epochs
from stepladder.laws.forms import Extra, columns_at, form_named, predict_theta
from stepladder.laws.nextrun import next_run
from stepladder.laws.repeat import RepeatLaw
from stepladder.laws.rollout import HORIZON_OFFSET
from stepladder.laws.solve import Array
from stepladder.laws.targets import Target
from stepladder.records import Forecast, Interval, Law, from_json

_RIVALS, _ROLLOUT = 0.5, 0.4
_Q80, _Q95 = 1.2, 2.3
# A refused forecast: every source in full, and Student's t with four degrees of freedom.
_T80, _T95 = 1.533, 2.776
LARGEST_HALF_WIDTH = 0.30
LONG_HORIZON = 30.0


def log_losses(
    law: Law, params: Array, tokens: Array, extra: Extra | None = None, fit: Mapping[str, Any] | None = None
) -> Array:
    """Log-loss (B, m) at m runs by the law's θ, or by another `fit`: {"theta", "form", "centre"} as far as
    they differ from the law's."""
    fit = {"form": law.form, **law.spread, **(fit or {})}
    form = form_named(fit["form"])
    middle = (law.spread["centre"][0], law.spread["centre"][1])
    return predict_theta(
        form, np.array(fit["theta"]), fit["centre"], columns_at(form, params, tokens, extra, middle)
    )


def components(law: Law, params: float, tokens: float, extra: Extra | None = None) -> dict[str, float]:
    """Sources of the forecast's error as standard deviations of log-loss, with the horizon in decades."""
    size, data = np.array([params], float), np.array([tokens], float)
    value = float(log_losses(law, size, data, extra)[0, 0])
    draws = log_losses(law, size, data, extra, {"theta": law.spread["draws"]})[:, 0]
    low, high = np.quantile(draws, [0.1, 0.9])
    away = [float(log_losses(law, size, data, extra, rival)[0, 0]) - value for rival in law.spread["rivals"]]
    horizon = max(math.log10(6 * params * tokens / law.largest_flops), 0.0)
    grown = HORIZON_OFFSET + horizon
    return {
        "log_loss": value,
        "horizon": horizon,
        "draws": float(high - low) / 2.563,
        "rivals": math.sqrt(sum(item**2 for item in away) / len(away)) if away else 0.0,
        "rollout": float(np.nan_to_num(law.quality["rollout_rms"])) * grown,
        "bias": float(np.nan_to_num(law.quality["rollout_bias"])) * grown,
        "noise": law.quality["sigma"],
        "earlier": law.quality.get("earlier_rms", 0.0) * grown,
    }


def forecast(
    law: Law,
    params: float,
    tokens: float,
    *,
    run: str = "target",
    unique_tokens: float | None = None,
    extra: Extra | None = None,
) -> Forecast:
    """What the law says of one run: loss in the law's unit, with intervals.

    Args:
        law: from `fit_law`, or read back from law.json.
        params: size, counted as `law.size_column` says.
        tokens: training tokens, repetitions included.
        run: name of the run.
        unique_tokens: distinct tokens where fewer than `tokens`; repetition is discounted.
        extra: what the law's form reads beside these, one value each: {"experts": [8]}, {"corpus": ["c4"]}.

    Raises:
        LawError: params or tokens are not positive numbers.
    """
    for name, value in (("params", params), ("tokens", tokens), ("unique_tokens", unique_tokens)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise LawError(f"{name} of {run} must be a number above zero", got=str(value))
    worth, repeat_spread = _discount(law, params, tokens, unique_tokens, extra)
    parts = components(law, params, worth, extra) | {"repeat": repeat_spread}
    usual = _root(parts, _RIVALS, _ROLLOUT)
    reason = law.refusal
    if not reason and _Q95 * usual > LARGEST_HALF_WIDTH:
        reason = (
            f"the 95 % interval of {run} reaches {math.expm1(_Q95 * usual):.0%} above the forecast: the runs "
            f"do not determine it; {next_run(law, params, tokens, extra).text}"
        )
    half80, half95 = _Q80 * usual, _Q95 * usual
    if reason:
        widest = _root(parts, 1.0, 1.0)
        half80, half95 = _T80 * widest, _T95 * widest
    value = parts["log_loss"]
    return Forecast(
        run=run,
        params=float(params),
        tokens=float(tokens),
        loss=Interval(
            value=math.exp(value),
            low80=math.exp(value - half80),
            high80=math.exp(value + half80),
            low95=math.exp(value - half95),
            high95=math.exp(value + half95),
        ),
        loss_unit=law.loss_unit,
        status="refused" if reason else "ok",
        reason=reason,
        horizon=6 * params * tokens / law.largest_flops,
        law_fingerprint=law.fingerprint,
    )


def target_warnings(law: Law, forecasts: list[Forecast]) -> tuple[str, ...]:
    """What to know about these targets: a long horizon, sizes or tokens outside the law's box."""
    warnings = []
    far = [item for item in forecasts if item.horizon > LONG_HORIZON]
    if far:
        worst = max(far, key=lambda item: item.horizon)
        warnings.append(
            f"{worst.run} lies {worst.horizon:.3g} times above the fitted compute: beyond {LONG_HORIZON:g} "
            "times no ladder was measured to forecast"
        )
    lowest = math.exp(law.spread["ratio"][0]) if "ratio" in law.spread else 0.0
    highest = math.exp(law.spread["ratio"][1]) if "ratio" in law.spread else math.inf
    outside = [i for i in forecasts if not lowest / 2 <= i.tokens / i.params <= highest * 2]
    if outside:
        ratio = outside[0].tokens / outside[0].params
        warnings.append(
            f"{outside[0].run} has {ratio:.3g} tokens per parameter, the runs {lowest:.3g} to {highest:.3g}"
        )
    return tuple(warnings)


def _root(parts: dict[str, float], rivals: float, rollout: float) -> float:
    return math.sqrt(
        parts["draws"] ** 2
        + (rivals * parts["rivals"]) ** 2
        + (rollout * parts["rollout"]) ** 2
        + parts["noise"] ** 2
        + parts["earlier"] ** 2
        + parts["repeat"] ** 2
    )


def _discount(
    law: Law, params: float, tokens: float, unique: float | None, extra: Extra | None
) -> tuple[float, float]:
    """Tokens that new ones would have to number, and what not knowing the half-life adds to log-loss."""
    if unique is None or unique >= tokens:
        return tokens, 0.0
    repeat = repeat_law(law)
    # Half-lives of which nothing bounds the upper end: from some point on they no longer matter.
    lives = [max(repeat.low[0], 1.0), min(repeat.high[0], 1e6)]
    laws = (repeat, *(replace(repeat, data_halflife=life) for life in lives))
    size, data, new = (np.array([value]) for value in (params, tokens, unique))
    worth = [float(effective_tokens(size, data, new, item)[0]) for item in laws]
    ends = [components(law, params, item, extra)["log_loss"] for item in worth[1:]]
    return worth[0], abs(ends[0] - ends[1]) / 2 / 1.96


def repeat_law(law: Law) -> RepeatLaw:
    """The law of repetition of the law's own runs, or the published one."""
    found = law.spread.get("repeat")
    return from_json(RepeatLaw, found) if found else PUBLISHED


def repeat_warnings(law: Law, targets: Sequence[Target]) -> tuple[str, ...]:
    """Targets that repeat their data beyond what pays."""
    warnings = []
    for target in targets:
        epochs = target.tokens / (target.unique_tokens or target.tokens)
        if epochs <= 1:
            continue
        spent, harms = most_useful_epochs(repeat_law(law), target.params, float(target.unique_tokens or 0))
        if epochs > spent:
            more = f" and from {harms:.0f} on the loss rises" if math.isfinite(harms) else ""
            warnings.append(
                f"{target.run} sees its data {epochs:.3g} times: beyond {spent:.0f} a token seen again is "
                f"worth less than a tenth of a new one{more}"
            )
    return tuple(warnings)
