"""A log of a training run in; its speed and its loss out, as an Observation that a plan is calibrated on.

Ours (metrics.jsonl), any CSV, W&B's export, Hugging Face's trainer_state.json, torchtitan's lines and JSON.
"""

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

from stepladder.errors import PlanError, StoreError
from stepladder.models.count import count_params, train_flops_per_token
from stepladder.plan.conflicts import listed
from stepladder.plan.hardware import find_device
from stepladder.plan.rates import MIN_STEPS
from stepladder.plan.standalone import shape_from
from stepladder.records import Layout, Observation, Plan, Shape, from_json
from stepladder.store import read_json

# What a row says: the names for it, all letters small and other characters as "_". Ours come first.
_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "step": ("step", "steps", "_step", "global_step", "iteration", "iter", "trainer_global_step"),
    "tokens": (
        "tokens",
        "num_tokens",
        "num_input_tokens_seen",
        "train_num_input_tokens_seen",
        "tokens_seen",
        "total_tokens",
        "train_tokens",
        "consumed_tokens",
        "n_tokens",
        "ntokens",
    ),
    "loss": (
        "loss",
        "train_loss",
        "training_loss",
        "lm_loss",
        "loss_metrics_global_avg_loss",
        "train_lm_loss",
    ),
    "heldout_loss": ("heldout_loss", "eval_loss", "val_loss", "valid_loss", "validation_loss"),
    "seconds": (
        "seconds",
        "_runtime",
        "runtime",
        "elapsed",
        "elapsed_seconds",
        "wall_time",
        "relative_time",
        "time",
    ),
    "stamp": ("_timestamp", "timestamp"),
    "step_seconds": (
        "step_seconds",
        "step_time",
        "step_time_s",
        "iteration_time",
        "time_per_step",
        "seconds_per_step",
        "time_metrics_end_to_end_s",
        "elapsed_time_per_iteration_s",
    ),
    "step_ms": ("step_ms", "step_time_ms", "iteration_time_ms", "elapsed_time_per_iteration_ms"),
    "step_rate": ("steps_per_second", "train_steps_per_second", "it_s"),
    "rate": (
        "tokens_per_second",
        "tokens_per_sec",
        "tokens_s",
        "train_tokens_per_second",
        "throughput_tokens_s",
    ),
    "rate_each": (
        "throughput_tps",
        "tps",
        "tokens_per_second_per_gpu",
        "tokens_per_sec_per_gpu",
        "tok_s_gpu",
    ),
}
_KNOWN = {name: key for key, names in _COLUMNS.items() for name in names}
# torchtitan's line on the terminal: "step: 10  loss: 7.1  ...  tps: 5,412  tflops: ...  mfu: 38.1%".
_LINE = re.compile(r"\b(step|loss|tps):\s*([0-9][0-9.,e+-]*)")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# The start of a run (compilation, caches) says nothing of the rest; of the end, so much is its loss.
_WARM_SHARE, _END_SHARE = 0.1, 0.05
_WORDS = ("device", "devices", "count", "nodes", "batch_tokens", "config", "shape", "params")


@dataclass(frozen=True, kw_only=True, slots=True)
class PastRun:
    """A run that somebody did. `seconds_per_token` is of all its devices; NaN: the log does not tell.

    `peak_flops` are dense FLOP/s of its devices at its precision; NaN for a CPU.
    """

    name: str
    params: float
    flops_per_token: float
    tokens: float
    seconds_per_token: float
    batch_tokens: float
    loss: float
    layout: Layout = field(default_factory=Layout)
    device: str = ""
    peak_flops: float = math.nan
    intervals: int = 0

    @property
    def has_settled(self) -> bool:
        """Whether its loss says something of a law: 400 steps and 2 tokens a parameter (docs/log.md)."""
        return self.tokens >= 2 * self.params and not self.tokens / self.batch_tokens < MIN_STEPS

    def observation(self) -> Observation:
        """The run as the fit of throughput sees it."""
        notes: dict[str, float | str] = {"past": 1.0, "threads": self.layout.threads}
        notes |= {"processes": self.layout.processes, "device": self.device}
        if math.isfinite(self.batch_tokens):
            notes["batch_tokens"] = self.batch_tokens
        if math.isfinite(self.peak_flops):
            notes["peak_flops"] = self.peak_flops
        return Observation(
            run=self.name,
            params=self.params,
            tokens=self.tokens,
            loss=self.loss,
            flops=self.flops_per_token * self.tokens,
            seconds=self.seconds_per_token * self.tokens,
            notes=notes,
        )

    def line(self) -> str:
        """One line for people: tokens/s, MFU, step seconds, loss."""
        words = [f"{1 / self.seconds_per_token:,.0f} tokens/s"]
        if math.isfinite(self.peak_flops):
            words.append(f"{self.flops_per_token / self.seconds_per_token / self.peak_flops:.1%} MFU")
        if math.isfinite(self.batch_tokens):
            words.append(f"{self.seconds_per_token * self.batch_tokens:.3g} s a step")
        words[-1] += f" (median of {self.intervals})"
        if math.isfinite(self.loss):
            words.append(f"loss {self.loss:.4g}" + ("" if self.has_settled else ", too early for the law"))
        return f"{self.name}: " + ", ".join(words)


