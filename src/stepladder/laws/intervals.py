"""A law and a target in; a Forecast with intervals of 80 and 95 %, or a refusal with its reason, out."""

import math

import numpy as np

from stepladder.laws.forms import form_named, predict_theta
from stepladder.laws.rollout import HORIZON_OFFSET
from stepladder.records import Forecast, Interval, Law

# Student's t with four degrees of freedom: the roll-outs of one ladder amount to about five errors.
T80, T95 = 1.533, 2.776


def components(law: Law, params: float, tokens: float) -> dict[str, float]:
    """Sources of the forecast's error as standard deviations of log-loss, with the horizon in decades."""
    form = form_named(law.form)
    centre = (law.spread["centre"][0], law.spread["centre"][1])
    size, data = np.array([params], float), np.array([tokens], float)
    value = float(predict_theta(form, np.array(law.spread["theta"]), centre, size, data)[0, 0])
    draws = predict_theta(form, np.array(law.spread["draws"]), centre, size, data)[:, 0]
    rivals = [
        float(predict_theta(form_named(rival["form"]), np.array(rival["theta"]), centre, size, data)[0, 0])
        for rival in law.spread["rivals"]
    ]
    horizon = max(math.log10(6 * params * tokens / law.largest_flops), 0.0)
    low, high = np.quantile(draws, [0.1, 0.9])
    return {
        "log_loss": value,
        "horizon": horizon,
        "draws": float(high - low) / 2.563,
        "draws_mean": float(np.median(draws)) - value,
        "rivals": float(np.sqrt(np.mean((np.array(rivals) - value) ** 2))),
        "rollout": law.quality["rollout_rms"] * (HORIZON_OFFSET + horizon),
        "bias": law.quality["rollout_bias"] * (HORIZON_OFFSET + horizon),
        "noise": law.quality["sigma"],
    }


def forecast(
    law: Law, params: float, tokens: float, *, run: str = "target", unique_tokens: float | None = None
) -> Forecast:
    """What the law says of one run: loss with intervals, in the law's unit."""
    parts = components(law, params, tokens)
    spread = math.sqrt(
        parts["draws"] ** 2
        + parts["rivals"] ** 2
        + parts["noise"] ** 2
        + (np.nan_to_num(parts["rollout"]) / 2) ** 2
    )
    value = parts["log_loss"]
    loss = Interval(
        value=math.exp(value),
        low80=math.exp(value - T80 * spread),
        high80=math.exp(value + T80 * spread),
        low95=math.exp(value - T95 * spread),
        high95=math.exp(value + T95 * spread),
    )
    return Forecast(
        run=run,
        params=params,
        tokens=tokens,
        loss=loss,
        loss_unit=law.loss_unit,
        status="refused" if law.refusal else "ok",
        reason=law.refusal,
        horizon=10 ** parts["horizon"],
        law_fingerprint=law.fingerprint,
    )
