"""`objective = "masked"` from brief to report: the same stages end in an encoder that is a ModernBERT."""

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from stepladder.brief import load_brief  # noqa: E402
from stepladder.errors import ExportError  # noqa: E402
from stepladder.eval.generate import open_speaker  # noqa: E402
from stepladder.models.hf import load_folder  # noqa: E402
from stepladder.pipeline import run_climb  # noqa: E402
from stepladder.stages import Climb  # noqa: E402

BRIEF = """
name = "masked"
objective = "masked"
[data]
sources = ["python:prose", "python:docstrings"]
held_out = 0.04
tasks = ["example:text-kind"]
[budget]
hours = 0.04
ladder_share = 0.5
[override]
vocab_size = 1024
context_tokens = 64
num_layers = 2
num_heads = 2
max_input_bytes = 6_000_000
horizon = 2
rungs = 10
rung_tokens = 60_000
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_masked_climb_ends_in_an_encoder_that_transformers_loads(tmp_path: Path) -> None:
    (tmp_path / "stepladder.toml").write_text(BRIEF)
    climb = Climb(
        brief=load_brief(tmp_path / "stepladder.toml"),
        folder=tmp_path / "climb",
        patient=True,
        tune_examples=400,
        tune_epochs=1,
    )
    summit = run_climb(climb)
    assert summit.plan.objective == "masked"
    assert not summit.plan.shape.causal
    assert summit.run.status == "ok"
    assert ["loss_bits_per_byte", "seconds"] == [score.quantity for score in summit.scores]
    assert "fine-tuned" in {row.method for row in summit.tables[0].rows}
    assert (tmp_path / "climb" / "report.html").stat().st_size > 100_000
    card = (tmp_path / "climb" / "MODEL_CARD.md").read_text()
    assert "AutoModelForMaskedLM" in card
    assert "ModernBERT layout: 2 layers" in card
    assert "AutoModelForCausalLM" not in card

    assert summit.export is not None
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(summit.export).eval()
    words = transformers.AutoTokenizer.from_pretrained(summit.export)
    assert type(theirs).__name__ == "ModernBertForMaskedLM"
    row = words("This module provides a [MASK] of the file.", return_tensors="pt")
    assert words.mask_token_id in row.input_ids
    network = load_folder(tmp_path / "climb" / "target@1")
    with torch.no_grad():
        # In double precision: logits of a trained head reach 15, where fp32 rounds at 1e-6 of them.
        network, theirs = network.double(), theirs.double()
        assert (network(row.input_ids) - theirs(**row).logits).abs().max() <= 1e-5
    with pytest.raises(ExportError, match="is an encoder"):
        open_speaker(summit.export)
