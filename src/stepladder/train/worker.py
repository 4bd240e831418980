"""plan.json and a folder in; a trained run in that folder out. The process that every training happens in.

    python -m stepladder.train.worker --plan plan.json --out DIR
    python -m stepladder.train.worker --serve

`--serve` reads jobs as JSON lines {"plan": path, "out": path} from stdin and answers with JSON lines on
stdout, so that torch is imported once for many rungs; it ends when stdin does. Exit codes: 0 done, 2 a user
error, 75 stopped half-way with a checkpoint (start it again), 76 hung (`faults.Watchdog`; start it again).
"""

import argparse
import contextlib
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, TextIO, cast

import torch

from stepladder.data.tokens.shards import open_split
from stepladder.errors import StepladderError, StoreError, TrainError
from stepladder.models.transformer import Attention, Transformer
from stepladder.plan.layout import layout_problems
from stepladder.records import Order, Plan, Run, Shape, Variant, from_json, to_json
from stepladder.store import read_json, write_json
from stepladder.train import parallel
from stepladder.train.batches import BatchSource, even_windows
from stepladder.train.choices import passes_that_change
from stepladder.train.clock import Work, work_of
from stepladder.train.faults import FaultPolicy, Watchdog, hang_seconds
from stepladder.train.float8 import convert_blocks
from stepladder.train.heldout import bytes_of_tokens, score_documents, write_scores
from stepladder.train.loop import Gauges, Job, Stopped, train
from stepladder.train.masked import MaskedBatches, MaskedTokens
from stepladder.train.objective import NextToken
from stepladder.train.precision import autocast
from stepladder.train.room import check_room, free_memory
from stepladder.train.settle import apply_compile, apply_fp32, settle_choices
from stepladder.train.source import packed, training_batches
from stepladder.train.spread import Predictor, Spread
from stepladder.train.trackers import Trackers, wanted_trackers
from stepladder.train.weights import write_model

EXIT_USER_ERROR, EXIT_RESUME = 2, 75
PLAN_FILE, RUN_FILE, STOPPED_FILE = "plan.json", "run.json", "stopped.json"
# The held-out loss is the mean over this many tokens (or all, if fewer), spread evenly over the split: the
# same ones for every run on a corpus, so that their sampling error cancels between runs.
HELDOUT_TOKENS = 65_536
# Evaluations before the end are made only as far as they add no more than this share of the run's cost.
_EVALUATION_SHARE, _MOST_EVALUATIONS = 0.02, 8
_PROGRESS_SECONDS, _HEAR_RANK_0_SECONDS = 0.5, 5.0
_ANSWERING = threading.Lock()


