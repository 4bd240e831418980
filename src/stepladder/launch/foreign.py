"""A plan in; what files for other trainers have in common out: names, rates, times, the starting command."""

from dataclasses import replace

from stepladder.errors import PlanError
from stepladder.plan.rates import recipe_for
from stepladder.records import SWITCHES, Plan, Variant
from stepladder.units import format_count


def check_family(plan: Plan, trainer: str) -> None:
    """Both write our own kind of block (that of Qwen3) and no other.

    Raises:
        PlanError: an encoder, a family whose blocks differ, or a switch of our trainer.
    """
    if on := [name for name in SWITCHES if getattr(plan.layout, name)]:
        raise PlanError(
            f"{' and '.join(on)} of other trainers is not written out: their recipes differ",
            allowed="a plan without",
            next_command=f"set {on[0]} = false in [override] and plan again",
        )
    if not plan.shape.causal:
        raise PlanError(f"{trainer} trains decoders only", got='objective = "masked"')
    variant, usual = plan.shape.variant, Variant()
    same = replace(variant, rope_theta=usual.rope_theta, norm_eps=usual.norm_eps)
    different = [name for name in Variant.__dataclass_fields__ if getattr(same, name) != getattr(usual, name)]
    if different or not variant.rope_theta:
        raise PlanError(
            f"the files for {trainer} are of Qwen3's blocks",
            got=", ".join(f"{name} = {getattr(variant, name)}" for name in different or ["rope_theta"]),
            next_command="stepladder plan --emit torchrun",
        )


def facts(plan: Plan) -> dict[str, str]:
    rates = "all matrices learn at AdamW's rate for the hidden ones"
    return {
        "name": plan.name.replace("\n", " "),
        "size": format_count(plan.numbers["params"].value),
        "tokens": format_count(plan.tokens),
        "processes": str(plan.layout.processes),
        "rates": rates,
    }


def adamw_rate(plan: Plan) -> float:
    """The rate of the hidden matrices; under the plan's Muon, what the same rule gives AdamW."""
    if plan.recipe.optimiser == "adamw":
        return plan.recipe.hidden_lr
    return recipe_for(
        plan.shape, plan.tokens, optimiser="adamw", batch_tokens=plan.recipe.batch_tokens
    ).hidden_lr


def checkpoint_interval(plan: Plan) -> int:
    """Steps between checkpoints: about half an hour, as far as the plan knows."""
    each = plan.numbers["seconds"].value / max(plan.steps, 1)
    return max(min(round(1_800 / each), plan.steps), 1) if each > 0 else 500


def run_script(words: str, plan: Plan, environment: str, note: str = "") -> str:
    layout = plan.layout
    here = layout.processes // layout.nodes
    meeting = "--standalone"
    if layout.nodes > 1:
        meeting = f'--nnodes {layout.nodes} --node-rank "$NODE_RANK" '
        meeting += '--master-addr "$MASTER_ADDR" --master-port 29500'
    comment = f"# {note}\n" if note else ""
    start = f"{environment}torchrun {meeting} --nproc-per-node {here}"
    return f'#!/bin/bash\nset -eu\n{comment}cd "$(dirname "$0")"\n{start} {words}\n'
