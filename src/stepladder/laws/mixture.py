"""Runs on different mixtures of domains in; a law of each validation loss in the shares, and its draws, out.

joint: L_i(r) = c_i + k_i exp(Σ_j t_ij r_j)          separable: L_i(r) = c_i + Σ_j k_ij exp(t_ij r_j)
for shares r that sum to 1 (Ye et al., "Data Mixing Laws", arXiv:2403.16952, equations 1 and 7, section 3.2
for the separable one). The joint law falls along one direction only; the separable one is taken for a
loss that it foretells better when runs are left out. Valid at the size and length of its runs: the order of
mixtures can change with both (footnote 7).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stepladder.errors import LawError, did_you_mean
from stepladder.laws.estimate import Columns, Estimate, FitOptions, estimate, noise, with_rows
from stepladder.laws.forms import Form, Term
from stepladder.laws.rows import bad_values, open_csv, parse, require
from stepladder.laws.solve import Array, minimise
from stepladder.records import Interval

LEAST_RUNS = 3
EQUATIONS = {"joint": "c + k exp(sum of t_j r_j)", "separable": "c + sum of k_j exp(t_j r_j)"}
_SUM_TOLERANCE, _SIZE_TOLERANCE = 0.01, 0.02
_TOTALS = ("loss", "loss_nats_per_token", "loss_bits_per_byte")
# Prior part of the floor, and the standard deviation of t.
_FLOOR_SHARE, _SLOPE_SD = 0.6, 1.5
_FOLDS = 40
# The separable law has twice the constants: it must foretell clearly better. Its starting points are sought
# among all subsets of its terms.
_CLEARLY, _MOST_SEPARABLE = 0.8, 7
# What left-out runs err by beyond noise: half of it is taken as the law's own error where runs surround a
# mixture. Above 3 % (known truths: bench/laws/mixture.py) the law sent some mixtures the wrong way.
_MISFIT, _MOST_LEFT_OUT = 0.5, 0.03
_Q80, _Q95 = 1.35, 2.2


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureRuns:
    """Runs of one size and length: shares (n, domains), each row summing to 1, and losses (n, targets)."""

    domains: tuple[str, ...]
    targets: tuple[str, ...]
    run: tuple[str, ...]
    shares: Array
    loss: Array
    weight: Array
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureLaw:
    """Form, constants and quality by target; `spread` holds θ by target, its draws, and the runs themselves.

    θ is (log c, log k, t) for shares as they are. In the joint law t is free up to a constant: Σ_j t_ij = 0.
    """

    domains: tuple[str, ...]
    targets: tuple[str, ...]
    points: int
    forms: Mapping[str, str]
    constants: Mapping[str, Mapping[str, float]]
    quality: Mapping[str, Mapping[str, float]]
    spread: Mapping[str, Any]
    refusal: str = ""

    def quality_of(self, name: str) -> Array:
        """One figure of quality, by target."""
        return np.array([self.quality[target][name] for target in self.targets])


def read_mixture(path: Path) -> MixtureRuns:
    """Read `share_<domain>` and `loss_<domain>` (or `loss`) columns; rows of weight 0 are left out.

    Raises:
        LawError: the file or a value cannot be used, or the runs differ in size or length.
    """
    header, rows = open_csv(path)
    domains = [name.removeprefix("share_") for name in header if name.startswith("share_")]
    losses = [name for name in header if name.startswith("loss_") or name == "loss"]
    if len(domains) < 2 or not losses:
        raise LawError(
            f"{path.name} has no mixtures",
            got=", ".join(header),
            allowed="at least two columns share_<domain> and one loss_<domain> (or loss), one row a run",
        )
    require(header, [f"share_{name}" for name in domains], path)
    other = [name for name in ("params", "tokens", "weight") if name in header]
    names = [*(f"share_{name}" for name in domains), *losses, *other]
    places = [header.index(name) for name in names]
    lines, cells, run = [], [], []
    for line, row in rows:
        lines.append(line)
        cells.append([row[place].strip() for place in places])
        run.append(row[header.index("run")].strip() if "run" in header else f"row{len(lines)}")
    columns = {n: parse(n, [row[k] for row in cells], lines, path) for k, n in enumerate(names)}
    weight = np.nan_to_num(columns.get("weight", np.ones(len(lines))), nan=1.0)
    kept = np.flatnonzero(weight != 0)
    if not len(kept):
        raise LawError(f"{path.name} has no usable run", allowed="one row a run, of weight above zero")
    for name in [*losses, *other]:
        values = columns[name][kept]
        wrong = ~(np.isfinite(values) & (values > 0)) & ((name != "weight") | (values < 0))
        if wrong.any():
            k = names.index(name)
            raise bad_values(path, name, [(lines[i], cells[i][k]) for i in kept[wrong]])
    _same_size(path, {name: columns[name][kept] for name in other if name != "weight"})
    shares = np.stack([columns[f"share_{name}"][kept] for name in domains], axis=1)
    _check_shares(path, shares, [lines[i] for i in kept])
    unused = [name for name in header if name and name not in (*names, "run")]
    return MixtureRuns(
        domains=tuple(domains),
        targets=tuple(n if n in _TOTALS else n.removeprefix("loss_") for n in losses),
        run=tuple(run[i] for i in kept),
        shares=shares / shares.sum(axis=1, keepdims=True),
        loss=np.stack([columns[name][kept] for name in losses], axis=1),
        weight=weight[kept] / weight[kept].mean(),
        notes=(f"columns not used: {', '.join(unused)}",) if unused else (),
    )


def _same_size(path: Path, columns: Mapping[str, Array]) -> None:
    # c, k and t all change with size and length (section 4 of the paper fits them anew at each), and not by a
    # common factor: pooling sizes would lean the shares towards what the larger runs happened to use.
    for name, values in columns.items():
        if values.max() > values.min() * (1 + _SIZE_TOLERANCE):
            raise LawError(
                f"{path.name} mixes runs of different {name}",
                got=f"{values.min():g} to {values.max():g}",
                allowed=f"one value, to {_SIZE_TOLERANCE:.0%}: the law changes with size and length",
                next_command="set weight to 0 for all runs but those of the largest size and length",
            )


def _check_shares(path: Path, shares: Array, lines: Sequence[int]) -> None:
    total = shares.sum(axis=1)
    bad = ~(np.abs(total - 1) <= _SUM_TOLERANCE) | ~((shares >= 0) & (shares <= 1 + _SUM_TOLERANCE)).all(
        axis=1
    )
    if bad.any():
        k = int(np.argmax(bad))
        row = ", ".join(f"{value:g}" for value in shares[k])
        percent = "; these look like percentages" if abs(total[k] - 100) <= 1 else ""
        more = f" and {int(bad.sum()) - 1} more rows" if bad.sum() > 1 else ""
        raise LawError(
            f"{path.name}, line {lines[k]}: these are not shares of a mixture",
            got=f"{row} (sum {total[k]:g}){more}{percent}",
            allowed="numbers from 0 to 1 in every share_ column, which sum to 1 within 1 %",
        )


def fit_mixture(runs: MixtureRuns, *, bootstraps: int = 200, seed: int = 0) -> MixtureLaw:
    """Fit each validation loss by itself; draws resample whole runs, whose losses err together.

    Raises:
        LawError: fewer than three runs.
    """
    n, m = runs.shares.shape
    if n < LEAST_RUNS:
        raise LawError(
            "too few runs for a law of mixtures",
            got=f"{n} run{'s' if n != 1 else ''}",
            allowed=f"at least {LEAST_RUNS}; for an answer that is not refused {m + 3} for {m} domains",
        )
    names, centre = runs.targets, np.average(runs.shares, axis=0, weights=runs.weight)
    chosen = [_fit(runs, k, centre) for k in range(len(names))]
    fits = [fit for fit, _ in chosen]
    theta = [_as_they_are(fit.theta[None], centre)[0] for fit in fits]
    draws = [_as_they_are(item, centre) for item in _draw(fits, bootstraps, seed)]
    quality = {name: _quality(*item) for name, item in zip(names, chosen, strict=True)}
    return MixtureLaw(
        domains=runs.domains,
        targets=names,
        points=n,
        forms={name: fit.form.name for name, fit in zip(names, fits, strict=True)},
        constants={
            name: dict(zip(fit.form.names, [*np.exp(row[:-m]).tolist(), *row[-m:].tolist()], strict=True))
            for name, fit, row in zip(names, fits, theta, strict=True)
        },
        quality=quality,
        spread={
            "theta": [row.tolist() for row in theta],
            "draws": [[[float(f"{x:.6g}") for x in row] for row in item] for item in draws],
            "run": list(runs.run),
            "shares": runs.shares.tolist(),
            "loss": runs.loss.tolist(),
        },
        refusal=_refusal(runs, quality),
    )


def exponentials(law: MixtureLaw, *, draws: bool) -> list[tuple[Array, Array]]:
    """By target, of θ (B = 1) or its draws: floor (B,), terms (B, H, m); L = floor + Σ_h exp(terms_h · r)."""
    m, found = len(law.domains), []
    for rows in law.spread["draws" if draws else "theta"]:
        theta = np.atleast_2d(np.array(rows))
        levels, slopes = theta[:, 1:-m, None], theta[:, None, -m:]
        # Shares sum to 1, so that a level may stand in every domain's coefficient.
        found.append((np.exp(theta[:, 0]), levels + slopes * (np.eye(m) if levels.shape[1] > 1 else 1.0)))
    return found


def mixture_losses(law: MixtureLaw, shares: Array, *, draws: bool = False) -> Array:
    """Losses (B, k, targets) at mixtures (k, domains): of the law (B = 1), or of its draws."""
    return np.stack(
        [
            floor[:, None] + np.exp(np.einsum("bhm,km->bkh", terms, shares)).sum(axis=2)
            for floor, terms in exponentials(law, draws=draws)
        ],
        axis=2,
    )


def predict_mixture(law: MixtureLaw, shares: Mapping[str, float]) -> dict[str, Interval]:
    """What a further run on these shares would measure on each validation domain.

    Raises:
        LawError: an unknown domain, or shares that do not sum to 1.
    """
    row = shares_of(law.domains, shares, "shares")
    if abs(row.sum() - 1) > _SUM_TOLERANCE:
        raise LawError("these are not shares of a mixture", got=f"sum {row.sum():g}", allowed="a sum of 1")
    at = row[None] / row.sum()
    value, drawn = mixture_losses(law, at)[0, 0], mixture_losses(law, at, draws=True)[:, 0]
    error = np.hypot(law.quality_of("sigma"), law.quality_of("misfit"))
    return {name: interval(float(value[k]), drawn[:, k], error[k]) for k, name in enumerate(law.targets)}


def interval(value: float, drawn: Array, error: float) -> Interval:
    """80 and 95 % of a measured loss: draws of the law, and another error of log-loss."""
    low, high = np.quantile(np.log(drawn), [0.1, 0.9])
    spread = float(np.hypot((high - low) / 2.563, error))
    ends = [value * float(np.exp(sign * q * spread)) for q in (_Q80, _Q95) for sign in (-1, 1)]
    return Interval(value=value, low80=ends[0], high80=ends[1], low95=ends[2], high95=ends[3])


def shares_of(domains: Sequence[str], named: Mapping[str, float], what: str) -> Array:
    """Numbers by domain as an array, 0 where not named; LawError for an unknown domain or a bad number."""
    for name, value in named.items():
        if name not in domains:
            raise LawError(
                f"unknown domain in {what}",
                got=f"{name!r}{did_you_mean(name, domains)}",
                allowed=", ".join(domains),
            )
        if not (np.isfinite(value) and value >= 0):
            raise LawError(f"{what} of {name} must be a number of zero or more", got=str(value))
    return np.array([float(named.get(name, 0.0)) for name in domains])


def _forms(domains: Sequence[str]) -> list[Form]:
    floor = Term(amplitude="c", powers={}, share=_FLOOR_SHARE)
    powers = {f"t_{name}": {f"share {name}": 1.0} for name in domains}
    slopes = dict.fromkeys(powers, (0.0, _SLOPE_SD))
    left = 1 - _FLOOR_SHARE
    joint = Form(
        name="joint",
        equation=EQUATIONS["joint"],
        source="Ye et al., arXiv:2403.16952, equations 1 and 7",
        terms=(floor, Term(amplitude="k", powers=powers, share=left)),
        exponents=slopes,
    )
    parts = [
        Term(amplitude=f"k_{name}", powers={f"t_{name}": powers[f"t_{name}"]}, share=left / len(domains))
        for name in domains
    ]
    separable = Form(
        name="separable",
        equation=EQUATIONS["separable"],
        source="Ye et al., arXiv:2403.16952, a candidate of section 3.2",
        terms=(floor, *parts),
        exponents=slopes,
    )
    return [joint, separable] if len(domains) <= _MOST_SEPARABLE else [joint]


def _fit(runs: MixtureRuns, target: int, centre: Array) -> tuple[Estimate, Array]:
    """The law of one target and the errors that it made of runs left out."""
    none = np.zeros((2, len(runs.shares)))  # size and tokens, which these forms do not read
    columns = Columns(
        centred=np.concatenate([none, (runs.shares - centre).T]),
        log_loss=np.log(runs.loss[:, target]),
        weight=runs.weight,
        centre=(0.0, 0.0, *(float(item) for item in centre)),
    )
    joint, *others = (
        (fit, _left_out(fit))
        for fit in (estimate(form, columns, FitOptions(starts=24)) for form in _forms(runs.domains))
    )
    better = [item for item in others if _rms(item[1]) < _CLEARLY * _rms(joint[1])]
    return better[0] if better else joint


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _as_they_are(theta: Array, centre: Array) -> Array:
    """θ for shares as they are from θ for centred ones; the joint law's slopes with a sum of zero."""
    m = len(centre)
    theta, slopes = theta.copy(), theta[:, -m:]
    if theta.shape[1] > m + 2:
        theta[:, 1:-m] -= slopes * centre
    else:
        mean = slopes.mean(axis=1, keepdims=True)
        theta[:, 1:-m] += mean - slopes @ centre[:, None]
        theta[:, -m:] = slopes - mean
    return theta


