"""Parts with their verdicts in; trimmed text, the groups to hold out, a sample and token ids out."""

import functools
import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stepladder.data.canaries import CANARIES, planted_in
from stepladder.data.copies.clusters import of_part
from stepladder.data.copies.dedup import without_lines
from stepladder.data.copies.lines import CONTAMINATED, ONLY_BOILERPLATE, OVERLAP, STAYS
from stepladder.data.files import (
    read_arrays,
    read_frame,
    write_array,
    write_arrays,
    write_frame,
)
from stepladder.data.labels import base_of, mixed
from stepladder.data.reading import SPARED
from stepladder.data.tokens.tokenizer import Tokenizer, load_own_tokenizer
from stepladder.store import write_bytes

SPLITS = ("train", "heldout")
# What boilerplate leaves of a document must still be most of one: torn licences teach nothing.
SHORTEST_REST_SHARE = 0.5
TRAIN, HELD, GONE = 0, 1, -1
_HASH_BYTES, _LAST = 8, (1 << 64) - 1


def trim_step(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A part and its verdicts → the texts of the documents that stay, without boilerplate lines."""
    import polars as pl

    work, name = Path(arguments["folder"]), arguments["part"]
    base = base_of(name)
    texts = read_frame(work / "read" / f"{name}.text")
    meta = read_frame(work / "read" / f"{name}.meta").filter(pl.col("rule").is_null())
    rows = np.load(work / "read" / f"{name}.rows.npy")
    verdict = read_arrays(work / "lines" / f"{name}.npz")["verdict"]
    document, key = of_part(work, "boilerplate", arguments["partitions"], base, ("document", "key"))
    text, gone = texts["text"], []
    if len(document):
        place = np.searchsorted(rows, document - np.uint64(base))
        text, removed = without_lines(text, texts["domain"], place, key)
        gone = removed["line"].to_list()
    whole = meta["num_bytes"].to_numpy()
    rest = text.str.len_bytes().cast(pl.Int64).to_numpy()
    verdict[(verdict == STAYS) & (rest < SHORTEST_REST_SHARE * whole)] = ONLY_BOILERPLATE
    stays = np.flatnonzero(verdict == STAYS)
    write_frame(work / "trim" / f"{name}.text", pl.DataFrame({"text": text.gather(stays)}))
    groups = meta.select("group", "record")[stays]
    # The last of all groups: never held out.
    spared = meta["source"].str.starts_with(SPARED).to_numpy()[stays]
    by_file = _hashes(groups["group"].to_list(), arguments["seed"])
    by_document = _hashes([f"{g}\0{r}" for g, r in groups.iter_rows()], arguments["seed"])
    by_file[spared] = by_document[spared] = _LAST
    write_arrays(
        work / "trim" / f"{name}.npz",
        {
            "verdict": verdict,
            "rest": rest,
            "place": stays,
            "by_file": by_file,
            "by_document": by_document,
            "held_out": meta["held_out"].to_numpy()[stays],
        },
    )
    examples = sorted(Counter(gone).items(), key=lambda item: (-item[1], item[0]))[:3]
    return {
        "documents": len(stays),
        "num_bytes": int(rest[stays].sum()),
        "shorter_documents": len(np.unique(document)),
        "lines": len(gone),
        "examples": [[line.strip()[:200], count] for line, count in examples],
    }


def _hashes(names: list[str], seed: int) -> np.ndarray:
    """A seeded 64-bit hash of each name: its order is the order in which groups are held out."""
    known = {
        name: hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=_HASH_BYTES).digest()
        for name in set(names)
    }
    return np.frombuffer(b"".join(known[name] for name in names), dtype=">u8").astype(np.uint64)


def groups_step(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A part → bytes of its groups whose hash is at most `limit`, and how many groups it has in all."""
    own = read_arrays(Path(arguments["folder"]) / "trim" / f"{arguments['part']}.npz")
    names, inverse = np.unique(own[f"by_{arguments['unit']}"], return_inverse=True)
    sizes = np.bincount(inverse, weights=own["rest"][own["place"]], minlength=len(names)).astype(np.int64)
    low = names <= np.uint64(arguments["limit"])
    return {
        "groups": len(names),
        "first": int(names[0]) if len(names) else None,
        "last": int(names[-1]) if len(names) else None,
        "chosen": np.stack([names[low], sizes[low].astype(np.uint64)], axis=1).tolist(),
    }


def split_step(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A part and the groups to hold out → the split of each document, and the ids of those held out."""
    work, name = Path(arguments["folder"]), arguments["part"]
    own = read_arrays(work / "trim" / f"{name}.npz")
    if arguments["unit"] == "path":
        held, group = own["held_out"], own["by_file"]
    else:
        group = own[f"by_{arguments['unit']}"]
        held = np.isin(group, np.load(work / "held_groups.npy"))
    rows = np.load(work / "read" / f"{name}.rows.npy")[own["place"]]
    write_array(work / "split" / f"{name}.npy", held.astype(np.int8))
    ids = np.uint64(base_of(name)) + rows[held].astype(np.uint64)
    write_array(work / "split" / f"{name}.held.npy", np.stack([ids, group[held]]))
    return {"held": int(held.sum()), "held_bytes": int(own["rest"][own["place"]][held].sum())}


def sample_step(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A part → its training texts whose hash is at most the limit of their source, with that hash."""
    import polars as pl

    work, name = Path(arguments["folder"]), arguments["part"]
    own = decided(work, name)
    texts = read_frame(work / "trim" / f"{name}.text")["text"]
    meta = read_frame(work / "read" / f"{name}.meta").filter(pl.col("rule").is_null())[own["place"]]
    ids = np.uint64(base_of(name)) + own["rows"].astype(np.uint64)
    order = mixed(ids ^ mixed(np.full(1, arguments["seed"] + 1, dtype=np.uint64)))
    limit = np.array([arguments["limits"].get(source, 0) for source in meta["source"]], dtype=np.uint64)
    chosen = np.flatnonzero((own["split"] == TRAIN) & (order <= limit))
    frame = pl.DataFrame(
        {"order": order[chosen], "source": meta["source"].gather(chosen), "text": texts.gather(chosen)}
    )
    write_frame(work / "sample" / f"{name}.text", frame)
    held = texts.gather(np.flatnonzero(own["split"] == HELD)[:1])
    return {
        "documents": len(chosen),
        "num_bytes": int(frame["text"].str.len_bytes().sum()),
        "held": len(held),
    }


def encode_step(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A part → token ids, tokens per document and numbers of source and domain of each split."""
    import polars as pl

    work, name = Path(arguments["folder"]), arguments["part"]
    tokenizer = _tokenizer(arguments["tokenizer"], Path(arguments["tokenizer"]).stat().st_mtime_ns)
    if not arguments["fast"]:
        tokenizer.use_slow()
    own = decided(work, name)
    meta = read_frame(work / "read" / f"{name}.meta")
    kept = meta.filter(pl.col("rule").is_null())[own["place"]]
    texts = read_frame(work / "trim" / f"{name}.text")["text"]
    numbers = {}
    for column in ("source", "domain"):
        place = {value: number for number, value in enumerate(arguments[f"{column}s"])}
        numbers[f"{column}s"] = np.array([place[value] for value in kept[column]], dtype=np.uint16)
    result: dict[str, Any] = {}
    for code, split in enumerate(SPLITS):
        chosen = np.flatnonzero(own["split"] == code)
        mine = texts.gather(chosen)
        tokens, lengths = tokenizer.encode_many(mine)
        columns = {name: column[chosen] for name, column in numbers.items()}
        if code == TRAIN and (planted := planted_in(work, name)):
            mine, tokens, lengths, columns = _planted(
                tokenizer, planted, (mine, tokens, lengths), columns, arguments
            )
        stem = f"{name}.{split}"
        write_bytes(work / "encode" / stem, tokens.astype(arguments["dtype"]).tobytes())
        write_arrays(
            work / "encode" / f"{stem}.npz",
            {"lengths": lengths, **columns},
        )
        result[split] = {
            "tokens": len(tokens),
            "documents": len(lengths),
            "num_bytes": int(mine.str.len_bytes().sum()),
        }
    return result


def _planted(
    tokenizer: Tokenizer, planted: Any, encoded: tuple[Any, ...], columns: Any, arguments: Mapping[str, Any]
) -> tuple[Any, ...]:
    """Texts, tokens, lengths and columns of a part with its canaries among them."""
    import polars as pl

    texts, tokens, lengths = encoded
    at = np.array([int(share * (len(lengths) + 1)) for share, _ in planted])
    added = pl.Series("text", [text for _, text in planted])
    new, sizes = tokenizer.encode_many(added)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.insert(tokens, np.repeat(ends[at], sizes), new)
    number = {column: arguments[f"{column}s"].index(CANARIES) for column in ("source", "domain")}
    columns = {name: np.insert(own, at, number[name[:-1]]) for name, own in columns.items()}
    return pl.concat([texts, added.cast(texts.dtype)]), tokens, np.insert(lengths, at, sizes), columns


def decided(work: Path, name: str) -> dict[str, np.ndarray]:
    """All that was decided about a part's documents; `split` and `rows` run over the trimmed texts."""
    own = read_arrays(work / "trim" / f"{name}.npz")
    early = read_arrays(work / "lines" / f"{name}.npz")
    split = np.load(work / "split" / f"{name}.npy")
    rows = np.load(work / "read" / f"{name}.rows.npy")
    similarity, verdict = early["similarity"], own["verdict"]
    ids = np.uint64(base_of(name)) + rows.astype(np.uint64)
    dropped, shares = np.load(work / "dropped.npy"), np.load(work / "dropped_shares.npy")
    goes = np.flatnonzero(np.isin(ids, dropped))
    verdict[goes] = OVERLAP
    similarity[goes] = shares[np.searchsorted(dropped, ids[goes])]
    split[verdict[own["place"]] == OVERLAP] = GONE
    found = read_arrays(work / "contamination" / f"{name}.npz")
    goes = own["place"][found["place"]]
    verdict[goes], similarity[goes], split[found["place"]] = CONTAMINATED, found["share"], GONE
    return {
        **own,
        "verdict": verdict,
        "split": split,
        "rows": rows[own["place"]],
        "like": early["like"],
        "similarity": similarity,
    }


@functools.lru_cache(maxsize=1)
def _tokenizer(path: str, _changed: int) -> Tokenizer:
    return load_own_tokenizer(Path(path))
