"""Questions with passages: token types reach the network; the search in batches finds what a loop does."""

import os
from pathlib import Path

import numpy as np
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from stepladder.cli import main  # noqa: E402
from stepladder.models.export import read_shape  # noqa: E402
from stepladder.models.hf import load_folder  # noqa: E402
from stepladder.tune.batches import Batch  # noqa: E402
from stepladder.tune.encode import Coder  # noqa: E402
from stepladder.tune.heads import TaskModel, load_tuned  # noqa: E402
from stepladder.tune.run import TuneOptions, tune_task  # noqa: E402
from stepladder.tune.spans import Spans  # noqa: E402
from stepladder.tune.tasks import Example, split_task  # noqa: E402

torch.set_num_threads(1)
PEOPLE = ("anna", "ben", "cleo")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (*SPECIAL, *PEOPLE, "who", "made", "this", "pie", "?", "with", "plum", "and", "pear", "it")


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    """A BERT of random weights with WordPiece, as transformers saves both; a chat template besides."""
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    words = transformers.BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=32)
    words.add_special_tokens({"additional_special_tokens": ["<person>"]})
    words.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
    words.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=32, type_vocab_size=2,
    )  # fmt: skip
    model = transformers.BertForMaskedLM(config)
    with torch.no_grad():
        model.bert.embeddings.token_type_embeddings.weight.normal_(0, 0.5)
    model.save_pretrained(folder)
    return folder


def questions() -> list[Example]:
    """Who made the pie: the person who stands in the passage."""
    found = []
    for at in range(120):
        person, fruit = PEOPLE[at % 3], ("plum", "pear")[at % 2]
        text = f"{person} made this pie with {fruit} and pear"[: 60 - at % 20]
        found.append(
            Example(text=text, targets=(person,), starts=(0,), group=str(at), question="who made this pie ?")
        )
    return found


def test_logits_of_pairs_are_those_of_transformers(bert):
    coder, examples = Coder(bert, read_shape(bert)), questions()[:24]
    part = Spans(longest=3).encode(coder, examples)
    words = transformers.AutoTokenizer.from_pretrained(bert)
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(bert).eval()
    network = load_folder(bert)
    for numbers, batch in part.rows.by_length(8):
        texts = [examples[part.extra.examples[number]] for number in numbers]
        row = words([e.question for e in texts], [e.text for e in texts], padding=True, return_tensors="pt")
        assert row.input_ids.tolist() == batch.ids.tolist()
        assert row.token_type_ids.tolist() == batch.types.tolist()
        real = row.attention_mask.bool()
        with torch.no_grad():
            arrays = (torch.from_numpy(a) for a in (batch.ids, batch.lengths, batch.types))
            ours = network.lm_head(network.hidden_real(*arrays))
            plain = network.lm_head(network.hidden_real(*map(torch.from_numpy, (batch.ids, batch.lengths))))
            wanted = theirs(**row).logits
        assert (ours - wanted)[real].abs().max() <= 1e-5
        assert (plain - wanted)[real].abs().max() > 1e-2  # the types matter


def test_a_tuned_folder_keeps_its_tokenizer_and_so_does_its_export(bert, tmp_path, capsys):
    task = split_task("pies", questions(), kind="span")
    (run,) = tune_task(
        bert, task, tmp_path / "pies", options=TuneOptions(methods=("full",), epochs=1), quiet=True
    )
    assert main(["export", str(run), "--out", str(tmp_path / "export")]) == 0
    # Whoever loads the export gets no head, and is told so.
    assert f"stepladder predict {run} uses that one" in capsys.readouterr().out
    before = transformers.AutoTokenizer.from_pretrained(bert)
    messages = [{"role": "user", "content": "who ?"}]
    for folder in (run / "model", tmp_path / "export"):
        words = transformers.AutoTokenizer.from_pretrained(folder)
        assert type(before) is type(words)
        assert before.special_tokens_map == words.special_tokens_map
        assert before.model_max_length == words.model_max_length
        assert before.chat_template == words.chat_template
        assert before.apply_chat_template(messages, tokenize=False) == words.apply_chat_template(
            messages, tokenize=False
        )
        text = ("who made this [MASK] ?", "<person> made it")
        assert dict(before(*text)) == dict(words(*text))
    # What the tuned folder reads itself: the same ids and types.
    model, _ = load_tuned(run)
    coders = [Coder(folder, model.network.shape) for folder in (bert, run / "model")]
    rows = [Spans(longest=3).encode(coder, questions()[:3]).rows for coder in coders]
    for one, other in zip(rows[0].texts, rows[1].texts, strict=True):
        assert one.tolist() == other.tolist()


def best_by_loop(scores: np.ndarray, first: int, stop: int, end: int, longest: int):
    """(log-probability, begin, last) of the likeliest span, by trying all."""
    places = [*range(first, stop), end]
    logs = scores[places] - np.log(np.exp(scores[places]).sum(0))
    tried = [
        (logs[i, 0] + logs[j, 1], i, j)
        for i in range(stop - first)
        for j in range(i, min(i + longest, stop - first))
    ]
    return max(tried, key=lambda one: one[0]), logs[-1].sum()


class Fixed(TaskModel):
    """A model whose scores are given."""

    def __init__(self, scores) -> None:
        torch.nn.Module.__init__(self)
        self.task_head, self.scores = torch.nn.Identity(), scores

    def states(self, *_):
        return self.scores


def test_the_search_in_batches_finds_what_a_loop_finds():
    rng = np.random.default_rng(0)
    lengths = np.array([20, 14, 9, 20, 4])
    # first and last of the answer (not asked for here), first of the passage, behind its last
    targets = np.array([[0, 0, 5, 19], [0, 0, 1, 13], [0, 0, 7, 8], [0, 0, 2, 19], [0, 0, 1, 3]])
    batch = Batch(ids=np.zeros((5, 20), dtype=np.int64), lengths=lengths, targets=targets)
    for longest in (1, 3, 40):
        spans, scores = Spans(longest=longest), torch.from_numpy(rng.normal(size=(5, 20, 2)) * 3)
        found = spans._likeliest(spans._scores(Fixed(scores), batch), batch)
        for row, (begin, last, score, none) in enumerate(found):
            _, _, first, stop = targets[row]
            best, no = best_by_loop(scores[row].numpy(), first, stop, lengths[row] - 1, longest)
            assert best[1:] == (begin, last)
            assert (best[0], no) == pytest.approx((score, none), abs=1e-5)
