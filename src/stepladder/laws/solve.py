"""Robust least-squares problems in log-loss and starting points in; minima of all of them at once out.

Legend of the shape suffixes: B problems side by side (starts, bootstraps, rollouts), K terms of the law,
n observations, p parameters.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

Array = np.ndarray
# Rows of one chunk: the working set (about 30 arrays of rows × terms × points) then stays in the L2 cache.
_CHUNK_NUMBERS = 60_000


class Problem(Protocol):
    """What the solver needs: `rows` selects problems of a batch."""

    def value(self, theta: Array, rows: Array) -> Array:
        """Objective (B,) at theta (B, p)."""
        ...

    def quadratic(self, theta: Array, rows: Array) -> tuple[Array, Array, Array, Array]:
        """Objective (B,), gradient (B, p), Hessian (B, p, p), positive semidefinite majoriser (B, p, p)."""
        ...

    @property
    def points(self) -> int:
        """Size of one row's working set."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """Observed log-losses and their weights, (B, n) or (1, n) when all problems share them."""

    log_loss: Array
    weight: Array
    delta: float = 1e-3
    sigma: float = 1.0

    def pick(self, rows: Array) -> tuple[Array, Array]:
        """Targets and weights of the selected problems, weights divided by the noise variance."""
        log_loss = self.log_loss if len(self.log_loss) == 1 else self.log_loss[rows]
        weight = self.weight if len(self.weight) == 1 else self.weight[rows]
        return log_loss, weight / self.sigma**2


@dataclass(frozen=True, kw_only=True, slots=True)
class Prior:
    """Independent normal priors: mean (B, p) or (1, p), precision (p,); zero precision means no prior."""

    mean: Array
    precision: Array

    def pick(self, rows: Array) -> Array:
        """Means of the selected problems."""
        return self.mean if len(self.mean) == 1 else self.mean[rows]


@dataclass(frozen=True, kw_only=True, slots=True)
class TermsProblem:
    """log L = logsumexp over k of G_k θ: every law whose terms are log-linear in θ.

    With softmax shares s_k the gradient of log L is J = Σ s_k G_k and its Hessian
    Σ s_k G_k G_kᵀ - J Jᵀ, so that one Newton step of the whole batch is a handful of matrix products.
    """

    design: Array
    data: Data
    prior: Prior
    _flat: Array = field(init=False)
    _squares: Array = field(init=False)
    _pairs: tuple[tuple[int, int], ...] = field(init=False)
    _products: Array = field(init=False)

    def __post_init__(self) -> None:
        K, n, p = self.design.shape
        design = self.design
        pairs = tuple((k, j) for k in range(K) for j in range(k, K))
        outer = [np.einsum("np,nq->npq", design[k], design[j]) for k, j in pairs]
        outer = [o if k == j else o + o.transpose(0, 2, 1) for o, (k, j) in zip(outer, pairs, strict=True)]
        squares = np.einsum("knp,knq->knpq", design, design)
        object.__setattr__(self, "_flat", design.reshape(K * n, p))
        object.__setattr__(self, "_squares", squares.reshape(K * n, p * p))
        object.__setattr__(self, "_pairs", pairs)
        object.__setattr__(self, "_products", np.stack(outer).reshape(len(pairs) * n, p * p))

    @property
    def points(self) -> int:
        return self.design.shape[0] * self.design.shape[1]

    def log_loss(self, theta: Array) -> Array:
        """Predicted log-loss (B, n)."""
        return self._forward(theta)[0]

    def value(self, theta: Array, rows: Array) -> Array:
        log_loss, weight = self.data.pick(rows)
        residual = self._forward(theta)[0] - log_loss
        clipped = np.clip(residual, -self.data.delta, self.data.delta)
        fit = np.sum(weight * clipped * (residual - clipped / 2), axis=1)
        off = theta - self.prior.pick(rows)
        return fit + 0.5 * (off**2 @ self.prior.precision)

    def quadratic(self, theta: Array, rows: Array) -> tuple[Array, Array, Array, Array]:
        log_loss, weight = self.data.pick(rows)
        delta = self.data.delta
        predicted, shares = self._forward(theta)
        residual = predicted - log_loss
        clipped = np.clip(residual, -delta, delta)
        slope = weight * clipped
        size = np.abs(residual)
        inside = weight * (size <= delta)
        majoriser = weight * (delta / np.maximum(size, delta))
        off = theta - self.prior.pick(rows)
        precision = self.prior.precision
        value = np.sum(slope * (residual - clipped / 2), axis=1) + 0.5 * (off**2 @ precision)
        gradient, hessian, upper = self._parts(theta, shares, slope, inside, majoriser)
        diagonal = np.diag(precision)
        return value, gradient + off * precision, hessian + diagonal, upper + diagonal

    def _parts(
        self, theta: Array, shares: Array, slope: Array, inside: Array, majoriser: Array
    ) -> tuple[Array, Array, Array]:
        """Gradient (B, p), Hessian and majoriser (B, p, p) of the data's part."""
        B, p = theta.shape
        weighted = (shares * slope[:, None, :]).reshape(B, -1)
        products = self._paired(shares)
        curved = (products * (inside - slope)[:, None, :]).reshape(B, -1)
        bowl = (products * majoriser[:, None, :]).reshape(B, -1)
        hessian = (curved @ self._products + weighted @ self._squares).reshape(B, p, p)
        return weighted @ self._flat, hessian, (bowl @ self._products).reshape(B, p, p)

    def _paired(self, shares: Array) -> Array:
        return np.stack([shares[:, k] * shares[:, j] for k, j in self._pairs], axis=1)

    def _logits(self, theta: Array) -> Array:
        K, n, _ = self.design.shape
        return (theta @ self._flat.T).reshape(len(theta), K, n)

    def _forward(self, theta: Array) -> tuple[Array, Array]:
        return softmax(self._logits(theta))


