"""The loss curve of a run and its learning rates in; the loss under another schedule or length out.

L(s) = L0 + A · S1^-α - C · S2, where S1 is the sum of the rates so far and S2 the annealing area: each fall
of the rate counts from its step on, remembered with a factor of .999 a step (Tissue et al., arXiv:2408.11029,
equation 1). A loss before the decay must not be put into a law of finished runs as it is: `midrun` says what
it is worth. On the noisy training losses of 50 rungs (600 to 2,200 steps) the part before the decay, with the
C · S2 of the other rungs, foretells the end to 1.3 % (bench/laws/midrun.py).
"""

from dataclasses import dataclass

import numpy as np

from stepladder.errors import LawError
from stepladder.laws.solve import Array, CurveProblem, Data, Prior, minimise

_MEMORY = 0.999
_LEAST_POINTS = 8
HUBER_DELTA = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveLaw:
    """Constants of one run's curve; `memory` is the factor of S2 for each step."""

    floor: float
    amplitude: float
    alpha: float
    annealing: float
    memory: float
    rms_residual: float

    def loss(self, rates: Array) -> Array:
        """Loss after each step of a schedule (peak rate times shape, one number a step)."""
        forward, area = schedule_areas(np.asarray(rates, float), self.memory)
        return self.floor + self.amplitude * forward**-self.alpha - self.annealing * area


def schedule_areas(rates: Array, memory: float = _MEMORY) -> tuple[Array, Array]:
    """S1 and S2 after each step."""
    falls = -np.diff(rates, prepend=rates[0])
    area, momentum = np.zeros(len(rates)), 0.0
    for step, fall in enumerate(falls):
        momentum = memory * momentum + max(fall, 0.0)
        area[step] = momentum
    return np.cumsum(rates), np.cumsum(area)


def fit_curve(
    steps: Array, losses: Array, rates: Array, *, memory: float = 0.0, annealing: float = 0.0
) -> CurveLaw:
    """Fit one run.

    Args:
        steps: steps (from 1) at which the loss was measured, after warm-up.
        losses: smoothed or held-out losses there.
        rates: learning rate of every step of the run.
        memory: factor of S2 a step; by default .999, less for runs under 3,000 steps so that the decay of a
            short run is not remembered past its end.
        annealing: C, where other runs of the recipe tell it; points before the decay are then enough.

    Raises:
        LawError: too few points, or none in a decay (annealing cannot be told from progress).
    """
    steps = np.asarray(steps, dtype=int)
    losses = np.asarray(losses, float)
    if len(steps) < _LEAST_POINTS:
        raise LawError(
            "too few points on the curve", got=str(len(steps)), allowed=f"at least {_LEAST_POINTS}"
        )
    memory = memory or min(_MEMORY, 1.0 - 3.0 / max(len(rates), 4))
    forward, area = schedule_areas(np.asarray(rates, float), memory)
    forward, area = forward[steps - 1], area[steps - 1]
    decayed = np.ptp(area) > 1e-12
    if not (decayed or annealing):
        raise LawError(
            "no point lies in a decay of the learning rate: its gain cannot be told",
            allowed="a run with a decay, measured before and within it",
        )
    scale = float(area.max()) if decayed else 1.0
    problem, middle = _problem(forward, area / scale, losses, annealing * scale)
    low = float(losses.min())
    starts = np.array(
        [
            [np.log(low * share), np.log(low * (1.1 - share)), alpha, np.log(annealing * scale or low * gain)]
            for share in (0.3, 0.6, 0.9)
            for alpha in (0.2, 0.5, 1.0)
            for gain in (0.01, 0.05)
        ]
    )
    found = minimise(problem, starts, np.zeros(len(starts), dtype=int), max_iterations=300)
    best = found.theta[found.value.argmin()]
    residual = problem.function(best[None])[0][0] - np.log(losses)
    return CurveLaw(
        floor=float(np.exp(best[0])),
        amplitude=float(np.exp(best[1] + best[2] * middle)),
        alpha=float(best[2]),
        annealing=float(np.exp(best[3]) / scale),
        memory=memory,
        rms_residual=float(np.sqrt(np.mean(residual**2))),
    )


def _problem(forward: Array, drop: Array, losses: Array, gain: float) -> tuple[CurveProblem, float]:
    """The curve in θ = (log floor, log amplitude, α, log gain), and the middle of log S1; a gain above zero
    is kept."""
    middle = float(np.log(forward).mean())
    x = np.log(forward) - middle

    def curve(theta: Array) -> tuple[Array, Array]:
        floor, amplitude, alpha, gain = (theta[:, k : k + 1] for k in range(4))
        falling = np.exp(amplitude - alpha * x)
        level, won = np.exp(floor), np.exp(gain) * drop
        loss = np.maximum(level + falling - won, 1e-9)
        slopes = (level + 0 * x, falling, -falling * x, -won)
        return np.log(loss), np.stack(slopes, axis=2) / loss[:, :, None]

    data = Data(log_loss=np.log(losses)[None], weight=np.ones((1, len(losses))), delta=HUBER_DELTA)
    known = np.array([0.0, 0.0, 0.0, np.log(gain) if gain else 0.0])
    prior = Prior(mean=known[None], precision=np.array([0.0, 0.0, 0.0, 1e8 if gain else 0.0]))
    return CurveProblem(function=curve, data=data, prior=prior), middle
