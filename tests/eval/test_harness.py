"""lm-eval on our runtime against its own model "hf" on the export, and against our own scorer."""

import json
import math
import os
import shutil

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("lm_eval", reason="pip install 'stepladder[lm-eval]'")

import datasets  # noqa: E402
import lm_eval  # noqa: E402
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window  # noqa: E402

from stepladder.cli import main  # noqa: E402
from stepladder.data.options import Cleaning, CorpusOptions  # noqa: E402
from stepladder.data.prepare import prepare_corpus  # noqa: E402
from stepladder.data.tokens.tokenizer import train_tokenizer  # noqa: E402
from stepladder.errors import DataError, TaskError  # noqa: E402
from stepladder.eval.generate import open_speaker  # noqa: E402
from stepladder.eval.harness import format_rows, run_harness  # noqa: E402
from stepladder.eval.lmeval import StepladderLM  # noqa: E402
from stepladder.eval.scorer import score_pairs, score_texts, write_texts  # noqa: E402
from stepladder.models import hf  # noqa: E402
from stepladder.models.export import export_folder  # noqa: E402
from stepladder.models.score import rolling_pairs, score_continuations  # noqa: E402
from stepladder.records import Shape  # noqa: E402
from stepladder.tune.examples import example_task  # noqa: E402
from stepladder.tune.run import TuneOptions, tune_task  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # lm-eval and datasets warn of their own
torch.set_num_threads(1)
CONTEXT = 64
SHAPE = Shape(
    num_layers=2,
    width=48,
    num_heads=3,
    num_kv_heads=1,
    head_dim=16,
    ffn_width=64,
    vocab_size=640,
    context_tokens=CONTEXT,
)
END = "<|endoftext|>"
# fp32 rounding of sums over at most a few hundred tokens.
ROUNDING = 2e-4
# "hf" sums the log-likelihoods of a window in fp32, which is off by up to 2e-7 of the sum; ours adds in fp64.
SUMS = 5e-7
TASKS = ["topic", "text", "summary"]


@pytest.fixture(scope="module")
def examples():
    return example_task("docstring-topic", examples=60), example_task("docstring-summary", examples=60)


@pytest.fixture(scope="module")
def run(tmp_path_factory, examples):
    """Random weights with a sharp head: answers differ widely, and no two choices are close."""
    folder = tmp_path_factory.mktemp("run")
    network = hf.random_network(SHAPE, 5)
    with torch.no_grad():
        network.lm_head.weight.normal_(0, 0.4, generator=torch.Generator().manual_seed(1))
        network.lm_head.weight[600:] = 0  # ids without a token, which training makes unlikely
    hf.save_folder(network, folder / "model")
    texts = [example.text for task in examples for example in task.train]
    (folder / "tokenizer.json").write_text(train_tokenizer(texts, 600))
    return folder


@pytest.fixture(scope="module")
def export(run, tmp_path_factory):
    return export_folder(run, tmp_path_factory.mktemp("export") / "hf")


@pytest.fixture(scope="module")
def models(run, export):
    """Ours on the run, theirs on its export."""
    theirs = HFLM(pretrained=str(export), device="cpu", dtype="float32", batch_size=1)
    return StepladderLM(run), theirs


@pytest.fixture(scope="module")
def tasks(tmp_path_factory, examples):
    """Three local tasks of lm-eval: labels to choose from, texts to read, first lines to write."""
    folder = tmp_path_factory.mktemp("tasks")
    datasets.config.HF_DATASETS_CACHE = str(tmp_path_factory.mktemp("cache"))
    topic, summary = examples
    rows = {
        "topic": [{"text": e.text, "gold": topic.labels.index(e.label)} for e in topic.test],
        "text": [{"text": e.text} for e in topic.test],
        "summary": [{"text": e.text[: 20 * at], "summary": e.label} for at, e in enumerate(summary.test, 1)],
    }
    asked = {
        "topic": f"""output_type: multiple_choice
doc_to_choice: {json.dumps(list(topic.labels))}
doc_to_target: gold
doc_to_text: "Text: {{{{text}}}}\\nLabel:"
metric_list:
  - metric: acc
  - metric: acc_norm
""",
        "text": """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - metric: bits_per_byte
  - metric: byte_perplexity
""",
        "summary": """output_type: generate_until
doc_to_text: "Text: {{text}}\\nSummary:"
doc_to_target: "{{summary}}"
generation_kwargs:
  until: ["\\n", "."]
  max_gen_toks: 12
metric_list:
  - metric: exact_match
""",
    }
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        head = [f"task: {name}", "dataset_path: json", "test_split: test", "dataset_kwargs:", "  data_files:"]
        text = "\n".join([*head, f"    test: {folder / name}.jsonl", asked[name]])
        (folder / f"{name}.yaml").write_text(text)
    return folder


