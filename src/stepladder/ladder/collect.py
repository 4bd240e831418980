"""Folders of finished rungs in; observations (and observations.csv) out, with bad rungs kept out and told."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stepladder.models.count import count_params, train_flops_per_token
from stepladder.records import Observation, Plan, Run, from_json
from stepladder.store import read_json, write_text

# A rung that ends above a rung with no more parameters and no more tokens has been trained badly: seeds
# differ by 0.3-0.7 % (docs/log.md), so 2 % is no accident.
_WORSE_THAN_SMALLER = 1.02
LOSS_COLUMN = "loss_bits_per_byte"


def observe(folder: Path) -> Observation:
    """The observation of one finished run folder; loss in held-out bits per byte."""
    plan = from_json(Plan, read_json(folder / "plan.json"))
    run = from_json(Run, read_json(folder / "run.json"))
    excluded = {} if run.status == "ok" else {"excluded": run.status}
    return Observation(
        run=plan.name,
        seed=plan.seed,
        params=run.params,
        nonembed_params=count_params(plan.shape).nonembed,
        tokens=run.tokens,
        unique_tokens=run.tokens,
        flops=train_flops_per_token(plan.shape) * run.tokens,
        loss=run.heldout_bits_per_byte,
        seconds=run.seconds,
        joules=run.joules,
        notes={
            "width": plan.shape.width,
            "lr": plan.recipe.hidden_lr,
            "batch_tokens": plan.recipe.batch_tokens,
            "threads": plan.layout.threads,
            "processes": plan.layout.processes,
            "in_context_score": run.in_context_score,
            "peak_bytes": run.peak_bytes,
            "joules_source": run.energy.source,
            **({"experts": plan.shape.experts.count} if plan.shape.experts.count else {}),
            **excluded,
        },
    )


def flag_bad(observations: Sequence[Observation]) -> list[Observation]:
    """Mark rungs that diverged, or that lost to a rung with no more parameters and no more tokens."""
    flagged = []
    for row in observations:
        reason = row.notes.get("excluded", "")
        if not reason and not math.isfinite(row.loss):
            reason = "its loss is not a finite number"
        rivals = [
            other
            for other in observations
            if other is not row
            and (other.params, other.tokens) != (row.params, row.tokens)
            and other.params <= row.params
            and other.tokens <= row.tokens
            and not other.notes.get("excluded")
            and row.loss > _WORSE_THAN_SMALLER * other.loss
        ]
        if not reason and rivals:
            best = min(rivals, key=lambda other: other.loss)
            reason = f"worse than {best.run}, which has no more parameters and no more tokens: badly trained"
        flagged.append(replace(row, notes={**row.notes, "excluded": reason}) if reason else row)
    return flagged


def usable(observations: Sequence[Observation]) -> list[Observation]:
    """Observations without a reason for exclusion."""
    return [row for row in observations if not row.notes.get("excluded")]


def write_observations(path: Path, observations: Sequence[Observation]) -> None:
    """The CSV that `stepladder fit` reads; excluded rungs stay in it with weight 0 and their reason."""
    columns = observations_to_columns(observations)
    columns["weight"] = [0.0 if row.notes.get("excluded") else row.weight for row in observations]
    names = [LOSS_COLUMN if name == "loss" else name for name in columns]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for values in zip(*columns.values(), strict=True):
        writer.writerow(["" if isinstance(item, float) and math.isnan(item) else item for item in values])
    write_text(path, text.getvalue())


def observations_to_columns(observations: Iterable[Observation]) -> dict[str, list[Any]]:
    """Observations as columns, notes as further columns, in a fixed order."""
    rows = list(observations)
    names = [n for n in Observation.__dataclass_fields__ if n != "notes"]
    columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in rows] for name in names}
    for name in sorted({key for row in rows for key in row.notes}):
        columns[name] = [row.notes.get(name, "") for row in rows]
    return columns
