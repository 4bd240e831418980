"""What is believed before anything was measured: a loss law with a wide interval."""

import math
from collections.abc import Callable

from stepladder.plan.derive import Z80
from stepladder.records import Interval

LossLaw = Callable[[float, float], Interval]
# Chinchilla's data refitted by Besiroglu et al. (arXiv:2404.10102): nats per token of a 32k vocabulary on
# web text. Other corpora move the level by tens of per cent and the best ratio of tokens to parameters by a
# factor of two, hence the width (1 sigma of log loss); small models are outside that data, hence wider.
_E, _A, _B, _ALPHA, _BETA = 1.8172, 482.01, 2085.43, 0.3478, 0.3658
_LOG_SD, _SMALL_LOG_SD = 0.15, 0.15


def prior_loss_for(vocab_size: int) -> LossLaw:
    """Nats per token as a function of parameters and tokens: good for choosing a first size, not for
    promising a loss. It bends towards the loss of guessing, log(vocab_size), where the law would pass it."""
    room = math.log(vocab_size) - _E

    def loss(params: float, tokens: float) -> Interval:
        excess = _A / params**_ALPHA + _B / tokens**_BETA
        value = _E + room * excess / (room + excess)
        sd = _LOG_SD + _SMALL_LOG_SD * excess / (room + excess)
        factor80, factor95 = math.exp(Z80 * sd), math.exp(1.96 * sd)
        return Interval(
            value=value,
            low80=value / factor80,
            high80=value * factor80,
            low95=value / factor95,
            high95=value * factor95,
        )

    return loss


# Each further pass over the same text is worth less: D' = U + U R* (1 - exp(-R / R*)) with R repeats beyond
# the first pass and R* = 15.39 (arXiv:2305.16264 eq. 5, §6); four passes are nearly as good as new text.
_REPEAT_VALUE = 15.39
USUAL_EPOCHS = 4.0


def useful_tokens(tokens: float, unique_tokens: float) -> float:
    """Unique tokens that would teach as much as `tokens` drawn from `unique_tokens` in whole passes."""
    if not math.isfinite(unique_tokens) or tokens <= unique_tokens:
        return tokens
    repeats = tokens / unique_tokens - 1
    return unique_tokens * (1 + _REPEAT_VALUE * (1 - math.exp(-repeats / _REPEAT_VALUE)))
