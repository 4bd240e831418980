"""A plan in; the cheapest measurements that would narrow it, by how much of its spread they remove, out."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from stepladder.plan.risk import variances
from stepladder.records import Plan
from stepladder.units import format_seconds, format_usd

# The figures that people decide by.
_HEADLINES = ("loss", "seconds", "usd", "kwh", "kg_co2e")
_STEPS = 50
_MOST = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """Something to find out. `removes` is the share of the variance (of the logarithm) of each number that
    goes with it, `score` that of all of them together."""

    what: str
    cost: str
    command: str
    removes: Mapping[str, float]
    score: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kind:
    """What narrows the ends of chains named `ends`, to a standard deviation of the logarithm of `left`."""

    ends: tuple[str, ...]
    what: str
    command: str
    left: float
    cost: str = "nothing"


# What is left after each: two runs of one plan differ by about 3 % (plan/throughput.py); a quoted price and a
# supplier's figures hold; a node's meter over minutes agrees with its mean over days to about 5 %; a ladder
# forecast its target to about 3 % where nothing struck (docs/log.md). Judgements, but for the first and last.
_KINDS = (
    _Kind(
        ends=("seconds_per_token", "flops_per_second"),
        what=f"time {_STEPS} steps of this plan, on one node if need be",
        command="... --from-run LOG   (metrics.jsonl, CSV or trainer_state.json of those steps)",
        left=0.04,
        cost="steps",
    ),
    _Kind(
        ends=("usd_per_device_hour",),
        what="ask for the price",
        command="... --set usd_per_device_hour=PRICE",
        left=0.0,
    ),
    _Kind(
        ends=("watts",),
        what="read the node's power meter while it trains",
        command="... --set watts_per_device=WATTS   (node / devices)",
        left=0.05,
        cost="steps",
    ),
    _Kind(
        ends=("kg_co2e_per_kwh",),
        what="take the figure of the grid at that hour, or the supplier's own",
        command="... --set kg_co2e_per_kwh=FIGURE",
        left=0.05,
    ),
    _Kind(ends=("pue",), what="ask the data centre for its PUE", command="... --set pue=FIGURE", left=0.0),
    _Kind(
        ends=("usd_per_kwh",),
        what="read the electricity bill",
        command="... --set usd_per_kwh=PRICE",
        left=0.0,
    ),
    _Kind(
        ends=("loss",),
        what="train small models on your text and fit a law",
        command="stepladder ladder, then stepladder fit ladder/observations.csv --law law.json",
        left=0.03,
        cost="the share of the budget that the brief gives the ladder",
    ),
)

_GRID = next(at for at, kind in enumerate(_KINDS) if "kg_co2e_per_kwh" in kind.ends)
_REGION = replace(
    _KINDS[_GRID], what="name the region", command="... --set region=SE   (or wherever it is)", left=0.1
)


def measurements(plan: Plan, most: int = _MOST) -> list[Measurement]:
    """At most `most`, the most useful first; what is measured or given already is not among them."""
    spread = {name: variances(plan.numbers, name) for name in _HEADLINES if name in plan.numbers}
    total = sum(sum(ends.values()) for ends in spread.values())
    found = []
    for kind in [_REGION if _is_anywhere(plan) else _KINDS[_GRID], *_KINDS[:_GRID], *_KINDS[_GRID + 1 :]]:
        removed = {name: _removed(kind, ends) for name, ends in spread.items()}
        gone = sum(removed.values())
        if total == 0 or gone / total < 0.005 or _is_known(plan, kind):
            continue
        parts = {name: amount / sum(spread[name].values()) for name, amount in removed.items() if amount > 0}
        found.append(
            Measurement(
                what=kind.what,
                cost=_cost(plan) if kind.cost == "steps" else f"costs {kind.cost}",
                command=kind.command.replace("...", "stepladder plan ..."),
                removes={name: share for name, share in parts.items() if share >= 0.005},
                score=gone / total,
            )
        )
    return sorted(found, key=lambda one: -one.score)[:most]


def _is_anywhere(plan: Plan) -> bool:
    return plan.numbers["kg_co2e_per_kwh"].how.startswith("World")


def _removed(kind: _Kind, ends: Mapping[str, float]) -> float:
    held = sum(ends.get(end, 0.0) for end in kind.ends)
    return max(held - kind.left**2, 0.0) if held else 0.0


def _is_known(plan: Plan, kind: _Kind) -> bool:
    known = {"measured", "user", "law"}
    return all(plan.numbers[end].source in known for end in kind.ends if end in plan.numbers)


def _cost(plan: Plan) -> str:
    share = min(_STEPS / max(plan.steps, 1), 1.0)
    seconds, usd = plan.numbers["seconds"].value * share, plan.numbers["usd"].value * share
    return f"costs {format_seconds(seconds)} of all devices, {format_usd(usd)}"
