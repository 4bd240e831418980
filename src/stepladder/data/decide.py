"""What the tasks left about each document in; verdicts over the whole corpus out: duplicates, lines, split.

Only these decisions need all documents at once. What one process holds of a document: its line in the
table, 128 bits of hash, 112 sketch values and its long lines' hashes, about 2 kB.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stepladder.data.dedup import Lines, boilerplate, find_duplicates
from stepladder.data.options import CorpusOptions
from stepladder.data.split import OVERLAP_SHARE, choose_held_out, held_share, overlap_shares
from stepladder.data.steps import read_arrays, read_frame, write_arrays
from stepladder.errors import DataError

_PINNED = 1 << 50
# What boilerplate leaves of a document must still be most of one: torn licences teach nothing.
SHORTEST_REST_SHARE = 0.5


@dataclass(slots=True)
class Documents:
    """All documents of the corpus in order. Arrays run over the rows of `table`.

    `rule` is why a document went ("" while it stays), `like` the row of the one that stands for it (else -1),
    `rest` its bytes after boilerplate went, `split` 0 for training, 1 for held-out, -1 while undecided.
    """

    table: Any
    chunks: list[str]
    bounds: np.ndarray
    rule: np.ndarray
    like: np.ndarray
    similarity: np.ndarray
    rest: np.ndarray
    split: np.ndarray

    def rows(self, chunk: int) -> np.ndarray:
        """Row numbers of the documents of a chunk."""
        return np.arange(self.bounds[chunk], self.bounds[chunk + 1])

    @property
    def stays(self) -> np.ndarray:
        """Boolean per row: no rule has taken it."""
        return self.rule == ""

    def column(self, name: str) -> np.ndarray:
        """A column of the table as an array."""
        return self.table[name].to_numpy()


def load_documents(work: Path, chunks: list[str]) -> Documents:
    """The table of all documents that the read tasks wrote."""
    import polars as pl

    frames = [read_frame(work / "read" / f"{chunk}.meta") for chunk in chunks]
    table = pl.concat(frames)
    count = len(table)
    return Documents(
        table=table,
        chunks=chunks,
        bounds=np.concatenate([[0], np.cumsum([len(frame) for frame in frames])]).astype(np.int64),
        rule=table["rule"].fill_null("").to_numpy().astype(object),
        like=np.full(count, -1, dtype=np.int64),
        similarity=np.ones(count),
        rest=table["num_bytes"].to_numpy().copy(),
        split=np.full(count, -1, dtype=np.int8),
    )


def decide_duplicates(work: Path, documents: Documents, jaccard: float) -> Lines:
    """Mark duplicates in `documents`, write each chunk's verdict, and return the long lines that remain.

    The lines of the result name rows of the table.
    """
    rows, arrays, lines = _load_hashes(work, documents)
    pinned = documents.column("held_out")[rows]
    length = documents.column("num_bytes")[rows] + np.where(pinned, _PINNED, 0)
    found = find_duplicates(arrays["exact"], arrays["values"], arrays["has_sketch"], length, jaccard)
    gone = ~found.stays
    names = np.where(found.is_exact, "exact_duplicate", "near_duplicate")
    documents.rule[rows[gone]] = names[gone]
    documents.like[rows[gone]] = rows[found.keeper[gone]]
    documents.similarity[rows] = found.similarity

    stays = documents.stays
    goes = boilerplate(lines, stays)
    for number, chunk in enumerate(documents.chunks):
        own = documents.rows(number)
        own = own[np.isin(own, rows, assume_unique=True)]
        first, last = np.searchsorted(
            lines.document, [documents.bounds[number], documents.bounds[number + 1]]
        )
        cut = np.flatnonzero(goes[first:last]) + first
        write_arrays(
            work / "dedup" / f"{chunk}.npz",
            {
                "stays": stays[own],
                "line_document": np.searchsorted(own, lines.document[cut]).astype(np.uint32),
                "line_key": lines.key[cut],
            },
        )
    left = ~goes & stays[lines.document]
    return Lines(document=lines.document[left], key=lines.key[left], removable=lines.removable[left])


def apply_trim(documents: Documents, results: list[dict[str, Any]]) -> None:
    """Take over the sizes after trimming; what boilerplate left too short goes."""
    rows = np.flatnonzero(documents.stays)
    rest = np.array([size for result in results for size in result["num_bytes"]], dtype=np.int64)
    documents.rest[rows] = rest
    short = rest < SHORTEST_REST_SHARE * documents.column("num_bytes")[rows]
    documents.rule[rows[short]] = "only_boilerplate"


def decide_split(work: Path, documents: Documents, lines: Lines, options: CorpusOptions) -> str:
    """Mark each remaining document as training or held-out, drop overlapping held-out ones, write per chunk.

    Returns what was held out as a whole: "file", "document" or "path".
    """
    trimmed = np.flatnonzero(np.isin(documents.rule, ["", "only_boilerplate"]))
    stays = documents.stays
    rows = np.flatnonzero(stays)
    unit, held_rows = _choose(documents, rows, options)
    held = np.zeros(len(stays), dtype=bool)
    held[rows[held_rows]] = True
    groups = np.unique(_names(documents, unit), return_inverse=True)[1]
    shares = overlap_shares(lines, groups, held, stays & ~held)
    dropped = held & (shares >= OVERLAP_SHARE)
    documents.rule[dropped] = "heldout_overlap"
    documents.similarity[dropped] = shares[dropped]
    documents.split[rows] = held[rows]
    documents.split[dropped] = -1
    for name, code in (("training", 0), ("held-out", 1)):
        if not (documents.split == code).any():
            overlap = (
                f"; {dropped.sum()} held-out documents shared {OVERLAP_SHARE:.0%} or more of their lines"
            )
            raise DataError(
                f"no {name} text is left",
                got=f"{len(rows)} documents after cleaning and deduplication{overlap if code else ''}",
                allowed="more text, or another held-out share or path",
                next_command="stepladder data ... --held-out PATH",
            )
    for number, chunk in enumerate(documents.chunks):
        own = documents.rows(number)
        own = own[np.isin(own, trimmed, assume_unique=True)]
        write_arrays(work / "split" / f"{chunk}.npz", {"split": documents.split[own]})
    return unit


def _choose(documents: Documents, rows: np.ndarray, options: CorpusOptions) -> tuple[str, np.ndarray]:
    if isinstance(options.held_out, str):
        return "path", documents.column("held_out")[rows]
    sizes = documents.rest[rows]
    names = _names(documents, "file")[rows]
    files = len(set(names))
    if files > 1:
        held = choose_held_out(list(names), sizes, options.held_out, options.seed)
        if held_share(held, sizes) <= max(2 * options.held_out, 0.2) or files == len(rows):
            return "file", held
    # Too few files to hold a whole one out at this share: single records or pieces of files are held out.
    names = _names(documents, "document")[rows]
    return "document", choose_held_out(list(names), sizes, options.held_out, options.seed)


def _names(documents: Documents, unit: str) -> np.ndarray:
    group = documents.column("group")
    if unit != "document":
        return group.astype(str)
    records = documents.column("record")
    return np.array([f"{name}\0{record}" for name, record in zip(group, records, strict=True)])


def _load_hashes(work: Path, documents: Documents) -> tuple[np.ndarray, dict[str, np.ndarray], Lines]:
    rows, kept, line_rows = [], [], []
    alive = documents.stays
    for number, chunk in enumerate(documents.chunks):
        own = documents.rows(number)
        own = own[alive[own]]
        arrays = read_arrays(work / "read" / f"{chunk}.npz")
        rows.append(own)
        line_rows.append(own[arrays["line_document"]])
        kept.append(arrays)
    joined = {name: np.concatenate([arrays[name] for arrays in kept]) for name in kept[0]}
    lines = Lines(
        document=np.concatenate(line_rows), key=joined["line_key"], removable=joined["line_removable"]
    )
    return np.concatenate(rows), joined, lines
