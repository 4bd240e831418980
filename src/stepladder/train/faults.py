"""Losses, norms and times of steps in; which steps to skip, who is slow and what hangs, out. No torch.

All decisions are made from numbers that every rank has, so that all ranks make the same one. What `Guard`
remembers is in the checkpoint: a resumed run decides as one that was not killed.
"""

import contextlib
import faulthandler
import math
import os
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from stepladder.errors import StoreError
from stepladder.store import write_json

# A spike is a loss and a gradient norm that both stand 6 sigma above their last 128 values: the constants of
# OLMo-core's SkipStepOptimizer (which skips for either of the two), judged from half a window on as there.
# Median and 1.4826 MAD (the sigma of a normal distribution) in place of mean and deviation: one spike does
# not hide the next. docs/training/faults.md has the rate of false alarms.
WINDOW_STEPS, SIGMAS, MAD_TO_SIGMA = 128, 6.0, 1.4826
# So many skipped steps in a row are not the fault of a batch: back to the last good checkpoint.
STUCK_STEPS, MOST_ROLL_BACKS = 5, 2
# A run is given up when its smoothed loss, past warm-up, stands this many nats above its first loss.
DIVERGED_NATS = 1.0
# A step hangs when it takes this many medians and HANG_SECONDS; what is not a step gets SLOW times as long.
HANG_MEDIANS, HANG_SECONDS, SLOW = 20.0, 60.0, 10.0
HANG_VARIABLE, HANG_FILE, EXIT_HUNG = "STEPLADDER_HANG_SECONDS", "hung.json", 76
# Every so many steps the ranks compare their own seconds; a rank slower than 1.5 medians is warned of when
# it is so in three reports one after the other.
PACE_STEPS, SLOW_RATIO, SLOW_REPORTS = 50, 1.5, 3


def hang_seconds() -> float:
    """HANG_SECONDS, or what the environment says."""
    return float(os.environ.get(HANG_VARIABLE) or HANG_SECONDS)


@dataclass(frozen=True, kw_only=True, slots=True)
class FaultPolicy:
    """What a run does about faults."""

    skips_spikes: bool = False
    hang_seconds: float = field(default_factory=hang_seconds)


class Guard:
    """Judges steps. A skipped one updates nothing; its batch counts as read."""

    def __init__(self, policy: FaultPolicy, state: Mapping[str, Any]) -> None:
        """`state` is what `state` gave when the checkpoint was written."""
        self._skips_spikes = policy.skips_spikes
        self.load(state)
        self.skipped = int(state.get("skipped", 0))
        self._rolled_to, self._tries = int(state.get("rolled_to", -1)), int(state.get("tries", 0))

    def load(self, state: Mapping[str, Any]) -> None:
        """Go back to the levels of a checkpoint; what was skipped and rolled back stays counted."""
        self._losses, self._norms = list(state.get("losses", ())), list(state.get("norms", ()))
        self.in_a_row = 0

    def state(self) -> dict[str, Any]:
        """JSON numbers for the checkpoint, which is only written while no step was skipped last."""
        return {
            "losses": self._losses,
            "norms": self._norms,
            "skipped": self.skipped,
            "rolled_to": self._rolled_to,
            "tries": self._tries,
        }

    def judge(self, loss: float, grad_norm: float) -> str:
        """Why this step must not update the weights; empty when it may."""
        reason = ""
        if not math.isfinite(loss):
            reason = f"the loss is {loss}"
        elif not math.isfinite(grad_norm):
            reason = f"the gradient's norm is {grad_norm}"
        elif self._skips_spikes:
            # The level takes in every finite step, so that it follows a lasting change.
            if is_outlier(loss, self._losses) and is_outlier(grad_norm, self._norms):
                reason = f"spike: loss {loss:.4g} and gradient norm {grad_norm:.4g} are outliers"
            self._losses = [*self._losses, loss][-WINDOW_STEPS:]
            self._norms = [*self._norms, grad_norm][-WINDOW_STEPS:]
        self.in_a_row = self.in_a_row + 1 if reason else 0
        self.skipped += bool(reason)
        return reason

    @property
    def is_stuck(self) -> bool:
        """Whether one more skipped step would not help."""
        return self.in_a_row >= STUCK_STEPS

    def may_roll_back(self, step: int) -> bool:
        """Whether going back to the checkpoint of `step` (0: there is none) is worth a try; counts it."""
        self._tries = self._tries + 1 if step == self._rolled_to else 1
        self._rolled_to = step
        return step > 0 and self._tries <= MOST_ROLL_BACKS

    def accept(self) -> None:
        """Take the present level of the loss for the normal one: learn it anew."""
        self.load({})


def is_outlier(value: float, before: list[float]) -> bool:
    """Whether `value` stands far above those before it; False while they are too few to tell."""
    if len(before) < WINDOW_STEPS // 2:
        return False
    middle = statistics.median(before)
    spread = MAD_TO_SIGMA * statistics.median(abs(other - middle) for other in before)
    return value > middle + SIGMAS * spread


