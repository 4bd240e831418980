"""A machine in; the text of a commented stepladder.toml out, made from the same rules that check it."""

import re

from stepladder.brief import OVERRIDES, TABLES
from stepladder.plan.machine import Machine
from stepladder.units import format_bytes

_HOURS = 0.25
# What each key means; its range is added from the rule that checks it.
_MEANING = {
    "sources": "files, folders, globs, or text that came with Python: python:prose, python:code",
    "held_out": "never trained on",
    "tasks": "labelled examples for fine-tuning, as JSON lines, or a known set such as example:text-kind",
    "device": "this machine, or an id of the catalogue, as h100-sxm or rtx-4090",
    "count": "devices in each node",
    "nodes": "machines",
    "region": "whose electricity: two letters, as SE or US, or world",
    "hours": "wall-clock time of everything, ladder included",
    "usd": "US dollars",
    "kwh": "energy",
    "kg_co2e": "carbon",
    "ladder_share": "of the budget, for the small runs that the forecast rests on",
    "minimise": "anything but loss needs target_loss",
    "target_loss": "bits per byte; the run ends where the forecast reaches it",
    "max_params": "because of where the model will run",
    "inference_tokens": "use after training, counted when money or energy is minimised",
    "license": "of the weights, as apache-2.0; what is left out reads NOT STATED on the cards",
    "data_license": "of the corpus",
    "provider": "who answers for the model",
    "contact": "where they are reached",
    "intended_use": "what it is for",
    "out_of_scope": "what it is not for",
    "risks": "what can go wrong in use",
}
_VALUE = {
    "held_out": "0.05",
    "tasks": '["labels.jsonl"]',
    "device": '"this"',
    "count": "1",
    "nodes": "1",
    "region": '"world"',
    "usd": "10",
    "kwh": "1",
    "kg_co2e": "0.5",
    "ladder_share": "0.4",
    "minimise": '"loss"',
    "target_loss": "1.5",
    "max_params": "100_000_000",
    "inference_tokens": "0",
    "license": '"apache-2.0"',
    "data_license": '"cc-by-4.0"',
    "provider": '"Name, country"',
    "contact": '"name@example.org"',
    "intended_use": '"research on scaling"',
    "out_of_scope": '"advice to people"',
    "risks": '"false and offensive text"',
}


def brief_text(machine: Machine, name: str) -> str:
    """The brief; what is commented out shows a value and does not bind."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "model"
    gpus = ", ".join(gpu.name for gpu in machine.gpus) or "no GPU"
    lines = [
        "# What you have and what you want. `stepladder plan` says the rest and why.",
        f"# This machine: {machine.cpu}, {machine.cores} cores, "
        f"{format_bytes(machine.memory_bytes)} of memory, {gpus}.",
        f'name = "{safe}"',
        'objective = "causal"  # or "masked", for encoders',
    ]
    given = {"sources": '["python:prose"]', "hours": str(_HOURS)}
    if len(machine.gpus) > 1:
        given["count"] = str(len(machine.gpus))
    for table, rules in TABLES.items():
        lines += ["", f"[{table}]"]
        for key, rule in rules.items():
            value = given.get(key)
            shown = f"{key} = {value or _VALUE[key]}"
            lines.append(f"{shown if value else '# ' + shown}  # {_MEANING[key]}; {rule.allowed}")
    lines += ["", "# Each line here replaces a number that the plan would choose or look up.", "[override]"]
    lines += [f"# {key} =  # {rule.allowed}" for key, rule in OVERRIDES.items()]
    return "\n".join(lines) + "\n"
