"""A network and a prompt's ids in; the ids that it continues with out (torch)."""

from collections.abc import Callable

import torch

from stepladder.models.transformer import Transformer


@torch.no_grad()
def generate(
    network: Transformer,
    prompt: list[int],
    tokens: int,
    *,
    end: int,
    temperature: float = 0.0,
    seed: int = 0,
    on_token: Callable[[int], None] | None = None,
) -> list[int]:
    """Up to `tokens` new ids, without `end`, at which it stops. Temperature 0 takes the likeliest id.

    When prompt and answer outgrow the context, the network sees the last `context_tokens` ids. Each step
    computes the whole window: a cache of keys and values pays from widths that this loop is not made for.
    """
    generator = torch.Generator().manual_seed(seed)
    context, new = network.shape.context_tokens, []
    for _ in range(tokens):
        window = (prompt + new)[-context:]
        logits_V = network(torch.tensor([window]))[0, -1].float()
        if temperature > 0:
            chances = torch.softmax(logits_V / temperature, dim=-1)
            token = int(torch.multinomial(chances, 1, generator=generator))
        else:
            token = int(logits_V.argmax())
        if token == end:
            break
        new.append(token)
        if on_token is not None:
            on_token(token)
    return new
