"""A plan in; lines for people out."""

import textwrap
from collections.abc import Sequence

from stepladder.plan.narrow import Measurement
from stepladder.plan.risk import shares
from stepladder.records import Plan
from stepladder.units import format_bytes, format_count, format_seconds, format_usd

# The order in which people ask; the rest is behind --why.
_CHOSEN = ("params", "active_params", "tokens", "batch_tokens", "learning_rate", "epochs")
_FORECAST = (
    "loss",
    "seconds",
    "calendar_seconds",
    "usd",
    "kwh",
    "kg_co2e",
    "peak_bytes",
    "usd_with_use",
    "goodput",
)
_ADVICE = ("epochs_worth", "usd_per_million_new_tokens")
# What stands around a run, on one line; the rest of it is behind --why.
_AROUND = {
    "usd_project": "the whole project {}",
    "usd_buy_pays_below": "buying pays below {} a device",
    "hours_to_break_even": "or after {} hours",
    "kg_co2e_embodied": "making the hardware {} kg CO2e",
    "kg_co2e_market": "by contract {} kg",
    "water_litres": "{} litres of water",
    "kg_co2e_cleanest_region": "in the cleanest region {} kg",
    "kg_co2e_power_cap": "with a power cap {} kg",
    "kg_co2e_clean_hours": "at clean hours {} kg",
}
WORDS = {
    "params": "parameters",
    "active_params": "of a token",
    "batch_tokens": "batch",
    "learning_rate": "rate",
    "seconds": "time",
    "calendar_seconds": "on calendar",
    "kg_co2e": "kg CO2e",
    "kwh": "kWh",
    "peak_bytes": "memory",
    "usd_with_use": "usd with use",
    "usd_project": "usd, project",
    "hours_to_break_even": "buying, hours",
    "kg_co2e_embodied": "kg, hardware",
    "kg_co2e_market": "kg, contract",
    "water_litres": "litres",
}
_FORMATS = {
    "params": format_count,
    "active_params": format_count,
    "tokens": format_count,
    "batch_tokens": format_count,
    "seconds": format_seconds,
    "calendar_seconds": format_seconds,
    "usd": format_usd,
    "usd_with_use": format_usd,
    "usd_project": format_usd,
    "usd_buy_pays_below": format_usd,
    "peak_bytes": format_bytes,
    "usd_per_million_new_tokens": format_usd,
}
_WIDTH, _INDENT = 105, " " * 17


def plan_lines(plan: Plan, measurements: Sequence[Measurement] = (), notes: Sequence[str] = ()) -> list[str]:
    """Choice, costs with P10, P50 and P90, risks, alternatives, and what would narrow them."""
    lines = [f"plan {plan.name}", *_place(plan)]
    for name in _CHOSEN:
        if name in plan.numbers:
            lines.append(f"  {WORDS.get(name, name):14s} {shown(name, plan.numbers[name].value)}")
    lines.append(f"  {'':14s} {'P50':>11s} {'P10':>11s} {'P90':>11s}   {'source':9s}  spread comes from")
    lines += [_row(plan, name) for name in _FORECAST if name in plan.numbers]
    if plan.limits:
        risks = ", ".join(f"{name} {risk:.0%}" for name, risk in plan.limits.items())
        lines.append(f"  breaks a limit {risks}")
    for name in _ADVICE:
        if name in plan.numbers:
            text = (
                f"{name.replace('_', ' ')} {shown(name, plan.numbers[name].value)}: {plan.numbers[name].how}"
            )
            lines += _wrapped("  text           ", text.replace("`", ""))
    said = [
        words.format(shown(name, plan.numbers[name].value))
        for name, words in _AROUND.items()
        if name in plan.numbers
    ]
    lines += _wrapped("  around it      ", "; ".join(said)) if said else []
    lines += _alternatives(plan)
    if measurements:
        lines.append("what would narrow it, by the share of all spread that it removes")
        lines += [line for one in measurements for line in _measurement(one)]
    lines += [line for note in notes for line in _wrapped("note: ", note)]
    return [
        *lines,
        *_wrapped("reasons: ", "stepladder plan --why NAME, for any of " + ", ".join(plan.numbers)),
    ]


