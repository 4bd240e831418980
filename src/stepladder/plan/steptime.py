"""A training configuration, or arrays of them, in; seconds of one optimiser step by named term out.

Equations, sources and validity of each term: docs/plan/step-time.md. Constants are logarithms; each has a
value before data, how far sources differ in it, and what `bench/plan/steps.py` fitted to all published steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Numbers = float | np.ndarray
Rule = Mapping[str, float]

# name: (before data, standard deviation, fitted), natural logarithms. Why: docs/plan/step-time.md.
CONSTANTS: dict[str, tuple[float, float, float]] = {
    "gemm": (0.35, 0.3, 0.471),  # time of large matrix products over that at the data sheet's peak
    "small": (-2.5, 0.7, -2.733),  # share idle at micro-batches of 2,048 tokens
    "narrow": (-2.0, 0.7, -0.986),  # share idle at slices 1,024 wide
    "misaligned": (0.1, 0.2, 0.277),  # heads whose width is not a multiple of 8
    "tuned": (-0.2, 0.2, -0.221),  # Transformer Engine's kernels, on Hopper and after
    "fp8": (-0.41, 0.3, -0.351),  # fp8 products over 16-bit ones
    "attention": (0.5, 0.4, 0.581),  # fused attention, over products
    "attention_newer": (0.4, 0.4, 0.472),  # the same on Hopper and after, more
    "elementwise": (-0.3, 0.5, 0.278),
    "launch": (1.1, 0.3, 1.226),  # milliseconds of the host for one layer with full recompute
    "tensor": (0.0, 0.5, -0.003),  # tensor-parallel traffic inside a domain, over the link's rate
    "latency": (-2.8, 0.7, -2.811),  # milliseconds of a layer's collectives for each peer of a tensor group
    "across": (0.3, 0.7, 0.625),  # the same over the network
    "data": (-0.5, 0.7, -0.175),  # gradients felt
    "gathers": (-0.3, 0.7, -0.655),  # parameters gathered, before overlap
    "optimiser": (0.0, 0.7, 0.110),
    "offload": (0.0, 0.5, 0.561),
    "wait": (1.0, 0.7, 1.529),  # milliseconds a step for each doubling of nodes
    # Of mixtures, as before data: fitted to 24 published steps they forecast left-out ones worse, 33 %
    # against 25 % on average (bench/plan/experts.py).
    "grouped": (0.3, 0.3, 0.3),  # grouped products of experts, uneven loads among them, over plain ones
    "exchange": (0.3, 0.7, 0.3),  # rows on their way to experts and back, over the link's rate
    "routing": (0.7, 0.5, 0.7),  # milliseconds of the host for one mixture with full recompute
}
MIXTURE = ("grouped", "exchange", "routing")
FITTED: Rule = {name: fitted for name, (_, _, fitted) in CONSTANTS.items()}
_HOST_LINK = 8e9  # bytes a second of a device's share of PCIe 3.0 x16, both ways at once


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """What one device can do at best: FLOP/s dense 16-bit, bytes a second one way, devices that share links.

    `newer` is 1 from Hopper on, `tuned` where its maker's own stack runs on it.
    """

    flops: Numbers
    memory: Numbers
    scale_up: Numbers
    network: Numbers
    domain: Numbers
    node: Numbers
    newer: Numbers
    tuned: Numbers


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernels:
    """How layers are computed: in fp8, with fused attention, with sequence parallelism (1 or 0 each).

    `recompute` is the forward passes done again: 0, a part, or 1.
    """

    fp8: Numbers
    flash: Numbers
    recompute: Numbers
    sequence_parallel: Numbers


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixture:
    """Gated experts of each layer, those of them that a token passes, hidden units of one, and the data
    replicas that share them out. Zero experts: a dense network.

    With `nodes` a token's row goes once to each other node that has some of its experts, of at most so many,
    and is copied there (DeepSeek-V3, arXiv:2412.19437 §2.1.2 and §3.2.2); 0: each copy travels by itself, as
    our trainer sends them.
    """

    count: Numbers = 0.0
    active: Numbers = 0.0
    width: Numbers = 0.0
    degree: Numbers = 1.0
    nodes: Numbers = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Configurations; every number may be an array of one length.

    `shape` is layers, hidden, matrices of a layer (parameters, without experts), vocabulary, heads; `degrees`
    is data, tensor, pipeline, chunks of each stage, context. `host` is 1 where kept activations go to the
    host's memory, and bytes of one gradient sent.
    """

    shape: tuple[Numbers, Numbers, Numbers, Numbers, Numbers]
    sequence: Numbers
    micro_batch: Numbers
    accumulation: Numbers
    degrees: tuple[Numbers, Numbers, Numbers, Numbers, Numbers]
    rates: Rates
    kernels: Kernels
    zero: Numbers
    mixture: Mixture = Mixture()
    host: tuple[Numbers, Numbers] = (0.0, 2.0)  # offloads, gradient_bytes

    @property
    def tokens(self) -> Numbers:
        """Tokens of a micro-batch on one device."""
        return self.micro_batch * self.sequence / self.degrees[4]

    @property
    def held(self) -> Numbers:
        """Parameters of one device's share before data parallelism shards them, without experts."""
        layers, hidden, matrices, vocabulary, _ = self.shape
        return (layers * matrices + vocabulary * hidden) / (self.degrees[1] * self.degrees[2])

    @property
    def held_experts(self) -> Numbers:
        """The same of experts; the data replicas over `mixture.degree` hold equal ones."""
        mixture = self.mixture
        each = 3 * self.shape[1] * mixture.width * mixture.count / mixture.degree
        return self.shape[0] * each / self.degrees[2]

    @property
    def devices(self) -> Numbers:
        """All of them."""
        data, tensor, pipeline, _, context = self.degrees
        return data * tensor * pipeline * context


