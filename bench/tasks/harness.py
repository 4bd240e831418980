"""A run in; CPU seconds of lm-eval's requests on our runtime and on lm-eval's own model of the export, out.

    python bench/tasks/harness.py RUN [--questions 60]

Needs `pip install 'lm-eval[hf]'`. The same requests go to both in turns, one thread, three rounds, medians:
questions with seven choices and first lines to write from docstrings of the standard library, and their texts
to read. Batches: ours as it chooses, theirs of 1 and of 16. Also printed: the largest difference of the
log-likelihoods, and how many texts are equal.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from stepladder.eval.lmeval import StepladderLM
from stepladder.models.export import export_folder
from stepladder.tune.examples import example_task

ROUNDS, NEW_TOKENS = 3, 16


def requests(questions: int) -> dict[str, list[Instance]]:
    """Requests of each kind."""
    topic = example_task("docstring-topic", examples=questions * 10)
    texts = [example.text for example in topic.test][:questions]
    choices = [f" {label}" for label in topic.labels]
    kinds: dict[str, list[tuple]] = {
        "loglikelihood": [(f"Text: {text[:400]}\nLabel:", choice) for text in texts for choice in choices],
        "loglikelihood_rolling": [(text,) for text in texts],
        "generate_until": [
            (f"Text: {text[:400]}\nSummary:", {"until": ["\n"], "max_gen_toks": NEW_TOKENS}) for text in texts
        ],
    }
    return {
        kind: [Instance(request_type=kind, doc={}, arguments=one, idx=at) for at, one in enumerate(asked)]
        for kind, asked in kinds.items()
    }


def main() -> int:
    """Print one line for each kind of request."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--questions", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        export = str(export_folder(options.folder, Path(place) / "export"))
        models = {"ours": StepladderLM(options.folder)} | {
            f"hf, batches of {size}": HFLM(pretrained=export, device="cpu", dtype="float32", batch_size=size)
            for size in (1, 16)
        }
        for kind, asked in requests(options.questions).items():
            seconds: dict[str, list[float]] = {name: [] for name in models}
            said = {}
            for _ in range(ROUNDS):
                for name, model in models.items():
                    started = time.process_time()
                    said[name] = getattr(model, kind)(asked, disable_tqdm=True)
                    seconds[name].append(time.process_time() - started)
            spent = {name: statistics.median(some) for name, some in seconds.items()}
            fastest = min(value for name, value in spent.items() if name != "ours")
            told = ", ".join(f"{name} {value:.2f} CPU s" for name, value in spent.items())
            print(f"{kind}: {len(asked)} requests, {told}; ours {fastest / spent['ours']:.2f} x the faster")
            ours, theirs = said["ours"], said["hf, batches of 1"]
            if kind == "generate_until":
                same = sum(one == other for one, other in zip(ours, theirs, strict=True))
                print(f"  {same} of {len(asked)} texts equal")
                continue
            pairs = zip(ours, theirs, strict=True)
            gaps = [abs(a[0] - b[0]) if isinstance(a, tuple) else abs(a - b) for a, b in pairs]
            print(f"  largest difference {max(gaps):.2e} nats")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