@dataclass(frozen=True, kw_only=True, slots=True)
class CoupledProblem(TermsProblem):
    """As `TermsProblem`, with the terms after the first joined as (Σ term^(1/κ))^κ; log κ is the last of θ.

    With logits z_k of the joined terms, their shares q_k among each other, entropy H, and S the share of all
    of them: R = κ logsumexp(z/κ), dR/dlog κ = κ H, d²R/dlog κ² = κ H + Var_q(z)/κ, and
    d(∇R)/dlog κ = -Σ q_k (z_k - z̄)/κ G_k. Among the joined ∇²R = (Σ q_k G_k G_kᵀ - g gᵀ)/κ, g = Σ q_k G_k.
    """

    def _forward(self, theta: Array) -> tuple[Array, Array]:
        logits, kappa = self._logits(theta), np.exp(theta[:, -1])[:, None]
        joined, inner = softmax(logits[:, 1:] / kappa[:, None])
        log_loss, outer = softmax(np.stack([logits[:, 0], kappa * joined], axis=1))
        return log_loss, np.concatenate([outer[:, :1], outer[:, 1:] * inner], axis=1)

    def _parts(
        self, theta: Array, shares: Array, slope: Array, inside: Array, majoriser: Array
    ) -> tuple[Array, Array, Array]:
        B, p = theta.shape
        kappa = np.exp(theta[:, -1])[:, None]
        all_joined = np.maximum(shares[:, 1:].sum(axis=1), 1e-300)
        weighted = shares * slope[:, None]
        products = self._paired(shares)
        among = np.array([k > 0 for k, _ in self._pairs], dtype=float)[:, None]
        curved = products * (
            (inside - slope)[:, None] + among * (slope * (1 - 1 / kappa) / all_joined)[:, None]
        )
        powered = np.concatenate([weighted[:, :1], weighted[:, 1:] / kappa[:, None]], axis=1)
        bowl = products * majoriser[:, None]
        hessian = (curved.reshape(B, -1) @ self._products + powered.reshape(B, -1) @ self._squares).reshape(
            B, p, p
        )
        upper = (bowl.reshape(B, -1) @ self._products).reshape(B, p, p)
        gradient = weighted.reshape(B, -1) @ self._flat

        inner, logits = shares[:, 1:] / all_joined[:, None], self._logits(theta)[:, 1:]
        # (z_k - z̄)/κ, and κ H as the sum over q_k of -κ log q_k.
        lean = (logits - np.sum(inner * logits, axis=1, keepdims=True)) / kappa[:, None]
        entropy = kappa * (softmax(logits / kappa[:, None])[0] - np.sum(inner * logits, axis=1) / kappa)
        own = all_joined * entropy
        mixed = -shares * own[:, None]
        mixed[:, 1:] += shares[:, 1:] * (entropy[:, None] - lean)
        row = (mixed * slope[:, None] + shares * (inside * own)[:, None]).reshape(B, -1) @ self._flat
        bend = entropy + kappa * np.sum(inner * lean**2, axis=1) + entropy**2
        gradient[:, -1] = np.sum(slope * own, axis=1)
        row[:, -1] = np.sum(inside * own**2 + slope * (all_joined * bend - own**2), axis=1)
        hessian[:, -1], hessian[:, :, -1] = row, row
        row = (shares * (majoriser * own)[:, None]).reshape(B, -1) @ self._flat
        row[:, -1] = np.sum(majoriser * own**2, axis=1)
        upper[:, -1], upper[:, :, -1] = row, row
        return gradient, hessian, upper


