"""A CSV of runs (or Observations) in; columns as arrays out, or one LawError that says what is wrong.

Required columns: params, tokens, and one loss column: loss, loss_nats_per_token or loss_bits_per_byte.
"""

import codecs
import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from stepladder.errors import LawError, did_you_mean
from stepladder.records import Observation

Array = np.ndarray
LOSS_UNITS = ("nats_per_token", "bits_per_byte")
UNSTATED = "unstated"
# 2,000 points know the constants to three digits in seconds; more rows are sampled.
MAX_POINTS = 2_000
_OPTIONAL = ("seed", "nonembed_params", "unique_tokens", "flops", "weight")
_KNOWN_EXTRA = ("seconds", "joules", "lr", "batch_tokens", "in_context_score", "warmup_share", "decay_share")
_TEXT = ("run", "schedule", "tokenizer", "loss_unit", "excluded")
_POSITIVE = ("params", "tokens", "loss", "nonembed_params", "unique_tokens", "flops")
_SHOWN = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Runs as columns of one length. NaN where an optional column is absent or empty.

    `extra` holds further known columns (lr, batch_tokens, ...); `notes` says what was merged, sampled or
    ignored; `loss_unit` is nats_per_token, bits_per_byte or "unstated" (the losses' own unit).
    """

    run: tuple[str, ...]
    params: Array
    tokens: Array
    loss: Array
    seed: Array
    nonembed_params: Array
    unique_tokens: Array
    flops: Array
    weight: Array
    extra: Mapping[str, Sequence[float] | Sequence[str]]
    loss_unit: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.params)

    def take(self, index: Array) -> "Table":
        """The rows at `index`."""
        columns = ("params", "tokens", "loss", *_OPTIONAL)
        return replace(
            self,
            run=tuple(self.run[i] for i in index),
            extra={name: [values[i] for i in index] for name, values in self.extra.items()},
            **{name: getattr(self, name)[index] for name in columns},
        )


def read_observations(source: Path | str | Sequence[Observation], loss_unit: str = "") -> Table:
    """Read runs; rows of weight 0 are left out, equal rows are merged.

    Args:
        source: a CSV file, or observations.
        loss_unit: unit of the loss where its column name does not say it.

    Raises:
        LawError: the file or a value cannot be used.
    """
    if loss_unit and loss_unit not in LOSS_UNITS:
        raise LawError(
            "unknown loss unit",
            got=f"{loss_unit!r}{did_you_mean(loss_unit, LOSS_UNITS)}",
            allowed=", ".join(LOSS_UNITS),
            next_command="stepladder fit runs.csv --loss-unit nats_per_token",
        )
    if isinstance(source, (str, Path)):
        return _finish(_read_csv(Path(source), loss_unit), Path(source).name)
    return _finish(_from_observations(source, loss_unit), "observations")


def _from_observations(rows: Sequence[Observation], loss_unit: str) -> Table:
    kept = [row for row in rows if row.weight > 0]
    names = sorted({key for row in kept for key in row.notes if key in (*_KNOWN_EXTRA, *_TEXT)})

    def column(name: str) -> Array:
        return np.array([getattr(row, name) for row in kept], dtype=float)

    return Table(
        run=tuple(row.run for row in kept),
        extra={name: [row.notes.get(name, math.nan) for row in kept] for name in names},  # type: ignore[misc]
        loss_unit=loss_unit or UNSTATED,
        notes=_left_out(len(rows) - len(kept)),
        **{name: column(name) for name in ("params", "tokens", "loss", *_OPTIONAL)},
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A run that a law is asked about. `unique_tokens` is None when all tokens are."""

    run: str
    params: float
    tokens: float
    unique_tokens: float | None = None


def read_targets(path: Path, size_column: str = "params") -> list[Target]:
    """Rows of `run,params,tokens[,unique_tokens]`; the size is read from `size_column`.

    Raises:
        LawError: the file or a value cannot be used.
    """
    header, rows = _open_csv(path)
    _require(header, (size_column, "tokens"), path)
    targets: list[Target] = []
    for line, row in rows:
        cells = dict(zip(header, row, strict=True))
        size, tokens = (_positive(cells[name].strip(), name, line, path) for name in (size_column, "tokens"))
        unique = cells.get("unique_tokens", "").strip()
        targets.append(
            Target(
                run=cells.get("run", "").strip() or f"target{len(targets) + 1}",
                params=size,
                tokens=tokens,
                unique_tokens=_positive(unique, "unique_tokens", line, path) if unique else None,
            )
        )
    if not targets:
        raise LawError(f"{path.name} has a header and no rows", allowed="one row a target")
    return targets


def _positive(text: str, name: str, line: int, path: Path) -> float:
    value = _number(text, name, line, path) if text else math.nan
    if not (math.isfinite(value) and value > 0):
        raise _bad_values(path, name, [(line, text)])
    return value


def _read_csv(path: Path, loss_unit: str) -> Table:
    header, rows = _open_csv(path)
    loss_name, unit = _loss_column(header, loss_unit, path)
    _require(header, ("params", "tokens"), path)
    numeric = [name for name in (*_OPTIONAL, *_KNOWN_EXTRA) if name in header]
    text = [name for name in _TEXT if name in header]
    where = {name: header.index(name) for name in ("params", "tokens", *numeric, *text)}
    where["loss"] = header.index(loss_name)
    numbers = [name for name in where if name not in text]
    lines, cells, texts = _collect(rows, [where[n] for n in numbers], [where[n] for n in text])
    columns = {name: _parse(name, cells[k], lines, path) for k, name in enumerate(numbers)}
    weight = columns.get("weight", np.ones(len(lines)))
    weight = np.where(np.isnan(weight), 1.0, weight)
    kept = np.flatnonzero(weight != 0)
    for name in numbers:
        values = columns[name][kept]
        wrong = ~np.isfinite(values) if name in ("params", "tokens", "loss") else np.isinf(values)
        wrong |= values <= 0 if name in _POSITIVE else (values < 0 if name == "weight" else False)
        if wrong.any():
            k = numbers.index(name)
            raise _bad_values(path, name, [(lines[i], cells[k][i].strip()) for i in kept[wrong]])
    columns["weight"] = weight
    words = {name: [texts[k][i].strip() for i in kept] for k, name in enumerate(text)}
    units = {item for item in words.get("loss_unit", []) if item}
    if len(units) > 1:
        raise _mixed_units(path, f"loss_unit says {', '.join(sorted(units))}")
    absent = np.full(len(kept), math.nan)
    unknown = [name for name in header if name not in (*where, loss_name, "name", "")]
    ignored = (f"columns not used: {', '.join(unknown)}",) if unknown else ()
    extra: dict[str, Sequence[float] | Sequence[str]] = {}
    extra.update({name: columns[name][kept].tolist() for name in numeric if name in _KNOWN_EXTRA})
    extra.update({name: words[name] for name in text if name != "run"})
    wanted = ("params", "tokens", "loss", *_OPTIONAL)
    return Table(
        run=tuple(words["run"]) if "run" in words else tuple(f"row{i + 1}" for i in kept),
        extra=extra,
        loss_unit=next(iter(units)) if units and unit == UNSTATED else unit,
        notes=(*ignored, *_left_out(len(lines) - len(kept))),
        **{name: columns[name][kept] if name in columns else absent for name in wanted},
    )


def _collect(
    rows: Iterator[tuple[int, list[str]]], number_places: Sequence[int], text_places: Sequence[int]
) -> tuple[list[int], list[list[str]], list[list[str]]]:
    """Line numbers, and the cells of the wanted columns by column; other columns are dropped at once."""
    lines: list[int] = []
    numbers: list[list[str]] = [[] for _ in number_places]
    texts: list[list[str]] = [[] for _ in text_places]
    wanted = list(zip([*number_places, *text_places], [*numbers, *texts], strict=True))
    for line, row in rows:
        lines.append(line)
        for place, column in wanted:
            column.append(row[place])
    return lines, numbers, texts


def _parse(name: str, cells: Sequence[str], lines: Sequence[int], path: Path) -> Array:
    """Cells as numbers, NaN where empty."""
    try:
        return np.array([float(cell) if cell else math.nan for cell in cells])
    except ValueError:
        values = (cell.strip() for cell in cells)
        pairs = zip(values, lines, strict=True)
        return np.array([_number(cell, name, line, path) if cell else math.nan for cell, line in pairs])


def _open_csv(path: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
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


def _loss_column(header: Sequence[str], loss_unit: str, path: Path) -> tuple[str, str]:
    named = {f"loss_{unit}": unit for unit in LOSS_UNITS}
    found = [name for name in header if name in named]
    if loss_unit and f"loss_{loss_unit}" in found:
        return f"loss_{loss_unit}", loss_unit
    if len(found) > 1 or (found and "loss" in header):
        raise LawError(
            f"{path.name} has more than one loss column",
            got=", ".join(name for name in header if name in named or name == "loss"),
            allowed="one, or --loss-unit to choose",
            next_command=f"stepladder fit {path.name} --loss-unit {named[found[0]]}",
        )
    if found:
        if loss_unit:
            raise _mixed_units(path, f"column {found[0]}, --loss-unit {loss_unit}")
        return found[0], named[found[0]]
    if "loss" in header:
        return "loss", loss_unit or UNSTATED
    _require(header, ("params", "tokens", "loss"), path)
    raise AssertionError("unreachable")


def _require(header: Sequence[str], names: Sequence[str], path: Path) -> None:
    missing = [name for name in names if name not in header]
    if missing:
        raise LawError(
            f"{path.name} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}",
            got=", ".join(name + _meant(name, missing) for name in header),
            allowed="params, tokens and loss (or loss_nats_per_token, loss_bits_per_byte)",
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


def _number(text: str, name: str, line: int, path: Path) -> float:
    try:
        return float(text)
    except ValueError:
        hint = "a plain number such as 1000000 or 1e6, no thousands separators, a point for decimals"
        raise LawError(
            f"{path.name}, line {line}: {name} is not a number", got=repr(text[:40]), allowed=hint
        ) from None


def _bad_values(path: Path, name: str, wrong: Sequence[tuple[int, str]]) -> LawError:
    shown = ", ".join(f"line {line}: {cell or 'empty'}" for line, cell in wrong[:_SHOWN])
    more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    return LawError(
        f"{path.name} has values of {name} that no law can be fitted to",
        got=shown + more,
        allowed="finite numbers above zero; a run to be left out gets weight 0",
    )


def _mixed_units(path: Path, got: str) -> LawError:
    return LawError(
        f"{path.name} has losses in more than one unit",
        got=got,
        allowed="one unit for all runs: " + " or ".join(LOSS_UNITS),
    )


def _left_out(count: int) -> tuple[str, ...]:
    return (f"{count} runs of weight 0 left out",) if count else ()


def _finish(table: Table, name: str) -> Table:
    """Merge equal rows, sample a huge table, refuse an empty one."""
    if not len(table):
        raise LawError(f"{name} has no usable run", allowed="one row a run, at least three of them")
    for column in ("params", "tokens", "loss"):
        values = getattr(table, column)
        wrong = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
        if len(wrong):
            raise _bad_values(Path(name), column, [(int(i) + 1, str(values[i])) for i in wrong])
    notes = list(table.notes)
    keys = np.stack([table.params, table.tokens, table.loss, table.seed, table.unique_tokens], axis=1)
    _, first = np.unique(np.nan_to_num(keys, nan=-1.0), axis=0, return_index=True)
    if len(first) < len(table):
        notes.append(f"{len(table) - len(first)} repeated rows merged with an equal one")
        table = table.take(np.sort(first))
    if len(table) > MAX_POINTS:
        notes.append(f"{MAX_POINTS} of {len(table)} rows used, drawn at random, the dearest 1 % always kept")
        compute = table.params * table.tokens
        top = np.argsort(compute)[-max(1, MAX_POINTS // 100) :]
        rest = np.setdiff1d(np.arange(len(table)), top)
        drawn = np.random.default_rng(0).choice(rest, MAX_POINTS - len(top), replace=False)
        table = table.take(np.sort(np.concatenate([top, drawn])))
    return replace(table, notes=tuple(notes))
