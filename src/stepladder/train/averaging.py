"""A model and a layout in; the gradients of a step completed over processes, as far as possible meanwhile.

FSDP2 reduces its own gradients. In plain data parallelism they go in buckets, each as soon as its last
gradient is there, while the backward pass goes on (as DDP's do, arXiv:2006.15704). Where processes also split
sequences, matrices, layers or experts, one flat tensor follows after the pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from stepladder.models.shard import local, sum_over_tensor_group, sync_gradients
from stepladder.records import Layout
from stepladder.train.parallel import Ranks

# As DDP's: models of up to 6 million parameters go as one, which costs least where a message is dear.
BUCKET_BYTES = 25 * 2**20


@dataclass(kw_only=True, slots=True)
class _Bucket:
    """Parameters that are sent together, how many gradients are awaited, and what is on its way."""

    parameters: list[nn.Parameter]
    awaited: int = 0
    gradients: list[Tensor] = field(default_factory=list)
    flat: Tensor | None = None
    work: dist.Work | None = None


class Averaging:
    """Completes gradients; `expect` comes before each backward pass of a step, `finish` after the last.

    Every process sends the same buckets in the same order, whatever order its gradients come in.
    """

    def __init__(self, model: nn.Module, layout: Layout, ranks: Ranks) -> None:
        self._model, self._layout, self._ranks = model, layout, ranks
        self._buckets: list[_Bucket] = []
        self._sent = 0
        self._is_expecting = False
        is_whole = ranks.mesh is not None and layout.degrees.model == 1 and layout.degrees.expert == 1
        if is_whole and ranks.replicas > 1 and not _is_sharded(layout):
            self._group = ranks.group("replicate")
            # Backward comes to the last layers first.
            parameters = [p for p in reversed(list(model.parameters())) if p.requires_grad]
            self._buckets = _in_buckets(parameters, BUCKET_BYTES)
            for bucket in self._buckets:
                for parameter in bucket.parameters:
                    parameter.register_post_accumulate_grad_hook(lambda _, bucket=bucket: self._have(bucket))

    def expect(self, is_last: bool) -> None:
        """A backward pass follows; gradients are complete after the last one of a step only."""
        sync_gradients(self._model, is_last)
        self._is_expecting = is_last
        if is_last:
            self._sent = 0
            for bucket in self._buckets:
                bucket.awaited = len(bucket.parameters)

    def finish(self) -> None:
        """Sums over tensor groups, means over replicas of what is not sharded."""
        ranks, degrees = self._ranks, self._layout.degrees
        self._is_expecting = False
        if ranks.mesh is None:
            return
        if degrees.tensor > 1:
            sum_over_tensor_group(self._model, ranks.group("tensor"))
        if _is_sharded(self._layout) or ranks.replicas == 1:
            return
        if self._buckets:
            self._send(len(self._buckets))
            for bucket in self._buckets:
                self._receive(bucket)
            return
        gradients = [p.grad for p in self._model.parameters() if p.grad is not None]
        # Spread experts have seen the tokens of all processes that share them out.
        spread = [local(one) for one in gradients if one.ndim > 2 and degrees.expert > 1]
        others = [local(one) for one in gradients if one.ndim <= 2 or degrees.expert == 1]
        _average(others, ranks, ("replicate", "context", "expert"))
        _average(spread, ranks, ("replicate", "context"))

    def _have(self, bucket: _Bucket) -> None:
        if self._is_expecting:
            bucket.awaited -= 1
            ready = self._sent
            while ready < len(self._buckets) and self._buckets[ready].awaited == 0:
                ready += 1
            self._send(ready)

    def _send(self, until: int) -> None:
        """Start the buckets before this one that are not on their way; a parameter may have no gradient."""
        for bucket in self._buckets[self._sent : until]:
            bucket.gradients = [p.grad for p in bucket.parameters if p.grad is not None]
            if bucket.gradients:
                bucket.flat = torch.cat([gradient.reshape(-1) for gradient in bucket.gradients])
                bucket.work = dist.all_reduce(bucket.flat, group=self._group, async_op=True)
        self._sent = until

    def _receive(self, bucket: _Bucket) -> None:
        if bucket.work is not None and bucket.flat is not None:
            bucket.work.wait()
            _mean_into(bucket.gradients, bucket.flat, self._ranks.replicas)
        bucket.flat, bucket.work, bucket.gradients = None, None, []


def _is_sharded(layout: Layout) -> bool:
    return layout.shard in ("fsdp", "hsdp")


def _in_buckets(parameters: Sequence[nn.Parameter], num_bytes: int) -> list[_Bucket]:
    """In this order, each as full as it may be; one that is larger than a bucket has its own."""
    buckets: list[_Bucket] = []
    held = 0
    for parameter in parameters:
        if not buckets or held + parameter.nbytes > num_bytes:
            buckets.append(_Bucket(parameters=[]))
            held = 0
        buckets[-1].parameters.append(parameter)
        held += parameter.nbytes
    return buckets


def _average(gradients: Sequence[Tensor], ranks: Ranks, dimensions: Sequence[str]) -> None:
    """Sums over the dimensions, over the number of replicas; in place, as one flat tensor."""
    if not gradients:
        return
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    for name in dimensions:
        group = ranks.group(name)
        if dist.get_world_size(group) > 1:
            dist.all_reduce(flat, group=group)
    _mean_into(gradients, flat, ranks.replicas)


def _mean_into(gradients: Sequence[Tensor], flat: Tensor, replicas: int) -> None:
    flat /= replicas
    at = 0
    for gradient in gradients:
        gradient.copy_(flat[at : at + gradient.numel()].view_as(gradient))
        at += gradient.numel()
