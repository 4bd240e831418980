"""Numbers of a plan in; what their spread comes from, and how likely limits are broken, out.

A number's `how` names the numbers it was made of, so its variance (of the logarithm) can be followed to the
measurements and sources at the ends of the chain. Ends are independent of each other.
"""

import re
from collections.abc import Mapping

import numpy as np

from stepladder.plan.derive import log_sd, probability_above
from stepladder.records import Derived

NAMED = re.compile(r"`(\w+)`")
# What people call the ends of the chains.
WORDS = {
    "seconds_per_token": "speed",
    "flops_per_second": "speed",
    "usd_per_device_hour": "price",
    "usd_per_kwh": "price of electricity",
    "watts": "power",
    "kg_co2e_per_kwh": "grid",
    "loss": "law",
    "peak_bytes": "memory model",
}
_DRAWS, _SEED = 20_000, 0


def variances(numbers: Mapping[str, Derived], name: str) -> dict[str, float]:
    """Variance of log(number) by the end of the chain that it comes from.

    What the parts of a number do not explain is its own. Where they explain more (a sum), they share it.
    """
    return _walk(numbers, name, frozenset())


def shares(numbers: Mapping[str, Derived], name: str) -> dict[str, float]:
    """Shares of the spread by source, in words, largest first; empty for an exact number."""
    found: dict[str, float] = {}
    for end, variance in variances(numbers, name).items():
        found[WORDS.get(end, end)] = found.get(WORDS.get(end, end), 0.0) + variance
    total = sum(found.values())
    if total == 0:
        return {}
    return {end: found[end] / total for end in sorted(found, key=lambda end: -found[end]) if found[end]}


def broken(numbers: Mapping[str, Derived], limits: Mapping[str, float]) -> dict[str, float]:
    """Probability that each of `numbers` named in `limits` ends above it; of several, also that "any" does.

    Costs that share a source rise together, which the chance of "any" takes into account.
    """
    risks = {name: probability_above(numbers[name], limit) for name, limit in limits.items()}
    if len(limits) > 1:
        risks["any"] = _any(numbers, limits)
    return risks


def _walk(numbers: Mapping[str, Derived], name: str, seen: frozenset[str]) -> dict[str, float]:
    number = numbers[name]
    variance = log_sd(number) ** 2
    found: dict[str, float] = {}
    for part in dict.fromkeys(NAMED.findall(number.how)):
        if part in numbers and part != name and part not in seen:
            for end, amount in _walk(numbers, part, seen | {name}).items():
                found[end] = max(found.get(end, 0.0), amount)
    explained = sum(found.values())
    if variance == 0:
        return {}
    if explained > variance:
        return {end: amount * variance / explained for end, amount in found.items()}
    if variance - explained > 1e-6 * variance:
        found[name] = variance - explained
    return found


def _any(numbers: Mapping[str, Derived], limits: Mapping[str, float]) -> float:
    draw = np.random.default_rng(_SEED)
    normal: dict[str, np.ndarray] = {}
    is_broken = np.zeros(_DRAWS, dtype=bool)
    for name, limit in limits.items():
        number = numbers[name]
        if number.value <= 0:
            continue
        middle = np.sqrt(number.low * number.high) if log_sd(number) else number.value
        logs = np.full(_DRAWS, np.log(middle))
        for end, variance in variances(numbers, name).items():
            if end not in normal:
                normal[end] = draw.standard_normal(_DRAWS)
            logs += np.sqrt(variance) * normal[end]
        is_broken |= logs > np.log(limit)
    return float(is_broken.mean())
