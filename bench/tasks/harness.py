"""Local tasks in; CPU seconds of lm-eval on our runtime, on its own model "hf", and of our own scorer, out.

    python bench/tasks/harness.py [--width 256] [--examples 150] [--rounds 3] [--json FILE]

A decoder with random weights and its export answer the same three tasks: labels of docstrings (likelihoods
of five or six choices), docstrings as texts (rolling log-likelihoods), and first sentences (greedy texts).
One process and thread, fp32, sides in turns. "hf" runs with batches of 1, 8 and 16; the best one counts.
Seconds are those of the model's methods; the whole of `simple_evaluate` stands beside them.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import datasets
import lm_eval
import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from stepladder.data.tokens.tokenizer import train_tokenizer
from stepladder.eval.lmeval import StepladderLM
from stepladder.eval.scorer import score_pairs, score_texts, write_ids
from stepladder.models.export import export_folder
from stepladder.models.hf import random_network, save_folder
from stepladder.models.shape import shape_for_width
from stepladder.store import write_json, write_text
from stepladder.tune.examples import example_task

OURS, NATIVE = "stepladder", "own scorer"
BATCHES = (1, 8, 16)
VOCABULARY, CONTEXT, NEW_TOKENS = 4096, 256, 24
METHODS = ("loglikelihood", "loglikelihood_rolling", "generate_until")
KINDS = {
    "choices": """output_type: multiple_choice
doc_to_choice: {labels}
doc_to_target: gold
doc_to_text: "Text: {{{{text}}}}\\nLabel:"
metric_list:
  - metric: acc
""",
    "rolling": """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - metric: bits_per_byte
""",
    "greedy": """output_type: generate_until
doc_to_text: "Text: {{{{text}}}}\\nSummary:"
doc_to_target: "{{{{summary}}}}"
generation_kwargs:
  until: ["\\n\\n"]
  max_gen_toks: {tokens}
metric_list:
  - metric: exact_match
""",
}


def main() -> int:
    """Print a line a task and side, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--examples", type=int, default=150, help="of each set; a fifth of them are asked")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        datasets.config.HF_DATASETS_CACHE = str(folder / "cache")
        prepare(folder, options)
        measured = measure(folder, options.rounds)
    report(measured)
    if options.json:
        write_json(options.json, measured)
    return 0


def prepare(folder: Path, options: argparse.Namespace) -> None:
    """Write run/ (weights and tokenizer), export/ and tasks/."""
    topic = example_task("docstring-topic", examples=options.examples)
    summary = example_task("docstring-summary", examples=options.examples)
    shape = shape_for_width(options.width, vocab_size=VOCABULARY, context_tokens=CONTEXT)
    network = random_network(shape, 0)
    with torch.no_grad():  # a sharp head: greedy texts do not stop at once, and no two choices are close
        network.lm_head.weight.normal_(0, 0.2, generator=torch.Generator().manual_seed(1))
    save_folder(network, folder / "run" / "model")
    texts = [example.text for task in (topic, summary) for example in task.train]
    write_text(folder / "run" / "tokenizer.json", train_tokenizer(texts, VOCABULARY))
    export_folder(folder / "run", folder / "export")
    rows: dict[str, list[dict[str, Any]]] = {
        "choices": [{"text": one.text, "gold": topic.labels.index(one.label)} for one in topic.test],
        "rolling": [{"text": one.text} for one in topic.test],
        "greedy": [{"text": one.text, "summary": one.label} for one in summary.test],
    }
    for kind, lines in rows.items():
        data = folder / "tasks" / f"{kind}.jsonl"
        write_text(data, "".join(json.dumps(line) + "\n" for line in lines))
        head = f"task: {kind}\ndataset_path: json\ntest_split: test\n"
        head += f"dataset_kwargs:\n  data_files:\n    test: {data}\n"
        body = KINDS[kind].format(labels=json.dumps(list(topic.labels)), tokens=NEW_TOKENS)
        write_text(folder / "tasks" / f"{kind}.yaml", head + body)
    size = sum(parameter.numel() for parameter in network.parameters())
    counts = ", ".join(f"{len(lines)} {kind}" for kind, lines in rows.items())
    print(f"{size:,} parameters, context {CONTEXT}; documents: {counts}", flush=True)


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """Task → side → CPU seconds of the model's methods and of the whole, a value a round; scores."""
    models: dict[str, LM] = {OURS: StepladderLM(folder / "run")}
    for batch in BATCHES:
        models[f"hf, batches of {batch}"] = HFLM(
            pretrained=str(folder / "export"), device="cpu", dtype="float32", batch_size=batch
        )
    clocks = {side: clocked(model) for side, model in models.items()}
    manager = TaskManager(include_path=str(folder / "tasks"), include_defaults=False)
    found: dict[str, Any] = {}
    for kind in KINDS:
        task = manager.load([kind])["tasks"][kind]
        sides: dict[str, dict[str, list[float]]] = {}
        scores: dict[str, Mapping[str, float]] = {}
        samples: list[Mapping[str, Any]] = []
        for _ in range(rounds):
            for side, model in models.items():
                clocks[side].clear()
                started = time.process_time()
                raw = lm_eval.simple_evaluate(
                    model=model, tasks=[task], task_manager=manager, bootstrap_iters=0
                )
                one = sides.setdefault(side, {"model": [], "whole": []})
                one["whole"].append(time.process_time() - started)
                one["model"].append(sum(clocks[side]))
                scores[side] = {
                    metric: float(value)
                    for metric, value in raw["results"][kind].items()
                    if isinstance(value, float) and "_stderr" not in metric
                }
                samples = raw["samples"][kind]
            started = time.process_time()
            answer_by_hand(models[OURS], kind, samples)
            sides.setdefault(NATIVE, {"model": []})["model"].append(time.process_time() - started)
        found[kind] = {"seconds": sides, "scores": scores}
        if kind == "rolling":
            exact = HFLM(pretrained=str(folder / "export"), device="cpu", dtype="float64", batch_size=1)
            found[kind]["apart"] = apart({**models, "exact": exact}, samples)
    return found