def run_plan(plan_path: Path, out: Path, stop: threading.Event, on_step: Callable[..., None]) -> Run:
    """Train what the plan says in `out`, or go on where it stopped; the finished Run is also in run.json.

    Raises:
        Stopped: `stop` was set.
        StepladderError: plan, corpus or layout do not work.
    """
    plan = from_json(Plan, read_json(plan_path))
    adopt_plan(plan, plan_path, out)
    if (out / RUN_FILE).exists():
        return from_json(Run, read_json(out / RUN_FILE))
    corpus = Path(os.path.normpath(plan_path.parent / plan.corpus))
    ranks = parallel.start(plan.layout)
    check_room(plan, torch.cuda.mem_get_info()[0] if ranks.device.type == "cuda" else free_memory())
    choices = settle_choices(plan, out, ranks)
    fast_fp32 = apply_fp32(choices["fp32_products"]) == "medium"
    model = build_model(plan.shape, plan.seed, cast(Attention, choices["attention"].value))
    if plan.layout.float8:
        convert_blocks(model, ranks.device)
    apply_compile(choices["compile"], model)
    model, spread = parallel.place_model(model, plan.layout, ranks)
    context = plan.shape.context_tokens
    source = training_batches(plan, corpus, out, ranks.data)
    heldout = open_split(corpus, "heldout")
    windows = even_windows(len(heldout.tokens), context, HELDOUT_TOKENS)
    reader = BatchSource(heldout, context, ranks.data[1], plan.seed, ranks.data)
    kind = NextToken if plan.objective == "causal" else MaskedTokens
    objective = kind(reader, windows, heldout.num_bytes / len(heldout.tokens), ranks, spread)
    batches: Any = source
    if isinstance(source, BatchSource) and plan.objective == "masked":
        batches = MaskedBatches(source, mask_id(plan.shape, corpus), plan.seed)
    job = Job(
        name=plan.name,
        recipe=plan.recipe,
        layout=plan.layout,
        ranks=ranks,
        steps=plan.steps,
        folder=out,
        stop=stop,
        on_step=on_step,
        evaluations=count_evaluations(plan.tokens, len(windows) * context),
        faults=FaultPolicy(skips_spikes=True),
    )
    work = _work(plan, ranks, "fp32_medium" if fast_fp32 else "fp32")
    with Trackers(wanted_trackers() if ranks.rank == 0 else [], out, plan.name, plan) as trackers:
        gauges = Gauges(work=work, on_record=trackers.log)
        run = train(model, objective, batches, replace(job, gauges=gauges))
        trackers.finish(to_json(run))
    with Watchdog(out, ranks.rank, hang_seconds()):
        if run.status == "ok":
            write_model(model, plan.shape, out / "model", ranks)
            if plan.order != Order():
                _score_sources(model, plan, corpus, out, ranks, spread)
        if ranks.rank == 0:
            write_json(out / RUN_FILE, to_json(run))
        ranks.barrier()
    return run


def _work(plan: Plan, ranks: parallel.Ranks, fp32_key: str) -> Work:
    """FLOPs of a token and the peak of all ranks, for the share of it that is reached."""
    gpu = None
    if ranks.device.type == "cuda":
        found = torch.cuda.get_device_properties(ranks.device)
        gpu = (found.name, found.total_memory)
    return work_of(plan.shape, plan.layout, fp32_key=fp32_key, gpu=gpu)


def _score_sources(
    model: Predictor, plan: Plan, corpus: Path, out: Path, ranks: parallel.Ranks, spread: Spread
) -> None:
    """Held-out loss by document and by source, for runs whose order says what they read."""
    split = open_split(corpus, "heldout")
    packing = packed(split, corpus, out, plan.shape.context_tokens)
    model.eval()
    with autocast(plan.layout):
        scores = score_documents(model, split, packing, bytes_of_tokens(corpus), ranks, spread)
    if ranks.rank == 0:
        write_scores(scores, packing.source_names, out)


def adopt_plan(plan: Plan, plan_path: Path, out: Path) -> None:
    """Check the plan and keep a copy in `out`; TrainError when the folder belongs to another plan."""
    check_plan(plan)
    copied = out / PLAN_FILE
    if copied.exists() and copied.samefile(plan_path):
        return
    corpus = os.path.relpath((plan_path.parent / plan.corpus).resolve(), out.resolve())
    value = to_json(replace(plan, corpus=corpus))
    if not copied.exists():
        if int(os.environ.get("RANK", "0")) == 0:
            write_json(copied, value)
        return
    # Read as a plan: a field that is younger than the folder has its default.
    found = to_json(from_json(Plan, read_json(copied)))
    changed = sorted(key for key in {*found, *value} if key != "corpus" and found.get(key) != value.get(key))
    if changed:
        raise TrainError(
            f"{out} holds a run of another plan",
            got=f"these differ: {', '.join(changed)}",
            next_command=f"stepladder train {plan_path} --out ANOTHER_DIR",
        )


