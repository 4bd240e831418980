"""A plan in; lines for people out."""

from collections.abc import Sequence

from stepladder.plan.why import show
from stepladder.records import Derived, Plan
from stepladder.units import format_bytes, format_count, format_seconds, format_usd

# The order in which people ask; the rest is behind --why.
_SHOWN = (
    "params",
    "tokens",
    "batch_tokens",
    "learning_rate",
    "loss",
    "seconds",
    "usd",
    "kwh",
    "kg_co2e",
    "peak_bytes",
    "epochs",
)
_FORMATS = {
    "params": format_count,
    "tokens": format_count,
    "seconds": format_seconds,
    "usd": format_usd,
    "peak_bytes": format_bytes,
}


def plan_lines(plan: Plan, notes: Sequence[str] = ()) -> list[str]:
    """Choice, costs, risks and alternatives."""
    shape, layout = plan.shape, plan.layout
    where = f"{layout.processes} process{'es' if layout.processes > 1 else ''} on {layout.device}"
    where += f", {layout.threads} threads each" if layout.device == "cpu" else ""
    where += f", {layout.precision}" + (f", {layout.shard}" if layout.shard != "none" else "")
    where += f", {layout.recompute} recompute" if layout.recompute != "none" else ""
    lines = [
        f"plan {plan.name}",
        f"  shape          {shape.num_layers} layers, width {shape.width}, {shape.num_heads} heads of "
        f"{shape.head_dim}, vocabulary {shape.vocab_size:,}, context {shape.context_tokens:,}",
        f"  where          {where}",
    ]
    for name in _SHOWN:
        if name in plan.numbers:
            number = plan.numbers[name]
            lines.append(f"  {name:14s} {_with_ends(name, number):38s} {number.source}")
    if plan.limits:
        risks = ", ".join(f"{name} {risk:.0%}" for name, risk in plan.limits.items())
        lines.append(f"  risk of more   {risks}")
    if plan.alternatives:
        lines.append("alternatives")
    for row in plan.alternatives:
        lines.append(
            f"  {format_count(row['params']):>7s} parameters {format_count(row['tokens']):>7s} tokens  "
            f"loss {row['loss']:.4g}  {format_seconds(row['seconds']):>12s}  {row['why']}"
        )
    lines += [f"note: {note}" for note in notes]
    return [*lines, "reasons: stepladder plan --why NAME, for any of " + ", ".join(plan.numbers)]


def narrowing(plan: Plan) -> list[str]:
    """The cheapest measurements that would narrow the plan, most useful first; at most three."""
    numbers = plan.numbers
    lines = []
    if numbers["loss"].source == "prior":
        lines.append("the loss is not forecast from your text: stepladder ladder, then stepladder fit")
    if numbers["seconds_per_token"].source == "prior":
        lines.append("speed was not measured: one small run (stepladder ladder) narrows all costs")
    if numbers["watts"].source == "prior":
        lines.append("power was not measured: read a watt meter once and set watts_per_device in [override]")
    if numbers["usd_per_device_hour"].source in ("prior", "catalogue"):
        lines.append("the price is the catalogue's: set usd_per_device_hour in [override] to yours")
    return lines[:3]


def _with_ends(name: str, number: Derived) -> str:
    form = _FORMATS.get(name)
    if form is None:
        return show(number)
    if number.low == number.high:
        return form(number.value)
    return f"{form(number.value)} ({form(number.low)} to {form(number.high)})"