def step_seconds(config: Config, rule: Rule = FITTED) -> Numbers:
    """Seconds of a step."""
    return sum(step_terms(config, rule).values())


def step_terms(config: Config, rule: Rule = FITTED) -> dict[str, Numbers]:
    """Seconds by term; their sum is the step."""
    layer, head = _layer(config, rule) | _mixture(config, rule), _head(config, rule)
    data, tensor, pipeline, chunks, _ = config.degrees
    each = config.shape[0] / pipeline
    device = sum(layer.values())
    # The host queues kernels while the device works: the slower of the two is felt.
    passes = (3 + config.kernels.recompute) / 4
    host = np.exp(rule["launch"]) + np.exp(rule["routing"]) * (config.mixture.count > 0)
    # All of a group wait for its last at each collective.
    layer["latency"] = np.exp(rule["latency"]) * 1e-3 * passes * (tensor - 1)
    felt = _slower(device, host * 1e-3 * passes, 4) + layer["latency"]
    device = device + layer["latency"]
    count = each * config.accumulation
    terms = {name: seconds * count for name, seconds in layer.items()}
    terms["launches"] = (felt - device) * count
    # The last stage has the head too, and the others wait for it.
    terms["head"] = head * config.accumulation
    compute = sum(terms.values())
    # The stages before it fill first, a chunk at a time.
    terms["bubble"] = (pipeline - 1) / chunks * each * felt
    terms |= _between(config, rule, compute)
    shared = np.where(np.asarray(config.zero) > 0, data, 1)
    updated = config.held / shared + config.held_experts / np.maximum(shared / config.mixture.degree, 1)
    terms["optimiser"] = 20 * updated / config.rates.memory * np.exp(rule["optimiser"])
    # Kept inputs of layers go to the host and come back.
    moved = config.host[0] * count * config.tokens * config.shape[1] * 4
    terms["offload"] = moved / _HOST_LINK * np.exp(rule["offload"])
    return terms


def _layer(config: Config, rule: Rule) -> dict[str, Numbers]:
    """Seconds of one layer's passes over one micro-batch, were the host infinitely fast."""
    _, hidden, matrices, _, heads = config.shape
    tensor, rates, kernels = config.degrees[1], config.rates, config.kernels
    tokens, passes = config.tokens, 3 + kernels.recompute
    flash = np.asarray(kernels.flash) > 0
    base = np.exp(_inefficiency(config, rule)) / rates.flops
    fused = np.exp(rule["attention"] + rule["attention_newer"] * rates.newer)
    # Fused kernels skip the half of the scores that is masked.
    scores = 2 * np.where(flash, fused, 2) * config.sequence * hidden * tokens / tensor
    whole = np.where(flash, 0, config.micro_batch * heads / tensor * config.sequence**2 * 16)
    # Without sequence parallelism norms and dropouts are done by all.
    split = np.where(np.asarray(kernels.sequence_parallel) > 0, tensor, np.sqrt(tensor))
    passed = (tokens * hidden * 60 / split + whole) * passes / 3
    sent = tokens * hidden * 4 * (4 + 2 * (kernels.recompute > 0.9)) * (tensor - 1) / tensor
    inside = np.exp(rule["tensor"]) / rates.scale_up
    across = np.exp(rule["across"]) / (rates.network * rates.node)
    products = 2 * matrices * tokens / tensor * np.exp(rule["fp8"] * kernels.fp8)
    return {
        "matrices": passes * products * base * _idle(config, rule),
        "attention": passes * scores * base,
        "elementwise": passed / rates.memory * np.exp(rule["elementwise"]),
        "tensor_parallel": sent * np.where(tensor <= rates.domain, inside, across),
    }


