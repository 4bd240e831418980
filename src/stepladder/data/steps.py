"""The three tasks that run shard by shard: each reads files, writes its output under its own name, renames.

A task is a function of JSON values, so that a process or another machine can run it; a task whose result is
on disk is not run again. `read` makes chunks of at most 500 documents: CHUNK.meta (one row a document),
CHUNK.text (those that are kept), CHUNK.npz (hashes, sketches, long lines).
"""

import dataclasses
import functools
import io
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stepladder.data.clean import clean
from stepladder.data.dedup import exact_keys, long_lines, sketches, without_lines
from stepladder.data.read import Reader
from stepladder.data.sources import SourceFile
from stepladder.data.tokenizer import Tokenizer, load_tokenizer
from stepladder.store import read_json, write_bytes, write_json

_EXAMPLE_CHARS = 160
SPLITS = ("train", "heldout")


def run_step(name: str, arguments: Mapping[str, Any]) -> Any:
    """Run the task `name`, or give back the result that it left on disk."""
    done = Path(arguments["folder"]) / name / f"{arguments['index']:05d}.json"
    if done.exists():
        return read_json(done)
    result = STEPS[name](arguments)
    write_json(done, result)
    return result


def read_step(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Files → chunks on disk; the result lists the chunks and what was quarantined."""
    import polars as pl

    folder = Path(arguments["folder"]) / "read"
    reader = Reader(text_column=arguments["text_column"], piece_bytes=arguments["piece_bytes"])
    chunks = []
    files = [SourceFile(**file) for file in arguments["files"]]
    for number, batch in enumerate(reader.batches(files)):
        name = f"{arguments['index']:05d}-{number:05d}"
        frame = clean(batch, tuple(arguments["languages"]), quality=arguments["quality"])
        text = pl.col("text")
        meta = frame.with_columns(
            text.str.len_bytes().cast(pl.Int64).alias("num_bytes"),
            text.str.slice(0, _EXAMPLE_CHARS).alias("head"),
        ).drop("text")
        kept = frame.filter(pl.col("rule").is_null())
        values, has_sketch = sketches(kept["text"])
        lines = long_lines(kept["text"], kept["domain"])
        arrays = {
            "exact": exact_keys(kept["text"]),
            "values": values,
            "has_sketch": has_sketch,
            "line_document": lines.document,
            "line_key": lines.key,
            "line_removable": lines.removable,
        }
        write_frame(folder / f"{name}.meta", meta)
        write_frame(folder / f"{name}.text", kept.select("text", "domain"))
        write_arrays(folder / f"{name}.npz", arrays)
        chunks.append(name)
    return {"chunks": chunks, "quarantined": [dataclasses.asdict(entry) for entry in reader.quarantined]}


def trim_step(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A chunk and its verdicts → the texts of the documents that stay, without boilerplate lines."""
    import polars as pl

    folder, name = Path(arguments["folder"]), arguments["chunk"]
    texts = read_frame(folder / "read" / f"{name}.text")
    verdict = read_arrays(folder / "dedup" / f"{name}.npz")
    stays = np.flatnonzero(verdict["stays"])
    text, gone = texts["text"], []
    if len(verdict["line_document"]):
        text, removed = without_lines(text, texts["domain"], verdict["line_document"], verdict["line_key"])
        gone = removed["line"].to_list()
    rest = pl.DataFrame({"text": text, "domain": texts["domain"]}).with_row_index("row")
    rest = rest[stays].with_columns(pl.col("text").str.len_bytes().cast(pl.Int64).alias("num_bytes"))
    write_frame(folder / "trim" / f"{name}.text", rest.select("row", "text"))
    return {
        "chunk": name,
        "num_bytes": rest["num_bytes"].to_list(),
        "shorter_documents": len(np.unique(verdict["line_document"])),
        "lines": len(gone),
        "line_bytes": sum(len(line.encode()) + 1 for line in gone),
        "examples": [line for line, _ in sorted(Counter(gone).items(), key=lambda i: (-i[1], i[0]))[:3]],
    }


def encode_step(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A trimmed chunk and the split of its documents → files of token ids and of tokens per document."""
    folder, name = Path(arguments["folder"]), arguments["chunk"]
    tokenizer = _tokenizer(arguments["tokenizer"], Path(arguments["tokenizer"]).stat().st_mtime_ns)
    if not arguments["fast"]:
        tokenizer.use_slow()
    texts = read_frame(folder / "trim" / f"{name}.text")["text"]
    codes = read_arrays(folder / "split" / f"{name}.npz")["split"]
    end = np.array([tokenizer.end_id], dtype=np.uint32)
    result: dict[str, Any] = {"chunk": name}
    for code, split in enumerate(SPLITS):
        pieces, lengths, num_bytes = [], [], 0
        for text in texts.filter(_mask(codes == code)):
            ids = tokenizer.encode_array(text)
            pieces += [ids, end]
            lengths.append(len(ids) + 1)
            num_bytes += len(text.encode())
        tokens = np.concatenate(pieces) if pieces else end[:0]
        write_bytes(folder / "encode" / f"{name}.{split}", tokens.astype(arguments["dtype"]).tobytes())
        write_arrays(
            folder / "encode" / f"{name}.{split}.npz", {"lengths": np.array(lengths, dtype=np.int64)}
        )
        result[split] = {"tokens": len(tokens), "num_bytes": num_bytes}
    return result


@functools.lru_cache(maxsize=1)
def _tokenizer(path: str, _changed: int) -> Tokenizer:
    return load_tokenizer(Path(path))


STEPS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "read": read_step,
    "trim": trim_step,
    "encode": encode_step,
}


def write_frame(path: Path, frame: Any) -> None:
    """A polars frame as an Arrow file, written whole or not at all."""
    buffer = io.BytesIO()
    frame.write_ipc(buffer, compression="lz4")
    write_bytes(path, buffer.getvalue())


def read_frame(path: Path) -> Any:
    """A frame that `write_frame` wrote."""
    import polars as pl

    return pl.read_ipc(io.BytesIO(path.read_bytes()))


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Named arrays in one .npz file, written whole or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # pyrefly: ignore
    write_bytes(path, buffer.getvalue())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file."""
    with np.load(path) as content:
        return {name: content[name] for name in content.files}


def _mask(values: np.ndarray) -> Any:
    import polars as pl

    return pl.Series(values, dtype=pl.Boolean)
