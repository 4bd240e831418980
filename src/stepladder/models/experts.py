"""States in; the answers of the experts that each token was sent to, weighted, out (torch).

A router sends each token to its `active` best of `count` gated MLPs (Qwen3-MoE's rule: softmax over all,
the chosen weights divided by their sum); no token is dropped. Shape suffixes: N tokens of the micro-batch,
R rows (a token stands once for each of its experts), X experts, D width, F width of an expert.

Expert parallel: a process keeps some of the experts, and rows travel to the process that has theirs and back.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from stepladder.records import Experts, Shape


class ExpertMatrices(nn.Module):
    """The gated MLPs of all experts, or of those that this process keeps, each matrix stacked."""

    def __init__(self, width: int, experts: Experts) -> None:
        super().__init__()
        into, out = (experts.count, experts.ffn_width, width), (experts.count, width, experts.ffn_width)
        self.gate_proj, self.up_proj = nn.Parameter(torch.empty(into)), nn.Parameter(torch.empty(into))
        self.down_proj = nn.Parameter(torch.empty(out))

    def forward(self, rows_RD: Tensor, counts: list[int]) -> Tensor:
        """Rows sorted by expert, `counts` of them for each expert here."""
        gate, up, down = (
            weight.to_local() if isinstance(weight, DTensor) else weight
            for weight in (self.gate_proj, self.up_proj, self.down_proj)
        )
        if rows_RD.is_cuda and rows_RD.dtype == torch.bfloat16:
            return _grouped(rows_RD, counts, (gate, up, down))
        # A loop over experts: on a CPU as fast as grouped products, and it runs under autocast.
        answers = [
            F.linear(F.silu(F.linear(rows, one)) * F.linear(rows, two), three)
            for rows, one, two, three in zip(rows_RD.split(counts), gate, up, down, strict=True)
        ]
        return torch.cat(answers)


def _grouped(rows_RD: Tensor, counts: list[int], weights: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """The same by one product for all experts."""
    ends = torch.tensor(counts, device=rows_RD.device).cumsum(0).int()
    gate, up, down = (weight.to(rows_RD.dtype).mT for weight in weights)
    inner = F.silu(F.grouped_mm(rows_RD, gate, offs=ends)) * F.grouped_mm(rows_RD, up, offs=ends)
    return F.grouped_mm(inner, down, offs=ends)


class Mixture(nn.Module):
    """The feed-forward part of a block with experts; `group` are the processes that share them out.

    `balance_scale` is what the loss of this step is multiplied by before its backward pass. `load` is how
    many rows each expert has had of this process's tokens since it was last read.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.settings = shape.experts
        self.gate = nn.Linear(shape.width, shape.experts.count, bias=False)
        self.experts = ExpertMatrices(shape.width, shape.experts)
        self.group: dist.ProcessGroup | None = None
        self.balance_scale = 1.0
        self.load = torch.zeros(shape.experts.count)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        active, count = self.settings.active, self.settings.count
        probabilities_BTX = self.gate(x_BTD).softmax(dim=-1, dtype=torch.float32)
        weights_BTA, chosen_BTA = probabilities_BTX.topk(active)
        weights_BTA = weights_BTA / weights_BTA.sum(dim=-1, keepdim=True)
        chosen_R = chosen_BTA.flatten()
        if self.training and torch.is_grad_enabled():
            weights_BTA = self._balanced(weights_BTA, probabilities_BTX, chosen_BTA)
        # A permutation of copies: the gradients of its backward pass meet in a fixed order.
        order_R = chosen_R.argsort(stable=True)
        rows_RD = x_BTD.flatten(0, 1)[:, None].expand(-1, active, -1).reshape(-1, x_BTD.shape[-1])[order_R]
        # No bincount: a dry run could not say how long its answer is.
        counts_X = torch.zeros(count, dtype=torch.long, device=chosen_R.device)
        counts_X.scatter_add_(0, chosen_R, torch.ones_like(chosen_R))
        answers_RD = self._answers(rows_RD, counts_X)
        back_RD = torch.empty_like(answers_RD).index_copy(0, order_R, answers_RD)
        answers_BTAD = back_RD.view(*chosen_BTA.shape, -1)
        return (answers_BTAD * weights_BTA.to(answers_BTAD.dtype)[..., None]).sum(dim=-2)

    def _answers(self, rows_RD: Tensor, counts_X: Tensor) -> Tensor:
        if self.group is None:
            return self.experts(rows_RD, whole_numbers(counts_X, len(rows_RD)))
        parts = dist.get_world_size(self.group)
        sent = counts_X.view(parts, -1)
        got = torch.empty_like(sent)
        dist.all_to_all_single(got, sent.contiguous(), group=self.group)
        rows = len(rows_RD)
        leaving, arriving = (whole_numbers(counts.sum(1), rows) for counts in (sent, got))
        here_RD = _Exchange.apply(rows_RD, leaving, arriving, self.group)
        # They come sorted by expert from each process: sort over processes, too.
        of = torch.arange(got.shape[1], device=got.device).repeat(parts)
        order_R = of.repeat_interleave(got.flatten(), output_size=len(here_RD)).argsort(stable=True)
        answers_RD = self.experts(here_RD[order_R], whole_numbers(got.sum(0), len(here_RD)))
        back_RD = torch.empty_like(answers_RD).index_copy(0, order_R, answers_RD)
        return _Exchange.apply(back_RD, arriving, leaving, self.group)

    def _balanced(self, weights_BTA: Tensor, probabilities_BTX: Tensor, chosen_BTA: Tensor) -> Tensor:
        """The weights, whose backward pass also brings the gradient of the balance of each sequence.

        For a sequence of T tokens T x balance x X x sum over experts of (share of its rows) x (mean
        probability): arXiv:2101.03961 equation 4, for each sequence as arXiv:2412.19437 equation 17, so
        that it does not hang on how a batch is cut. Even: T x balance.
        """
        count, tokens = self.settings.count, chosen_BTA.shape[1]
        rows_BX = torch.zeros(len(chosen_BTA), count, device=chosen_BTA.device)
        flat = chosen_BTA.flatten(1)
        rows_BX.scatter_add_(1, flat, torch.ones_like(flat, dtype=rows_BX.dtype))
        self.load = self.load.to(rows_BX.device) + rows_BX.sum(0)
        balance = count * (rows_BX / flat.shape[1] * probabilities_BTX.mean(dim=1)).sum()
        scale = self.settings.balance * tokens * self.balance_scale
        return _AlsoMinimise.apply(weights_BTA, balance, scale)


