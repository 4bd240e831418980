"""The nouns of the project: frozen, keyword-only dataclasses, no I/O.

A stage is a function from nouns to nouns: Brief → Corpus → Observations → Law → Plan + Forecast → Run →
Score → Report. `to_json` and `from_json` convert (`jsonform.py`); files are written by `store`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stepladder.brief_nouns import Brief as Brief
from stepladder.brief_nouns import BudgetBrief as BudgetBrief
from stepladder.brief_nouns import CardBrief as CardBrief
from stepladder.brief_nouns import DataBrief as DataBrief
from stepladder.brief_nouns import GoalBrief as GoalBrief
from stepladder.brief_nouns import HardwareBrief as HardwareBrief
from stepladder.brief_nouns import Objective as Objective
from stepladder.jsonform import from_json as from_json
from stepladder.jsonform import to_json as to_json
from stepladder.shape_nouns import ENCODER as ENCODER
from stepladder.shape_nouns import Experts as Experts
from stepladder.shape_nouns import Local as Local
from stepladder.shape_nouns import RopeScaling as RopeScaling
from stepladder.shape_nouns import Shape as Shape
from stepladder.shape_nouns import Variant as Variant


@dataclass(frozen=True, kw_only=True, slots=True)
class Derived:
    """A number that was derived: an 80 % interval, and the sentence that says how and from which source."""

    value: float
    low: float
    high: float
    how: str
    source: Literal["measured", "law", "catalogue", "rule", "prior", "user"] = "rule"


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A forecast value with its 80 and 95 % intervals."""

    value: float
    low80: float
    high80: float
    low95: float
    high95: float

    def held80(self, outcome: float) -> bool:
        """Whether the outcome lies inside the 80 % interval."""
        return self.low80 <= outcome <= self.high80

    def held95(self, outcome: float) -> bool:
        """Whether the outcome lies inside the 95 % interval."""
        return self.low95 <= outcome <= self.high95


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """One side of a corpus: whole documents, tokens, and the UTF-8 bytes that the tokens spell."""

    documents: int
    tokens: int
    num_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """Prepared data in a folder: shards, tokenizer, audit and card.

    input_documents = kept_documents + sum(removed.values()) + quarantined_documents, always.
    """

    input_bytes: int
    input_documents: int
    kept_documents: int
    quarantined_documents: int
    removed: Mapping[str, int]
    train: Split
    heldout: Split
    vocab_size: int
    seconds: float
    cpu_seconds: float
    fingerprint: str

    @property
    def tokens(self) -> int:
        """Training tokens; all are unique."""
        return self.train.tokens

    def to_keys(self, value: dict[str, Any]) -> dict[str, Any]:
        """`tokens` stands in the file, too."""
        return {**value, "tokens": self.tokens}

    @staticmethod
    def from_keys(value: dict[str, Any]) -> dict[str, Any]:
        """Without `tokens`, which follows from `train`."""
        return {key: item for key, item in value.items() if key != "tokens"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How the weights are optimised. Rates are peak rates of the warm-up–stable–decay schedule."""

    batch_tokens: int
    embed_lr: float
    head_lr: float
    hidden_lr: float
    optimiser: Literal["adamw", "muon"] = "adamw"
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.95
    warmup_share: float = 0.02
    decay_share: float = 0.3
    grad_clip: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Degrees:
    """How many processes share one model, and in which way; the others are data replicas.

    `shard_group` is the number of processes that hold one copy of the state when shard is "hsdp". A process
    runs `stages` stages of the pipeline ("1f1b": 1, "zbv": 2). `expert` data replicas share out the experts
    of a mixture; they read different sequences, so they are not among those that work on the same.
    """

    tensor: int = 1
    pipeline: int = 1
    context: int = 1
    expert: int = 1
    shard_group: int = 1
    schedule: Literal["1f1b", "gpipe", "interleaved", "zero_bubble", "zbv"] = "1f1b"
    stages: int = 1

    @property
    def model(self) -> int:
        """Processes that work on the same sequences."""
        return self.tensor * self.pipeline * self.context


# Fields of a layout that [override] turns on.
SWITCHES = ("float8", "cuda_graphs")


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Where the run is computed. `threads` are per process (CPU).

    `processes` is the product of tensor, pipeline and context degrees and of the data replicas, whose state
    is whole ("ddp"), sharded ("fsdp") or sharded in groups ("hsdp"). `float8` and `cuda_graphs` are only
    taken where the user says so.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    processes: int = 1
    nodes: int = 1
    threads: int = 1
    precision: Literal["bf16", "fp32"] = "fp32"
    shard: Literal["none", "ddp", "fsdp", "hsdp"] = "none"
    degrees: Degrees = field(default_factory=Degrees)
    micro_batch_sequences: int = 0
    recompute: Literal["none", "selective", "full"] = "none"
    float8: bool = False
    cuda_graphs: bool = False

    def to_keys(self, value: dict[str, Any]) -> dict[str, Any]:
        """Switches stand in the file where they are on: layouts of before they existed stay the same."""
        return {key: item for key, item in value.items() if key not in SWITCHES or item}


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """One finished training run as the laws see it. `loss` is in the unit that the table's header names.

    `notes` holds further columns: lr, batch_tokens, in_context_score, peak_bytes, excluded (a reason).
    """

    run: str
    params: float
    tokens: float
    loss: float
    seed: int = 0
    nonembed_params: float = math.nan
    unique_tokens: float = math.nan
    flops: float = math.nan
    seconds: float = math.nan
    joules: float = math.nan
    weight: float = 1.0
    notes: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What a run reads: windows of the joined text, or documents packed and masked, mixed by source.

    `weights` are shares of the samples by source, `epochs` passes over a source; what neither names is left
    out (with neither: sources count as they are large). `unique` is the share of each source that is read.
    """

    packing: Literal["windows", "documents"] = "windows"
    weights: Mapping[str, float] = field(default_factory=dict)
    epochs: Mapping[str, float] = field(default_factory=dict)
    unique: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Everything that a training run needs, and why. A rung of the ladder is a small plan.

    `numbers` has at least params, tokens, batch_tokens, learning_rate, seconds, usd, kwh, kg_co2e; in JSON
    each is a top-level key. `limits` gives, for each limit of the brief, the probability of breaking it.
    `corpus` is the folder of the corpus, relative to the plan's own folder or absolute.
    """

    name: str
    corpus: str
    shape: Shape
    recipe: Recipe
    layout: Layout
    seed: int
    numbers: Mapping[str, Derived]
    alternatives: tuple[Mapping[str, Any], ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)
    objective: Objective = "causal"
    corpus_fingerprint: str = ""
    order: Order = field(default_factory=Order)

    @property
    def tokens(self) -> int:
        """Training tokens of the run, a whole number of steps."""
        return round(self.numbers["tokens"].value)

    @property
    def steps(self) -> int:
        """Optimiser steps of the run."""
        return self.tokens // self.recipe.batch_tokens

    def to_keys(self, value: dict[str, Any]) -> dict[str, Any]:
        """Each of `numbers` is a top-level key."""
        numbers = value.pop("numbers")
        if self.order == Order():
            value.pop("order")  # plans of before it existed stay the same
        return {**value, **numbers}

    @staticmethod
    def from_keys(value: dict[str, Any]) -> dict[str, Any]:
        """Keys that are no fields are numbers; `stepladder plan --json` adds two that follow from them."""
        value = {key: item for key, item in value.items() if key not in ("spread", "measurements")}
        known = set(Plan.__dataclass_fields__)
        numbers = {key: item for key, item in value.items() if key not in known}
        fields = {key: item for key, item in value.items() if key in known}
        fields["layout"] = _named_degrees(fields.get("layout"))
        return {**fields, "numbers": numbers}


@dataclass(frozen=True, kw_only=True, slots=True)
class Energy:
    """What a run used, and which counters say so; a source that begins with "estimate" is no measurement."""

    joules: float
    source: str = ""

    @property
    def is_measured(self) -> bool:
        """Whether counters alone gave the figure (runs of before sources were recorded: no)."""
        return bool(self.source) and not self.source.startswith("estimate")


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A finished training run: what it cost and where its loss ended. Losses are nats per token.

    In JSON `energy` is the two top-level keys `joules` and `energy_source`.
    """

    name: str
    params: int
    tokens: int
    steps: int
    loss: float
    heldout_loss: float
    heldout_bits_per_byte: float
    in_context_score: float
    seconds: float
    energy: Energy
    peak_bytes: int
    status: str = "ok"

    @property
    def joules(self) -> float:
        """Energy in joules."""
        return self.energy.joules

    def to_keys(self, value: dict[str, Any]) -> dict[str, Any]:
        """The energy as two top-level keys."""
        energy = value.pop("energy")
        return {**value, "joules": energy["joules"], "energy_source": energy["source"]}

    @staticmethod
    def from_keys(value: dict[str, Any]) -> dict[str, Any]:
        """`energy_source` is younger than some runs."""
        if "joules" in value:
            value["energy"] = {"joules": value.pop("joules"), "source": value.pop("energy_source", "")}
        return value


@dataclass(frozen=True, kw_only=True, slots=True)
class Law:
    """A fitted scaling law. `terms` are its constants, `quality` the figures of fit and certification.

    `spread` holds what the intervals need (rollout error, bootstrap draws of the terms).
    """

    form: str
    terms: Mapping[str, float]
    loss_unit: str
    size_column: str
    points: int
    largest_flops: float
    quality: Mapping[str, float]
    spread: Mapping[str, Any]
    warnings: tuple[str, ...] = ()
    refusal: str = ""
    fingerprint: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What a law says of a run before it starts. Frozen: `fingerprint` covers every other field.

    `costs` holds seconds, kwh and usd with their intervals where throughput was measured.
    """

    run: str
    params: float
    tokens: float
    loss: Interval
    loss_unit: str
    status: Literal["ok", "refused"] = "ok"
    reason: str = ""
    costs: Mapping[str, Interval] = field(default_factory=dict)
    horizon: float = math.nan
    law_fingerprint: str = ""
    created: str = ""
    fingerprint: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One forecast quantity beside its outcome."""

    run: str
    quantity: str
    forecast: Interval
    outcome: float

    @property
    def relative_error(self) -> float:
        """(forecast - outcome) / outcome: positive means that the forecast was pessimistic for a loss.

        Infinite where a task's score is 0 and something else was forecast.
        """
        if not self.outcome:
            return math.inf if self.forecast.value > 0 else 0.0
        return self.forecast.value / self.outcome - 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskResult:
    """One row of a task table: a metric of one method on one test set, with a bootstrap interval of 95 %."""

    task: str
    method: str
    metric: str
    value: float
    low: float
    high: float
    examples: int
    seconds: float = math.nan
    seeds: int = 1
    notes: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Where the report lies and what it says in one line each."""

    path: str
    headlines: tuple[str, ...]


def _named_degrees(layout: Any) -> Any:
    """A layout as written before its degrees had a table of their own."""
    if not isinstance(layout, dict) or "tensor_parallel" not in layout:
        return layout
    degrees = {name: layout[f"{name}_parallel"] for name in ("tensor", "pipeline", "context")}
    return {key: value for key, value in layout.items() if not key.endswith("_parallel")} | {
        "degrees": degrees
    }