def _mixture(config: Config, rule: Rule) -> dict[str, Numbers]:
    """Seconds of one mixture's passes over one micro-batch: grouped products, rows sorted, rows exchanged."""
    mixture, rates, kernels = config.mixture, config.rates, config.kernels
    if not np.any(np.asarray(mixture.count) > 0):
        return {}
    hidden, tensor, passes = config.shape[1], config.degrees[1], 3 + kernels.recompute
    rows = config.tokens / tensor * mixture.active
    matrices = 3 * hidden * mixture.width
    here = np.maximum(mixture.count / mixture.degree, 1e-9)  # experts that a process keeps
    slow = rule["gemm"] + rule["tuned"] * rates.tuned + rule["grouped"] + rule["fp8"] * kernels.fp8
    # Tiles are 128 rows high: of each expert's last one half is empty, on average.
    tiles = 1 + 64 * here / np.maximum(rows, 1)
    narrow = np.exp(rule["narrow"]) * 1024 / np.maximum(mixture.width, 1)
    idle = tiles + np.exp(rule["small"]) * 2048 / np.maximum(rows, 1) + narrow
    products = 2 * matrices * rows * np.exp(slow) / rates.flops * idle
    # Each expert's weights are read whatever the rows.
    read = 2 * matrices * here / rates.memory
    # Gathered by expert, put back, weighed: 16 bytes a value and pass beside the products' own.
    passed = 16 * rows * hidden * passes / rates.memory * np.exp(rule["elementwise"])
    # Two values' bytes of each row leave for its expert and come back, forward and backward.
    sent = 2 * rows * hidden * (4 + 2 * (kernels.recompute > 0.9))
    near = np.minimum(mixture.degree, np.maximum(rates.domain, 1))
    inside, across = _exchanged(mixture, near)
    inside, across = sent * inside / rates.scale_up, sent * across / rates.network
    is_mixed = np.asarray(mixture.count) > 0
    return {
        "experts": np.where(is_mixed, passes * _slower(products, read, 4), 0.0),
        "dispatch": np.where(is_mixed, passed, 0.0),
        # Both kinds of link work at the same time.
        "expert_exchange": np.where(is_mixed, np.maximum(inside, across) * np.exp(rule["exchange"]), 0.0),
    }


def _exchanged(mixture: Mixture, near: Numbers) -> tuple[Numbers, Numbers]:
    """Shares of a token's rows that travel inside a domain of `near` devices, and between domains.

    A experts drawn evenly over K domains lie in K (1 - (1 - 1/K)^A) of them. Sent once to each, a row goes on
    from there to every expert's device over the inner links.
    """
    domains = np.maximum(mixture.degree / near, 1)
    met = domains * (1 - (1 - 1 / domains) ** mixture.active)
    once = np.minimum(met, mixture.nodes) / np.maximum(mixture.active, 1) * (domains - 1) / domains
    is_once = np.asarray(mixture.nodes) > 0
    inside = np.where(is_once, (near - 1) / near, (near - 1) / mixture.degree)
    return inside, np.where(is_once, once, (mixture.degree - near) / mixture.degree)


def _head(config: Config, rule: Rule) -> Numbers:
    """Seconds of the vocabulary's product and its loss, in 16 and 32 bit, for one micro-batch."""
    _, hidden, _, vocabulary, _ = config.shape
    logits = config.tokens * vocabulary / config.degrees[1]
    products = 6 * logits * hidden * np.exp(_inefficiency(config, rule)) / config.rates.flops
    passed = 20 * logits / config.rates.memory * np.exp(rule["elementwise"])
    return products * _idle(config, rule) + passed


def _inefficiency(config: Config, rule: Rule) -> Numbers:
    _, hidden, _, _, heads = config.shape
    odd = np.mod(hidden / np.maximum(heads, 1), 8) != 0
    return rule["gemm"] + rule["tuned"] * config.rates.tuned + rule["misaligned"] * odd


def _idle(config: Config, rule: Rule) -> Numbers:
    """Few rows or narrow slices leave units of the device without work."""
    narrow = 1024 * np.sqrt(config.degrees[1]) / config.shape[1]
    return 1 + np.exp(rule["small"]) * 2048 / config.tokens + np.exp(rule["narrow"]) * narrow


def _between(config: Config, rule: Rule, compute: Numbers) -> dict[str, Numbers]:
    """Traffic of data parallelism that is felt beside `compute` seconds, and waiting for the slowest node."""
    data, tensor, _, _, context = config.degrees
    rates, ranks = config.rates, data * context
    # Slices of one node send at the same time; each ring has its share of the node's adapters.
    outside = np.minimum(rates.scale_up, rates.network * rates.node / np.minimum(tensor, rates.node))
    link = np.where(config.devices <= rates.domain, rates.scale_up, outside)
    alike = np.maximum(ranks / config.mixture.degree, 1)  # replicas of each expert
    once = 2 * (config.held * (ranks - 1) / ranks + config.held_experts * (alike - 1) / alike) / link
    plain = 2 * once * (config.host[1] + 2) / 4 * np.exp(rule["data"])
    # Fully sharded: gathered for both passes of every micro-batch and scattered back, under computation.
    sharded = _slower(compute, 3 * config.accumulation * once * np.exp(rule["gathers"]), 2) - compute
    nodes = np.maximum(config.devices / rates.node, 1)
    return {
        "data_parallel": np.where(np.asarray(config.zero) == 3, sharded, plain),
        "wait": np.exp(rule["wait"]) * 1e-3 * np.log2(nodes),
    }


def _slower(one: Numbers, other: Numbers, power: float) -> Numbers:
    """The larger of two times that overlap; near each other, a little more."""
    return (one**power + other**power) ** (1 / power)
