"""lm-eval with tokenizers in the layouts of other projects: our runtime against its own model "hf"."""

import importlib.util
import json
import os
from pathlib import Path

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
from transformers import AutoTokenizer  # noqa: E402

from stepladder.data.tokens.tokenizer import load_tokenizer  # noqa: E402
from stepladder.eval.lmeval import StepladderLM  # noqa: E402
from stepladder.models import hf  # noqa: E402
from stepladder.models.export import export_folder  # noqa: E402
from stepladder.records import Shape  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # lm-eval and datasets warn of their own
torch.set_num_threads(1)
ROUNDING = 2e-4
# lm-eval's model needs a token that begins a text or ends one; BERT names neither, so here it does.
NAMED = {
    "bert": {"bos_token": "[CLS]", "eos_token": "[SEP]"},
    "modernbert": {"bos_token": "[CLS]", "eos_token": "[SEP]"},
    "roberta": {"bos_token": "<s>"},
    "llama3": {"bos_token": "<|begin_of_text|>"},
}


def load_makers():
    path = Path(__file__).parents[1] / "data" / "test_foreign.py"
    spec = importlib.util.spec_from_file_location("foreign_makers", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKERS = load_makers()


@pytest.fixture(scope="module", params=MAKERS.FAMILIES)
def models(request, tmp_path_factory):
    """(name, our model, theirs) on one export with sharp random weights."""
    words = tmp_path_factory.mktemp(request.param)
    tokenizer, config = MAKERS.FAMILIES[request.param]()
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.save(str(words / "tokenizer.json"))
    (words / "tokenizer_config.json").write_text(json.dumps(config | NAMED.get(request.param, {})))
    if request.param == "llama2":
        # Its class in transformers 5 puts a normalizer of its own in; what it saves says so.
        AutoTokenizer.from_pretrained(words).save_pretrained(words)
    shape = Shape(
        num_layers=2,
        width=48,
        num_heads=3,
        num_kv_heads=1,
        head_dim=16,
        ffn_width=64,
        vocab_size=load_tokenizer(words).vocab_size,
        context_tokens=64,
    )
    network = hf.random_network(shape, 5)
    with torch.no_grad():
        network.lm_head.weight.normal_(0, 0.4, generator=torch.Generator().manual_seed(1))
    hf.save_folder(network, words / "model")
    out = export_folder(words, words / "export", words)
    theirs = HFLM(pretrained=str(out), device="cpu", dtype="float32", batch_size=1)
    return request.param, StepladderLM(out), theirs


def asked(kind, *arguments):
    return [Instance(request_type=kind, doc={}, arguments=one, idx=at) for at, one in enumerate(arguments)]


PAIRS = [
    ("Return the number of", " words"),
    ("Return the number of ", "words"),
    ("Return the number of\n\n", "words and more"),
    ("", " words and more"),
    ("Return " * 70, " number of words"),
    ("naïve 🙂\r\n", "🙂 naïve"),
    ("<s>Return the [SEP] <|endoftext|>", " number <|end_of_text|> of"),
]
TEXTS = [
    *(text for pair in PAIRS for text in pair),
    "a  b",
    "Return the number of words. " * 9,
    "日本語の 🙂",
]


def test_ids_and_likelihoods_are_those_of_transformers(models):
    _, ours, theirs = models
    for text in TEXTS:
        for special in (None, True, False):
            assert theirs.tok_encode(text, special) == ours.tok_encode(text, special)
    assert (theirs.prefix_token_id, theirs.eot_token_id) == (ours.prefix_token_id, ours.eot_token_id)
    expected, actual = (model.loglikelihood(asked("loglikelihood", *PAIRS)) for model in (theirs, ours))
    assert [greedy for _, greedy in expected] == [greedy for _, greedy in actual]
    assert [one for one, _ in expected] == pytest.approx([one for one, _ in actual], abs=ROUNDING)
    requests = asked("loglikelihood_rolling", *((text,) for text in TEXTS if text))
    expected, actual = (model.loglikelihood_rolling(requests) for model in (theirs, ours))
    assert expected == pytest.approx(actual, rel=1e-6, abs=ROUNDING)


def test_greedy_texts_are_those_of_transformers(models):
    _, ours, theirs = models
    contexts = ["Return the", "naïve 🙂", "Return the number of words. " * 9, "a \n", "日本語の"]
    requests = asked(
        "generate_until", *((text, {"until": [" the", "\n"], "max_gen_toks": 12}) for text in contexts)
    )
    expected, actual = (model.generate_until(requests) for model in (theirs, ours))
    assert expected == actual
    assert any(actual)


def test_a_task_has_equal_scores(models, tmp_path):
    _, ours, theirs = models
    datasets.config.HF_DATASETS_CACHE = str(tmp_path / "cache")
    lines = [line for line in MAKERS.TRAINED_ON[0].splitlines() if len(line.split()) > 5][:12]
    rows = [{"text": line, "gold": at % 3} for at, line in enumerate(lines)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "kinds.yaml").write_text(f"""task: kinds
dataset_path: json
test_split: test
dataset_kwargs:
  data_files:
    test: {tmp_path}/rows.jsonl
output_type: multiple_choice
doc_to_choice: ["code", "prose", "a 🙂 of both"]
doc_to_target: gold
doc_to_text: "Text: {{{{text}}}}\\nKind:"
metric_list:
  - metric: acc
  - metric: acc_norm
""")
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    expected, actual = (
        lm_eval.simple_evaluate(model=model, tasks=["kinds"], task_manager=manager, bootstrap_iters=0)
        for model in (theirs, ours)
    )
    for metric in ("acc,none", "acc_norm,none"):
        assert expected["results"]["kinds"][metric] == actual["results"]["kinds"][metric]