def mixtures(model: nn.Module) -> Iterator[Mixture]:
    """The mixtures of a model, or of the stages that this process has."""
    return (module for module in model.modules() if isinstance(module, Mixture))


def take_loads(model: nn.Module) -> tuple[float, int]:
    """(sum over layers of the busiest expert's rows over an even share, layers); loads start anew."""
    total, layers = 0.0, 0
    for mixture in mixtures(model):
        if mixture.load.sum() > 0:
            total += (mixture.load.max() / mixture.load.mean()).item()
            layers += 1
        mixture.load = torch.zeros_like(mixture.load)
    return total, layers


def whole_numbers(counts: Tensor, rows: int) -> list[int]:
    """Counts as integers; where tensors are only thought of, `rows` shared out evenly."""
    if torch._guards.detect_fake_mode(counts) is None:
        return counts.tolist()
    each = rows // len(counts)
    return [each] * (len(counts) - 1) + [rows - each * (len(counts) - 1)]


class _Exchange(torch.autograd.Function):
    """Rows to their processes: `leaving` to each, `arriving` from each; gradients go the other way."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, leaving: list[int], arriving: list[int], group: dist.ProcessGroup
    ) -> Tensor:
        ctx.leaving, ctx.arriving, ctx.group = leaving, arriving, group
        return _exchanged(rows, leaving, arriving, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # pyrefly: ignore[bad-override]
        return _exchanged(grad, ctx.arriving, ctx.leaving, ctx.group), None, None, None


def _exchanged(rows: Tensor, leaving: list[int], arriving: list[int], group: dist.ProcessGroup) -> Tensor:
    out = rows.new_empty(sum(arriving), *rows.shape[1:])
    dist.all_to_all_single(out, rows.contiguous(), arriving, leaving, group=group)
    return out


class _AlsoMinimise(torch.autograd.Function):
    """A tensor as it is; its backward pass adds the gradient of scale x aside."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, aside: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(aside)
        ctx.scale = scale
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # pyrefly: ignore[bad-override]
        (aside,) = ctx.saved_tensors
        return grad, torch.full_like(aside, ctx.scale), None
