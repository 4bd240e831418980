"""Steps of CPU processes by term, and prices from measured steps."""

from dataclasses import fields, replace

import pytest

from stepladder.models.count import count_params, train_flops_per_token
from stepladder.models.shape import shape_for_width, with_experts
from stepladder.plan.cpusteps import FITTED, CpuPrices, fastest, fit_prices, speedup, step_seconds, step_terms
from stepladder.plan.measured import MeasuredStep
from stepladder.records import Degrees, Layout, Recipe

SHAPE = shape_for_width(128, 4, vocab_size=2048, context_tokens=128)
RECIPE = Recipe(batch_tokens=2048, embed_lr=1e-3, head_lr=1e-3, hidden_lr=1e-3)
ONE, TWO = Layout(), Layout(threads=2)
DDP, FSDP = (Layout(processes=2, shard=shard) for shard in ("ddp", "fsdp"))
TENSOR = Layout(processes=2, degrees=Degrees(tensor=2))
ZERO = CpuPrices(**{one.name: 0.0 for one in fields(CpuPrices)})


def price(name: str) -> CpuPrices:
    return replace(ZERO, **{name: 1.0})


def test_products_are_the_counted_flops_and_are_shared_out():
    flops = train_flops_per_token(SHAPE) * RECIPE.batch_tokens
    assert step_seconds(SHAPE, RECIPE, ONE, price("products")) == flops
    for layout in (DDP, FSDP, TENSOR):
        assert step_seconds(SHAPE, RECIPE, layout, price("products")) == flops / 2
    again = replace(ONE, recompute="full")
    assert step_seconds(SHAPE, RECIPE, again, price("products")) == pytest.approx(flops * 4 / 3)


def test_what_each_way_of_sharing_sends():
    weights = 4 * count_params(SHAPE).total
    sent = {
        name: step_seconds(SHAPE, RECIPE, layout, price("traffic"))
        for name, layout in (("one", ONE), ("threads", TWO), ("ddp", DDP), ("fsdp", FSDP))
    }
    assert sent == {"one": 0.0, "threads": 0.0, "ddp": weights, "fsdp": 1.5 * weights}
    states = 4 * 2048 * 128
    assert step_seconds(SHAPE, RECIPE, TENSOR, price("traffic")) == (8 * 4 + 4) * states / 2


def test_state_is_updated_where_it_is_held():
    one, ddp, fsdp = (step_seconds(SHAPE, RECIPE, x, price("optimiser")) for x in (ONE, DDP, FSDP))
    assert (one, one) == (ddp, 2 * fsdp)


def test_a_pipeline_idles_by_its_stages_and_micro_batches():
    layout = Layout(processes=2, degrees=Degrees(pipeline=2), micro_batch_sequences=4)
    terms = step_terms(SHAPE, RECIPE, layout, price("products"))
    assert terms["bubble"] == terms["products"] / 4


def test_prices_of_another_machine_are_found_from_its_steps():
    true = replace(FITTED, products=3e-11, traffic=5e-9, passes=1e-10)
    shapes = [
        shape_for_width(w, n, vocab_size=v, context_tokens=128)
        for w, n, v in ((64, 2, 512), (128, 4, 2048), (256, 4, 4096), (128, 8, 512), (384, 3, 1024))
    ]
    steps = [
        MeasuredStep(
            name="s",
            hw="cpu",
            shape=shape,
            recipe=RECIPE,
            layout=layout,
            peak_bytes=1.0,
            seconds=step_seconds(shape, RECIPE, layout, true),
        )
        for shape in shapes
        for layout in (ONE, TWO, DDP, FSDP)
    ]
    before = [step_seconds(s.shape, s.recipe, s.layout) / s.seconds - 1 for s in steps]
    held = fit_prices([s for at, s in enumerate(steps) if at % 5 != 3])
    after = [step_seconds(s.shape, s.recipe, s.layout, held) / s.seconds - 1 for s in steps[3::5]]
    assert max(map(abs, before)) > 0.3
    assert max(map(abs, after)) < 0.05
    assert fit_prices([]) == FITTED


def test_a_speedup_says_what_it_is_of():
    assert speedup((SHAPE, RECIPE), ONE, ONE).value == 1.0
    two = speedup((SHAPE, RECIPE), ONE, TWO)
    assert 1.2 < two.low < two.value < two.high < 2.4
    assert two.how.startswith("1 processes of 2 threads against 1 of 1")


def test_a_speedup_beyond_what_was_measured_is_less_sure():
    def width(layout: Layout) -> float:
        found = speedup((SHAPE, RECIPE), ONE, layout)
        return found.high / found.value

    assert width(TWO) < width(Layout(threads=4)) < width(Layout(threads=8))
    assert width(DDP) < width(Layout(processes=8, shard="ddp"))
    assert "never measured" in speedup((SHAPE, RECIPE), ONE, Layout(threads=4)).how
    assert width(TWO) < width(replace(TWO, precision="bf16"))


def test_the_fastest_way_hangs_on_what_messages_cost():
    run = (SHAPE, replace(RECIPE, batch_tokens=8 * 2048))
    dear = replace(FITTED, messages=1.0)
    assert TWO == fastest(run, ONE, 2, 8e9, dear)
    free = replace(FITTED, messages=0.0, traffic=0.0)
    found = fastest(run, ONE, 4, 8e9, free)
    assert (4, 1) == (found.processes, found.threads)
    # Two processes of Python and torch do not fit half a gigabyte.
    assert 1 == fastest(run, ONE, 2, 6.5e8, free).processes
    # A tie goes to the fewest processes.
    assert 1 == fastest(run, ONE, 1, 8e9).processes


def test_experts_that_are_shared_out_are_sent_for():
    mixed = with_experts(SHAPE, 4, 2, 64)
    plain, shared = (
        step_seconds(mixed, RECIPE, replace(DDP, degrees=Degrees(expert=degree)), price("traffic"))
        for degree in (1, 2)
    )
    rows = 4 * 4 * 1024 * 2 * 128 * 4 / 2
    experts = 3 * 4 * 64 * 128 * 4
    assert shared - plain == pytest.approx(rows - 4 * experts / 2)
