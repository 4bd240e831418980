"""A decoder's folder and a prompt in; the text that it goes on with, piece by piece or whole, out (torch)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stepladder.data.tokens.foreign import ForeignTokenizer
from stepladder.data.tokens.tokenizer import Tokenizer, load_tokenizer
from stepladder.models.export import find_tokenizer
from stepladder.models.generate import Sampling, stream
from stepladder.models.hf import load_decoder
from stepladder.models.transformer import Transformer

# What a token that is not yet whole UTF-8 is decoded to.
_BROKEN = "�"


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """A decoder with its tokenizer."""

    network: Transformer
    words: Tokenizer | ForeignTokenizer

    @property
    def vocabulary(self) -> int:
        """Ids that a token has; a network's vocabulary may be padded."""
        return min(self.words.vocab_size, self.network.shape.vocab_size)

    def prompt_ids(self, prompt: str) -> list[int]:
        """What the network goes on from; of more ids than its context it sees the last ones."""
        # In training every document follows the end of another one.
        return [*self.words.start_ids, *self.words.encode(prompt)]

    def say(self, prompt: str, tokens: int, sampling: Sampling, *, until: str = "") -> Iterator[str]:
        """Pieces of at most `tokens` tokens of text after `prompt`, up to `until` where it is said.

        A piece is whole characters; what may be the beginning of `until` waits for the next one.
        """
        ids = self.prompt_ids(prompt)
        new: list[int] = []
        told = 0
        for token in stream(
            self.network, ids, tokens, end=self.words.end_id, sampling=sampling, vocabulary=self.vocabulary
        ):
            new.append(token)
            text = self.words.decode(new)
            if until and until in text:
                yield text[told : text.index(until)]
                return
            if not text.endswith(_BROKEN) and (end := len(text) - len(until)) > told:
                yield text[told:end]
                told = end
        if rest := self.words.decode(new)[told:]:
            yield rest


def open_speaker(folder: Path, tokenizer: Path | None = None) -> Speaker:
    """A run or a folder in the layout of a known family.

    Raises:
        ExportError: the folder holds no weights or no tokenizer, or an encoder.
    """
    network = load_decoder(folder).eval()
    return Speaker(network=network, words=load_tokenizer(tokenizer or find_tokenizer(folder)))
