"""Gradients on their way: buckets leave in one order, as soon as they are whole, in the last pass only."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore

from stepladder.records import Layout
from stepladder.train import averaging, parallel
from stepladder.train.averaging import Averaging

TWO = Layout(processes=2, shard="ddp")


@pytest.fixture
def ranks() -> Iterator[parallel.Ranks]:
    """One of two processes; the other only seems to be there, and sums are this one's."""
    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    yield parallel.join(TWO, torch.device("cpu"))
    dist.destroy_process_group()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many values each all-reduce had, in order."""
    sizes, real = [], dist.all_reduce

    def heard(tensor: torch.Tensor, *words: object, **named: object) -> object:
        sizes.append(tensor.numel())
        return real(tensor, *words, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(dist, "all_reduce", heard)
    monkeypatch.setattr(averaging, "BUCKET_BYTES", 4 * 40)
    return sizes


def network() -> nn.Sequential:
    """Matrices of 16, 32 and 8 values."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(*size, bias=False) for size in ((4, 4), (4, 8), (8, 1))))


def test_buckets_leave_while_the_pass_goes_on(ranks: parallel.Ranks, sent: list[int]) -> None:
    model, seen = network(), []
    model[0].weight.register_post_accumulate_grad_hook(lambda _: seen.append(list(sent)))
    over = Averaging(model, TWO, ranks)
    for is_last in (False, True):
        over.expect(is_last)
        model(torch.ones(2, 4)).sum().backward()
    # The last two matrices share a bucket; it has left when the first one's gradient comes, in the last pass.
    assert seen == [[], [40]]
    over.finish()
    assert sent == [40, 16]
    alone = network()
    for _ in range(2):
        alone(torch.ones(2, 4)).sum().backward()
    for ours, theirs in zip(model.parameters(), alone.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad / 2)  # the other process adds nothing


def test_parameters_without_a_gradient_hold_nobody_up(ranks: parallel.Ranks, sent: list[int]) -> None:
    model = network()
    over = Averaging(model, TWO, ranks)
    for _ in range(2):
        model.zero_grad(set_to_none=True)
        over.expect(True)
        model[1](torch.ones(2, 4)).sum().backward()
        over.finish()
    assert sent == [32, 32]
    assert model[0].weight.grad is None
