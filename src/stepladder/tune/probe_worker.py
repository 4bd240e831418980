"""A list of probes in; what each checkpoint makes of each task, in the probe's folder, out (torch).

    python -m stepladder.tune.probe_worker --jobs jobs.json

Each probe is one checkpoint and one task (see `tune/probing.py`). A step that is done is skipped. Exit codes:
0 done, 2 a user error, 75 stopped half-way.
"""

import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any, Literal

from stepladder.data.tokens.tokenizer import load_tokenizer
from stepladder.models.hf import load_folder
from stepladder.models.score import score_continuations
from stepladder.records import from_json
from stepladder.store import ANSWERS_FILE, DONE_FILE, write_json
from stepladder.train.loop import Stopped
from stepladder.tune.probing import ANSWERS, EPOCHS, SHOTS, ProbeJob
from stepladder.tune.prompts import answer_of, prompt_ids
from stepladder.tune.run import TuneJob, TuneOptions
from stepladder.tune.shots import write_shots
from stepladder.tune.tasks import load_task
from stepladder.tune.worker import Tell, encode_task, run_job, serve

# Answers in hand at once, between two looks at whether to stop.
_BATCH = 64


def run_probes(values: list[Any], stop: threading.Event, tell: Tell) -> None:
    """All steps of all probes that are not done; each is told."""
    for job in (from_json(ProbeJob, value) for value in values):
        out = Path(job.out)
        for step in job.steps:
            if stop.is_set():
                raise Stopped
            run_step(job, step, stop)
            tell({"event": "progress", "name": f"{out.parents[1].name} {out.name} {step}"})
        write_json(out / DONE_FILE, {"steps": list(job.steps)})


def run_step(job: ProbeJob, step: str, stop: threading.Event) -> None:
    """One step, as far as it is not done.

    Raises:
        Stopped: `stop` was set.
    """
    out = Path(job.out)
    if step == ANSWERS:
        if not (out / ANSWERS_FILE).exists():
            write_json(out / ANSWERS_FILE, gold_answers(job, stop))
    elif step == SHOTS:
        write_shots(out, Path(job.model), tokenizer=Path(job.tokenizer), quiet=True)
    else:
        _tune(job, "frozen" if step == "frozen" else "full", stop)


def gold_answers(job: ProbeJob, stop: threading.Event) -> dict[str, Any]:
    """What the gold answer of each test example costs after its prompt: nats, and the bytes that it spells.

    An answer that is longer than half the context counts as far as that.
    """
    started = time.perf_counter()
    network = load_folder(Path(job.model)).eval()
    words, task = load_tokenizer(Path(job.tokenizer)), load_task(Path(job.out))
    begin, context = list(words.start_ids), network.shape.context_tokens
    pairs, sizes = [], []
    for example in task.test:
        answer = list(words.encode(answer_of(example, task.kind)))[: context // 2]
        room = context + 1 - len(answer) - len(begin)
        pairs.append(([*begin, *prompt_ids(words.encode, example, task.kind, room)], answer))
        sizes.append(len(words.decode(answer).encode()))
    nats: list[float] = []
    for start in range(0, len(pairs), _BATCH):
        if stop.is_set():
            raise Stopped
        nats += [-one for one, _ in score_continuations(network, pairs[start : start + _BATCH])]
    return {"nats": nats, "bytes": sizes, "seconds": round(time.perf_counter() - started, 3)}


def _tune(job: ProbeJob, method: Literal["frozen", "full"], stop: threading.Event) -> None:
    """A head on frozen features, or all weights: the predictions stay, the weights go."""
    out = Path(job.out) / f"{method}-0"
    if not (out / DONE_FILE).exists():
        one = TuneJob(
            model=job.model,
            tokenizer=job.tokenizer,
            task=job.out,
            out=str(out),
            method=method,
            seed=0,
            options=TuneOptions(methods=(method,), epochs=EPOCHS[method], precision="fp32"),
        )
        run_job(one, encode_task(one), stop, lambda *_: None)
    for leftover in ("model", "checkpoints", "best"):
        shutil.rmtree(out / leftover, ignore_errors=True)


def main(words: list[str] | None = None) -> int:
    """Parse the command line, run the probes one after the other, return the exit code."""
    return serve(words, "stepladder.tune.probe_worker", run_probes)


if __name__ == "__main__":
    sys.exit(main())
