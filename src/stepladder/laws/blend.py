"""A law of mixtures and limits in; the best mixture with its gains, mixtures to run next, and text, out.

Each loss is a constant and exponentials of linear functions of the shares, hence convex, and so is a weighted
mean of losses: on the polytope of allowed shares its local minimum is the global one. Every minimum carries
its duality gap, which bounds how far it lies above the optimum.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from stepladder.errors import LawError
from stepladder.laws.mixture import (
    EQUATIONS,
    MixtureLaw,
    MixtureRuns,
    exponentials,
    fit_mixture,
    interval,
    mixture_losses,
    predict_mixture,
    shares_of,
)
from stepladder.laws.solve import Array
from stepladder.records import Derived, Interval

# Tokens seen up to four times are worth nearly as much as new ones (Muennighoff et al., arXiv:2305.16264).
_EPOCHS = 4.0
_NEAR_CORNER = 0.75
_CANDIDATES, _OPTIMA = 150, 40
_APART, _REPEAT = 0.3, 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a mixture may be: least shares, and at most `max_epochs` of a domain's `available` tokens in a
    budget of `budget_tokens`. Domains that are not named have no limit."""

    floor: Mapping[str, float] = field(default_factory=dict)
    available: Mapping[str, float] = field(default_factory=dict)
    budget_tokens: float = 0.0
    max_epochs: float = _EPOCHS

    def bounds(self, domains: Sequence[str]) -> tuple[Array, Array]:
        """Least and largest share of each domain.

        Raises:
            LawError: an unknown domain, a bad number, or no mixture within the limits.
        """
        low, tokens = shares_of(domains, self.floor, "floor"), shares_of(domains, self.available, "available")
        high = np.ones(len(domains))
        if self.available:
            if not (self.budget_tokens > 0 and self.max_epochs > 0):
                got = f"budget {self.budget_tokens:g}, max_epochs {self.max_epochs:g}"
                raise LawError("available tokens need a budget", got=got, allowed="numbers above zero")
            named = np.array([name in self.available for name in domains])
            high[named] = np.minimum(tokens[named] * self.max_epochs / self.budget_tokens, 1.0)
        if low.sum() > 1 + 1e-9 or high.sum() < 1 - 1e-9 or (low > high).any():
            pairs = zip(domains, low, high, strict=True)
            raise LawError(
                "no mixture keeps these limits",
                got=", ".join(f"{name} {a:.3g} to {b:.3g}" for name, a, b in pairs),
                allowed="floors that sum to at most 1, upper limits to at least 1, no floor above its limit",
            )
        return low, high


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixture:
    """Shares that minimise the weighted mean of the predicted losses.

    `loss` and `mean_loss` are what a run on them would measure; `gains` by which part of itself the mean loss
    of other mixtures ("best run", "uniform", "natural") falls, with 80 % intervals; the minimum is at most
    `gap` (relative) above the law's.
    """

    shares: Mapping[str, Derived]
    loss: Mapping[str, Interval]
    mean_loss: Interval
    gains: Mapping[str, Derived]
    gap: float
    notes: tuple[str, ...] = ()
    status: str = "ok"
    reason: str = ""


