"""Piece numbers of packed documents in; a mask by blocks, and attention that skips its empty blocks, out."""

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention


def document_blocks(document_BT: Tensor) -> BlockMask:
    """Query i sees key j where both have the same piece number (B, T) and j <= i. Keeps no (T, T) tensor."""

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (document_BT[batch, query] == document_BT[batch, key]) & (key <= query)

    batch, tokens = document_BT.shape
    device = document_BT.device.type
    return create_block_mask(sees, batch, None, tokens, tokens, device=device, _compile=device == "cuda")


def attend_blocks(q_BHTE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor, mask: BlockMask) -> Tensor:
    """(B, H, T, E). Compiled on a GPU: eager FlexAttention writes all scores out, and is for tests."""
    attend = _compiled() if q_BHTE.is_cuda else flex_attention
    return attend(q_BHTE, k_BHTE, v_BHTE, block_mask=mask)


@cache
def _compiled() -> Any:
    return torch.compile(flex_attention, dynamic=False)