def apart(models: Mapping[str, LM], samples: list[Mapping[str, Any]]) -> dict[str, float]:
    """Side → largest relative difference of a text's log-likelihood from that of "hf" in float64."""
    requests = [
        Instance(request_type="loglikelihood_rolling", doc={}, arguments=sample["arguments"][0], idx=at)
        for at, sample in enumerate(samples)
    ]
    said = {side: np.array(model.loglikelihood_rolling(requests)) for side, model in models.items()}
    exact = said.pop("exact")
    return {side: float(np.abs(one / exact - 1).max()) for side, one in said.items()}


def clocked(model: LM) -> list[float]:
    """CPU seconds of each call of the model's methods from now on."""
    spent: list[float] = []

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            started = time.process_time()
            answer = method(*args, **named)
            spent.append(time.process_time() - started)
            return answer

        return call

    for name in METHODS:
        setattr(model, name, timed(getattr(model, name)))
    return spent


def answer_by_hand(model: LM, kind: str, samples: list[Mapping[str, Any]]) -> None:
    """The same questions to `stepladder.eval.scorer`."""
    asked = [pair for sample in samples for pair in sample["arguments"]]
    if kind == "choices":
        score_pairs(model.speaker, [(context, said) for context, said in asked])
    elif kind == "rolling":
        score_texts(model.speaker, [text for (text,) in asked])
    else:
        # As the harness does: a prompt that leaves no room would cost a whole window a token.
        room = CONTEXT - NEW_TOKENS
        prompts = [model.tok_encode(context)[-room:] for context, _ in asked]
        write_ids(model.speaker, prompts, NEW_TOKENS, until=["\n\n"])


def report(measured: Mapping[str, Any]) -> None:
    """Medians, ratios of the best "hf" to ours (above 1: ours is faster), and whether scores are equal."""
    for kind, one in measured.items():
        medians = {
            side: {part: statistics.median(values) for part, values in parts.items()}
            for side, parts in one["seconds"].items()
        }
        for side, parts in medians.items():
            whole = f", simple_evaluate {parts['whole']:.2f} s" if "whole" in parts else ""
            print(f"{kind}, {side}: {parts['model']:.2f} CPU s{whole}")
        rivals = [side for side in medians if side.startswith("hf")]
        best = min(rivals, key=lambda side: medians[side]["model"])
        pairs = zip(one["seconds"][best]["model"], one["seconds"][OURS]["model"], strict=True)
        ratios = sorted(theirs / ours for theirs, ours in pairs)
        print(
            f"{kind}: {best} takes {statistics.median(ratios):.2f} x ours (rounds {ratios[0]:.2f} to "
            f"{ratios[-1]:.2f}); own scorer {medians[NATIVE]['model'] / medians[OURS]['model']:.2f} of ours"
        )
        for side, far in one.get("apart", {}).items():
            print(f"  {side}: a text's log-likelihood is at most {far:.1e} of it from hf in float64")
        for side, scores in one["scores"].items():
            print(f"  {side}: " + ", ".join(f"{name} {value!r}" for name, value in scores.items()))


if __name__ == "__main__":
    raise SystemExit(main())
