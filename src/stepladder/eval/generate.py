"""A network and a prompt's ids in; the ids that it continues with out (torch)."""

from pathlib import Path

import torch

from stepladder.data.tokens.tokenizer import load_tokenizer
from stepladder.models.export import find_tokenizer
from stepladder.models.hf import load_decoder
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
    vocabulary: int = 0,
) -> list[int]:
    """Up to `tokens` new ids, without `end`, at which it stops. Temperature 0 takes the likeliest id.
    Ids from `vocabulary` on, which no token has where the network's vocabulary is padded, are never taken.

    When prompt and answer outgrow the context, the network sees the last `context_tokens` ids. Each step
    computes the whole window: a cache of keys and values pays from widths that this loop is not made for.
    """
    generator = torch.Generator().manual_seed(seed)
    context, new = network.shape.context_tokens, []
    usable = vocabulary or network.shape.vocab_size
    for _ in range(tokens):
        window = (prompt + new)[-context:]
        logits_V = network(torch.tensor([window]))[0, -1, :usable].float()
        if temperature > 0:
            chances = torch.softmax(logits_V / temperature, dim=-1)
            token = int(torch.multinomial(chances, 1, generator=generator))
        else:
            token = int(logits_V.argmax())
        if token == end:
            break
        new.append(token)
    return new


def complete_text(
    folder: Path,
    prompt: str,
    tokens: int,
    *,
    tokenizer: Path | None = None,
    temperature: float = 0.0,
    seed: int = 0,
) -> str:
    """The text that a run or Qwen3 folder continues `prompt` with.

    Raises:
        ExportError: the folder holds no weights or no tokenizer.
    """
    network = load_decoder(folder)
    path = tokenizer if tokenizer is not None else find_tokenizer(folder)
    words = load_tokenizer(path)
    # In training every document follows the end of another one.
    ids = [*words.start_ids, *words.encode(prompt)]
    new = generate(
        network,
        ids,
        tokens,
        end=words.end_id,
        temperature=temperature,
        seed=seed,
        vocabulary=min(words.vocab_size, network.shape.vocab_size),
    )
    return words.decode(new)
