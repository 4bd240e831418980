"""Ids of one text or of two in; the same with the control ids that a network expects around them, out."""

from collections.abc import Sequence
from dataclasses import dataclass

# Where a token's characters begin and end in its text.
Span = tuple[int, int]
# A control id and its type id.
Piece = tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two texts as one row. `type_ids` tell the texts apart where a family has token types (else 0).

    `spans` has the characters of each id in the *second* text, None outside it.
    """

    ids: list[int]
    type_ids: list[int]
    spans: list[Span | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """What stands before and behind one text, and before, between and behind two, whose type ids `types` are.

    BERT: [CLS] text [SEP], and [CLS] first [SEP] second [SEP] with types 0 and 1.
    """

    begin: tuple[int, ...] = ()
    close: tuple[int, ...] = ()
    pair: tuple[tuple[Piece, ...], tuple[Piece, ...], tuple[Piece, ...]] = ((), (), ())
    types: tuple[int, int] = (0, 0)

    def around(self, ids: Sequence[int]) -> list[int]:
        """One text: the ids that a network of this tokenizer expects."""
        return [*self.begin, *ids, *self.close]

    def join(self, first: Sequence[int], second: Sequence[int], spans: Sequence[Span]) -> Pair:
        """Two texts in one row; `spans` are the characters of `second`'s ids."""
        begin, between, close = self.pair
        own, other = self.types
        row: list[tuple[int, int, Span | None]] = [(number, kind, None) for number, kind in begin]
        row += [(number, own, None) for number in first]
        row += [(number, kind, None) for number, kind in between]
        row += [(number, other, span) for number, span in zip(second, spans, strict=True)]
        row += [(number, kind, None) for number, kind in close]
        return Pair(ids=[r[0] for r in row], type_ids=[r[1] for r in row], spans=[r[2] for r in row])

    @property
    def pair_extra(self) -> int:
        """How many control ids a pair has."""
        return sum(map(len, self.pair))
