"""A CSV of runs (or Observations) in; columns as arrays out, or one LawError that says what is wrong.

Required columns: params, tokens, and one loss column: loss, loss_nats_per_token or loss_bits_per_byte.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from stepladder.errors import LawError, did_you_mean
from stepladder.laws.rows import bad_values, open_csv, parse, require
from stepladder.records import Observation

Array = np.ndarray
LOSS_UNITS = ("nats_per_token", "bits_per_byte")
UNSTATED = "unstated"
# 2,000 points know the constants to three digits in seconds; more rows are sampled.
MAX_POINTS = 2_000
_OPTIONAL = ("seed", "nonembed_params", "unique_tokens", "flops", "weight")
_KNOWN_EXTRA = (
    "seconds",
    "joules",
    "lr",
    "batch_tokens",
    "in_context_score",
    "warmup_share",
    "decay_share",
    "experts",
)
TEXT_COLUMNS = ("run", "schedule", "tokenizer", "loss_unit", "excluded", "corpus")
_POSITIVE = ("params", "tokens", "loss", "nonembed_params", "unique_tokens", "flops")


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

    def joined(self, rows: Sequence[Observation], note: str) -> "Table":
        """The table with more rows, whose further columns are empty, and a note on where they are from."""
        other = _from_observations(rows, self.loss_unit)
        columns = ("params", "tokens", "loss", *_OPTIONAL)
        empty = {name: ["" if name in TEXT_COLUMNS else math.nan] * len(other) for name in self.extra}
        return replace(
            self,
            run=(*self.run, *other.run),
            extra={name: [*values, *empty[name]] for name, values in self.extra.items()},
            notes=(*self.notes, note),
            **{name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in columns},
        )


def read_observations(
    source: Path | str | Sequence[Observation], loss_unit: str = "", keep: Sequence[str] = ()
) -> Table:
    """Read runs; rows of weight 0 are left out, equal rows are merged.

    Args:
        source: a CSV file, or observations.
        loss_unit: unit of the loss where its column name does not say it.
        keep: further columns of numbers of the CSV file, kept in `extra` (NaN where empty).

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
        return _finish(_read_csv(Path(source), loss_unit, keep), Path(source).name)
    return _finish(_from_observations(source, loss_unit), "observations")


def _from_observations(rows: Sequence[Observation], loss_unit: str) -> Table:
    kept = [row for row in rows if row.weight > 0]
    names = sorted({key for row in kept for key in row.notes if key in (*_KNOWN_EXTRA, *TEXT_COLUMNS)})

    def column(name: str) -> Array:
        return np.array([getattr(row, name) for row in kept], dtype=float)

    return Table(
        run=tuple(row.run for row in kept),
        extra={name: [row.notes.get(name, math.nan) for row in kept] for name in names},  # type: ignore[misc]
        loss_unit=loss_unit or UNSTATED,
        notes=_left_out(len(rows) - len(kept)),
        **{name: column(name) for name in ("params", "tokens", "loss", *_OPTIONAL)},
    )


def _read_csv(path: Path, loss_unit: str, keep: Sequence[str]) -> Table:
    header, rows = open_csv(path)
    loss_name, unit = _loss_column(header, loss_unit, path)
    require(header, ("params", "tokens"), path)
    require(header, keep, path, "the name of a column of numbers")
    further = dict.fromkeys((*_KNOWN_EXTRA, *keep))
    numeric = [name for name in (*_OPTIONAL, *further) if name in header]
    text = [name for name in TEXT_COLUMNS if name in header]
    where = {name: header.index(name) for name in ("params", "tokens", *numeric, *text)}
    where["loss"] = header.index(loss_name)
    numbers = [name for name in where if name not in text]
    lines, cells, texts = _collect(rows, [where[n] for n in numbers], [where[n] for n in text])
    columns = {name: parse(name, cells[k], lines, path) for k, name in enumerate(numbers)}
    weight = columns.get("weight", np.ones(len(lines)))
    weight = np.where(np.isnan(weight), 1.0, weight)
    kept = np.flatnonzero(weight != 0)
    for name in numbers:
        values = columns[name][kept]
        wrong = ~np.isfinite(values) if name in ("params", "tokens", "loss") else np.isinf(values)
        wrong |= values <= 0 if name in _POSITIVE else (values < 0 if name == "weight" else False)
        if wrong.any():
            k = numbers.index(name)
            raise bad_values(path, name, [(lines[i], cells[k][i].strip()) for i in kept[wrong]])
    columns["weight"] = weight
    words = {name: [texts[k][i].strip() for i in kept] for k, name in enumerate(text)}
    units = {item for item in words.get("loss_unit", []) if item}
    if len(units) > 1:
        raise _mixed_units(path, f"loss_unit says {', '.join(sorted(units))}")
    absent = np.full(len(kept), math.nan)
    unknown = [name for name in header if name not in (*where, loss_name, "name", "")]
    ignored = (f"columns not used: {', '.join(unknown)}",) if unknown else ()
    extra: dict[str, Sequence[float] | Sequence[str]] = {}
    extra.update({name: columns[name][kept].tolist() for name in numeric if name in further})
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
    require(header, ("params", "tokens", "loss"), path)
    raise AssertionError("unreachable")


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
            raise bad_values(Path(name), column, [(int(i) + 1, str(values[i])) for i in wrong])
    notes = list(table.notes)
    # Runs that differ in their settings are two runs, though they end at one loss.
    settings = [np.unique(np.array(values), return_inverse=True)[1] for values in table.extra.values()]
    own = [table.params, table.tokens, table.loss, table.seed, table.unique_tokens]
    keys = np.stack([*own, *settings], axis=1)
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
