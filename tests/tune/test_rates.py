"""Networks of others are tuned at published rates, own ones at those that they were measured with."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from stepladder.models.export import export_folder  # noqa: E402
from stepladder.models.hf import load_folder, random_network, save_folder  # noqa: E402
from stepladder.models.shape import shape_for_width  # noqa: E402
from stepladder.records import Recipe  # noqa: E402
from stepladder.tune.heads import TaskModel  # noqa: E402
from stepladder.tune.lora import add_lora  # noqa: E402
from stepladder.tune.rates import recipe_of  # noqa: E402
from stepladder.tune.run import Method, TuneJob, TuneOptions  # noqa: E402

WIDTH = 96


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("foreign")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=200, hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    return folder


def recipe(folder: Path, method: Method, rate: float = 1.0) -> Recipe:
    model = TaskModel(load_folder(folder), 2)
    if method == "lora":
        add_lora(model.network, 4, 8.0, seed=0)
    job = TuneJob(
        model=str(folder),
        tokenizer="",
        task="",
        out="",
        method=method,
        seed=0,
        options=TuneOptions(rate=rate),
    )
    return recipe_of(job, model, 16)


def test_a_foreign_network_takes_the_rates_of_its_papers(foreign: Path) -> None:
    full, lora = recipe(foreign, "full"), recipe(foreign, "lora")
    at_768 = full.hidden_lr * WIDTH / 768
    assert 2e-5 <= at_768 <= 5e-5  # Devlin et al. 2019, appendix A.3
    assert lora.hidden_lr == pytest.approx(10 * full.hidden_lr)
    # A step must stay small beside an embedding, whose deviation is .02.
    assert full.embed_lr < 0.02 / 100
    assert recipe(foreign, "full", 0.5).hidden_lr == pytest.approx(full.hidden_lr / 2)


def test_an_own_network_keeps_its_rates(network_folder: Path, foreign: Path) -> None:
    own = recipe(network_folder, "full")
    width = load_folder(network_folder / "model").shape.width
    assert (own.embed_lr, own.hidden_lr) == (1.6e-2, 3e-3 * 64 / width)
    # From scratch a foreign shape is a network like any other, and `rate` is not for it.
    scratch = recipe(foreign, "scratch", 0.1)
    assert scratch.hidden_lr == 3e-3 * 64 / WIDTH


def test_an_export_of_a_run_with_small_embeddings_is_still_an_own_network(
    words: Path, tmp_path: Path
) -> None:
    shape = replace(shape_for_width(64, 1, vocab_size=200, context_tokens=32), tied_head=True)
    run = tmp_path / "run"
    save_folder(random_network(shape, seed=0), run / "model")
    (run / "plan.json").write_text("{}")
    once = export_folder(run, tmp_path / "once", words)
    again = export_folder(once, tmp_path / "again", words)
    own = recipe(run, "full")
    assert own == recipe(once, "full") == recipe(again, "full")
    # What was tuned has no plan beside it, and its export no mark.
    (run / "plan.json").unlink()
    tuned = export_folder(run, tmp_path / "tuned", words)
    assert recipe(tuned, "full").hidden_lr == pytest.approx(0.16 * own.hidden_lr)