def read_past_run(text: str, usual: Mapping[str, Any]) -> PastRun:
    """The run in a log, given as "FILE [device=ID devices=N batch_tokens=N layers=.. width=.., config=FILE]".

    `usual` holds shape (a Shape), device and devices for what neither the words nor the files beside it say,
    and `own`, the user's devices by id.

    Raises:
        PlanError: the log cannot be read, or lacks something; all that is missing is listed.
    """
    path, *words = text.split()
    told, shape = _told(words), None
    log = Path(path)
    rows = [_named(row) for row in _rows(log)]
    beside = _beside(log)
    if told.get("shape"):
        shape, _ = shape_from(told["shape"])
    plan = beside if isinstance(beside, Plan) else None
    shape = shape or (plan.shape if plan else beside) or usual.get("shape")
    layout, device = _where(plan, told, usual)
    peak = math.nan
    if device and device != "this":
        peak = find_device(device, usual.get("own")).peak(layout.precision) * layout.processes
    batch = float(told.get("batch_tokens", plan.recipe.batch_tokens if plan else _batch(rows)))
    params = float(told.get("params", count_params(shape).total if isinstance(shape, Shape) else math.nan))
    flops = train_flops_per_token(shape) if isinstance(shape, Shape) and "params" not in told else 6 * params
    rows = [{"tokens": row["step"] * batch, **row} if batch > 0 and "step" in row else row for row in rows]
    each, intervals = _seconds_per_token(rows, batch, layout.processes)
    tokens = max((row.get("tokens", math.nan) for row in rows), default=math.nan)
    missing = _missing(each, tokens, params, device, plan) or _too_fast(flops / each / peak, layout, device)
    if missing:
        raise PlanError(
            listed(f"{log} does not say enough to plan by", missing),
            got=", ".join(sorted({key for row in rows for key in row})) or "no column that is known",
            next_command=f'stepladder plan --from-run "{log} device=h100-sxm devices=8 config=config.json"',
        )
    return PastRun(
        name=log.stem if log.stem not in ("metrics", "trainer_state") else log.parent.name or log.stem,
        params=params,
        flops_per_token=flops,
        tokens=tokens,
        seconds_per_token=each,
        batch_tokens=batch,
        loss=_loss(rows),
        layout=layout,
        device=device,
        peak_flops=peak,
        intervals=intervals,
    )


