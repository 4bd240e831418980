import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stepladder.train.batches import BatchSource
from stepladder.train.head import HeadLoss, row_losses
from stepladder.train.objective import NextToken
from stepladder.train.parallel import Ranks

CPU = Ranks(rank=0, world=1, device=torch.device("cpu"))


@pytest.mark.parametrize("rows", [1, 700])
def test_head_loss_and_gradients_are_cross_entropy(rows: int) -> None:
    """700 rows of 1,000 logits take three chunks."""
    draw = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 24, generator=draw, requires_grad=True) for n in (rows, 1000))
    targets = torch.randint(0, 1000, (rows,), generator=draw)
    wanted = F.cross_entropy(hidden @ weight.T, targets, reduction="sum")
    wanted_grads = torch.autograd.grad(wanted * 0.5, (hidden, weight))
    loss = HeadLoss.apply(hidden, weight, targets)
    torch.testing.assert_close(wanted, loss)
    for expected, actual in zip(wanted_grads, torch.autograd.grad(loss * 0.5, (hidden, weight)), strict=True):
        torch.testing.assert_close(expected, actual, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(wanted, row_losses(hidden.detach(), weight.detach(), targets).sum())


def test_bf16_keeps_the_softmax_in_fp32() -> None:
    draw = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(256, 64, generator=draw), torch.randn(512, 64, generator=draw)
    targets = torch.randint(0, 512, (256,), generator=draw)
    exact = F.cross_entropy(hidden @ weight.T, targets, reduction="sum")
    with torch.autocast("cpu", torch.bfloat16):
        loss = HeadLoss.apply(hidden, weight, targets)
    assert loss.dtype == torch.float32
    assert abs(loss.item() / exact.item() - 1) < 2e-3


def test_held_out_figures_of_a_model_with_known_losses() -> None:
    """A model that knows each token but the one at position 10 of 128 loses exactly there."""

    class Split:
        tokens = np.zeros(128 * 3 + 1, dtype=np.uint16)

    class Model:
        lm_head = torch.nn.Linear(1, 2, bias=False)

        def hidden(self, ids: torch.Tensor) -> torch.Tensor:
            states = torch.full((*ids.shape, 1), 50.0)
            states[:, 50] = 0.0
            return states

    model = Model()
    with torch.no_grad():
        model.lm_head.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    source = BatchSource(Split(), 128, 1, 0)
    figures = NextToken(source, np.arange(3), 2.0, CPU).evaluate(model)  # type: ignore[arg-type]
    # ln 2 at one position of 128, which is one of the twenty early ones (40 to 60).
    assert (
        pytest.approx(
            {
                "heldout_loss": np.log(2) / 128,
                "heldout_bits_per_byte": 1 / 128 / 2,
                "in_context_score": np.log(2) / 20,
                "heldout_tokens": 384,
            }
        )
        == figures
    )
