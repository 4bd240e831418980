"""Documents of a split in; samples of context + 1 tokens, each made of pieces of documents, out.

A document of at most context + 1 tokens is one piece. A longer one is cut into windows of context + 1 tokens
and a rest. Neighbouring pieces of a document share one token, the last target of one and the first input of
the next, as the windows of batches.py do: so every token but the first of each document is predicted once in
an epoch. Pieces share samples by best fit, longest first (arXiv:2404.10830), within one source. What is left
of a sample is padding. Documents of fewer than two tokens predict nothing and are dropped.

Attention and loss stay within a piece. A document ends with the end-of-text token, which is predicted like
any other. Nothing is predicted from it: what follows was put there by the packing, often starts in the middle
of a document, and the only thing to learn would be to forget the document just read.
"""

import hashlib
import io
import operator
import zipfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from stepladder.errors import TrainError
from stepladder.store import fingerprint, write_bytes
from stepladder.train.batches import RankBatches, SampleOrder
from stepladder.train.bestfit import best_fit
from stepladder.train.mixture import Mixture
from stepladder.train.pieces import PieceReader

PADDING = -1
# Above this share of padding the emptiest samples are joined end to end and cut, at the price of more cut
# documents: lengths between half and all of the context cannot be packed otherwise. A joined sample still
# lacks up to two tokens, at borders where a piece would have had only one.
MOST_PADDING = 0.01
# Changes when the same documents would be packed otherwise.
_VERSION = 1
_SUBSET_SEED = 1


class Documents(Protocol):
    """What a split offers: token ids, where documents begin (and the end), and a checksum of the ids.

    A split of several sources also has `sources` (a number for each document, else empty) and `source_names`.
    """

    @property
    def tokens(self) -> Any: ...
    @property
    def offsets(self) -> np.ndarray: ...
    @property
    def checksum(self) -> str: ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Packing:
    """Sample s is pieces first[s] to first[s + 1]; a piece is `lengths` tokens of the split from `starts`.

    Samples of source i are numbered source_first[i] to source_first[i + 1].
    """

    context_tokens: int
    first: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    source_first: np.ndarray
    source_names: list[str]
    documents: int
    cut_documents: int

    def __len__(self) -> int:
        return len(self.first) - 1

    @property
    def waste_share(self) -> float:
        """Share of padding in the tokens of all samples."""
        return 1 - int(self.lengths.sum()) / max(len(self) * (self.context_tokens + 1), 1)

    @property
    def predicted_share(self) -> float:
        """Share of positions that are predicted: not padding, not the first of a piece."""
        return (int(self.lengths.sum()) - len(self.lengths)) / max(len(self) * self.context_tokens, 1)

    @property
    def cut_share(self) -> float:
        """Share of documents that are in more than one piece."""
        return self.cut_documents / max(self.documents, 1)

    def samples_per_source(self, unique: float = 1.0) -> list[int]:
        """Samples of each source in one epoch over the share `unique` of it."""
        return np.ceil(np.diff(self.source_first) * unique).astype(np.int64).tolist()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Packed:
    """A micro-batch. tokens (B, T + 1); document (B, T + 1) int32: 0, 1, ... within a sample, -1 padding."""

    tokens: np.ndarray
    document: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def predicted(self) -> np.ndarray:
        """(B, T) bool: whether the target tokens[:, 1:] counts in the loss."""
        before, after = self.document[:, :-1], self.document[:, 1:]
        return (before == after) & (after != PADDING)


def mask_of(document: np.ndarray) -> np.ndarray:
    """(..., T) piece numbers in; (..., T, T) bool out, True where query i may see key j: same piece, j <= i.

    Padding sees padding, so that no row is empty. For T inputs pass `document[..., :-1]`.
    """
    number = document.astype(np.int16)
    mask = number[..., :, None] == number[..., None, :]
    mask &= np.tri(document.shape[-1], dtype=bool)
    return mask


def boundaries(document: np.ndarray) -> np.ndarray:
    """(B, T) piece numbers in; int32 places where pieces begin in the flattened batch, and the end, out.

    The same mask in the form that variable-length attention takes (cumulative sequence lengths).
    """
    begins = np.ones(document.shape, dtype=bool)
    begins[:, 1:] = document[:, 1:] != document[:, :-1]
    return np.append(np.flatnonzero(begins), document.size).astype(np.int32)