def _told(words: Sequence[str]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    sizes = []
    for word in words:
        key, _, value = word.partition("=")
        if key in _WORDS:
            told["shape" if key == "config" else key] = _number(value)
        else:
            sizes.append(word)
    if sizes:
        told["shape"] = " ".join(sizes)
    return told


def _number(text: str) -> Any:
    if found := re.fullmatch(r"([0-9]*\.?[0-9]+(?:e[0-9]+)?)([kMBT]?)", text.replace("_", "")):
        return float(found[1]) * {"": 1, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}[found[2]]
    return text


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise PlanError(f"{path} cannot be read", got=error.strerror or str(error)) from error
    if path.suffix == ".csv":
        yield from csv.DictReader(text.splitlines())
        return
    if text.lstrip().startswith("{") and '"log_history"' in text:
        for row in json.loads(text)["log_history"]:
            # The last row is of the whole run, its loss included.
            yield {
                key: item for key, item in row.items() if key != "train_loss" or "train_runtime" not in row
            }
        return
    for line in text.splitlines():
        if line.lstrip().startswith("{"):
            try:
                value = json.loads(line)
            except ValueError:
                continue  # a line torn by a kill
            yield value
        elif found := dict(_LINE.findall(_COLOUR.sub("", line))):
            yield found


def _named(row: Mapping[str, Any]) -> dict[str, float]:
    """The row's numbers by our names; of two names for one thing the first counts."""
    found: dict[str, float] = {}
    for column, value in row.items():
        key = _KNOWN.get(
            re.sub(r"[^a-z0-9]+", "_", str(column).lower().replace("train/", "train_")).rstrip("_")
        )
        try:
            number = float(str(value).replace(",", ""))
        except ValueError:
            continue
        if key and math.isfinite(number) and key not in found:
            found[key] = number
    return found


def _beside(log: Path) -> Plan | Shape | None:
    """The plan of a run of ours, or the shape in a config.json that lies in the same folder."""
    for name in ("plan.json", "config.json"):
        if (log.parent / name).exists():
            try:
                if name == "plan.json":
                    return from_json(Plan, read_json(log.parent / name))
                return shape_from(str(log.parent / name))[0]
            except (StoreError, PlanError):
                continue
    return None


def _where(plan: Plan | None, told: Mapping[str, Any], usual: Mapping[str, Any]) -> tuple[Layout, str]:
    device = str(told.get("device", "" if plan and plan.layout.device == "cpu" else usual.get("device", "")))
    if plan:
        return plan.layout, "" if plan.layout.device == "cpu" else device
    nodes = int(told.get("nodes", 1))
    count = int(told.get("devices", told.get("count", 0) * nodes) or usual.get("devices", 0))
    if not count:
        device = ""
    known = find_device(device, usual.get("own")) if device and device != "this" else None
    precision = "bf16" if known and "bf16" in known.peaks else "fp32"
    return Layout(
        device="cuda" if known else "cpu", processes=max(count, 1), nodes=nodes, precision=precision
    ), device


def _batch(rows: Sequence[Mapping[str, float]]) -> float:
    """Tokens of a step, where rows count both."""
    both = [(row["step"], row["tokens"]) for row in rows if row.get("step", 0) > 0 and "tokens" in row]
    if len(both) < 2 or both[-1][0] <= both[0][0]:
        return math.nan
    return (both[-1][1] - both[0][1]) / (both[-1][0] - both[0][0])


def _seconds_per_token(rows: Sequence[Mapping[str, float]], batch: float, devices: int) -> tuple[float, int]:
    """Median over the run without its start, and over how many rows: of what the log measured itself, else of
    the clock between its rows."""
    warm = [row for row in rows if len(row) > 1][int(_WARM_SHARE * len(rows)) :]
    ways = (
        [1 / row["rate"] for row in warm if row.get("rate", 0) > 0],
        [1 / (devices * row["rate_each"]) for row in warm if row.get("rate_each", 0) > 0],
        [row["step_seconds"] / batch for row in warm if row.get("step_seconds", 0) > 0],
        [1 / row["step_rate"] / batch for row in warm if row.get("step_rate", 0) > 0],
        [row["step_ms"] / 1e3 / batch for row in warm if row.get("step_ms", 0) > 0],
        _between(warm, "seconds"),
        _between(warm, "stamp"),
    )
    for values in ways:
        known = [value for value in values if math.isfinite(value)]
        if known:
            return median(known), len(known)
    return math.nan, 0


def _between(rows: Sequence[Mapping[str, float]], clock: str) -> list[float]:
    both = [(row["tokens"], row[clock]) for row in rows if "tokens" in row and clock in row]
    return [
        (after[1] - before[1]) / (after[0] - before[0])
        for before, after in pairwise(both)
        if after[0] > before[0] and after[1] > before[1]
    ]


def _loss(rows: Sequence[Mapping[str, float]]) -> float:
    """Held-out loss where the log has one, else the mean training loss of the end, nats per token."""
    held = [row["heldout_loss"] for row in rows if "heldout_loss" in row]
    if held:
        return held[-1]
    trained = [row["loss"] for row in rows if "loss" in row]
    return fmean(trained[-max(int(_END_SHARE * len(trained)), 1) :]) if trained else math.nan


def _missing(each: float, tokens: float, params: float, device: str, plan: Plan | None) -> list[str]:
    lines = []
    if not math.isfinite(params):
        lines.append("the model: --shape, config=FILE, or layers=.. width=.. heads=.. after the file")
    if not math.isfinite(tokens):
        lines.append("tokens: a column tokens, or batch_tokens=N after the file for its steps")
    elif not math.isfinite(each):
        lines.append(
            "time: a column seconds, step_seconds or tokens_per_second (with batch_tokens=N for steps)"
        )
    if not device and plan is None:
        lines.append("where it ran: device=ID devices=N after the file, or --device and --count")
    return lines


def _too_fast(share: float, layout: Layout, device: str) -> list[str]:
    said = f"{share:.0%} of the peak of {layout.processes} x {device}: a count or the model is wrong"
    return [said] if share > 1 else []


def past_runs(texts: Sequence[str], usual: Mapping[str, Any]) -> list[PastRun]:
    """One for each text; runs of one name get numbers."""
    found = [read_past_run(text, usual) for text in texts]
    return [
        replace(run, name=f"{run.name}-{at}") if len(found) > 1 else run for at, run in enumerate(found, 1)
    ]