def asked(kind, *arguments):
    return [Instance(request_type=kind, doc={}, arguments=one, idx=at) for at, one in enumerate(arguments)]


PAIRS = [
    ("Return the number of", " words"),
    ("Return the number of ", "words"),  # the blank moves to the continuation
    ("Return the number of\n\n", "words and more"),
    ("", " words"),
    ("", END),  # what an empty context is, is not its own continuation
    (END + "Return the", " number"),  # spells the beginning: not begun twice
    ("Return the" + END, " number"),
    ("Return" * 70, " number of words"),  # longer than the context: loses its beginning
    ("naïve 🙂\r\n", "🙂 naïve"),
    (" ", "words"),
]
TEXTS = [
    "words",
    "Return the number of words. " * 9,
    "naïve 🙂 " * 40,
    END + "words " * 80,
    "a" + END + "b",
    "",
]


def test_tokens_are_those_of_transformers(models):
    ours, theirs = models
    texts = [*TEXTS, *(text for pair in PAIRS for text in pair), " ", "\n", "  two  blanks "]
    for text in texts:
        for special in (None, True, False):
            assert theirs.tok_encode(text, special) == ours.tok_encode(text, special)
    assert (theirs.prefix_token_id, theirs.eot_token_id) == (ours.prefix_token_id, ours.eot_token_id)
    assert theirs.max_length == ours.max_length


def test_log_likelihoods_are_those_of_transformers(models):
    ours, theirs = models
    pairs = [pair for pair in PAIRS if pair != ("", END)]
    expected, actual = (model.loglikelihood(asked("loglikelihood", *pairs)) for model in (theirs, ours))
    assert [greedy for _, greedy in expected] == [greedy for _, greedy in actual]
    for (one, _), (other, _) in zip(expected, actual, strict=True):
        assert one == pytest.approx(other, abs=ROUNDING)
    for model, error in ((theirs, AssertionError), (ours, TaskError)):
        with pytest.raises(error):
            model.loglikelihood(asked("loglikelihood", ("", END)))
        with pytest.raises(error):
            model.loglikelihood(asked("loglikelihood", ("words", " number" * 200)))


def test_rolling_log_likelihoods_are_those_of_transformers(models):
    ours, theirs = models
    expected, actual = (
        model.loglikelihood_rolling(asked("loglikelihood_rolling", *((text,) for text in TEXTS)))
        for model in (theirs, ours)
    )
    assert expected == pytest.approx(actual, rel=SUMS, abs=ROUNDING)


@pytest.mark.parametrize("count", [1, 2, CONTEXT - 1, CONTEXT, CONTEXT + 1, 3 * CONTEXT, 200])
def test_windows_are_those_of_lm_eval(models, count):
    ours = models[0]
    ids = torch.randint(1, 600, (count,), generator=torch.Generator().manual_seed(count)).tolist()
    windows = get_rolling_token_windows(
        ids, prefix_token=ours.prefix_token_id, max_seq_len=ours.max_length, context_len=1
    )
    expected = [make_disjoint_window(window) for window in windows]
    found = rolling_pairs([ours.prefix_token_id, *ids], ours.max_length, 0.0)
    assert expected == [(list(context), list(said)) for context, said in found]


@pytest.mark.parametrize(
    "how", [{"until": ["."], "max_gen_toks": 20}, {"until": ["e", "of"]}, {"max_new_tokens": 5, "until": "t"}]
)
def test_greedy_texts_are_those_of_transformers(models, how):
    ours, theirs = models
    contexts = ["Return the", "", END + "Return", "naïve 🙂", "Return the number of words. " * 9, "a \n"]
    requests = asked("generate_until", *((text, {"max_gen_toks": 30, **how}) for text in contexts))
    expected, actual = (model.generate_until(requests) for model in (theirs, ours))
    assert expected == actual
    assert any(actual)


