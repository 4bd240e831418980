from hypothesis import given
from hypothesis import strategies as st

from stepladder.train.schedule import branch_step, rate_factor


def test_shape_of_a_hundred_steps() -> None:
    factors = [rate_factor(step, 100, 0.1, 0.3) for step in range(100)]
    assert [(step + 1) / 11 for step in range(10)] == factors[:10]
    assert factors[10:70] == [1.0] * 60
    assert [(100 - step) / 31 for step in range(70, 100)] == factors[70:]


def test_root_form_falls_faster_first() -> None:
    linear, root = (rate_factor(80, 100, 0.0, 0.4, form) for form in ("linear", "1-sqrt"))
    assert root < linear


@given(st.integers(1, 5000), st.floats(0, 1), st.floats(0, 1))
def test_every_step_learns_something(steps: int, warmup: float, decay: float) -> None:
    factors = [rate_factor(step, steps, warmup, decay) for step in {0, steps // 2, steps - 1}]
    assert all(0 < factor <= 1 for factor in factors)


@given(st.integers(2, 5000), st.integers(2, 5000), st.floats(0, 0.5))
def test_two_lengths_have_the_same_rates_up_to_the_shorter_ones_branch(
    one: int, other: int, decay: float
) -> None:
    short, long = sorted((one, other))
    step = branch_step(short, decay)
    assert 0 <= step <= branch_step(long, decay)
    warmup = min(7, step)
    for at in {0, step // 2, step - 1} - {-1}:
        factors = {rate_factor(at, steps, warmup / steps, decay) for steps in (short, long)}
        assert len(factors) == 1
    if step < short:
        assert rate_factor(step, short, 0.0, decay) < 1