def best_mixture(
    law: MixtureLaw, weights: Mapping[str, float] | None = None, limits: Limits | None = None
) -> Mixture:
    """The mixture with the least expected weighted loss: the mean over the law's draws is minimised.

    Args:
        law: from `fit_mixture`.
        weights: by validation domain; equal where None, zero where not named.
        limits: least shares and scarce domains.

    Raises:
        LawError: unknown names, bad numbers, or limits that no mixture keeps.
    """
    limits = limits or Limits()
    weight = _weights(law, weights)
    low, high = limits.bounds(law.domains)
    draws = exponentials(law, draws=True)
    best, gap = _minimum(draws, weight, low, high)
    optima = _optima(draws, weight, low, high)
    ends = np.quantile(optima, [0.1, 0.9], axis=0)
    how = f"least expected loss over {len(optima)} draws of the law; interval: the optima of the draws"
    shares = {
        name: _derived(best[k], min(ends[0, k], best[k]), max(ends[1, k], best[k]), how)
        for k, name in enumerate(law.domains)
    }
    value = mixture_losses(law, best[None])[0, 0]
    drawn = mixture_losses(law, best[None], draws=True)[:, 0]
    mean = float(value @ weight)
    # The losses of one run err together: their errors add up.
    error = np.hypot(law.quality_of("sigma"), law.quality_of("misfit"))
    gains = _gains(law, weight, limits, best, optima)
    notes = [
        f"cannot tell from {name}: the 80 % interval of the gain is {item.low:+.2%} to {item.high:+.2%}"
        for name, item in gains.items()
        if item.low <= 0 <= item.high
    ]
    if np.count_nonzero(weight) == 1 and law.forms[law.targets[int(weight.argmax())]] == "joint":
        notes.append(
            "one loss that follows one exponential is always least at a corner of what is allowed; measure "
            "the loss on several validation domains to find a balance"
        )
    if (high < 1 / len(high)).any() or (low > 1 / len(low)).any():
        notes.append("the uniform mixture is not within the limits")
    notes += [
        f"{name} is held at its limit of {high[k]:.1%}: {limits.max_epochs:g} epochs of its tokens"
        for k, name in enumerate(law.domains)
        if best[k] > high[k] - 1e-6 and high[k] < 1
    ]
    return Mixture(
        shares=shares,
        loss=predict_mixture(law, dict(zip(law.domains, best, strict=True))),
        mean_loss=interval(mean, drawn @ weight, float(error @ (value * weight)) / mean),
        gains=gains,
        gap=gap,
        notes=tuple(notes),
        status="refused" if law.refusal else "ok",
        reason=law.refusal,
    )


def _weights(law: MixtureLaw, named: Mapping[str, float] | None) -> Array:
    weight = np.ones(len(law.targets)) if named is None else shares_of(law.targets, named, "weights")
    if weight.sum() <= 0:
        raise LawError("no validation domain has a weight above zero", allowed=", ".join(law.targets))
    return weight / weight.sum()


def _derived(value: float, low: float, high: float, how: str) -> Derived:
    return Derived(value=float(value), low=float(low), high=float(high), how=how, source="law")


def _gains(law: MixtureLaw, weight: Array, limits: Limits, best: Array, optima: Array) -> dict[str, Derived]:
    """By which part the expected loss falls from other mixtures to the best; no run's noise is in it.

    The best of a fitted law looks better than it is. By how much, the draws tell: each one's own optimum, by
    itself and by the law (Efron's bootstrap estimate of optimism).
    """
    m = len(law.domains)
    measured = np.array(law.spread["loss"]) @ weight
    others = {"best run": np.array(law.spread["shares"])[measured.argmin()], "uniform": np.full(m, 1 / m)}
    if len(limits.available) == m:
        tokens = shares_of(law.domains, limits.available, "available")
        others["natural"] = tokens / tokens.sum()
    rows = np.stack([best, *others.values()])
    drawn = mixture_losses(law, rows, draws=True) @ weight
    gain = 1 - drawn[:, :1] / drawn[:, 1:]
    own = np.diagonal(mixture_losses(law, optima, draws=True) @ weight)[:, None] / drawn[:, 1:]
    by_law = (mixture_losses(law, optima)[0] @ weight)[:, None] / (mixture_losses(law, rows[1:])[0] @ weight)
    optimism = np.maximum((by_law - own).mean(axis=0), 0.0)
    middle, low, high = gain.mean(axis=0) - optimism, *np.quantile(gain, [0.1, 0.9], axis=0)
    # The law may err at both mixtures, less where they are nearly one: by its error at shares as far apart as
    # two runs.
    away = np.linalg.norm(rows[1:] - best, axis=1)
    misfit = float(law.quality_of("misfit") @ weight) * np.sqrt(2) * np.minimum(away / _APART, 1.0)
    half = 1.282 * np.hypot((high - low) / 2.563, misfit)
    how = f"mean over {len(drawn)} draws of the law, less its optimism; 80 %: draws, errors on runs left out"
    ends = zip(others, middle, half, strict=True)
    return {name: _derived(value, value - width, value + width, how) for name, value, width in ends}