def check_plan(plan: Plan) -> None:
    """Refuse what cannot be trained before anything is opened."""
    context, batch = plan.shape.context_tokens, plan.recipe.batch_tokens
    problems = []
    problems += _objective_problems(plan)
    if batch < context or batch % context:
        problems.append(f"batch_tokens = {batch} is not a multiple of context_tokens = {context}")
    elif plan.steps < 1:
        problems.append(f"tokens = {plan.tokens} is less than one batch of {batch}")
    for name in ("embed_lr", "head_lr", "hidden_lr"):
        if not getattr(plan.recipe, name) > 0:
            problems.append(f"{name} = {getattr(plan.recipe, name)} is not a positive number")
    problems += layout_problems(plan.layout, plan.shape, plan.recipe)
    if problems:
        raise TrainError(f"the plan {plan.name!r} cannot be trained", got="; ".join(problems))


def _objective_problems(plan: Plan) -> list[str]:
    problems = []
    if (plan.objective == "causal") != plan.shape.causal:
        problems.append(f"objective = {plan.objective!r} of a shape with causal = {plan.shape.causal}")
    if plan.shape.variant.lm_head == "dense_bias":
        problems.append("lm_head = 'dense_bias': a bias on the vocabulary is not trained")
    if plan.layout.cuda_graphs and (why := passes_that_change(plan)):
        problems.append(f"{why}; cuda_graphs = false")
    if plan.objective == "masked" and plan.order != Order():
        problems.append("an order of documents or sources is for causal runs")
    if plan.shape.variant != Variant() and plan.layout.degrees.model > 1:
        problems.append("only the Qwen3 layout is split over processes: tensor, context and pipeline 1")
    return problems


def mask_id(shape: Shape, corpus: Path) -> int:
    """The last id of an encoder's vocabulary, which no text may have."""
    found, number = int(read_json(corpus / "index.json")["vocab_size"]), shape.vocab_size - 1
    if found > number:
        raise TrainError(
            "the vocabulary has no room for the mask",
            got=f"{found} ids of the corpus, {shape.vocab_size} of the network",
            allowed="one more than the corpus has",
            next_command="stepladder plan",
        )
    return number


def build_model(shape: Shape, seed: int, attention: Attention) -> Transformer:
    """A model with the initial weights of `seed`: the same on every rank and every machine."""
    torch.manual_seed(seed)
    model = Transformer(shape, attention)
    model.reset_parameters(torch.Generator().manual_seed(seed))
    return model


def count_evaluations(tokens: int, heldout_tokens: int) -> int:
    """Held-out evaluations before the end; a forward pass costs a third of a training step."""
    return min(int(_EVALUATION_SHARE * 3 * tokens / heldout_tokens), _MOST_EVALUATIONS)


def end_with_owner(owner: int, stop: threading.Event) -> None:
    """Set `stop` when process `owner` is gone, so that no training is left without anybody who waits for it.

    Watched by number, since under torchrun the owner is not the parent. When torchrun is gone, another may be
    started in its place: this process must not go on beside it, and ends at once.
    """
    parent = os.getppid()

    def watch() -> None:
        while not stop.wait(1.0):
            if parent != owner and os.getppid() != parent:
                os._exit(1)
            try:
                os.kill(owner, 0)
            except ProcessLookupError:
                stop.set()

    threading.Thread(target=watch, daemon=True).start()


def serve(stop: threading.Event, answers: TextIO) -> int:
    """Train jobs from stdin until it ends; a job that fails is answered and the next one is taken."""
    jobs: queue.Queue[dict[str, str] | None] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            if line.strip():
                jobs.put(json.loads(line))
        # The owner closed our stdin or is gone. An idle worker ends; a busy one writes its checkpoint.
        stop.set()
        jobs.put(None)

    threading.Thread(target=listen, daemon=True).start()
    _answer(answers, {"event": "ready"})
    while not stop.is_set() and (job := jobs.get()) is not None:
        plan_path, out = Path(job["plan"]), Path(job["out"])
        where = {"out": str(out)}
        try:
            run = run_plan(plan_path, out, stop, _reporter(answers, where, plan_path))
            _answer(answers, {"event": "done", **where, "run": to_json(run)})
        except Stopped as stopped:
            _answer(answers, {"event": "stopped", **where, "reason": str(stopped)})
            return EXIT_RESUME
        except StepladderError as error:
            _answer(answers, {"event": "failed", **where, "reason": str(error)})
        except Exception as error:  # one bad rung must not end the ladder
            traceback.print_exc()
            _answer(answers, {"event": "failed", **where, "reason": f"{type(error).__name__}: {error}"})
    return 0


