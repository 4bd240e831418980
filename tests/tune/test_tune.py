import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from stepladder.errors import FingerprintError, TaskError  # noqa: E402
from stepladder.eval import table as tables  # noqa: E402
from stepladder.eval.predictions import FROZEN  # noqa: E402
from stepladder.models import hf  # noqa: E402
from stepladder.store import write_json  # noqa: E402
from stepladder.train.loop import Stopped  # noqa: E402
from stepladder.tune import run as runs  # noqa: E402
from stepladder.tune.adapters import Part  # noqa: E402
from stepladder.tune.batches import Encoded  # noqa: E402
from stepladder.tune.heads import LinearProbe, TaskModel, load_tuned, save_tuned  # noqa: E402
from stepladder.tune.kinds import adapter_of  # noqa: E402
from stepladder.tune.labels import Labels  # noqa: E402
from stepladder.tune.predict import predict_lines  # noqa: E402
from stepladder.tune.run import TuneJob, TuneOptions, tune_task  # noqa: E402
from stepladder.tune.tasks import write_task  # noqa: E402
from stepladder.tune.worker import encode_task, run_job  # noqa: E402

torch.set_num_threads(1)
QUICK = TuneOptions(epochs=8, batch_examples=16)


def make_job(folder: Path, method: str, network_folder: Path, corpus: Path, options=QUICK) -> TuneJob:
    return TuneJob(
        model=str(network_folder),
        tokenizer=str(corpus),
        task=str(folder),
        out=str(folder / f"{method}-0"),
        method=method,
        seed=0,
        options=options,
    )


def tune_here(job: TuneJob, on_step=lambda *_: None, stop=None) -> Path:
    """The work of the worker process, in this one."""
    run_job(job, encode_task(job), stop or threading.Event(), on_step)
    return Path(job.out)


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, word_task, network_folder, corpus):
    """A folder with all three methods done."""
    folder = tmp_path_factory.mktemp("tune") / "words"
    write_task(word_task, folder)
    for method in ("full", "frozen", "scratch"):
        tune_here(make_job(folder, method, network_folder, corpus))
    return folder


@pytest.mark.parametrize("method", ["full", "frozen", "scratch"])
def test_every_method_learns_and_keeps_its_best_weights(tuned, word_task, method):
    rows = read_rows(tuned / f"{method}-0" / "predictions.jsonl")
    assert [e.label for e in word_task.test] == [row["gold"] for row in rows]
    right = sum(row["gold"] == row["predicted"] for row in rows) / len(rows)
    # Features of random weights say little.
    assert right > (0.7 if method == "frozen" else 0.95)
    done = json.loads((tuned / f"{method}-0" / "done.json").read_text())
    scores = [
        r["heldout_score"] for r in read_rows(tuned / f"{method}-0" / "metrics.jsonl") if "heldout_score" in r
    ]
    assert max(scores) == done["dev_score"]
    assert len(scores) == QUICK.epochs


def test_the_table_has_all_methods_and_says_which_to_use(tuned):
    table = tables.task_table(tuned)
    expected = [tables.TUNED, FROZEN, tables.SCRATCH, "TF-IDF + logistic regression"]
    expected += ["majority class", "chance"]
    assert expected == list(dict.fromkeys(row.method for row in table.rows))
    assert {"accuracy", "macro_f1"} == {row.metric for row in table.rows}
    assert all(row.low <= row.value <= row.high for row in table.rows)
    assert "Use the" in table.verdict
    again = tables.task_table(tuned)
    assert table == again
    stored = json.loads((tuned / "results.json").read_text())
    assert table.verdict == stored["verdict"]
    assert len(table.rows) == len(stored["rows"])
    assert len(tables.format_table(table).splitlines()) == 8 + len(table.limits)
    assert "no record names the corpus" in table.uncounted
    shown = tables.show_predictions(tuned)
    assert len(shown) == 5
    assert all(line.startswith(("right", "WRONG")) for line in shown)


def test_predict_gives_what_tuning_predicted(tuned, word_task):
    lines = [json.dumps({"text": e.text, "id": at}).encode() for at, e in enumerate(word_task.test)]
    answers = [json.loads(line) for line in predict_lines(tuned / "full-0", [*lines, b""])]
    stored = read_rows(tuned / "full-0" / "predictions.jsonl")
    assert [row["predicted"] for row in stored] == [answer["predicted"] for answer in answers]
    assert [row["probability"] for row in stored] == pytest.approx(
        [a["probability"] for a in answers], abs=1e-5
    )
    assert list(range(len(lines))) == [answer["id"] for answer in answers]


def test_predict_refuses_bad_rows_and_other_folders(tuned, network_folder):
    with pytest.raises(TaskError, match="line 2: not JSON"):
        next(predict_lines(tuned / "full-0", [b'{"text": "a"}', b"{"]))
    with pytest.raises(TaskError, match="no tuned model"):
        next(predict_lines(network_folder, [b'{"text": "a"}']))


def test_a_run_that_was_stopped_ends_with_the_same_predictions(
    tmp_path, tuned, word_task, network_folder, corpus
):
    write_task(word_task, tmp_path)
    job, stop = make_job(tmp_path, "full", network_folder, corpus), threading.Event()
    with pytest.raises(Stopped):
        tune_here(job, lambda step, *_: stop.set() if step == 20 else None, stop)
    assert not (tmp_path / "full-0" / "done.json").exists()
    tune_here(job)
    for name in ("predictions.jsonl", "model/model.safetensors", "model/head/model.safetensors"):
        assert (tuned / "full-0" / name).read_bytes() == (tmp_path / "full-0" / name).read_bytes(), name


