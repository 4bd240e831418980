"""A tokenizer.json of another project in; its ids, as `tokenizers` computes them, and its template out.

WordPiece (BERT), byte-level BPE (RoBERTa, Llama 3, Qwen, OLMo, ModernBERT), BPE with byte fallback (Llama 2).
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stepladder.data.tokens.template import Pair, Piece, Span, Template
from stepladder.errors import DataError, MissingExtraError
from stepladder.store import read_json

# What families call the end of a text, where no file beside the tokenizer says it.
_ENDS = ("</s>", "<|end_of_text|>", "<|im_end|>", "<|endoftext|>", "[SEP]")


class ForeignTokenizer:
    """Text to ids and back, as a folder's tokenizer.json says.

    Text that spells a control token stays text; what the folder adds to its vocabulary as ordinary words is
    still one id. `end_id` is what ends a text.
    """

    def __init__(self, path: Path) -> None:
        try:
            from tokenizers import Tokenizer as Library
        except ImportError as error:
            raise MissingExtraError(f"reading {path}", "data") from error
        try:
            self._library = Library.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises nothing narrower
            raise DataError(
                f"{path} is not a tokenizer that the tokenizers library reads", got=str(error)
            ) from error
        # A folder may cut or pad to the length that its authors used.
        self._library.no_truncation()
        self._library.no_padding()
        self._library.encode_special_tokens = True
        self.vocab: dict[str, int] = self._library.get_vocab(with_added_tokens=True)
        files = [path.parent / name for name in ("tokenizer_config.json", "config.json")]
        words, config = (read_json(file) if file.exists() else {} for file in files)
        self.end_id = self._end(words, config, path.parent)
        self.begin_id = self._named(words, "bos")
        self.template = self._template(words)

    @property
    def vocab_size(self) -> int:
        """Number of ids, control ones included."""
        return max(self.vocab.values()) + 1

    @property
    def start_ids(self) -> tuple[int, ...]:
        """What a text of its own follows: the template's beginning, else the end of another text."""
        return self.template.begin or (self.end_id,)

    def encode(self, text: str) -> list[int]:
        """Ids of a text without its template."""
        return self._library.encode(text, add_special_tokens=False).ids

    def encode_marked(self, text: str) -> list[int]:
        """Ids of a text without its template, in which the names of control tokens stand for them."""
        self._library.encode_special_tokens = False
        try:
            return self.encode(text)
        finally:
            self._library.encode_special_tokens = True

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts without their template."""
        return [one.ids for one in self._library.encode_batch(list(texts), add_special_tokens=False)]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[Span]]:
        """Ids without a template, and the characters of each (some tokenizers count a blank before)."""
        found = self._library.encode(text, add_special_tokens=False)
        return found.ids, found.offsets

    def encode_pair(self, first: str, second: str) -> Pair:
        """Two texts as one row with its template."""
        return self.template.join(self.encode(first), *self.encode_with_offsets(second))

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; control ids are left out."""
        return self._library.decode([int(number) for number in ids], skip_special_tokens=True)

    def _end(self, words: Mapping[str, Any], config: Mapping[str, Any], folder: Path) -> int:
        """As tokenizer_config.json or config.json says, else by name."""
        number = config.get("eos_token_id")
        number = number[0] if isinstance(number, list) and number else number
        token = self._named(words, "eos") or self._named(words, "sep")
        named = [self.vocab[name] for name in _ENDS if name in self.vocab]
        known = [one for one in (token, number, *named) if isinstance(one, int)]
        if not known:
            raise DataError(
                f"nothing says which token ends a text of {folder}",
                allowed="eos_token in tokenizer_config.json, or eos_token_id in config.json",
            )
        return known[0]

    def _named(self, words: Mapping[str, Any], name: str) -> int | None:
        token = words.get(f"{name}_token")
        return self.vocab.get(token["content"] if isinstance(token, dict) else token or "")

    def _template(self, words: Mapping[str, Any]) -> Template:
        """Read off what the library puts around texts; tokenizer_config.json may overrule it."""
        one, two = _places(self._library.encode("a")), _places(self._library.encode("a", "a"))
        types = [next(kind for sequence, (_, kind) in two if sequence == which) for which in (0, 1)]
        begin, _, close = _cut(one, 0, 0)
        pair = _cut(two, 0, 1)
        roles = [role for role in ("bos", "eos") if words.get(f"add_{role}_token")]
        added = {role: number for role in roles if (number := self._named(words, role)) is not None}
        if {"add_bos_token", "add_eos_token"} & words.keys() and len(added) == len(roles):
            # So does transformers (5.24, tokenization_utils_tokenizers.py, update_post_processor).
            before, behind = (
                [(added[role], kind) for kind in (0, 1) if role in added] for role in ("bos", "eos")
            )
            begin, close, types = tuple(before[:1]), tuple(behind[:1]), [0, 1]
            pair = (begin, (*close, *before[1:]), tuple(behind[1:]))
        return Template(
            begin=tuple(number for number, _ in begin),
            close=tuple(number for number, _ in close),
            pair=pair,
            types=(types[0], types[1]),
        )


def _places(encoding: Any) -> list[tuple[int | None, Piece]]:
    pieces = zip(encoding.ids, encoding.type_ids, strict=True)
    return list(zip(encoding.sequence_ids, pieces, strict=True))


def _cut(
    places: list[tuple[int | None, Piece]], first: int, last: int
) -> tuple[tuple[Piece, ...], tuple[Piece, ...], tuple[Piece, ...]]:
    """Control pieces before sequence `first`, between, and behind sequence `last`."""
    texts = [at for at, (sequence, _) in enumerate(places) if sequence is not None]
    starts = [at for at in texts if places[at][0] == first]
    ends = [at for at in texts if places[at][0] == last]
    inside = range(starts[0], ends[-1])
    return (
        tuple(piece for _, piece in places[: starts[0]]),
        tuple(places[at][1] for at in inside if places[at][0] is None),
        tuple(piece for _, piece in places[ends[-1] + 1 :]),
    )
