"""A job of tuning and its model in; the optimiser's recipe out (torch)."""

from pathlib import Path

from torch import nn

from stepladder.models.export import SHAPE_FILE, is_own_export, read_shape, weights_folder
from stepladder.records import Recipe
from stepladder.tune.heads import TaskModel
from stepladder.tune.run import TuneJob

# Peak rates of a classifier from scratch at width 64; own networks are tuned with the same (docs/log.md).
_EMBED_LR, _HEAD_LR, _HIDDEN_LR = 1.6e-2, 3e-3, 3e-3
# Adapters start at nothing and bear more.
_LORA = 3.0
# Networks of others were trained for long and bear less: 2e-5 to 5e-5 at a width of 768 (Devlin et al. 2019,
# appendix A.3), and ten times that with LoRA (Hu et al. 2021, tables 9 to 11). Here 4e-5 and 4e-4.
_FOREIGN, _FOREIGN_LORA = 0.16, 1.6
# Own tables that are not also the head begin at a deviation of 1, tied ones at width^-1/2, others at .02.
_SMALL_RMS = 0.3


def recipe_of(job: TuneJob, model: nn.Module, batch_examples: int) -> Recipe:
    """Rates by width and method, times the user's `rate`; those of small embeddings follow their size.

    A network counts as foreign when neither a shape of ours nor the mark of our export lies beside its
    weights and its embeddings are small.
    """
    source = weights_folder(Path(job.model))
    width, rms, is_foreign = read_shape(source).width, 1.0, False
    if isinstance(model, TaskModel):
        rms = float(model.network.embed_tokens.weight.detach().float().square().mean().sqrt())
        is_own = (source / SHAPE_FILE).exists() or is_own_export(source)
        is_foreign = rms < _SMALL_RMS and job.method != "scratch" and not is_own
    factor = 1.0 if job.method == "scratch" else job.options.rate
    if job.method == "lora":
        factor *= _FOREIGN_LORA if is_foreign else _LORA
    elif is_foreign:
        factor *= _FOREIGN
    return Recipe(
        batch_tokens=batch_examples,
        embed_lr=_EMBED_LR * factor * (rms if rms < _SMALL_RMS else 1.0),
        head_lr=_HEAD_LR * 64 / width * factor,
        hidden_lr=_HIDDEN_LR * 64 / width * factor,
        weight_decay=job.options.weight_decay,
        beta2=0.99,
        warmup_share=0.1,
        decay_share=0.5,
    )