def open_packing(folder: Path, split: Documents, context_tokens: int, seed: int) -> Packing:
    """The packing of a split, from `folder` if it was made before, else made and kept there."""
    sources, names = _sources_of(split)
    fields = {
        "version": _VERSION,
        "checksum": split.checksum,
        "documents": len(split.offsets) - 1,
        "sources": "" if sources is None else hashlib.sha256(sources.tobytes()).hexdigest(),
        "source_names": names,
        "context_tokens": context_tokens,
        "seed": seed,
    }
    path = folder / f"packing-{fingerprint(fields)}.npz"
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as found:
            counts, names = found["counts"].tolist(), found["source_names"].tolist()
            arrays = {name: found[name] for name in ("first", "starts", "lengths", "source_first")}
        return Packing(
            context_tokens=counts[0],
            documents=counts[1],
            cut_documents=counts[2],
            source_names=names,
            **arrays,
        )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        packing = pack(split, context_tokens, seed)
    content = io.BytesIO()
    np.savez(
        content,
        first=packing.first,
        starts=packing.starts,
        lengths=packing.lengths,
        source_first=packing.source_first,
        source_names=np.array(packing.source_names, dtype=np.str_),
        counts=np.array([packing.context_tokens, packing.documents, packing.cut_documents]),
    )
    write_bytes(path, content.getvalue())
    return packing


def pack(split: Documents, context_tokens: int, seed: int) -> Packing:
    """Pack all documents of a split; the same for the same documents, context and seed.

    Raises:
        TrainError: no document has two tokens.
    """
    offsets = np.asarray(split.offsets, dtype=np.int64)
    sources, names = _sources_of(split)
    lengths = np.diff(offsets)
    usable = lengths >= 2
    if not usable.any():
        raise TrainError(
            "the split has no document of two tokens",
            got=f"{len(lengths)} documents, {int(lengths.sum())} tokens",
            next_command="stepladder data with more sources",
        )
    parts, source_first = [], [0]
    for number in range(len(names)):
        chosen = usable if sources is None else usable & (sources == number)
        documents = np.flatnonzero(chosen)
        rng = np.random.default_rng([seed, number])
        part = _pack_source(offsets[documents], lengths[documents], context_tokens, rng)
        parts.append(part)
        source_first.append(source_first[-1] + len(part[0]))
    counts, starts, piece_lengths, cut = (list(column) for column in zip(*parts, strict=True))
    return Packing(
        context_tokens=context_tokens,
        first=np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64),
        starts=np.concatenate(starts),
        lengths=np.concatenate(piece_lengths).astype(np.int32),
        source_first=np.array(source_first, dtype=np.int64),
        source_names=names,
        documents=int(usable.sum()),
        cut_documents=sum(cut),
    )