def _draw(fits: Sequence[Estimate], count: int, seed: int) -> list[Array]:
    """θ of each fit (count, p): as `rollout.draw`, but the losses of one run are drawn together."""
    rng = np.random.default_rng(seed + 1)
    scales = [noise(fit) for fit in fits]
    own = np.stack([fit.residual - fit.residual.mean() for fit in fits], axis=1)
    own = own * (scales / np.maximum(own.std(axis=0), 1e-9))
    n = len(own)
    # Half of the noise from the runs' residuals, half from a normal of the same covariance.
    _, size, axes = np.linalg.svd(own, full_matrices=False)
    normal = rng.normal(size=(count, n, len(size))) @ (size[:, None] * axes) / np.sqrt(n)
    error = np.sqrt(0.5) * (own[rng.integers(0, n, (count, n))] + normal)
    drawn = []
    for k, fit in enumerate(fits):
        prior = fit.problem.prior
        mean = prior.mean + rng.normal(size=(count, len(fit.theta))) / np.sqrt(prior.precision)
        targets = fit.columns.log_loss - fit.residual + error[:, :, k]
        problem = with_rows(fit, log_loss=targets, prior_mean=mean, sigma=scales[k])
        starts = np.repeat(fit.theta[None], count, axis=0)
        drawn.append(minimise(problem, starts, max_iterations=40, tolerance=1e-9).theta)
    return drawn