def shown(name: str, value: float) -> str:
    """A value in the unit that people read."""
    if name.startswith("usd") and value >= 1_000:
        return f"${value:,.0f}"
    if form := _FORMATS.get(name):
        return form(value)
    return format_count(value) if value >= 1e4 else f"{value:,.4g}"


def _place(plan: Plan) -> list[str]:
    shape, layout = plan.shape, plan.layout
    kv = f" ({shape.num_kv_heads} for keys)" if shape.num_kv_heads != shape.num_heads else ""
    experts = shape.experts
    mixture = f", {experts.active} of {experts.count} experts of {experts.ffn_width}" if experts.count else ""
    where = f"{layout.processes} process{'es' if layout.processes > 1 else ''} on {layout.device}"
    where += f" in {layout.nodes} nodes" if layout.nodes > 1 else ""
    plural = "s" if layout.threads > 1 else ""
    where += f", {layout.threads} thread{plural} each" if layout.device == "cpu" else ""
    where += f", {layout.precision}" + (f", {layout.shard}" if layout.shard != "none" else "")
    degrees = layout.degrees
    for name in ("tensor", "pipeline", "context", "expert"):
        degree = getattr(degrees, name)
        where += f", {name} {degree}" if degree > 1 else ""
    where += f", micro-batch {layout.micro_batch_sequences}" if layout.micro_batch_sequences else ""
    where += f", {layout.recompute} recompute" if layout.recompute != "none" else ""
    return [
        f"  shape          {shape.num_layers} layers, width {shape.width}, {shape.num_heads} heads{kv} of "
        f"{shape.head_dim}, vocabulary {shape.vocab_size:,}, context {shape.context_tokens:,}{mixture}",
        f"  where          {where}",
    ]


def _row(plan: Plan, name: str) -> str:
    number = plan.numbers[name]
    cells = [shown(name, number.value)]
    cells += [shown(name, end) for end in (number.low, number.high)] if number.high > number.low else ["", ""]
    found = [f"{end} {share:.0%}" for end, share in shares(plan.numbers, name).items() if share >= 0.05]
    row = f"  {WORDS.get(name, name):14s} " + " ".join(f"{cell:>11s}" for cell in cells)
    return f"{row}   {number.source:9s}  {', '.join(found[:3])}".rstrip()


def _alternatives(plan: Plan) -> list[str]:
    if not plan.alternatives:
        return []
    places = {row.get("region", "") for row in plan.alternatives}
    lines = [
        "alternatives  parameters  tokens    loss        time        usd   kg CO2e   (* nothing beats it)"
    ]
    for row in plan.alternatives:
        why = "" if row["why"].startswith("nothing beats") else row["why"]
        why = f"{row['region']}  {why}".strip() if len(places) > 1 else why
        head = (
            f"            {'*' if row.get('front') else ' '} {format_count(row['params']):>10s} "
            f"{format_count(row['tokens']):>7s} {row['loss']:7.4g} {format_seconds(row['seconds']):>11s} "
            f"{shown('usd', row['usd']):>10s} {shown('kg_co2e', row['kg_co2e']):>9s}  "
        )
        lines += _wrapped(head, why)
    return lines


def _measurement(one: Measurement) -> list[str]:
    parts = ", ".join(f"{WORDS.get(name, name)} {share:.0%}" for name, share in one.removes.items())
    head = f"  {one.score:4.0%}  "
    lines = textwrap.wrap(f"{one.what} ({one.cost}); of {parts}", _WIDTH - len(head))
    lines = [head + lines[0], *(" " * len(head) + line for line in lines[1:])]
    return [*lines, f"        $ {one.command}"]


def _wrapped(head: str, text: str) -> list[str]:
    lines = textwrap.wrap(text, _WIDTH - len(head), break_on_hyphens=False, break_long_words=False) or [""]
    return [(head + lines[0]).rstrip(), *(" " * len(head) + line for line in lines[1:])]
