"""`stepladder plan`: a brief, or a shape and hardware, and what was measured, in; a plan with reasons out."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

Emitted = Literal["torchrun", "slurm", "kubernetes", "ray", "torchtitan", "megatron"]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Alone:
    """Changes of the brief; with `shape`, or without a brief, all there is to say."""

    shape: Annotated[str, Parameter(help='config.json, or "layers=32 width=4096 heads=32 ...".')] = ""
    tokens: Annotated[str, Parameter(help="Training tokens, as 1e12 or 300B.")] = ""
    device: Annotated[str, Parameter(help="Id of the catalogue, as h100-sxm, or this.")] = ""
    count: Annotated[int | None, Parameter(help="Devices in each node.")] = None
    nodes: Annotated[int | None, Parameter(help="Nodes.")] = None
    region: Annotated[str, Parameter(help="Two letters, as SE or US.")] = ""
    set_: Annotated[
        list[str] | None,
        Parameter(name="--set", negative="", help='Any key of a brief: "hours=8 usd=100 pue=1.1".'),
    ] = None

    @property
    def words(self) -> str:
        """All of it as KEY=VALUE."""
        named = {key: getattr(self, key) for key in ("tokens", "device", "count", "nodes", "region")}
        return " ".join([f"{key}={value}" for key, value in named.items() if value] + (self.set_ or []))


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured."""

    law: Annotated[Path | None, Parameter(help="law.json; by default the one beside the brief.")] = None
    observations: Annotated[Path | None, Parameter(help="CSV of measured runs, for speed.")] = None
    corpus: Annotated[Path | None, Parameter(help="Corpus folder; by default the one beside the brief.")] = (
        None
    )
    from_run: Annotated[
        list[str] | None,
        Parameter(
            negative="", help='Log of a run of any trainer, as "log.csv device=a100-sxm-80 devices=8".'
        ),
    ] = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Tables:
    """Many forecasts at once."""

    runs: Annotated[
        Path | None, Parameter(help="CSV of training runs: forecast their hours and energy into --out.")
    ] = None
    configs: Annotated[
        Path | None, Parameter(help="CSV of configurations: forecast step time and memory into --out.")
    ] = None
    measured: Annotated[Path | None, Parameter(help="CSV of measured steps, for --configs.")] = None