def test_patience_ends_a_run_early(tmp_path, word_task, network_folder, corpus):
    # Labels that have nothing to do with the texts: dev gets worse while training gets better.
    shuffled = [dataclasses.replace(e, targets=("ab"[at % 2],)) for at, e in enumerate(word_task.train)]
    task = dataclasses.replace(
        word_task, train=tuple(shuffled[:60]), dev=tuple(shuffled[60:]), labels=("a", "b")
    )
    test = tuple(dataclasses.replace(e, targets=("a",)) for e in word_task.test)
    write_task(dataclasses.replace(task, test=test), tmp_path)
    options = dataclasses.replace(QUICK, epochs=40, patience=3, rate=1.0)
    out = tune_here(make_job(tmp_path, "full", network_folder, corpus, options))
    rows = [row for row in read_rows(out / "metrics.jsonl") if "heldout_score" in row]
    scores = [(row["heldout_score"], -row["heldout_loss"]) for row in rows]
    assert len(scores) < 40
    assert scores.index(max(scores)) == len(scores) - 1 - options.patience
    assert max(scores)[0] == json.loads((out / "done.json").read_text())["dev_score"]


def test_processes_tune_and_a_second_call_finds_all_done(tmp_path, word_task, network_folder, corpus):
    options = dataclasses.replace(QUICK, methods=("full", "scratch"))
    folders = tune_task(
        network_folder, word_task, tmp_path, tokenizer=corpus, options=options, workers=2, quiet=True
    )
    assert [tmp_path / "full-0", tmp_path / "scratch-0"] == folders
    before = [(f / "predictions.jsonl").stat().st_mtime_ns for f in folders]
    again = tune_task(network_folder, word_task, tmp_path, tokenizer=corpus, options=options, quiet=True)
    assert before == [(f / "predictions.jsonl").stat().st_mtime_ns for f in again]
    with pytest.raises(FingerprintError, match="options"):
        tune_task(
            network_folder,
            word_task,
            tmp_path,
            tokenizer=corpus,
            options=QUICK.__class__(epochs=9),
            quiet=True,
        )


def test_the_reason_of_a_failed_worker_is_told(tmp_path, word_task, network_folder, corpus):
    job = dataclasses.replace(make_job(tmp_path, "full", network_folder, corpus), task=str(tmp_path / "none"))
    with pytest.raises(TaskError, match="does not exist"):
        runs._run_workers([job], tmp_path, 1, runs.Progress("tune", quiet=True))


@pytest.mark.slow
def test_a_killed_worker_resumes(tmp_path, word_task, network_folder, corpus):
    write_task(word_task, tmp_path)
    job = make_job(tmp_path, "full", network_folder, corpus)
    write_json(tmp_path / "jobs.json", [runs.to_json(job)])
    command = [sys.executable, "-m", "stepladder.tune.worker", "--jobs", str(tmp_path / "jobs.json")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    expected = (tmp_path / "full-0" / "predictions.jsonl").read_bytes()
    shutil.rmtree(tmp_path / "full-0")
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    while not (tmp_path / "full-0" / "metrics.jsonl").exists() and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert expected == (tmp_path / "full-0" / "predictions.jsonl").read_bytes()


def test_options_are_checked_all_at_once():
    with pytest.raises(TaskError, match="epochs = 0; rate = -1; patience = -2"):
        runs.check_options(TuneOptions(epochs=0, rate=-1, patience=-2))


def part_of(texts: list[np.ndarray]) -> Part:
    return Part(examples=(), rows=Encoded(texts=texts, targets=np.zeros(len(texts), dtype=np.int64)))


def test_padding_does_not_change_features(network_folder):
    for pool in ("mean", "last"):
        model = TaskModel(hf.load_folder(network_folder), 3).eval()
        adapter = Labels(kind="classification", labels=("a", "b", "c"), pool=pool)
        texts = [np.arange(1, n + 1) for n in (3, 9, 30)]
        for text, features in zip(texts, adapter.features(model, part_of(texts)), strict=True):
            assert torch.allclose(adapter.features(model, part_of([text]))[0], features, atol=1e-5)


def test_a_probe_folds_into_the_head(network_folder):
    model = TaskModel(hf.load_folder(network_folder), 3).eval()
    adapter = Labels(kind="classification", labels=("a", "b", "c"))
    part = part_of([np.arange(1, n) for n in range(3, 20)])
    features = adapter.features(model, part)
    probe = LinearProbe(features, 3)
    torch.nn.init.normal_(probe.task_head.weight, generator=torch.Generator().manual_seed(0))
    torch.nn.init.normal_(probe.task_head.bias, generator=torch.Generator().manual_seed(1))
    probe.fold_into(model)
    assert torch.allclose(probe(features), adapter.all_outputs(model, part), atol=1e-4)


def test_a_tuned_folder_round_trip(tmp_path, network_folder, corpus):
    model = TaskModel(hf.load_folder(network_folder), 2).eval()
    torch.nn.init.normal_(model.task_head.weight)
    card = Labels(kind="classification", labels=("no", "yes"), pool="last")
    save_tuned(
        model, runs.to_json(card), tmp_path, {"tokenizer.json": (corpus / "tokenizer.json").read_text()}
    )
    again, read = load_tuned(tmp_path)
    assert card == adapter_of(read)
    for (name, first), (_, second) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(first, second), name


def test_names_of_methods_agree_with_the_table():
    expected = {"full": tables.TUNED, "lora": "LoRA", "frozen": FROZEN, "scratch": tables.SCRATCH}
    assert expected == runs.METHODS
