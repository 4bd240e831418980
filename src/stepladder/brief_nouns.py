"""What a user asks for: the nouns of stepladder.toml (`brief.py` reads the file)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Objective = Literal["causal", "masked"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DataBrief:
    """[data]: what to train on. `held_out` is a share of the source files, or a path of its own."""

    sources: tuple[str, ...]
    held_out: float | str = 0.05
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class HardwareBrief:
    """[hardware]: what it runs on. `device` is an id of the catalogue or "this" for this machine."""

    device: str = "this"
    count: int = 1
    nodes: int = 1
    region: str = "world"


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetBrief:
    """[budget]: limits for ladder and target together; any that is None does not bind."""

    hours: float | None = None
    usd: float | None = None
    kwh: float | None = None
    kg_co2e: float | None = None
    ladder_share: float = 0.4


@dataclass(frozen=True, kw_only=True, slots=True)
class GoalBrief:
    """[goal]: what to make small, and what to reach."""

    minimise: Literal["loss", "usd", "kwh", "kg_co2e", "seconds"] = "loss"
    target_loss: float | None = None
    max_params: int | None = None
    inference_tokens: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class CardBrief:
    """[card]: what only a person can state of the model and its text; "" is printed as NOT STATED.

    `license` is that of the weights and `data_license` that of the corpus: SPDX names, or a sentence.
    """

    license: str = ""
    data_license: str = ""
    provider: str = ""
    contact: str = ""
    intended_use: str = ""
    out_of_scope: str = ""
    risks: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Brief:
    """The user's file, stepladder.toml."""

    name: str
    objective: Objective = "causal"
    data: DataBrief
    hardware: HardwareBrief = field(default_factory=HardwareBrief)
    budget: BudgetBrief = field(default_factory=BudgetBrief)
    goal: GoalBrief = field(default_factory=GoalBrief)
    card: CardBrief = field(default_factory=CardBrief)
    override: Mapping[str, float | int | str | bool] = field(default_factory=dict)
