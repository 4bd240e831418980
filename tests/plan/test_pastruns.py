"""Logs of several trainers tell the same speed and loss; what they lack is listed."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from stepladder.errors import PlanError
from stepladder.models.count import count_params, train_flops_per_token
from stepladder.models.shape import shape_for_width
from stepladder.plan.hardware import find_device
from stepladder.plan.inputs import moved
from stepladder.plan.pastruns import PastRun, read_past_run
from stepladder.plan.prior import prior_loss_for

SHAPE = shape_for_width(1024, vocab_size=32_768, context_tokens=2_048)
USUAL = {"shape": SHAPE, "device": "h100-sxm", "devices": 8}
BATCH, STEP_SECONDS, STEPS = 524_288, 1.25, 60


def losses(step: int) -> float:
    return 3.0 + 4.0 / step


def steps(warm_up: float = 20.0) -> list[dict[str, float]]:
    """Steps of equal length after a slow first one."""
    return [
        {"step": at, "tokens": at * BATCH, "loss": losses(at), "seconds": warm_up + at * STEP_SECONDS}
        for at in range(1, STEPS + 1)
    ]


def ours(folder: Path) -> Path:
    path = folder / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in steps()) + '{"step": 61, "tok')
    return path


def generic_csv(folder: Path) -> Path:
    path = folder / "log.csv"
    lines = [f"{row['step']},{row['tokens']},{row['loss']},{row['seconds']}" for row in steps()]
    path.write_text("Step,Tokens,train/loss,elapsed\n" + "\n".join(lines))
    return path


def wandb_csv(folder: Path) -> Path:
    path = folder / "export.csv"
    lines = [f"{row['step']},{row['seconds']},{row['loss']}" for row in steps()]
    path.write_text('"_step","_runtime","train/loss"\n' + "\n".join(lines))
    return path


def trainer_state(folder: Path) -> Path:
    path = folder / "trainer_state.json"
    history = [
        {"step": row["step"], "loss": row["loss"], "epoch": 0.1, "num_input_tokens_seen": row["tokens"]}
        for row in steps()
    ]
    history.append({"step": STEPS, "train_runtime": 75.0, "train_loss": 9.9, "train_steps_per_second": 0.8})
    path.write_text(json.dumps({"global_step": STEPS, "log_history": history}))
    return path


def torchtitan_lines(folder: Path) -> Path:
    path = folder / "titan.log"
    rate = BATCH / STEP_SECONDS / 8
    path.write_text(
        "[titan] - root - INFO - Training starts at step 1.\n"
        + "".join(
            f"[rank0]:[titan] INFO - \x1b[31mstep: {row['step']:2}  \x1b[32mloss: {row['loss']:7.4f}  "
            f"\x1b[34mtps: {rate:,.0f}  tflops: 1.2  mfu: 40.00%\x1b[39m\n"
            for row in steps()
        )
    )
    return path


def torchtitan_json(folder: Path) -> Path:
    path = folder / "titan.jsonl"
    path.write_text(
        "".join(
            json.dumps(
                {
                    "step": row["step"],
                    "loss_metrics/global_avg_loss": row["loss"],
                    "throughput(tps)": BATCH / STEP_SECONDS / 8,
                    "time_metrics/end_to_end(s)": STEP_SECONDS,
                }
            )
            + "\n"
            for row in steps()
        )
    )
    return path


@pytest.mark.parametrize(
    "write", [ours, generic_csv, wandb_csv, trainer_state, torchtitan_lines, torchtitan_json]
)
def test_every_log_tells_the_same(tmp_path, write):
    run = read_past_run(f"{write(tmp_path)} batch_tokens={BATCH}", USUAL)
    assert run.seconds_per_token * BATCH == pytest.approx(STEP_SECONDS, rel=1e-3)
    assert run.tokens == STEPS * BATCH
    assert run.loss == pytest.approx(sum(losses(at) for at in range(58, 61)) / 3, rel=1e-3)
    peak = 8 * 989.4e12
    mfu = train_flops_per_token(SHAPE) / run.seconds_per_token / peak
    assert f"{mfu:.1%} MFU" in run.line()
    row = run.observation()
    assert (row.notes["peak_flops"], row.notes["batch_tokens"]) == (peak, BATCH)
    assert row.seconds / row.tokens == run.seconds_per_token


def test_words_and_files_beside_it_say_where_and_what(tmp_path):
    log = generic_csv(tmp_path)
    run = read_past_run(f"{log} device=a100-sxm-80 devices=64 layers=8 width=512 vocab=4096 context=512", {})
    assert (64, "a100-sxm-80", "bf16") == (run.layout.processes, run.device, run.layout.precision)
    assert 2e7 < run.params < 4e7
    config = {
        "model_type": "qwen3",
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "vocab_size": 99,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert 99 * 256 * 2 < read_past_run(f"{log} device=a100-sxm-80 devices=8", {}).params < 5e6
    assert 2e9 == read_past_run(f"{log} device=a100-sxm-80 devices=64 params=2B", {}).params


def test_all_that_a_log_lacks_is_listed(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n1,5\n2,4\n")
    with pytest.raises(PlanError) as caught:
        read_past_run(str(path), {})
    assert ["model", "tokens", "where it ran"] == [
        line.removeprefix("  - the ").removeprefix("  - ").split(":")[0]
        for line in caught.value.wrong.splitlines()[1:]
    ]
    assert "loss, step" == caught.value.got
    with pytest.raises(PlanError, match="% of the peak of 8 x a100-sxm-80"):
        read_past_run(f"{generic_csv(tmp_path)} device=a100-sxm-80 devices=8 params=7B", {})
    with pytest.raises(PlanError, match="devices=N"):
        read_past_run(f"{generic_csv(tmp_path)} device=a100-sxm-80 params=7B", {})
    with pytest.raises(PlanError, match="cannot be read"):
        read_past_run(str(tmp_path / "none.csv"), {})


def test_a_run_moves_the_prior_and_narrows_it_near_by():
    law = prior_loss_for(32_768)
    params, tokens = float(count_params(SHAPE).total), 2e10
    seen = law(params, tokens).value * 0.9
    run = PastRun(
        name="r",
        params=params,
        flops_per_token=1.0,
        tokens=tokens,
        seconds_per_token=1.0,
        batch_tokens=1.0,
        loss=seen,
    )
    new = moved(law, [run])
    near, far = new(params, tokens), new(10 * params, 10 * tokens)
    assert near.value == pytest.approx(seen, rel=0.01)
    old = law(params, tokens)
    assert near.high80 / near.low80 < 1.1 < old.high80 / old.low80
    assert near.high80 / near.low80 < far.high80 / far.low80
    blind = PastRun(
        name="b",
        params=1.0,
        flops_per_token=1.0,
        tokens=1.0,
        seconds_per_token=1.0,
        batch_tokens=1.0,
        loss=math.nan,
    )
    assert moved(law, [blind]) is law


def test_a_device_of_ones_own_is_known(tmp_path):
    own = replace(find_device("a100-sxm-80"), id="our-card", peaks={"bf16": 500.0, "fp32": 30.0})
    log = torchtitan_json(tmp_path)
    text = f"{log} device=our-card devices=2 batch_tokens={BATCH}"
    run = read_past_run(text, {"shape": USUAL["shape"], "own": {"our-card": own}})
    assert 2 * 500e12 == run.peak_flops
    assert "our-card" == run.observation().notes["device"]
    with pytest.raises(PlanError, match='device "our-card" is not in the catalogue'):
        read_past_run(text, {"shape": USUAL["shape"]})
