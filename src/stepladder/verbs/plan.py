"""`stepladder plan`: a brief, and what was measured, in; plan.json out, with a reason for every number."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def plan(
    brief: Annotated[Path, Parameter(help="The brief, or a plan.json to explain.")] = Path("stepladder.toml"),
    *,
    law: Annotated[Path | None, Parameter(help="law.json; by default the one beside the brief.")] = None,
    observations: Annotated[Path | None, Parameter(help="CSV of measured runs, for speed.")] = None,
    corpus: Annotated[
        Path | None, Parameter(help="Corpus folder; by default the one beside the brief.")
    ] = None,
    runs: Annotated[
        Path | None, Parameter(help="CSV of training runs: forecast their hours and energy into --out.")
    ] = None,
    configs: Annotated[
        Path | None, Parameter(help="CSV of configurations: forecast step time and memory into --out.")
    ] = None,
    measured: Annotated[Path | None, Parameter(help="CSV of measured steps, for --configs.")] = None,
    out: Annotated[Path | None, Parameter(help="Write plan.json, or the table, here.")] = None,
    why: Annotated[str, Parameter(help="Explain this number of the plan.")] = "",
    dry_run: Annotated[bool, Parameter(negative="", help="Print the plan and write nothing.")] = False,
    json_: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Choose size, tokens, batch and layout; what was not measured comes from published figures."""
    from stepladder.plan.show import narrowing, plan_lines
    from stepladder.plan.why import explain
    from stepladder.records import Plan, from_json, to_json
    from stepladder.store import read_json, write_json

    if runs is not None or configs is not None:
        return _table(runs, configs, measured, out, json_=json_)
    if brief.suffix == ".json":
        made, notes = from_json(Plan, read_json(brief)), []
    else:
        made, notes = _make(brief, law, observations, corpus)
    if out is not None and not dry_run:
        write_json(out, to_json(made))
    if json_:
        print(json.dumps(to_json(made)))
    elif why:
        print("\n".join(explain(made, why)))
    else:
        lines = plan_lines(made, [*notes, *narrowing(made)])
        print("\n".join(lines))
        if out is not None and not dry_run:
            print(f"wrote {out}")
    return 0


def _table(
    runs: Path | None, configs: Path | None, measured: Path | None, out: Path | None, *, json_: bool
) -> int:
    from stepladder.errors import PlanError
    from stepladder.plan.configs import predict_configs, write_configs
    from stepladder.plan.published import predict_published, write_published

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
        steps = predict_configs(configs or Path(), measured)
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


def _make(brief_path: Path, law_path: Path | None, runs: Path | None, corpus: Path | None):
    from stepladder.brief import load_brief
    from stepladder.plan.choose import ChooseOptions, choose_plan
    from stepladder.plan.inputs import (
        corpus_from,
        family_from,
        first_of,
        law_from,
        loss_of,
        observations_from,
    )
    from stepladder.plan.machine import measure_machine
    from stepladder.plan.prior import prior_loss_for
    from stepladder.plan.rates import recipe_rule

    brief, folder, notes = load_brief(brief_path), brief_path.parent, []
    law_path = law_path or first_of(folder, ("law.json",))
    runs = runs or first_of(folder, ("observations.csv", "ladder/observations.csv"))
    text = corpus or (folder / "corpus" if (folder / "corpus" / "corpus.json").exists() else None)
    given = law_from(law_path) if law_path else None
    rows = observations_from(runs) if runs else []
    options = ChooseOptions(
        name=brief.name,
        corpus_folder=str(text or "corpus"),
        loss_source="law" if given else "prior",
        loss_unit=given.loss_unit.replace("_", " ") if given else "nats per token",
        like=family_from(runs) if runs else None,
        size_column=given.size_column if given else "params",
    )
    notes += [f"read {path}" for path in (law_path, runs, text) if path]
    if given and given.refusal:
        notes.append(f"the law refuses to forecast: {given.refusal}")
    record = corpus_from(text) if text else None
    vocabulary = record.vocab_size if record else int(brief.override.get("vocab_size", 4_096))
    made = choose_plan(
        brief,
        loss_of(given) if given else prior_loss_for(vocabulary),
        rows,
        measure_machine(rates="cached"),
        record,
        recipe_rule(brief.override),
        options,
    )
    return made, notes