def softmax(logits: Array) -> tuple[Array, Array]:
    """Log of the sum of exponentials over axis 1, and each one's share."""
    top = logits.max(axis=1)
    shares = np.exp(logits - top[:, None])
    total = shares.sum(axis=1)
    shares /= total[:, None]
    return top + np.log(total), shares


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveProblem:
    """Any law given as a function θ (B, p) → log-loss (B, n) and Jacobian (B, n, p); Gauss–Newton."""

    function: Callable[[Array], tuple[Array, Array]]
    data: Data
    prior: Prior

    @property
    def points(self) -> int:
        return self.data.log_loss.shape[1] * 4

    def value(self, theta: Array, rows: Array) -> Array:
        log_loss, weight = self.data.pick(rows)
        residual = self.function(theta)[0] - log_loss
        clipped = np.clip(residual, -self.data.delta, self.data.delta)
        off = theta - self.prior.pick(rows)
        return np.sum(weight * clipped * (residual - clipped / 2), axis=1) + 0.5 * (
            off**2 @ self.prior.precision
        )

    def quadratic(self, theta: Array, rows: Array) -> tuple[Array, Array, Array, Array]:
        log_loss, weight = self.data.pick(rows)
        delta = self.data.delta
        predicted, jacobian = self.function(theta)
        residual = predicted - log_loss
        clipped = np.clip(residual, -delta, delta)
        size = np.abs(residual)
        off = theta - self.prior.pick(rows)
        value = np.sum(weight * clipped * (residual - clipped / 2), axis=1)
        value = value + 0.5 * (off**2 @ self.prior.precision)
        gradient = np.einsum("bn,bnp->bp", weight * clipped, jacobian) + off * self.prior.precision
        diagonal = np.diag(self.prior.precision)

        def gram(coefficient: Array) -> Array:
            return (jacobian * coefficient[:, :, None]).transpose(0, 2, 1) @ jacobian + diagonal

        return (
            value,
            gradient,
            gram(weight * (size <= delta)),
            gram(weight * (delta / np.maximum(size, delta))),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Solution:
    """Minima: θ (B, p), objective (B,), and whether each row stopped because no step helped any more."""

    theta: Array
    value: Array
    converged: Array
    iterations: int


def minimise(
    problem: Problem,
    starts: Array,
    rows: Array | None = None,
    *,
    max_iterations: int = 120,
    tolerance: float = 1e-14,
) -> Solution:
    """Levenberg–Marquardt on all starts at once; start b belongs to problem `rows[b]` (default: all to b).

    The step solves (H + λ M) s = -g, where H is the exact Hessian and M the majoriser of the Huber loss:
    λ = 1 far out is the re-weighted least-squares step, λ → 0 is Newton's, which ends exactly in a
    piecewise quadratic objective. A row stops when a step gains less than `tolerance` of its objective.
    """
    rows = np.arange(len(starts)) if rows is None else rows
    chunk = max(8, _CHUNK_NUMBERS // problem.points)
    parts = [
        _minimise_chunk(problem, starts[i : i + chunk], rows[i : i + chunk], max_iterations, tolerance)
        for i in range(0, len(starts), chunk)
    ]
    return Solution(
        theta=np.concatenate([part.theta for part in parts]),
        value=np.concatenate([part.value for part in parts]),
        converged=np.concatenate([part.converged for part in parts]),
        iterations=max(part.iterations for part in parts),
    )


def _minimise_chunk(
    problem: Problem, starts: Array, rows: Array, max_iterations: int, tolerance: float
) -> Solution:
    theta = np.array(starts, dtype=float)
    value = problem.value(theta, rows)
    damping = np.ones(len(theta))
    converged = np.zeros(len(theta), dtype=bool)
    live = np.arange(len(theta))
    iteration = 0
    while len(live) and iteration < max_iterations:
        iteration += 1
        step, gain = _step(problem, theta[live], rows[live], damping[live])
        tried = theta[live] + step
        tried_value = problem.value(tried, rows[live])
        better = tried_value < value[live]
        small = gain <= tolerance * np.abs(value[live]) + 1e-300
        decrease = np.where(better, value[live] - tried_value, np.inf)
        moved = live[better]
        theta[moved], value[moved] = tried[better], tried_value[better]
        damping[live] = np.where(better, damping[live] * 0.15, damping[live] * 6.0 + 1e-6)
        stop = small | (decrease <= tolerance * np.abs(value[live])) | (damping[live] > 1e9)
        converged[live[stop]] = True
        live = live[~stop]
    return Solution(theta=theta, value=value, converged=converged, iterations=iteration)


def _step(problem: Problem, theta: Array, rows: Array, damping: Array) -> tuple[Array, Array]:
    """Damped step and the decrease that its slope promises; infinite where the step does not descend."""
    _, gradient, hessian, upper = problem.quadratic(theta, rows)
    p = theta.shape[1]
    ridge = 1e-12 * np.trace(upper, axis1=1, axis2=2) / p + 1e-300
    matrix = hessian + damping[:, None, None] * upper + ridge[:, None, None] * np.eye(p)
    try:
        step = -np.linalg.solve(matrix, gradient[:, :, None])[:, :, 0]
    except np.linalg.LinAlgError:
        step = -(np.linalg.pinv(matrix, hermitian=True) @ gradient[:, :, None])[:, :, 0]
    # No parameter (log-terms, exponents) moves by more than 2 in one step: exp stays finite.
    step /= np.maximum(np.abs(step).max(axis=1) / 2.0, 1.0)[:, None]
    gain = -np.einsum("bp,bp->b", gradient, step)
    return step, np.where(gain < 0, np.inf, gain)