def cut_share_of_windows(offsets: np.ndarray, context_tokens: int) -> float:
    """Share of documents (of two tokens and more) that windows of the joined text cut, as batches.py does."""
    lengths = np.diff(offsets)
    begins, lengths = offsets[:-1][lengths >= 2], lengths[lengths >= 2]
    return float((begins // context_tokens != (begins + lengths - 2) // context_tokens).mean())


def _sources_of(split: Documents) -> tuple[np.ndarray | None, list[str]]:
    """The source of each document, or None where the split has none or does not say; their names."""
    sources, names = getattr(split, "sources", None), list(getattr(split, "source_names", None) or [])
    if sources is None or not len(sources):
        return None, ["all"]
    sources = np.asarray(sources)
    if len(sources) != len(split.offsets) - 1 or sources.max() >= len(names):
        raise TrainError(
            "the sources of the documents do not fit the split",
            got=f"{len(sources)} of them up to {sources.max()}, {len(split.offsets) - 1} documents",
            allowed=f"one for each document, below {len(names)}: {', '.join(names) or 'no names'}",
            next_command="stepladder data PATH... --out DIR",
        )
    return sources, names


def _pack_source(
    begins: np.ndarray, lengths: np.ndarray, context: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Pieces in each sample, then starts and lengths of the pieces in order, and documents that are cut."""
    document, offset, size, _ = _cut(np.zeros_like(lengths), lengths, context)
    whole = size == context + 1
    rest = rng.permutation(np.flatnonzero(~whole))
    bins = best_fit(size[rest], context + 1)
    # A piece: document, first token in it, length, sample.
    kept, chained = _chain(document[rest], offset[rest], size[rest], bins, context, int(whole.sum()))
    full = np.flatnonzero(whole)
    pieces = np.stack([document[full], offset[full], size[full], np.arange(len(full))])
    for more in (kept, chained):
        more[3] += pieces[3].max(initial=-1) + 1
        pieces = np.concatenate([pieces, more], axis=1)
    document, offset, size, sample = pieces[:, np.argsort(pieces[3], kind="stable")]
    cut = int((np.bincount(document, minlength=1) > 1).sum())
    return np.bincount(sample), begins[document] + offset, size, cut


def _cut(
    at: np.ndarray, lengths: np.ndarray, context: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cut items of `lengths` (>= 2) tokens, at places `at` of a text, where its windows of context + 1 end.

    Returns item, first token within it, length (>= 2) and window of each piece.
    """
    first, last = at // context, (at + lengths - 2) // context
    counts = last - first + 1
    item = np.repeat(np.arange(len(at)), counts)
    window = first[item] + np.arange(len(item)) - np.repeat(np.cumsum(counts) - counts, counts)
    begin = np.maximum(at[item], window * context)
    end = np.minimum((at + lengths)[item], window * context + context + 1)
    return item, begin - at[item], end - begin, window


def _chain(
    document: np.ndarray, offset: np.ndarray, size: np.ndarray, bins: np.ndarray, context: int, full: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pieces that stay in their bins and pieces of emptier bins joined and cut, bins numbered from 0 each."""
    free = context + 1 - np.bincount(bins, weights=size).astype(np.int64)
    allowed = MOST_PADDING * (len(free) + full) * (context + 1)
    by_room = np.argsort(free, kind="stable")
    stays = np.empty(len(free), dtype=bool)
    stays[by_room] = np.cumsum(free[by_room]) <= allowed
    moved = np.flatnonzero(~stays[bins])
    at = np.cumsum(size[moved]) - size[moved]
    item, begin, length, window = _cut(at, size[moved], context)
    if window.max(initial=-1) + 1 >= (~stays).sum():
        stays[:] = True  # nothing to gain
        moved, item, begin, length, window = (array[:0] for array in (moved, item, begin, length, window))
    source = moved[item]
    chained = np.stack([document[source], offset[source] + begin, length, window])
    left = np.flatnonzero(stays[bins])
    number = np.cumsum(stays) - 1
    return np.stack([document[left], offset[left], size[left], number[bins[left]]]), chained


class PackedSource(RankBatches):
    """Packed samples in a mixed order: `consumed` counts the samples of all ranks and is the whole state.

    Sample i is from the source that the mixture says, the next of that source's own epoch order.
    """

    def __init__(
        self,
        split: Documents,
        packing: Packing,
        batch_sequences: int,
        seed: int,
        ranks: tuple[int, int] = (0, 1),
        micro_sequences: int = 0,
        mixture: Mixture | None = None,
    ) -> None:
        """`batch_sequences` counts all ranks; a source has as many samples as `mixture` says.

        Set `dtype` for other tokens than int64, as the split's own.
        """
        super().__init__(batch_sequences, ranks, micro_sequences)
        self.packing, self.context_tokens = packing, packing.context_tokens
        self._pieces = PieceReader(split.tokens)
        whole = packing.samples_per_source()
        self.mixture = mixture or Mixture(packing.source_names, whole, [Fraction(n) for n in whole])
        samples = self.mixture.samples.tolist()
        assert all(map(operator.le, samples, whole)), "the mixture was made for another packing"
        self._orders = [
            SampleOrder(count, _source_seed(seed, number)) if count else None
            for number, count in enumerate(samples)
        ]
        # Which samples are read does not depend on the seed: runs of several seeds repeat the same text.
        self._subset = [
            SampleOrder(count, _SUBSET_SEED) if some < count else None
            for some, count in zip(samples, whole, strict=True)
        ]
        self.dtype: np.dtype[Any] = np.dtype(np.int64)

    def next(self) -> list[Packed]:
        """This rank's micro-batches of the next global batch."""
        samples = self.samples(self.advance())
        return [self.read(samples[part]) for part in self.micro_batches(len(samples))]

    def samples(self, places: np.ndarray) -> np.ndarray:
        """Sample numbers of the packing at global sample indices."""
        source, within = self.mixture.sources(places)
        out = np.empty_like(within)
        for number in np.unique(source):
            order, chosen = self._orders[number], source == number
            assert order is not None  # the mixture takes nothing from an empty source
            sample, subset = order.windows(within[chosen]), self._subset[number]
            sample = sample if subset is None else subset.windows(sample)
            out[chosen] = self.packing.source_first[number] + sample
        return out

    def epochs(self) -> dict[str, float]:
        """How often each source has been seen so far."""
        return self.mixture.epochs(self.consumed)

    def read(self, samples: np.ndarray) -> Packed:
        """Samples by number."""
        packing, width = self.packing, self.context_tokens + 1
        begin = packing.first[samples]
        counts = packing.first[samples + 1] - begin
        # One run more than pieces in each row: the padding, often of no length.
        row = np.repeat(np.arange(len(samples)), counts + 1)
        last = np.cumsum(counts + 1) - 1
        number = np.arange(len(row)) - (last - counts)[row]
        is_piece = np.ones(len(row), dtype=bool)
        is_piece[last] = False
        pieces = (begin[row] + number)[is_piece]
        starts, runs = np.zeros((2, len(row)), dtype=np.int64)
        starts[is_piece], runs[is_piece] = packing.starts[pieces], packing.lengths[pieces]
        padding = width - np.diff(np.cumsum(runs)[last], prepend=0)
        tokens = self._pieces.read(starts, runs, dict(zip(last.tolist(), padding.tolist(), strict=True)))
        runs[last], number[last] = padding, PADDING
        document = np.repeat(number.astype(np.int32), runs).reshape(len(samples), width)
        return Packed(tokens=tokens.reshape(document.shape).astype(self.dtype, copy=False), document=document)


def _source_seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0])