def _left_out(fit: Estimate) -> Array:
    """log observed - log predicted of every run by the law fitted without it (in 40 parts of many)."""
    n = len(fit.residual)
    fold = np.random.default_rng(0).permutation(n) % _FOLDS
    kept = fold[None] != np.arange(min(n, _FOLDS))[:, None]
    problem = with_rows(fit, weight=fit.problem.data.weight * kept)
    theta = minimise(problem, np.repeat(fit.theta[None], len(kept), axis=0), tolerance=1e-9).theta
    return (fit.columns.log_loss - problem.log_loss(theta))[fold, np.arange(n)]


def _quality(fit: Estimate, left_out: Array) -> dict[str, float]:
    sigma, rms = noise(fit), _rms(left_out)
    return {
        "sigma": sigma,
        "rms_residual": _rms(fit.residual),
        "left_out_rms": rms,
        "misfit": _MISFIT * float(np.sqrt(max(rms**2 - sigma**2, 0.0))),
        "spread": float(fit.columns.log_loss.std()),
        "agreeing_starts": float(fit.agreeing),
        "certified": float(fit.certified),
    }


def _refusal(runs: MixtureRuns, quality: Mapping[str, Mapping[str, float]]) -> str:
    n, m = runs.shares.shape
    varied = int(np.linalg.matrix_rank(runs.shares - runs.shares.mean(axis=0), tol=0.02))
    if n < m + 3:
        return (
            f"{n} runs for {m + 1} constants of each loss: the result leans on the prior; {m + 3} are needed"
        )
    if varied < m - 1:
        return f"the runs vary the shares of {m} domains in {varied} of {m - 1} directions only"
    loose = [name for name, item in quality.items() if not item["certified"]]
    if loose:
        return f"the starts of the fit do not agree: {', '.join(loose)}"
    worst = max(quality, key=lambda name: quality[name]["left_out_rms"])
    if quality[worst]["left_out_rms"] > _MOST_LEFT_OUT:
        error = f"{quality[worst]['left_out_rms']:.1%} on the loss of {worst}"
        return f"the law errs on runs left out: {error} (at most {_MOST_LEFT_OUT:.0%}); run more mixtures"
    return ""