def test_the_harness_scores_our_runtime_as_it_does_the_export(run, export, models, tasks):
    theirs = lm_eval.simple_evaluate(
        model=models[1],
        tasks=TASKS,
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=0,
    )
    for folder in (run, export):
        ours = run_harness(folder, TASKS, path=tasks).raw
        for task in TASKS:
            expected, actual = theirs["results"][task], ours["results"][task]
            for metric, value in expected.items():
                if metric.partition(",")[0].endswith("_stderr"):
                    continue
                if metric.startswith(("bits_per_byte", "byte_perplexity")):
                    assert value == pytest.approx(actual[metric], rel=SUMS)
                    assert f"{value:.4f}" == f"{actual[metric]:.4f}"  # as lm-eval prints it
                else:
                    assert value == actual[metric]
            for one, other in zip(theirs["samples"][task], ours["samples"][task], strict=True):
                assert one["target"] == other["target"]
                for first, second in zip(one["filtered_resps"], other["filtered_resps"], strict=True):
                    if task == "topic":
                        assert first[0] == pytest.approx(second[0], abs=ROUNDING)
                        assert first[1] == second[1]
                    else:
                        assert (first == second) if task == "summary" else first == pytest.approx(second)


def test_the_harness_says_what_our_own_scorer_does(run, models, tasks):
    raw = run_harness(run, TASKS, path=tasks).raw["samples"]
    speaker = models[0].speaker
    for sample in raw["topic"]:
        pairs = [tuple(one) for one in sample["arguments"]]
        assert [one[0] for one in sample["filtered_resps"]] == pytest.approx(
            [one.nats for one in score_pairs(speaker, pairs)], abs=ROUNDING
        )
    prompts = [sample["arguments"][0][0] for sample in raw["summary"]]
    long = [len(models[0].tok_encode(prompt)) > CONTEXT - 12 for prompt in prompts]
    written = write_texts(speaker, prompts, 12, until=["\n", "."])
    for sample, text, is_long in zip(raw["summary"], written, long, strict=True):
        assert is_long or sample["filtered_resps"][0] == text
    assert not all(long)
    # lm-eval also predicts the beginning of a text, which ours takes as given.
    again = score_continuations(speaker.network, [([0], [0])])[0][0]
    short = [one for one in raw["text"] if len(models[0].tok_encode(one["target"])) <= CONTEXT]
    assert short
    for sample in short:
        text = sample["target"]
        prompt = [0, 0]
        expected = score_continuations(speaker.network, [(prompt, speaker.words.encode(text))])[0][0] + again
        assert expected == pytest.approx(sample["filtered_resps"][0], abs=ROUNDING)
    (alone,) = score_texts(speaker, ["words"])
    ids = speaker.words.encode("words")
    assert alone.nats == pytest.approx(score_continuations(speaker.network, [([0], ids)])[0][0], abs=1e-5)


def test_rows_have_intervals_and_lm_evals_own_values(run, tasks):
    found = run_harness(run, TASKS, path=tasks, limit=5)
    rows = {(row.task, row.metric): row for row in found.rows()}
    assert {"topic", "text", "summary"} == {task for task, _ in rows}
    for (task, metric), row in rows.items():
        assert found.raw["results"][task][f"{metric},none"] == row.value
        assert row.low <= row.value <= row.high
        assert row.examples == 5
    text = rows["text", "bits_per_byte"]
    assert math.log(2) * text.value == pytest.approx(math.log(rows["text", "byte_perplexity"].value))
    pairs = [one["bits_per_byte"] for one in found.raw["samples"]["text"][:2]]
    whole = [sum(side) for side in zip(*pairs, strict=True)]
    part = {row.metric: row for row in found.rows({"text": [0, 1]})}
    assert -whole[0] / whole[1] / math.log(2) == pytest.approx(part["bits_per_byte"].value)
    assert part["bits_per_byte"].examples == 2
    assert "bits_per_byte" in format_rows(found.rows())


@pytest.mark.parametrize("which", ["topic", "summary"])
def test_a_tuned_folder_is_scored_as_its_export(run, examples, tasks, tmp_path, capsys, which):
    """A network with a head for labels, and one that was taught to write."""
    task = examples[which == "summary"]
    options = TuneOptions(methods=("full",), epochs=1, rate=0.3)
    (tuned,) = tune_task(run, task, tmp_path / "tuned", options=options, quiet=True)
    words = ["eval", str(tuned), "--harness", ",".join(TASKS), "--harness-path", str(tasks), "--json"]
    assert main(words) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    actual = {(row["task"], row["metric"]): row["value"] for row in rows}
    before = {(row.task, row.metric): row.value for row in run_harness(run, TASKS, path=tasks).rows()}
    assert actual["text", "bits_per_byte"] != before["text", "bits_per_byte"]
    out = export_folder(tuned, tmp_path / "export")
    found = lm_eval.simple_evaluate(
        model=HFLM(pretrained=str(out), device="cpu", dtype="float32", batch_size=1),
        tasks=TASKS,
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=0,
    )["results"]
    for (task_name, metric), value in actual.items():
        assert found[task_name][f"{metric},none"] == pytest.approx(value, rel=SUMS)


