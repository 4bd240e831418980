"""Masks by blocks against dense ones: attention, and the loss of packed documents with all gradients."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import flex_attention as flex

from stepladder.models.blockmask import attend_blocks, document_blocks
from stepladder.models.shape import shape_for_width
from stepladder.train import worker
from stepladder.train.batches import BatchSource
from stepladder.train.objective import NextToken
from stepladder.train.packing import Packed, mask_of
from stepladder.train.parallel import Ranks

# Uncompiled FlexAttention warns that it writes out all scores, which is what is wanted here.
CPU = Ranks(rank=0, world=1, device=torch.device("cpu"))
pytestmark = [
    pytest.mark.filterwarnings("ignore:flex_attention called without"),
    # The tracer of the uncompiled call looks for gradients of tensors in between.
    pytest.mark.filterwarnings("ignore:The .grad attribute"),
]


@pytest.fixture(autouse=True)
def backward_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.13 refuses gradients on a CPU by a check at the door; the uncompiled mathematics has them."""
    monkeypatch.setattr(flex, "_validate_device", lambda *tensors: None)


class Split:
    tokens = np.zeros(81, dtype=np.uint16)


def documents(batch: int, tokens: int) -> np.ndarray:
    return np.sort(np.random.default_rng(0).integers(0, 4, (batch, tokens)), axis=1).astype(np.int32)


def test_attention_by_blocks_is_attention_with_a_dense_mask() -> None:
    tokens = 200  # more than a block of 128, and not a multiple of it
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, tokens, 16, generator=draw).requires_grad_() for _ in range(3))
    document = documents(2, tokens)
    dense = torch.from_numpy(mask_of(document))[:, None]

    def both(out: Tensor) -> tuple[Tensor, ...]:
        return out, *torch.autograd.grad(out.square().sum(), (q, k, v))

    expected = both(F.scaled_dot_product_attention(q, k, v, attn_mask=dense))
    actual = both(attend_blocks(q, k, v, document_blocks(torch.from_numpy(document))))
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_the_loss_of_packed_documents_is_the_same_by_blocks() -> None:
    shape = shape_for_width(32, 2, vocab_size=64, context_tokens=40)
    tokens = np.random.default_rng(1).integers(0, 64, (3, 41))
    document = documents(3, 41)
    batch = Packed(tokens=tokens, document=document)
    source = BatchSource(Split(), 40, 1, 0)
    objective = NextToken(source, np.arange(1), 1.0, CPU)
    found = []
    for attention in ("sdpa", "flex"):
        model = worker.build_model(shape, 0, attention)
        with torch.no_grad():
            model.lm_head.weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(2))
        loss = objective.loss(model, batch)
        found.append((loss, *torch.autograd.grad(loss, list(model.parameters()))))
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-5)
