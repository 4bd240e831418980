"""A plan that ran, with its step seconds and peak bytes, in; a row of measured.csv out, and back.

Columns are those of `stepladder plan --configs`; what they have no place for stands in `extra` as
key=value pairs.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stepladder.errors import PlanError
from stepladder.models.count import count_params, train_flops_per_token
from stepladder.plan.layout import mesh_sizes, micro_sequences
from stepladder.records import Degrees, Experts, Layout, Observation, Plan, Recipe, Shape
from stepladder.store import write_text

MEASURED_FILE, FRAMEWORK = "measured.csv", "stepladder"
_ZERO = {"none": 0, "ddp": 0, "fsdp": 3, "hsdp": 3}


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredStep:
    """One configuration of our trainer and what its steps took. `hw` is "cpu" or an id of the catalogue.

    `peak_bytes` is of one process: resident on a CPU, allocated by torch on a GPU.
    """

    name: str
    hw: str
    shape: Shape
    recipe: Recipe
    layout: Layout
    seconds: float
    peak_bytes: float


def step_of(plan: Plan, seconds: float, peak_bytes: float, hw: str) -> MeasuredStep:
    """What a run of `plan` measured."""
    return MeasuredStep(
        name=plan.name,
        hw=hw,
        shape=plan.shape,
        recipe=plan.recipe,
        layout=plan.layout,
        seconds=seconds,
        peak_bytes=peak_bytes,
    )


def observation_of(step: MeasuredStep) -> Observation:
    """One step as a run, for what fits seconds."""
    flops = train_flops_per_token(step.shape) * step.recipe.batch_tokens
    return Observation(
        run=step.name,
        params=count_params(step.shape).total,
        tokens=step.recipe.batch_tokens,
        loss=math.nan,
        flops=flops,
        seconds=step.seconds,
        notes={
            "batch_tokens": step.recipe.batch_tokens,
            "threads": step.layout.threads,
            "processes": step.layout.processes,
        },
    )


def write_measured(path: Path, steps: Sequence[MeasuredStep]) -> None:
    """The CSV that `stepladder plan --measured` reads; at least one row."""
    text = io.StringIO()
    rows = [row_of(step) for step in steps]
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_measured(path: Path) -> list[MeasuredStep]:
    """The rows of our own trainer; those of others stay with `--configs`.

    Raises:
        PlanError: not a CSV, or a row of ours that lacks a number.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row.get("framework") == FRAMEWORK]
        return [_step(row) for row in rows if row.get("step_s")]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, ValueError) as error:
        raise PlanError(
            f"{path} is not a table of measured steps",
            got=f"{type(error).__name__}: {error}",
            allowed="the columns that stepladder calibrate writes",
            next_command=f"stepladder calibrate --out {path}",
        ) from error


