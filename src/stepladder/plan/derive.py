"""Numbers in; Derived numbers out: products whose 80 % intervals follow from those of their factors.

Factors are taken as independent and lognormal, so relative widths add in quadrature. A `how` names other
numbers of the plan between backquotes; `why` walks along those names.
"""

import math
from typing import Literal

from stepladder.records import Derived

Source = Literal["measured", "law", "catalogue", "rule", "prior", "user"]
# Half of the 80 % interval of a normal distribution, in standard deviations.
Z80 = 1.2815515655446004


def exact(value: float, how: str, source: Source = "rule") -> Derived:
    """A number without uncertainty: counted, chosen or given."""
    return Derived(value=float(value), low=float(value), high=float(value), how=how, source=source)


def within(value: float, factor: float, how: str, source: Source) -> Derived:
    """A number that lies within value / factor and value x factor with a probability of 80 %."""
    return Derived(value=value, low=value / factor, high=value * factor, how=how, source=source)


def log_sd(number: Derived) -> float:
    """Standard deviation of the logarithm; 0 for exact numbers and for zero."""
    if number.low <= 0 or number.high <= number.low:
        return 0.0
    return (math.log(number.high) - math.log(number.low)) / (2 * Z80)


def times(how: str, *factors: Derived, source: Source | None = None, scale: float = 1.0) -> Derived:
    """The product of `factors` and `scale`; its source is the least certain factor's unless given."""
    value = scale * math.prod(factor.value for factor in factors)
    spread = math.exp(Z80 * math.sqrt(sum(log_sd(factor) ** 2 for factor in factors)))
    widest = max(factors, key=log_sd)
    return within(value, spread, how, source or widest.source)


def plus(how: str, *terms: Derived) -> Derived:
    """The sum of `terms`, ends added in quadrature around the value."""
    value = sum(term.value for term in terms)
    low = math.sqrt(sum((term.value - term.low) ** 2 for term in terms))
    high = math.sqrt(sum((term.high - term.value) ** 2 for term in terms))
    widest = max(terms, key=lambda term: term.high - term.low)
    return Derived(value=value, low=max(value - low, 0.0), high=value + high, how=how, source=widest.source)


def probability_above(number: Derived, limit: float) -> float:
    """Probability that the number turns out above `limit`; a step for exact numbers."""
    sd = log_sd(number)
    if number.value <= 0 or sd == 0:
        return float(number.value > limit)
    middle = (math.log(number.low) + math.log(number.high)) / 2
    return 0.5 * math.erfc((math.log(limit) - middle) / (sd * math.sqrt(2)))
