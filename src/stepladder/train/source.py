"""A plan and its corpus in; the batches that its order asks for, and packed splits, out."""

from pathlib import Path

from stepladder.data.tokens.shards import TokenArray, open_split
from stepladder.errors import StoreError, TrainError
from stepladder.plan.layout import micro_sequences
from stepladder.records import Plan
from stepladder.train.batches import BatchSource
from stepladder.train.mixture import mix
from stepladder.train.packing import PackedSource, Packing, open_packing

# What a run with an order of its own leaves of the held-out text (`heldout.py`).
SOURCES_FILE, DOCUMENTS_FILE = "heldout_sources.json", "heldout_documents.npz"


def training_batches(
    plan: Plan, corpus: Path, out: Path, ranks: tuple[int, int]
) -> BatchSource | PackedSource:
    """The batches of rank `ranks[0]` of `ranks[1]`.

    Raises:
        TrainError: the order names sources that the corpus does not have, or shares that cannot be met.
    """
    context, order = plan.shape.context_tokens, plan.order
    sequences = plan.recipe.batch_tokens // context
    split = open_split(corpus, "train")
    micro = micro_sequences(plan.layout, sequences // ranks[1])
    if order.packing == "windows":
        if order.weights or order.epochs or order.unique != 1:
            raise TrainError(
                "windows of the joined text cannot be mixed by source",
                got='order.packing "windows" with weights, epochs or a share that is unique',
                allowed='order.packing "documents"',
            )
        return BatchSource(split, context, sequences, plan.seed, ranks, micro)
    if not 0 < order.unique <= 1:
        raise TrainError(
            "the share of the text that is read is out of range",
            got=f"order.unique {order.unique}",
            allowed="above 0, at most 1",
        )
    packing = packed(split, corpus, out, context)
    mixture = mix(
        packing.source_names,
        packing.samples_per_source(order.unique),
        order.weights,
        order.epochs,
        plan.steps * sequences,
    )
    return PackedSource(split, packing, sequences, plan.seed, ranks, micro, mixture)


def packed(split: TokenArray, corpus: Path, out: Path, context: int) -> Packing:
    """The packing of a split, the same for every run; kept in the corpus, or in `out` if that is closed."""
    try:
        return open_packing(corpus / "packing", split, context, seed=0)
    except StoreError:
        return open_packing(out / "packing", split, context, seed=0)