def _optima(draws: Sequence[tuple[Array, Array]], weight: Array, low: Array, high: Array) -> Array:
    """The best mixture of each draw."""
    alone = ([(c[b : b + 1], a[b : b + 1]) for c, a in draws] for b in range(len(draws[0][0])))
    return np.array([_minimum(item, weight, low, high)[0] for item in alone])


def _minimum(
    terms: Sequence[tuple[Array, Array]], weight: Array, low: Array, high: Array
) -> tuple[Array, float]:
    """Shares that minimise the weighted loss averaged over draws (from `exponentials`), and the relative
    duality gap: slope · (r - s) for the allowed s that goes furthest downhill (Jaggi, ICML 2013)."""
    from scipy.optimize import minimize

    slopes = np.concatenate([a.reshape(-1, len(low)) for _, a in terms])
    scale = np.concatenate(
        [np.full(a[..., 0].size, w / len(a)) for w, (_, a) in zip(weight, terms, strict=True)]
    )
    floor = float(sum(w * c.mean() for w, (c, _) in zip(weight, terms, strict=True)))

    def value(r: Array) -> tuple[float, Array]:
        parts = scale * np.exp(slopes @ r)
        return floor + float(parts.sum()), parts @ slopes

    room = high - low
    start = low + (1 - low.sum()) * room / max(room.sum(), 1e-12)
    size = value(start)[0]

    def scaled(r: Array) -> tuple[float, Array]:
        loss, slope = value(r)
        return loss / size, slope / size

    found = minimize(
        scaled,
        start,
        jac=True,
        method="SLSQP",
        bounds=list(zip(low, high, strict=True)),
        constraints={"type": "eq", "fun": lambda r: r.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-12, "maxiter": 200},
    )
    best = np.clip(found.x, low, high)
    loss, slope = value(best)
    return best, float(slope @ (best - _downhill(slope, low, high))) / loss


def _downhill(slope: Array, low: Array, high: Array) -> Array:
    """The allowed mixture of least slope · r: what floors leave goes to the steepest domains first."""
    best, rest = low.copy(), 1 - low.sum()
    for k in np.argsort(slope):
        step = min(high[k] - low[k], rest)
        best[k], rest = best[k] + step, rest - step
    return best


def next_mixtures(
    source: MixtureRuns | MixtureLaw | Sequence[str],
    count: int,
    weights: Mapping[str, float] | None = None,
    limits: Limits | None = None,
) -> list[dict[str, float]]:
    """Shares to run next.

    Of domain names (nothing was run): the centre, each near-corner, then the points furthest from all others.
    Of runs or their law: the best mixture unless it was run, then one by one those whose losses would remove
    most of the variance of the predicted mean loss over what may be the best (I-optimal, on the law's draws).

    Raises:
        LawError: as `best_mixture`; or no domain or run is asked for.
    """
    law = fit_mixture(source) if isinstance(source, MixtureRuns) else source
    domains = law.domains if isinstance(law, MixtureLaw) else tuple(law)
    if len(domains) < 2 or count < 1:
        got = f"{len(domains)} domains, {count} runs"
        raise LawError("nothing to mix", got=got, allowed="two domains and one run, or more")
    bounds = (limits or Limits()).bounds(domains)
    if isinstance(law, MixtureLaw):
        rows = _narrowing(law, _weights(law, weights), bounds, count)
    else:
        rows = _space_filling(*bounds, count)
    return [_rounded(domains, row) for row in rows]


