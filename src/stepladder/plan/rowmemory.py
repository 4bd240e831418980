"""A published training configuration (a row of text) in; GiB of one of its devices by term out.

The rows are of other frameworks (Megatron, DeepSpeed, FSDP, InternEvo); equations: docs/plan/memory.md.
Not counted: pages of a CPU offload, activations kept on the host, checkpoints being written, experts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stepladder.plan.hardware import OFFERED
from stepladder.plan.memory import FITTED, GIB, MemoryRule, busiest, in_flight

_ALLOCATED, _RESERVED = "torch-peak", "torch-reserved"


@dataclass(frozen=True, kw_only=True, slots=True)
class Framework:
    """What a framework does in its own way: bytes for each logit and each parameter that a device updates.

    A logit costs 2 (16-bit) + 4 (fp32) + 4 (its gradient) + 2 (16-bit again). An update of fp32 master
    weights has fp32 (4) and flat 16-bit (2) copies of the gradients; `shards_fp32` ones have none of it.
    """

    logit_bytes: float = 12.0
    update_bytes: float = 6.0
    shards_fp32: bool = False
    states_recompute: bool = True


_DEFAULT = Framework()
_FRAMEWORKS = {
    "torchtitan-fsdp2": Framework(shards_fp32=True),
    # llm-foundry's default loss is flash-attn's fused one, which writes the gradient over 16-bit logits.
    "composer-fsdp": Framework(shards_fp32=True, logit_bytes=4.0),
    # torch's AdamW over lists of tensors makes two fp32 temporaries of all parameters; apex's fused one none.
    "internevo": Framework(update_bytes=14.0),
    # Their tables do not say what is recomputed; what fits is judged by the least that they could need.
    **dict.fromkeys(
        ("nemo", "megatron-bridge", "paxml", "meta", "nanotron"), Framework(states_recompute=False)
    ),
}


# Half of the 90 % interval of log GiB with every source left out once, of tables that do not say what is
# recomputed, and after a measured row of its kin.
LOG90, _UNSTATED_LOG90, _NEAR_LOG90 = 0.21, 0.35, 0.12
# By what the layouts' degrees and micro-batch differ (sum of log ratios), a measured error counts less.
FORGET = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RowMemory:
    """GiB of the busiest device by term, in the reading that the row means, and the odds that it fits."""

    terms: Mapping[str, float]
    least: float
    available: float
    log90: float

    @property
    def gib(self) -> float:
        """The reading."""
        return sum(self.terms.values())

    def probability_too_much(self, factor: float = 1.0, weight: float = 0.0) -> float:
        """That the least it can do with (cached segments given back) is more than there is.

        `factor` and `weight` are those of `measured_factor`.
        """
        sd = (LOG90 + weight * (_NEAR_LOG90 - LOG90)) / 1.645
        return 0.5 * math.erfc(math.log(self.available / (self.least * factor)) / (sd * math.sqrt(2)))

    def half_width(self, weight: float = 0.0) -> float:
        """Half of the 90 % interval of log GiB."""
        return self.log90 + weight * (_NEAR_LOG90 - self.log90)


def row_memory(row: Mapping[str, str], rule: MemoryRule = FITTED) -> RowMemory:
    """Memory of a dense configuration; columns as in `stepladder plan --configs`."""
    part, framework = _part(row), _FRAMEWORKS.get(row.get("framework", ""), _DEFAULT)
    said = row.get("recompute") or "none"
    held = _states(row, part, framework)
    used = {**held, **busiest(_moments(part, framework, said))}
    least = used
    if not framework.states_recompute or said == "unknown":
        least = {**held, **busiest(_moments(part, framework, "full"))}
    around = rule.around(math.ceil(number(row, "gpus", 1) / number(row, "gpn", 8)))
    terms = {name: amount / GIB for name, amount in used.items()}
    reading = row.get("mem_kind", "")
    if reading != _ALLOCATED:
        terms["allocator"] = (rule.allocator - 1) * sum(terms.values())
    if reading not in (_ALLOCATED, _RESERVED):
        terms["context"] = around
    return RowMemory(
        terms=terms,
        least=sum(least.values()) / GIB + around,
        available=OFFERED * number(row, "gpu_mem_gb", math.inf),
        log90=LOG90 if framework.states_recompute and said != "unknown" else _UNSTATED_LOG90,
    )


def measured_factor(
    row: Mapping[str, str], near: Sequence[Mapping[str, str]], rule: MemoryRule = FITTED
) -> tuple[float, float]:
    """What measured rows of the same model say: (factor on GiB, weight of the nearest, 0 to 1)."""
    found = [
        (_likeness(one, row), math.log(number(one, "mem_gib", 0) / row_memory(one, rule).gib))
        for one in near
        if number(one, "mem_gib", 0) > 0
    ]
    if not found:
        return 1.0, 0.0
    total = sum(weight * error for weight, error in found)
    return math.exp(total / max(sum(weight for weight, _ in found), 1.0)), max(weight for weight, _ in found)


def number(row: Mapping[str, str], name: str, otherwise: float) -> float:
    """A cell as a positive number, or `otherwise`."""
    try:
        value = float(row.get(name, "") or "nan")
    except ValueError:
        value = math.nan
    return value if math.isfinite(value) and value > 0 else otherwise


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """What one device has. Parameters in ones, bytes of 16-bit activations of a micro-batch by kind."""

    layers: float
    layer_params: float
    vocabulary_params: float
    gathers: bool
    flying: tuple[float, float]  # micro-batches in flight on the first stage and on the last
    layer_input: float
    layer_scores: float
    layer_rest: float
    layer_products: float  # what per-operation checkpoints keep: every second product and the attention
    full_length: float  # states gathered over a sequence-parallel group
    logits: float
    updated: float


def _part(row: Mapping[str, str]) -> _Part:
    width, heads, tokens = number(row, "hidden", 1), number(row, "heads", 1), number(row, "seq", 1)
    wide, gated = number(row, "ffn", 4 * width), number(row, "glu", 0) > 0
    keys = width * number(row, "kv_heads", heads) / heads
    tensor, pipeline, context = (number(row, name, 1) for name in ("tp", "pp", "cp"))
    layer = (2 * width * (width + keys) + (3 if gated else 2) * width * wide) / tensor
    ends = 1 if pipeline > 1 or number(row, "tied", 0) else 2
    vocabulary = ends * number(row, "vocab", 50_257) * width / tensor
    layers = math.ceil(number(row, "layers", 1) / pipeline)
    micro = number(row, "mbs", 1) * tokens / context
    sharded = tensor if number(row, "sp", 0) else 1
    # Inputs of norms and matrices are whole without sequence parallelism; queries, keys, values, their
    # attention and the feed-forward part are split (arXiv:2205.05198, table 2). Recipes of the time of fused
    # attention have no dropout, and so no masks of it.
    fused = number(row, "flash", 0) > 0
    whole = (8 if fused else 10) * width
    split = 4 * width + 4 * keys + (8 if gated else 4) * wide
    scores = 0.0 if fused else 5 * heads * tokens / tensor
    zero = int(number(row, "zero", 0))
    held = layers * layer + vocabulary
    shards = number(row, "dp", 1) * context
    return _Part(
        layers=layers,
        layer_params=layer,
        vocabulary_params=vocabulary,
        gathers=zero == 3,
        flying=in_flight(pipeline, number(row, "vpp", 1), number(row, "ga", 1)),
        layer_input=2 * micro * width / sharded * (row.get("extra", "").find("ckpt_in_cpu=1") < 0),
        layer_scores=micro * scores,
        layer_rest=micro * (whole / sharded + split / tensor),
        layer_products=micro * (4 * width / sharded + (4 * width + 2 * keys + 2 * wide) / tensor),
        full_length=6 * micro * width if sharded > 1 else 0.0,
        logits=micro * number(row, "vocab", 50_257) / tensor,
        updated=held / (shards if zero else 1) * (not number(row, "offload", 0)),
    )


def _states(row: Mapping[str, str], part: _Part, framework: Framework) -> dict[str, float]:
    """Bytes that stay: weights, gradients and optimiser by ZeRO stage (arXiv:1910.02054)."""
    params = part.layers * part.layer_params + part.vocabulary_params
    zero, shards = int(number(row, "zero", 0)), number(row, "dp", 1) * number(row, "cp", 1)
    if framework.shards_fp32:
        amounts = {"weights": 4.0, "gradients": 4.0, "optimiser": 8.0}
    else:
        in_fp32 = row.get("extra", "").find("grad_fp32=1") >= 0
        amounts = {"weights": 2.0, "gradients": 4.0 if in_fp32 else 2.0, "optimiser": 12.0}
    if number(row, "offload", 0):
        return {"weights": amounts["weights"] * params / (shards if zero == 3 else 1)}
    stages = {"weights": 3, "gradients": 2, "optimiser": 1}
    return {
        name: amount * params / (shards if zero >= stages[name] else 1) for name, amount in amounts.items()
    }


def _moments(part: _Part, framework: Framework, recompute: str) -> list[dict[str, float]]:
    """What comes on top when it is most: backward on the first and the last stage, loss, update."""
    layer = part.layer_rest + part.layer_scores
    keeps, again = {
        "none": (layer, 0.0),
        "selective": (part.layer_rest, part.layer_scores),
        "selective_layer": ((part.layer_input + layer) / 2, layer),
    }.get(recompute, (part.layer_input, layer))
    if recompute == "selective" and framework.shards_fp32:
        keeps, again = part.layer_products, layer
    # A stage also holds what it sends until the next one has answered.
    sends = part.layer_input if part.flying[0] > 1 else 0.0
    first, last = (flying * (part.layers * keeps + sends) for flying in part.flying)
    # Two layers gathered in 16 bits, at work and the next; the vocabulary's gradient is whole in fp32.
    ends = (6.0 if framework.shards_fp32 else 2.0) * part.vocabulary_params
    gathered = ends + 4 * part.layer_params if part.gathers else ends if framework.shards_fp32 else 0.0
    backward = {"recomputed_layer": again + part.full_length, "gathered": gathered}
    head = {
        "logits": framework.logit_bytes * part.logits + part.full_length * 2 / 3,
        "gathered": ends if part.gathers or framework.shards_fp32 else 0.0,
    }
    update = 0.0 if framework.shards_fp32 else framework.update_bytes * part.updated
    return [
        {"activations": first, **backward},
        {"activations": last, **backward},
        {"activations": last, **head},
        {"update": update},
    ]


def _likeness(one: Mapping[str, str], row: Mapping[str, str]) -> float:
    """1 for the same layout, less the more degrees and micro-batch differ."""
    names = ("dp", "tp", "pp", "cp", "mbs")
    apart = sum(abs(math.log(number(one, name, 1) / number(row, name, 1))) for name in names)
    return math.exp(-apart / FORGET)