def test_documents_in_training_text_are_counted_and_left_out(run, tasks, tmp_path, capsys):
    """Every second document of 30 words or more stands in the corpus."""
    known = [json.loads(line)["text"] for line in (tasks / "text.jsonl").read_text().splitlines()]
    copied = [at for at, text in enumerate(known) if len(text.split()) >= 30][::2]
    assert 1 < len(copied) < len(known) - 1
    for name, texts in (("in", [known[at] for at in copied]), ("held", ["Other words that are held out."])):
        (tmp_path / name).mkdir()
        for at, text in enumerate(texts):
            (tmp_path / name / f"{at}.txt").write_text(f"Before number {at} stands a line.\n{text}\n")
    cleaning = Cleaning(quality=False, pii="keep")
    options = CorpusOptions(vocab_size=300, held_out=str(tmp_path / "held"), cleaning=cleaning, workers=1)
    prepare_corpus([str(tmp_path / "in")], tmp_path / "corpus", options, quiet=True)
    words = ["eval", str(run), "--harness", "topic,text", "--harness-path", str(tasks)]
    assert main([*words, "--corpus", str(tmp_path / "corpus"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    raw = json.loads((run / "harness" / "topic+text.json").read_text())["samples"]
    left = [at for at in range(len(known)) if at not in copied]
    for task, metric in (("topic", "acc"), ("text", "bits_per_byte")):
        one = printed["overlap"][task]
        # A rolling task has no prompt.
        by_prompt = len(copied) if task == "topic" else 0
        assert (len(copied), by_prompt, len(copied)) == (one["seen"], one["by_prompt"], one["by_whole"])
        values = {sample["doc_id"]: sample[metric] for sample in raw[task]}
        expected = [values[at] for at in left]
        if task == "text":
            nats, sizes = (sum(side) for side in zip(*expected, strict=True))
            mean = -nats / sizes / math.log(2)
        else:
            mean = sum(expected) / len(left)
        (row,) = [row for row in one["rows"] if row["metric"] == metric]
        assert mean == pytest.approx(row["value"])
        assert len(left) == row["examples"]
        assert row["low"] <= row["value"] <= row["high"]
    assert main(words) == 0
    assert "no record names the corpus" in capsys.readouterr().out
    known_run = shutil.copytree(run, tmp_path / "known", ignore=shutil.ignore_patterns("harness"))
    (known_run / "plan.json").write_text('{"corpus": "../corpus"}')
    assert main(["eval", str(known_run), "--harness", "topic", "--harness-path", str(tasks)]) == 0
    said = capsys.readouterr()
    assert (
        f"note: the model was trained on {tmp_path / 'corpus'}: test examples are looked for there"
        in said.err
    )
    assert f"topic: {len(copied)} of {len(known)} test examples" in said.out
    assert "Without them:" in said.out
    assert main([*words, "--corpus", str(tmp_path)]) == 2
    assert "is not a prepared corpus" in capsys.readouterr().err


@pytest.mark.slow
def test_an_unknown_task_is_told_after_lm_evals_own_were_looked_through(run, tasks):
    with pytest.raises(TaskError, match=r"knows no task 'topics' \(did you mean \"topic\""):
        run_harness(run, ["topics"], path=tasks)


def test_what_cannot_be_asked_is_told(run, tasks, models, tmp_path):
    with pytest.raises(TaskError, match="no folder of tasks"):
        run_harness(run, ["topic"], path=tmp_path / "none")
    lost = (tasks / "topic.yaml").read_text().replace("topic.jsonl", "lost.jsonl")
    (tmp_path / "lost.yaml").write_text(lost.replace("task: topic", "task: lost"))
    with pytest.raises(TaskError, match="cannot load lost"):
        run_harness(run, ["lost"], path=tmp_path)
    ours = models[0]
    with pytest.raises(TaskError, match="as many tokens as the network sees"):
        ours.generate_until(asked("generate_until", ("words", {"until": ["."]})))
    with pytest.raises(TaskError, match="num_beams"):
        ours.generate_until(asked("generate_until", ("words", {"num_beams": 3, "max_gen_toks": 5})))
    other = hf.random_network(
        Shape(**{**{f: getattr(SHAPE, f) for f in SHAPE.__slots__}, "vocab_size": 64}), 0
    )
    hf.save_folder(other, tmp_path / "model")
    with pytest.raises(DataError, match="belongs to another network"):
        StepladderLM(tmp_path, run).loglikelihood(asked("loglikelihood", ("words", " number")))
    assert open_speaker(run).vocabulary == 600
