"""Rows to forecast, and measured rows, in; logarithms of step seconds with standard deviations out.

A Gaussian posterior of the term constants of one site: before data they differ between sites as far as
`Spread` says; what the terms cannot say is shared by runs of one accelerator, and by near layouts of a model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stepladder.plan.rowmemory import number
from stepladder.plan.steprows import Row, config_of, is_mixture, unlike
from stepladder.plan.steptime import CONSTANTS, FITTED, Config, Rule, step_seconds

_NUDGE = 1e-4
# Errors of the terms follow the shapes of kernels; more of the same ones change them less.
_LAYOUT = {"tp": 1.0, "mbs": 1.0, "seq": 1.0, "pp": 0.4, "dp": 0.2, "ga": 0.2, "cp": 0.2}
_MODEL = ("sub", "hidden", "layers", "heads", "dtype", "framework")


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Standard deviations of log seconds: `terms` scales those of CONSTANTS, `accelerator` is between sites,
    `model` of one model's runs, felt less by e for every `reach` of layout distance, `noise` of a row.

    `reach` is a weighted sum of absolute log ratios of degrees, micro-batch, accumulation and sequence.
    """

    terms: float
    accelerator: float
    model: float
    reach: float
    noise: float


# Greatest likelihood of all published steps, and what 90 % of those of a source that was left out kept
# within, in standard deviations (bench/plan/steps.py).
SPREAD = Spread(terms=0.478, accelerator=0.072, model=0.148, reach=2.413, noise=0.076)
Z90 = 1.5
# A framework, accelerator or network that no fitted row had: no data says how far it is off. A judgement.
UNLIKE_LOG_SD = 0.2
# What 88 % of 24 published steps of mixtures kept within, beside the spread of the terms; one layout in two
# versions of a framework differed by up to 2.0 (bench/plan/experts.py).
MIXTURE_LOG_SD = 0.37


@dataclass(frozen=True, kw_only=True, slots=True)
class Kin:
    """What makes rows alike: linear effects of the constants, and keys."""

    slopes: np.ndarray  # rows x constants
    site: np.ndarray
    accelerator: np.ndarray
    model: np.ndarray
    layout: np.ndarray  # logarithms

    def take(self, at: Sequence[int] | np.ndarray) -> "Kin":
        """Some of the rows."""
        return Kin(**{name: getattr(self, name)[at] for name in self.__slots__})


def forecast(
    rows: Sequence[Row], measured: Sequence[Row] = (), rule: Rule = FITTED, spread: Spread = SPREAD
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of log seconds of each row; no row may be refused."""
    logs, kin = described(rows, rule)
    extra = np.array([unlike(row) * UNLIKE_LOG_SD**2 + is_mixture(row) * MIXTURE_LOG_SD**2 for row in rows])
    if not measured:
        return logs, np.sqrt(spread_of(kin, spread) + extra)
    known, near = described(measured, rule)
    off = np.log([number(row, "step_s", 1.0) for row in measured]) - known
    shift, variance = posterior(kin, near, off, spread)
    # What was measured there says how far an unlike kind is off.
    alike = (kin.site[:, None] == near.site[None]).any(axis=1)
    return logs + shift, np.sqrt(variance + np.where(alike, 0, extra))


def described(rows: Sequence[Row], rule: Rule = FITTED) -> tuple[np.ndarray, Kin]:
    """Log seconds by the constants alone, and what makes the rows alike."""
    config = config_of(rows)
    logs = np.log(step_seconds(config, rule))
    return logs, Kin(
        slopes=slopes(config, rule, logs),
        site=_keys(rows, ("group",) if any(row.get("group") for row in rows) else ("hw", "framework")),
        accelerator=_keys(rows, ("hw",)),
        model=_keys(rows, _MODEL),
        layout=weighed(**{name: np.array([number(row, name, 1.0) for row in rows]) for name in _LAYOUT}),
    )


def weighed(**columns: np.ndarray) -> np.ndarray:
    """Logarithms of tp, mbs, seq, pp, dp, ga, cp (rows x 7), by how much errors of the terms follow each."""
    return np.stack([weight * np.log(columns[name]) for name, weight in _LAYOUT.items()], axis=1)


def slopes(config: Config, rule: Mapping[str, float], logs: np.ndarray) -> np.ndarray:
    """Change of log seconds by each constant (rows x constants)."""
    moved = [{**rule, name: rule[name] + _NUDGE} for name in CONSTANTS]
    return np.stack([(np.log(step_seconds(config, one)) - logs) / _NUDGE for one in moved], axis=1)


def posterior(kin: Kin, near: Kin, off: np.ndarray, spread: Spread) -> tuple[np.ndarray, np.ndarray]:
    """What `off` (measured log seconds less forecast ones, of rows `near`) does to log seconds of `kin`."""
    among = covariance(near, near, spread) + spread.noise**2 * np.eye(len(off))
    across = covariance(kin, near, spread)
    weight = np.linalg.solve(among, across.T)
    return weight.T @ off, spread_of(kin, spread) - np.sum(weight * across.T, axis=0)


def spread_of(kin: Kin, spread: Spread) -> np.ndarray:
    """Variance of each row's log seconds before anything was measured."""
    scaled = kin.slopes * _deviations(spread)
    return np.sum(scaled**2, axis=1) + spread.accelerator**2 + spread.model**2 + spread.noise**2


def covariance(one: Kin, other: Kin, spread: Spread) -> np.ndarray:
    """Of log seconds, without the noise of rows."""
    scale = _deviations(spread)
    site = one.site[:, None] == other.site[None]
    accelerator = site & (one.accelerator[:, None] == other.accelerator[None])
    model = accelerator & (one.model[:, None] == other.model[None])
    far = np.abs(one.layout[:, None] - other.layout[None]).sum(axis=2)
    terms = site * ((one.slopes * scale) @ (other.slopes * scale).T)
    return terms + spread.accelerator**2 * accelerator + spread.model**2 * model * np.exp(-far / spread.reach)


def _deviations(spread: Spread) -> np.ndarray:
    return spread.terms * np.array([deviation for _, deviation, _ in CONSTANTS.values()])


def _keys(rows: Sequence[Row], names: Sequence[str]) -> np.ndarray:
    """One text for each row, so that equal texts are equal cells."""
    return np.array(["|".join(row.get(name) or "" for name in names) for row in rows])