def divergence(loss: float, grad_norm: float, risen: float, step: int) -> str:
    """ "ok", or "diverged: " and why; `risen` is the smoothed loss minus the first."""
    if not math.isfinite(loss):
        return f"diverged: the loss is {loss} at step {step}"
    if not math.isfinite(grad_norm):
        return f"diverged: the gradient's norm is {grad_norm} at step {step}"
    if risen > DIVERGED_NATS:
        return f"diverged: the loss stands {risen:.2f} nats above its start at step {step}"
    return "ok"


class Pace:
    """Seconds that each rank works on its own; every PACE_STEPS steps, who is slowest."""

    def __init__(self, rank: int, world: int, add: Callable[[list[float]], list[float]], *, wall: bool):
        """`add` sums lists over ranks. `wall`: nothing waits for others between `start` and `stop`.

        Otherwise (shards are gathered in between) the thread's CPU seconds are taken: waiting takes none.
        """
        self._rank, self._world, self._add = rank, world, add
        self._clock = time.perf_counter if wall else time.thread_time
        self._seconds, self._steps, self._slow_reports = 0.0, 0, 0

    def start(self) -> None:
        """A step begins."""
        self._started = self._clock()

    def stop(self) -> None:
        """It has done what it can without the others."""
        self._seconds += self._clock() - self._started
        self._steps += 1

    def report(self, step: int) -> dict[str, float]:
        """`slowest_rank` and `slowest_ratio` (to the median, the lower of two); {} between reports."""
        if self._world == 1 or step % PACE_STEPS or not self._steps:
            return {}
        own = [0.0] * self._world
        own[self._rank] = self._seconds / self._steps
        ranks = self._add(own)
        self._seconds, self._steps = 0.0, 0
        slowest = max(range(self._world), key=ranks.__getitem__)
        ratio = ranks[slowest] / max(statistics.median_low(ranks), 1e-9)
        self._slow_reports = self._slow_reports + 1 if ratio > SLOW_RATIO else 0
        if self._slow_reports == SLOW_REPORTS and self._rank == 0:
            warn(f"rank {slowest} takes {ratio:.1f} times as long as the median of ranks (step {step})")
        return {"slowest_rank": slowest, "slowest_ratio": ratio}


class Watchdog:
    """Ends the process when its steps stop coming: stacks of all threads on stderr, hung.json, exit 76.

    A thread watches, so that a main thread in a collective that never returns is noticed. Should a thread
    hold the interpreter's lock, faulthandler's own thread ends the process with exit code 1.
    """

    def __init__(self, folder: Path, rank: int, least_seconds: float) -> None:
        self._folder, self._rank, self._least = folder, rank, least_seconds
        self._durations: deque[float] = deque(maxlen=100)
        self._beat_at, self._idle, self._step = time.monotonic(), 0.0, 0
        self._slow = 1
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, daemon=True, name="watchdog").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        faulthandler.cancel_dump_traceback_later()

    def beat(self, step: int) -> None:
        """A step has ended."""
        now = time.monotonic()
        self._durations.append(now - self._beat_at)
        self._beat_at, self._idle, self._step = now, 0.0, step
        self._slow = 0

    @contextlib.contextmanager
    def slow(self) -> Iterator[None]:
        """An evaluation or a wait for the disk: longer than a step, but not for ever."""
        self._idle, self._slow = 0.0, self._slow + 1
        yield
        self._beat_at, self._idle = time.monotonic(), 0.0
        self._slow -= 1

    @property
    def limit_seconds(self) -> float:
        """How long nothing may happen now."""
        medians = HANG_MEDIANS * statistics.median(self._durations) if self._durations else 0.0
        return max(self._least, medians) * (SLOW if self._slow else 1.0)

    def _watch(self) -> None:
        tick = min(1.0, self._least / 5)
        before = time.monotonic()
        while not self._ended.wait(tick):
            now = time.monotonic()
            # A process that was itself stopped for a while has not waited for anybody.
            self._idle += min(now - before, 2 * tick)
            before = now
            limit = self.limit_seconds
            if self._idle > limit:
                self._end()
            faulthandler.dump_traceback_later(2 * limit, exit=True, file=2)
        faulthandler.cancel_dump_traceback_later()

    def _end(self) -> None:
        warn(f"rank {self._rank} hangs: no step for {self._idle:.0f} s after step {self._step}; ending it")
        faulthandler.dump_traceback(file=2, all_threads=True)
        told = {"rank": self._rank, "step": self._step, "seconds": round(self._idle, 1)}
        with contextlib.suppress(StoreError):
            write_json(self._folder / HANG_FILE, told)
        os._exit(EXIT_HUNG)


def warn(text: str) -> None:
    """One line on stderr."""
    print(f"warning: {text}", file=sys.stderr, flush=True)