def plan(
    brief: Annotated[
        Path | None, Parameter(help="The brief, or a plan.json; by default stepladder.toml.")
    ] = None,
    *,
    alone: Alone = Alone(),
    known: Measured = Measured(),
    tables: Tables = Tables(),
    out: Annotated[Path | None, Parameter(help="Write plan.json, or the table, here.")] = None,
    why: Annotated[str, Parameter(help="Explain this number of the plan.")] = "",
    what_if: Annotated[
        list[str] | None,
        Parameter(negative="", help='Compare with the plan under "nodes=4 region=SE hours=none".'),
    ] = None,
    emit: Annotated[
        tuple[Emitted, Path] | None,
        Parameter(negative="", help="Write plan.json and the files of a job into a folder."),
    ] = None,
    dry_run: Annotated[bool, Parameter(negative="", help="Print the plan and write nothing.")] = False,
    json_: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Choose size, tokens, batch and layout; what was not measured comes from published figures."""
    if tables.runs is not None or tables.configs is not None:
        return _table(tables, out, json_=json_)
    from stepladder.plan.why import explain

    asked = _Asked(brief, alone, known, out or (emit[1] / "plan.json" if emit else None))
    made = asked.plan
    if why:
        print("\n".join(explain(made, why)))
        return 0
    if what_if:
        _compare(asked, what_if, json_=json_)
        return 0
    written = _write(made, out, emit) if not dry_run else []
    if json_:
        print(json.dumps(_json(made)))
    else:
        print("\n".join([*_lines(asked), *(f"wrote {path}" for path in written)]))
    return 0


class _Asked:
    """What the words of the command line come to: a plan, and how to make another under a change."""

    def __init__(self, brief: Path | None, alone: Alone, known: Measured, out: Path | None) -> None:
        from stepladder.plan.inputs import Sources, brief_value, brief_with, gather
        from stepladder.plan.standalone import bare_brief, shape_from
        from stepladder.plan.whatif import Change, changed, changes_from
        from stepladder.records import Plan, from_json
        from stepladder.store import read_json

        self.notes: list[str] = []
        self._given = None
        if brief and brief.suffix == ".json":
            made = from_json(Plan, read_json(brief))
            self.plan = replace(made, corpus=_corpus(brief.parent / made.corpus, out)) if out else made
            return
        self._where = brief or Path("stepladder.toml")
        shape, notes = shape_from(alone.shape) if alone.shape else (None, [])
        is_bare = brief is None and (alone.shape != "" or (alone.words != "" and not self._where.exists()))
        if is_bare:
            self._where = Path("the command line")
        value: Mapping[str, Any] = bare_brief() if is_bare else brief_value(self._where)
        words = alone.words
        change = changes_from([words], "--set")[0] if words else Change(label="", values={})
        made = brief_with(value, self._where, change)
        self._value = changed(value, change)
        sources = Sources(
            law=known.law,
            observations=known.observations,
            corpus=known.corpus,
            past=tuple(known.from_run or ()),
        )
        folder = Path("/nonexistent") if is_bare else self._where.parent
        given = gather(folder, sources, made, shape)
        text = Path(given.options.corpus_folder)
        self._given = replace(given, options=replace(given.options, corpus_folder=_corpus(text, out)))
        self.notes = [*notes, *given.notes]
        self.plan = self._given.plan(made)
        if not is_bare and self.plan.numbers["loss"].source == "prior":
            self.notes.append(
                "the loss is not forecast from your text: stepladder ladder, then stepladder fit"
            )

    def under(self, text: str):
        """The column of the plan under one change."""
        from stepladder.errors import PlanError
        from stepladder.plan.compare import column
        from stepladder.plan.inputs import brief_with
        from stepladder.plan.whatif import changes_from

        if self._given is None:
            raise PlanError("a plan.json alone cannot be planned again", allowed="--what-if with the brief")
        change = changes_from([text])[0]
        made = brief_with(self._value, self._where, change)
        try:
            return column(change, self._given.plan(made))
        except PlanError as error:
            return column(change, error)


def _corpus(folder: Path, out: Path | None) -> str:
    """The corpus as seen from where the plan will lie; one that is not there yet goes beside the plan."""
    import os

    if out is None or folder.is_absolute() or not folder.exists():
        return str(folder)
    return os.path.relpath(folder, out.parent)


def _compare(asked: _Asked, texts: Sequence[str], *, json_: bool) -> None:
    from stepladder.plan.compare import compare_json, compare_lines
    from stepladder.plan.whatif import changes_from

    changes_from(texts)  # all that is wrong with any of them, before anything is planned
    columns = [asked.under(text) for text in texts]
    if json_:
        print(json.dumps(compare_json(asked.plan, columns)))
    else:
        print("\n".join(compare_lines(asked.plan, columns)))


def _lines(asked: _Asked) -> list[str]:
    from stepladder.plan.narrow import measurements
    from stepladder.plan.show import plan_lines

    return plan_lines(asked.plan, measurements(asked.plan), asked.notes)


def _json(made: Any) -> dict[str, Any]:
    """The plan, and beside it what its spread comes from and what would narrow it."""
    from stepladder.plan.narrow import measurements
    from stepladder.plan.risk import shares
    from stepladder.records import to_json

    spread = {name: found for name in made.numbers if (found := shares(made.numbers, name))}
    return {**to_json(made), "spread": spread, "measurements": to_json(measurements(made))}


def _write(made: Any, out: Path | None, emit: tuple[Emitted, Path] | None) -> list[Path]:
    from stepladder.records import to_json
    from stepladder.store import write_json

    written = []
    if out is not None:
        write_json(out, to_json(made))
        written.append(out)
    if emit:
        from stepladder.launch.emit import emit_job

        written += emit_job(emit[0], made, emit[1])
    return written


def _table(tables: Tables, out: Path | None, *, json_: bool) -> int:
    from stepladder.errors import PlanError
    from stepladder.plan.configs import predict_configs, write_configs
    from stepladder.plan.published import predict_published, write_published

    runs, configs = tables.runs, tables.configs
    if out is None or (runs is not None and configs is not None):
        raise PlanError(
            "--runs and --configs each need a file to write",
            allowed="one of the two, with --out",
            next_command=f"stepladder plan --runs {runs or configs} --out table.csv",
        )
    if runs is not None:
        hours = predict_published(runs)
        write_published(out, hours)
        reasons = [(row.id, row.reason) for row in hours]
    else:
        steps = predict_configs(configs or Path(), tables.measured)
        write_configs(out, steps)
        reasons = [(row.id, row.reason) for row in steps]
    refused = {name: reason for name, reason in reasons if reason}
    if json_:
        print(json.dumps({"rows": len(reasons), "refused": refused, "out": str(out)}))
        return 0
    print(f"wrote {out}: {len(reasons) - len(refused)} forecasts, {len(refused)} refused")
    for name, reason in refused.items():
        print(f"  {name}: {reason}")
    return 0