def _space_filling(low: Array, high: Array, count: int) -> Array:
    """Centre, near-corners, then greedily the candidate furthest from all before."""
    m, free = len(low), 1 - low.sum()
    centre = np.full((1, m), 1 / m)
    corners = _NEAR_CORNER * np.eye(m) + (1 - _NEAR_CORNER) / m
    random = np.random.default_rng(0).dirichlet(np.ones(m), 40 * max(count, 50))
    points = low + free * np.concatenate([centre, corners, random])
    # What a scarce domain cannot have goes to those with room, in proportion.
    for _ in range(m):
        capped = np.minimum(points, high)
        room = high - capped
        points = capped + room * ((1 - capped.sum(axis=1)) / np.maximum(room.sum(axis=1), 1e-12))[:, None]
    chosen = list(range(min(count, m + 1)))
    away = np.linalg.norm(points[:, None] - points[chosen], axis=2).min(axis=1)
    while len(chosen) < count:
        chosen.append(int(away.argmax()))
        away = np.minimum(away, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return points[chosen]


def _narrowing(law: MixtureLaw, weight: Array, bounds: tuple[Array, Array], count: int) -> Array:
    draws = [(floor[:_OPTIMA], terms[:_OPTIMA]) for floor, terms in exponentials(law, draws=True)]
    optima = _optima(draws, weight, *bounds)
    best = _minimum(draws, weight, *bounds)[0]
    points = np.concatenate([best[None], _space_filling(*bounds, _CANDIDATES), optima])
    losses = mixture_losses(law, points, draws=True)
    aim = (losses[:, -len(optima) :] @ weight) / losses.mean()
    # In units of each loss's noise, so that a run measures its block with unit error.
    seen = (np.log(losses) / law.quality_of("sigma")).reshape(len(losses), -1)
    both = np.concatenate([seen, aim], axis=1)
    both = both - both.mean(axis=0)
    covariance = both.T @ both / len(losses)
    v, size = len(law.targets), seen.shape[1]
    blocks = np.arange(size).reshape(-1, v)
    chosen = []
    # A near-repeat would measure the same constants well and say nothing of the law's form.
    taken = np.array(law.spread["shares"])
    for _ in range(count):
        noisy = covariance[blocks[:, :, None], blocks[:, None, :]] + np.eye(v)
        shared = covariance[size:][:, blocks].transpose(1, 2, 0)
        removed = np.einsum("kvy,kvy->k", shared, np.linalg.solve(noisy, shared))
        near = np.linalg.norm(points[:, None] - taken, axis=2).min(axis=1) < _REPEAT
        # First the best mixture itself: where the law errs, that shows it where it matters.
        pick = 0 if not near[0] else int(np.where(near, 0.0, removed).argmax())
        taken = np.concatenate([taken, points[[pick]]])
        chosen.append(pick)
        column = covariance[:, blocks[pick]]
        covariance = covariance - column @ np.linalg.solve(noisy[pick], column.T)
    return points[chosen]


def _rounded(domains: Sequence[str], row: Array) -> dict[str, float]:
    """To a tenth of a per cent; the largest share takes what rounding leaves."""
    shares = np.round(row, 3)
    shares[shares.argmax()] += 1 - shares.sum()
    return {name: round(float(item), 3) for name, item in zip(domains, shares, strict=True)}


def mixture_text(
    law: MixtureLaw, mixture: Mixture | None = None, after: Sequence[Mapping[str, float]] = ()
) -> str:
    """Constants of each loss, then the best mixture with its gains, then the mixtures to run next."""
    lines = [f"law        {law.points} mixtures of {', '.join(law.domains)}"]
    for target in law.targets:
        quality, constants = law.quality[target], law.constants[target]
        lines += [
            f"loss of {target}: {EQUATIONS[law.forms[target]]}",
            "           " + "  ".join(f"{name} {value:.4g}" for name, value in constants.items()),
            f"           noise {quality['sigma']:.2%}, error on runs left out {quality['left_out_rms']:.2%}; "
            f"{quality['agreeing_starts']:.0f} starts agree",
        ]
    lines += [f"REFUSED    {law.refusal}"] if law.refusal else []
    if mixture:
        loss = mixture.mean_loss
        lines.append(f"{'best mixture':<20} {'share':>7}  80 % interval")
        lines += [
            f"{k[:20]:<20} {v.value:>7.1%}  {v.low:.1%} to {v.high:.1%}" for k, v in mixture.shares.items()
        ]
        lines.append(f"mean loss  {loss.value:.4f} (80 %: {loss.low80:.4f} to {loss.high80:.4f})")
        lines += [
            f"against {k}: {'lower' if v.value >= 0 else 'higher'} by {abs(v.value):.2%} "
            f"(80 %: {-v.high:+.2%} to {-v.low:+.2%})"
            for k, v in mixture.gains.items()
        ]
        lines += [f"note       {note}" for note in mixture.notes]
        lines.append(
            "note       this holds at the size and length of these runs; at others the order may change"
        )
    for row in after:
        lines.append("run next   " + "  ".join(f"{name} {share:.1%}" for name, share in row.items()))
    return "\n".join(lines)
