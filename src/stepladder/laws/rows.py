"""A CSV file in; its header, checked rows and cells as numbers, or one LawError that names the line, out."""

import codecs
import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from stepladder.errors import LawError, did_you_mean

Array = np.ndarray
_SHOWN = 10
_RUNS = "params, tokens and loss (or loss_nats_per_token, loss_bits_per_byte)"


def open_csv(path: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Header and an iterator of (line number, cells); rows are streamed."""
    try:
        with path.open("rb") as file:
            head = file.read(65536)
    except OSError as error:
        raise LawError(f"cannot read {path.name}", got=error.strerror or str(error)) from error
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in head:
        raise LawError(
            f"{path.name} is not UTF-8 text",
            got="UTF-16 or binary data (a spreadsheet file?)",
            allowed="a CSV file in UTF-8",
            next_command=f"iconv -f UTF-16 -t UTF-8 {path.name} > runs.utf8.csv",
        )
    first = next((line for line in head.decode("utf-8", "replace").lstrip("\ufeff").splitlines() if line), "")
    if not first.strip():
        raise LawError(f"{path.name} is empty", allowed="a header with params,tokens,loss and one row a run")
    for separator, word in ((";", "semicolons"), ("\t", "tabs")):
        if separator in first and "," not in first:
            raise LawError(
                f"{path.name} separates columns by {word}",
                got=first[:60],
                allowed="commas between columns, points in decimals",
                next_command="export it again as comma-separated values",
            )
    rows = _rows(path)
    _, names = next(rows)
    header = [name.strip().lower() for name in names]
    doubled = sorted({name for name in header if name and header.count(name) > 1})
    if doubled:
        raise LawError(f"{path.name} has columns of the same name", got=", ".join(doubled))
    return header, _checked(rows, header, path)


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            for row in reader:
                if row and (row[0] or any(cell.strip() for cell in row)):
                    yield reader.line_num, row
    except UnicodeDecodeError as error:
        raise LawError(
            f"{path.name} is not UTF-8 text",
            got=f"byte 0x{error.object[error.start]:02x} that no UTF-8 character starts with",
            allowed="a CSV file in UTF-8",
            next_command=f"iconv -f LATIN1 -t UTF-8 {path.name} > runs.utf8.csv",
        ) from error
    except csv.Error as error:
        raise LawError(f"{path.name} is not a CSV file", got=str(error)) from error


def _checked(
    rows: Iterator[tuple[int, list[str]]], header: Sequence[str], path: Path
) -> Iterator[tuple[int, list[str]]]:
    for line, row in rows:
        if len(row) != len(header):
            raise LawError(
                f"{path.name}, line {line}: {len(row)} cells under {len(header)} column names",
                got=",".join(row)[:80],
                allowed="as many cells as columns; numbers without thousands separators (1000000 or 1e6)",
            )
        yield line, row


def require(header: Sequence[str], names: Sequence[str], path: Path, allowed: str = _RUNS) -> None:
    missing = [name for name in names if name not in header]
    if missing:
        raise LawError(
            f"{path.name} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}",
            got=", ".join(name + _meant(name, missing) for name in header),
            allowed=allowed,
        )


# Names that papers and trackers give to the same quantities.
_OTHER_NAMES = {
    "n": "params",
    "model_size": "params",
    "parameters": "params",
    "num_params": "params",
    "d": "tokens",
    "num_tokens": "tokens",
    "training_tokens": "tokens",
    "train_tokens": "tokens",
    "val_loss": "loss",
    "eval_loss": "loss",
    "final_loss": "loss",
    "training_loss": "loss",
}


def _meant(name: str, missing: Sequence[str]) -> str:
    other = _OTHER_NAMES.get(name)
    return f' (did you mean "{other}"?)' if other in missing else did_you_mean(name, missing)


def parse(name: str, cells: Sequence[str], lines: Sequence[int], path: Path) -> Array:
    """Cells as numbers, NaN where empty."""
    try:
        return np.array([float(cell) if cell else math.nan for cell in cells])
    except ValueError:
        values = (cell.strip() for cell in cells)
        pairs = zip(values, lines, strict=True)
        return np.array([number(cell, name, line, path) if cell else math.nan for cell, line in pairs])


def number(text: str, name: str, line: int, path: Path) -> float:
    try:
        return float(text)
    except ValueError:
        hint = "a plain number such as 1000000 or 1e6, no thousands separators, a point for decimals"
        raise LawError(
            f"{path.name}, line {line}: {name} is not a number", got=repr(text[:40]), allowed=hint
        ) from None


def bad_values(path: Path, name: str, wrong: Sequence[tuple[int, str]]) -> LawError:
    shown = ", ".join(f"line {line}: {cell or 'empty'}" for line, cell in wrong[:_SHOWN])
    more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    return LawError(
        f"{path.name} has values of {name} that no law can be fitted to",
        got=shown + more,
        allowed="finite numbers above zero; a run to be left out gets weight 0",
    )