def main(words: list[str] | None = None) -> int:
    """Parse the command line, train, return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m stepladder.train.worker", description=__doc__)
    parser.add_argument("--plan", type=Path, help="plan.json to train")
    parser.add_argument("--out", type=Path, help="folder of the run")
    parser.add_argument("--serve", action="store_true", help="take jobs from stdin")
    parser.add_argument("--owner", type=int, help="process whose end stops this one")
    options = parser.parse_args(words)
    if not options.serve and not (options.plan and options.out):
        parser.error("give --plan and --out, or --serve")
    stop = threading.Event()
    if options.owner:
        end_with_owner(options.owner, stop)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda *_: stop.set())
    # Answers keep the real stdout; whatever a library prints goes to stderr.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    torch.set_num_interop_threads(1)
    if options.serve:
        return serve(stop, answers)
    return _train_once(options.plan, options.out, stop, answers)


def _train_once(plan_path: Path, out: Path, stop: threading.Event, answers: TextIO) -> int:
    is_main = int(os.environ.get("RANK", "0")) == 0
    where = {"out": str(out)}
    report = _reporter(answers, where, plan_path) if is_main else lambda *_: None
    if is_main:
        (out / STOPPED_FILE).unlink(missing_ok=True)
    if is_main:
        threading.Thread(target=_beat, args=(answers,), daemon=True).start()
    try:
        run = run_plan(plan_path, out, stop, report)
    except Stopped as stopped:
        if is_main:
            with contextlib.suppress(StoreError):  # a full disk: the supervisor hears it below
                write_json(out / STOPPED_FILE, {"reason": str(stopped)})
            _answer(answers, {"event": "stopped", **where, "reason": str(stopped)})
        parallel.finish()
        return EXIT_RESUME
    except StepladderError as error:
        if is_main:
            fields = {key: getattr(error, key) for key in ("wrong", "got", "allowed", "next_command")}
            print(f"error: {error}", file=sys.stderr)
            _answer(answers, {"event": "failed", **where, "reason": str(error), **fields})
        else:
            # torchrun ends all with the first that ends: rank 0 has something to say.
            time.sleep(_HEAR_RANK_0_SECONDS)
        return EXIT_USER_ERROR
    parallel.finish()
    if is_main:
        _answer(answers, {"event": "done", **where, "run": to_json(run)})
    return 0


def _beat(answers: TextIO) -> None:
    """Tell the owner that this process is not frozen, whatever its main thread does."""
    while True:
        time.sleep(hang_seconds() / 12)
        _answer(answers, {"event": "alive"})


def leave(code: int) -> NoReturn:
    """End the process; one of several without the interpreter's own way out.

    A thread that is still in a gloo collective when C++ destroys its statics calls std::terminate: exit code
    -6 after the work was done (docs/training/faults.md). Everything has been written by now.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    sys.exit(code)


def _reporter(answers: TextIO, where: Mapping[str, str], plan_path: Path) -> Callable[..., None]:
    """A hearer of steps that answers with progress twice a second."""
    last = 0.0

    def report(step: int, tokens: int, loss: float) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= _PROGRESS_SECONDS:
            last = now
            _answer(answers, {"event": "progress", **where, "step": step, "tokens": tokens, "loss": loss})

    return report


def _answer(answers: TextIO, event: Mapping[str, Any]) -> None:
    try:
        with _ANSWERING:
            answers.write(json.dumps(event) + "\n")
            answers.flush()
    except BrokenPipeError:  # the owner is gone; the run still ends properly
        pass


if __name__ == "__main__":
    try:
        ended = main()
    except Exception:
        traceback.print_exc()
        ended = 1
    leave(ended)