def row_of(step: MeasuredStep) -> dict[str, str | float | int]:
    """Cells by column."""
    shape, layout, sizes = step.shape, step.layout, mesh_sizes(step.layout)
    degrees = layout.degrees
    batch = step.recipe.batch_tokens // shape.context_tokens
    each = max(batch // sizes.data, 1)
    micro = micro_sequences(layout, each)
    is_cpu = layout.device == "cpu"
    return {
        "id": step.name,
        "hw": step.hw,
        "gpn": layout.processes // layout.nodes,
        "gpus": layout.processes,
        "model": step.name,
        **_shape_cells(shape),
        "seq": shape.context_tokens,
        "dtype": layout.precision,
        "framework": FRAMEWORK,
        "zero": _ZERO[layout.shard],
        "dp": sizes.data,
        "tp": degrees.tensor,
        "sp": int(degrees.tensor > 1),
        "pp": degrees.pipeline,
        "vpp": degrees.stages,
        "cp": degrees.context,
        "ep": degrees.expert,
        "mbs": micro,
        "ga": each // micro,
        "gbs": batch,
        "recompute": layout.recompute,
        "flash": int(not is_cpu),
        "offload": 0,
        "extra": _extra(step),
        "step_s": f"{step.seconds:.6g}",
        "tok_s_gpu": f"{step.recipe.batch_tokens / step.seconds / layout.processes:.6g}",
        "primary": "step_s",
        "mem_gib": f"{step.peak_bytes / 2**30:.6g}" if math.isfinite(step.peak_bytes) else "",
        "mem_kind": "resident" if is_cpu else "torch-peak",
        "status": "ok",
    }


def _shape_cells(shape: Shape) -> dict[str, int | float]:
    return {
        "layers": shape.num_layers,
        "hidden": shape.width,
        "heads": shape.num_heads,
        "kv_heads": shape.num_kv_heads,
        "ffn": shape.ffn_width,
        "glu": 1,
        "vocab": shape.vocab_size,
        "tied": int(shape.tied_head),
        "experts": shape.experts.count,
        "topk": shape.experts.active,
        "moe_ffn": shape.experts.ffn_width,
        "params_b": count_params(shape).total / 1e9,
        "active_b": count_params(shape).active / 1e9,
    }


def _extra(step: MeasuredStep) -> str:
    """What the columns have no place for."""
    layout = step.layout
    extra = {
        "threads": layout.threads,
        "shard": layout.shard,
        "shard_group": layout.degrees.shard_group,
        "schedule": layout.degrees.schedule,
        "stages": layout.degrees.stages,
        "micro": layout.micro_batch_sequences,
        "head_dim": step.shape.head_dim,
        "optimiser": step.recipe.optimiser,
        "nodes": layout.nodes,
    }
    return ";".join(f"{key}={value}" for key, value in extra.items())


def _experts(row: Mapping[str, str]) -> Experts:
    """Their balance is not in the table: it costs no time."""
    count, active, width = (int(float(row.get(name) or 0)) for name in ("experts", "topk", "moe_ffn"))
    return Experts(count=count, active=active, ffn_width=width) if count else Experts()


def _step(row: Mapping[str, str]) -> MeasuredStep:
    extra = dict(pair.split("=", 1) for pair in row["extra"].split(";") if "=" in pair)
    whole = {
        name: int(float(row[name])) for name in ("layers", "hidden", "heads", "kv_heads", "ffn", "vocab")
    }
    context, batch = int(float(row["seq"])), int(float(row["gbs"]))
    return MeasuredStep(
        name=row["id"],
        hw=row["hw"],
        shape=Shape(
            num_layers=whole["layers"],
            width=whole["hidden"],
            num_heads=whole["heads"],
            num_kv_heads=whole["kv_heads"],
            head_dim=int(extra["head_dim"]),
            ffn_width=whole["ffn"],
            vocab_size=whole["vocab"],
            context_tokens=context,
            tied_head=row.get("tied") == "1",
            experts=_experts(row),
        ),
        recipe=Recipe(
            batch_tokens=batch * context,
            embed_lr=0.0,
            head_lr=0.0,
            hidden_lr=0.0,
            optimiser="muon" if extra["optimiser"] == "muon" else "adamw",
        ),
        layout=Layout(
            device="cpu" if row["hw"] == "cpu" else "cuda",
            processes=int(float(row["gpus"])),
            nodes=int(extra["nodes"]),
            threads=int(extra["threads"]),
            precision=row["dtype"],  # pyrefly: ignore[bad-argument-type]
            shard=extra["shard"],  # pyrefly: ignore[bad-argument-type]
            degrees=Degrees(
                tensor=int(float(row["tp"])),
                pipeline=int(float(row["pp"])),
                context=int(float(row["cp"])),
                expert=int(float(row.get("ep") or 1)),
                shard_group=int(extra["shard_group"]),
                schedule=extra["schedule"],  # pyrefly: ignore[bad-argument-type]
                stages=int(extra["stages"]),
            ),
            micro_batch_sequences=int(extra["micro"]),
            recompute=row["recompute"],  # pyrefly: ignore[bad-argument-type]
        ),
        seconds=float(row["step_s"]),
        peak_bytes=float(row["mem_gib"] or "nan") * 2**30,
    )
