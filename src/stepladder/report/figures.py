"""Nouns of a climb in; one Vega-Lite specification (a dict, without config) a function out.

Page and pictures use the same dicts. Widths are "container": the page fills its column, `export_figures`
sets a number.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from stepladder.records import Interval, Observation, Run, Score, TaskResult
from stepladder.report.marks import (
    ALTERNATIVES,
    CHOSEN,
    COMPUTE,
    CROSS,
    DIAMOND,
    EXCLUDED,
    FORECAST,
    HELD_OUT,
    INTERVAL_TIPS,
    LAW,
    MEASURED,
    POINT,
    RUNG_TIPS,
    RUNGS,
    SIZES,
    TRAINING,
    Rows,
    Spec,
    bars,
    chart,
    intervals,
    layer_of,
    rung_row,
    tips_of,
    x_axis,
    y_axis,
    zero_line,
)
from stepladder.report.theme import BLUE
from stepladder.report.words import QUANTITIES, SMALL_KWH, UNITS, excluded_reason, note_of, number_of, show

# A curve is drawn from this many points; a run of 50,000 steps would otherwise put 5 MB into the page.
MAX_CURVE_POINTS = 300


def law_curve(
    observations: Sequence[Observation],
    band: Rows,
    forecast: Mapping[str, float] | None,
    outcome: Mapping[str, float] | None,
    loss_unit: str,
) -> Spec:
    """Loss against compute: the law with its band, the ladder, the frozen forecast, the measured target.

    Args:
        observations: the ladder; those with a reason in notes["excluded"] are drawn apart.
        band: rows of flops, loss, low80, high80, low95, high95 along the target's tokens per parameter.
        forecast: flops, loss, low80, high80, low95, high95; None when none was frozen.
        outcome: flops, loss; None before the target ran.
        loss_unit: for the axis.
    """
    kept = [rung_row(row) for row in observations if not excluded_reason(row)]
    dropped = [rung_row(row) for row in observations if excluded_reason(row)]
    x = x_axis("flops", COMPUTE, log=True, number_format=".0e")
    y = y_axis("loss", f"held-out loss ({UNITS.get(loss_unit, loss_unit)})")
    layers: list[Spec] = []
    if band:
        for low, high, opacity in (("low95", "high95", 0.18), ("low80", "high80", 0.24)):
            area = {"type": "area", "opacity": opacity, "interpolate": "monotone"}
            layers.append(
                layer_of(band, area, LAW, {"x": x, "y": {**y, "field": low}, "y2": {"field": high}})
            )
        tips = tips_of(("flops", "compute (FLOP)", ".2e"), ("loss", "law", ".4f"), *INTERVAL_TIPS)
        line = {"type": "line", "strokeWidth": 2, "interpolate": "monotone"}
        layers.append(layer_of(band, line, LAW, {"x": x, "y": y, "tooltip": tips}))
    layers.append(layer_of(kept, POINT, RUNGS, {"x": x, "y": y, "tooltip": RUNG_TIPS}))
    if dropped:
        tips = [*RUNG_TIPS, {"field": "excluded", "title": "excluded"}]
        layers.append(layer_of(dropped, CROSS, EXCLUDED, {"x": x, "y": y, "tooltip": tips}))
    if forecast:
        tips = tips_of(("flops", "compute (FLOP)", ".2e"), ("loss", "forecast", ".4f"), *INTERVAL_TIPS)
        for low, high, stroke in (("low95", "high95", 2), ("low80", "high80", 7)):
            rule = {"type": "rule", "strokeWidth": stroke, "opacity": 0.75}
            where = {"x": x, "y": {**y, "field": low}, "y2": {"field": high}, "tooltip": tips}
            layers.append(layer_of([forecast], rule, FORECAST, where))
    if outcome:
        tips = tips_of(("flops", "compute (FLOP)", ".2e"), ("loss", "measured", ".4f"))
        layers.append(layer_of([outcome], DIAMOND, MEASURED, {"x": x, "y": y, "tooltip": tips}))
    return chart(layers, 360, "Held-out loss against training compute, with the law and its forecast.")


def loss_by_tokens(
    observations: Sequence[Observation], curves: Rows, outcome: Mapping[str, float] | None, loss_unit: str
) -> Spec:
    """Loss against tokens, one line a model size.

    `curves` has rows of params, tokens, loss from the law; `outcome` has params, tokens, loss.
    """
    x = x_axis("tokens", "training tokens", log=True, number_format="~s")
    y = y_axis("loss", f"held-out loss ({UNITS.get(loss_unit, loss_unit)})")
    layers: list[Spec] = []
    if curves:
        tips = tips_of(("params", "parameters", ".3s"), ("tokens", "tokens", ".3s"), ("loss", "law", ".4f"))
        where = {"x": x, "y": y, "detail": {"field": "params"}, "tooltip": tips}
        layers.append(layer_of(curves, {"type": "line", "strokeWidth": 1.5, "opacity": 0.8}, SIZES, where))
        label = {"type": "text", "align": "left", "dx": 5, "baseline": "middle"}
        ends = {"x": x, "y": y, "text": {"field": "label"}}
        layers.append({"data": {"values": _line_ends(curves)}, "mark": label, "encoding": ends})
    kept = [rung_row(row) for row in observations if not excluded_reason(row)]
    layers.append(layer_of(kept, POINT, RUNGS, {"x": x, "y": y, "tooltip": RUNG_TIPS}))
    if outcome:
        tips = tips_of(
            ("params", "parameters", ".3s"), ("tokens", "tokens", ".3s"), ("loss", "measured", ".4f")
        )
        layers.append(layer_of([outcome], DIAMOND, MEASURED, {"x": x, "y": y, "tooltip": tips}))
    # Labels of the lines stand in the right padding, outside of the plot.
    return {
        **chart(layers, 320, "Held-out loss against tokens for each model size."),
        "padding": {"right": 48, "left": 5, "top": 5, "bottom": 5},
    }


def residuals(rows: Rows) -> Spec:
    """How far the law is from the runs that it was fitted to: rows of run, flops, percent."""
    tips = [
        {"field": "run", "title": "run"},
        *tips_of(("flops", "compute (FLOP)", ".2e"), ("percent", "law - measured (%)", "+.2f")),
    ]
    encoding = {
        "x": x_axis("flops", COMPUTE, log=True, number_format=".0e"),
        "y": y_axis("percent", "law - measured (%)"),
        "tooltip": tips,
    }
    layers = [
        zero_line("y"),
        {"data": {"values": list(rows)}, "mark": {**POINT, "color": BLUE}, "encoding": encoding},
    ]
    return chart(layers, 180, "Error of the law at each rung of the ladder.")


def forecast_outcome(quantity: str, forecast: Interval, outcome: float | None) -> Spec:
    """One forecast quantity as a bar of 80 and 95 %, its median as a tick, and what was measured."""
    title = QUANTITIES.get(quantity, quantity)
    factor = 1.0
    if quantity == "kwh" and forecast.high95 < SMALL_KWH:
        title, factor = "energy (Wh)", 1e3
    row = {name: factor * getattr(forecast, name) for name in Interval.__slots__}
    x = {"field": "value", "type": "quantitative", "scale": {"zero": False, "padding": 12}, "title": title}
    tips = tips_of(("value", "forecast", ",.4~g"), *[(n, t, ",.4~g") for n, t, _ in INTERVAL_TIPS])
    layers: list[Spec] = []
    for low, high, stroke, opacity in (("low95", "high95", 3, 0.8), ("low80", "high80", 16, 0.4)):
        mark = {"type": "rule", "strokeWidth": stroke, "opacity": opacity}
        where = {"x": {**x, "field": low}, "x2": {"field": high}, "tooltip": tips}
        layers.append(layer_of([row], mark, FORECAST, where))
    tick = {"type": "tick", "thickness": 3, "size": 26}
    layers.append(layer_of([row], tick, FORECAST, {"x": x, "tooltip": tips}))
    if outcome is not None:
        where = {"x": {**x, "field": "outcome"}, "tooltip": tips_of(("outcome", "measured", ",.4~g"))}
        layers.append(layer_of([{"outcome": factor * outcome}], DIAMOND, MEASURED, where))
    return chart(layers, 56, f"Forecast and outcome of {quantity}.")


def removed_by_rule(removed: Mapping[str, float], unit: str = "documents") -> Spec:
    """What data preparation removed, a bar a rule, most first."""
    rows = [{"rule": rule.replace("_", " "), "count": count} for rule, count in removed.items()]
    return bars(
        rows, ("rule", "count"), f"{unit} removed", ",d", f"{unit.capitalize()} removed by each rule."
    )


def training_curve(metrics: Rows, heldout_unit: str = "nats per token") -> Spec:
    """Training loss of the target by tokens (means of equal stretches) and held-out loss where measured."""
    x = x_axis("tokens", "training tokens", log=False, number_format="~s")
    y = y_axis("loss", f"loss ({heldout_unit})")
    tips = tips_of(("tokens", "tokens", ".3s"), ("loss", "loss", ".4f"))
    train = _thin([(row["tokens"], row["loss"]) for row in metrics if _is_number(row.get("loss"))])
    held = [
        {"tokens": row["tokens"], "loss": row["heldout_loss"]}
        for row in metrics
        if _is_number(row.get("heldout_loss"))
    ]
    layers = [
        layer_of(train, {"type": "line", "strokeWidth": 1.5}, TRAINING, {"x": x, "y": y, "tooltip": tips})
    ]
    if held:
        layers.append(
            layer_of(held[-MAX_CURVE_POINTS:], DIAMOND, HELD_OUT, {"x": x, "y": y, "tooltip": tips})
        )
    return chart(layers, 260, "Training and held-out loss of the target by tokens.")


def in_context_scores(observations: Sequence[Observation], target: Run | None) -> Spec:
    """In-context score of each rung and the target against tokens; a sign change makes a law miss."""
    x = x_axis("tokens", "training tokens", log=True, number_format="~s")
    y = y_axis("score", "in-context score (nats per token)")
    tips = [
        {"field": "run", "title": "run"},
        *tips_of(("tokens", "tokens", ".3s"), ("score", "score", "+.3f")),
    ]
    scores = [(row, note_of(row, "in_context_score")) for row in observations if not excluded_reason(row)]
    rows = [{**rung_row(row), "score": score} for row, score in scores if math.isfinite(score)]
    layers = [zero_line("y"), layer_of(rows, POINT, RUNGS, {"x": x, "y": y, "tooltip": tips})]
    if target is not None and math.isfinite(target.in_context_score):
        point = {"run": target.name, "tokens": target.tokens, "score": target.in_context_score}
        layers.append(layer_of([point], DIAMOND, MEASURED, {"x": x, "y": y, "tooltip": tips}))
    return chart(layers, 220, "In-context score of each run against its tokens.")


def task_intervals(results: Sequence[TaskResult]) -> Spec:
    """One task and metric: a dot with its 95 % bootstrap interval for each method, in the given order."""
    names = ("method", "value", "low", "high", "examples")
    rows = [{name: getattr(row, name) for name in names} for row in results]
    metric = results[0].metric.replace("_", " ")
    tips = tips_of(
        ("value", metric, ".3f"),
        ("low", "low 95 %", ".3f"),
        ("high", "high 95 %", ".3f"),
        ("examples", "test examples", ",d"),
    )
    description = f"{metric} of each method on {results[0].task}."
    return intervals(rows, ("method", "value"), f"{metric}, 95 % interval", tips, description)


def cost_bars(amounts: Mapping[str, float], title: str, number_format: str = ",.3~r") -> Spec:
    """Seconds, kWh or money of each stage, in the order of the climb."""
    rows = [{"stage": stage, "amount": amount} for stage, amount in amounts.items() if math.isfinite(amount)]
    return bars(rows, ("stage", "amount"), title, number_format, f"{title} of each stage.", ordered=False)


def pareto_front(alternatives: Rows, chosen: Mapping[str, Any], cost: str, loss_unit: str) -> Spec:
    """Plans that the planner kept as alternatives, and the chosen one; `cost` names the x quantity."""
    names = ("loss", "params", "tokens")

    def point(row: Mapping[str, Any]) -> dict[str, float]:
        return {"cost": number_of(row.get(cost)), **{name: number_of(row.get(name)) for name in names}}

    rows = [row for row in map(point, alternatives) if row["cost"] > 0 and math.isfinite(row["loss"])]
    title = QUANTITIES.get(cost, cost)
    tips = tips_of(
        ("loss", "forecast loss", ".4f"),
        ("cost", title, ",.3~r"),
        ("params", "parameters", ".3s"),
        ("tokens", "tokens", ".3s"),
    )
    where = {
        "x": x_axis("cost", title, log=True, number_format=",~g"),
        "y": y_axis("loss", f"forecast loss ({UNITS.get(loss_unit, loss_unit)})"),
        "tooltip": tips,
    }
    layers = [
        layer_of(rows, POINT, ALTERNATIVES, where),
        layer_of([point(chosen)], DIAMOND, CHOSEN, where),
    ]
    return chart(layers, 260, "Alternatives in cost and forecast loss, with the chosen plan.")


def _line_ends(curves: Rows) -> list[dict[str, Any]]:
    """The last point of each line with its size as label; labels that would touch are left out."""
    last: dict[float, Mapping[str, Any]] = {}
    for row in curves:
        if row["params"] not in last or row["tokens"] >= last[row["params"]]["tokens"]:
            last[row["params"]] = row
    losses = [row["loss"] for row in curves]
    gap = (max(losses) - min(losses)) / 20
    ends: list[dict[str, Any]] = []
    for row in sorted(last.values(), key=lambda row: row["loss"]):
        if not ends or row["loss"] - ends[-1]["loss"] >= gap:
            ends.append({**row, "label": show("params", row["params"])})
    return ends


def _thin(points: Sequence[tuple[float, float]]) -> list[dict[str, float]]:
    """Means of at most MAX_CURVE_POINTS stretches of equal length."""
    size = max(1, math.ceil(len(points) / MAX_CURVE_POINTS))
    stretches = [points[at : at + size] for at in range(0, len(points), size)]
    return [{"tokens": part[-1][0], "loss": sum(loss for _, loss in part) / len(part)} for part in stretches]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def score_figure(score: Score) -> Spec:
    """`forecast_outcome` of a score."""
    return forecast_outcome(score.quantity, score.forecast, score.outcome)
