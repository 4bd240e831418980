"""Rows of configurations in; a `Config` of arrays, what is unlike fitted rows, or a refusal, out."""

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from stepladder.plan.hardware import catalogue
from stepladder.plan.rowmemory import number
from stepladder.plan.steptime import Config, Kernels, Mixture, Rates

Row = Mapping[str, str]
NEEDED = ("gpus", "layers", "hidden", "heads", "seq", "gbs")
# Names that published tables use, as the catalogue has them.
_NAMES = {
    "V100": "v100-sxm2-32",
    "A100": "a100-sxm-80",
    "A800": "a800-sxm-80",
    "H100": "h100-sxm",
    "H100-96": "h100-sxm",
    "H800": "h800-sxm",
    "H200": "h200-sxm",
    "B200": "b200-sxm",
    "GB200": "gb200",
    "GB300": "gb200",
}
# torchtitan's note on its H100s of 96 GB: HBM2e, less power, a peak between SXM's 989 and NVL's 835.
_SLOWER_H100 = (912e12, 2.4e12)
# Quantum-X800 or ConnectX-8: 800 Gb/s a device (NVIDIA GB300 NVL72 data sheet).
_GB300_NETWORK = 100e9
_FITTED_HW = ("V100", "A100", "A800", "H100", "H100-96", "B200", "GB200", "GB300")
_FITTED_FRAMEWORKS = [
    "megatron-deepspeed",
    "composer-fsdp",
    "nemo",
    "megatron-lm",
    "megatron-bridge",
    "internevo",
    "torchtitan-fsdp2",
    "megatron-ds-zero",
    "nanotron",
    "paxml",
    "deepspeed",
    "meta",
]
_TUNED = ("nemo", "megatron-bridge", "megatron-lm")
# Nodes that a token's row goes to at most, once each. DeepSeek-V3 routes a token to four nodes or fewer
# (arXiv:2412.19437 §2.1.2), and Megatron-Bridge trains it on H100 with DeepEP, but Qwen3 of 235B with a plain
# exchange (its guide to hardware configurations of mixtures). Of others it is not known: each copy.
_EXPERT_NODES = {("megatron-bridge", "dsv3"): 4.0}
# Forward passes done again. Unstated: between none and all.
_RECOMPUTE = {"full": 1.0, "selective": 0.1, "selective_layer": 0.5, "unknown": 0.5}
_RATES = ("flops", "memory", "scale_up", "network", "domain", "node", "newer", "tuned")
_KERNELS = ("fp8", "flash", "recompute", "sequence_parallel")
_DTYPES = ("", "fp16", "bf16", "fp8")
_LARGEST = 1e9
_RACK = 16  # devices of a scale-up domain above which it spans nodes
_RAGGED = 0.1


def config_of(rows: Sequence[Row]) -> Config:
    """All rows at once; none of them may be one that `refusal` refuses."""
    values = [_values(row) for row in rows]
    v = {name: np.array([one[name] for one in values]) for name in values[0]}
    return Config(
        shape=(v["layers"], v["hidden"], v["matrices"], v["vocabulary"], v["heads"]),
        sequence=v["sequence"],
        micro_batch=v["micro_batch"],
        accumulation=v["accumulation"],
        degrees=(v["data"], v["tensor"], v["pipeline"], v["chunks"], v["context"]),
        rates=Rates(**{name: v[name] for name in _RATES}),
        kernels=Kernels(**{name: v[name] for name in _KERNELS}),
        zero=v["zero"],
        mixture=Mixture(
            count=v["experts"], active=v["topk"], width=v["moe_ffn"], degree=v["ep"], nodes=v["expert_nodes"]
        ),
        host=(v["offloads"], v["gradient_bytes"]),
    )


def refusal(row: Row) -> str:
    """Why no step is forecast; empty where one is."""
    bad = [name for name in NEEDED if not 0 < _cell(row, name, math.nan) <= _LARGEST]
    if bad:
        return ", ".join(bad) + f": not a positive number up to {_LARGEST:g}"
    absurd = [
        name
        for name in ("dp", "tp", "pp", "cp", "vpp", "mbs", "ga", "gpn", "ffn", "vocab", "kv_heads")
        if not 0 < _cell(row, name, 1.0) <= _LARGEST
    ]
    if absurd:
        return ", ".join(absurd) + f": not a positive number up to {_LARGEST:g}"
    for name, known in (("dtype", _DTYPES), ("recompute", ("", "none", *_RECOMPUTE))):
        if row.get(name, "").strip() not in known:
            return f'{name} "{row[name]}" is not among {", ".join(known[1:])}'
    key = _NAMES.get(row["hw"], row["hw"].lower())
    device = catalogue().get(key)
    if device is None or "fp16" not in device.peaks:
        return f'accelerator "{row["hw"]}" is not in the catalogue, or its 16-bit peak is unpublished'
    if math.isnan(device.links.memory + device.links.scale_up + device.links.network):
        return f'the links of accelerator "{row["hw"]}" are unpublished'
    if row.get("dtype", "").startswith("fp8") and "fp8" not in device.peaks:
        return f'accelerator "{row["hw"]}" has no fp8'
    return _contradiction(row) or (_wrong_mixture(row) if is_mixture(row) else "")


def is_mixture(row: Row) -> bool:
    """Whether the feed-forward part is a mixture of experts."""
    return number(row, "experts", 0.0) > 1


def _wrong_mixture(row: Row) -> str:
    bad = [name for name in ("topk", "moe_ffn") if not 0 < _cell(row, name, math.nan) <= _LARGEST]
    if bad:
        return ", ".join(bad) + f": not a positive number up to {_LARGEST:g}, as a mixture of experts needs"
    experts, active, degree = (number(row, name, 1) for name in ("experts", "topk", "ep"))
    if active > experts or experts % degree:
        return f"topk {active:g} and ep {degree:g} do not suit {experts:g} experts"
    count = number(row, "gpus", 1) / number(row, "pp", 1)
    return f"ep {degree:g} does not divide the {count:g} devices of a stage" if count % degree else ""


def unlike(row: Row) -> int:
    """How many of framework, accelerator and network are of a kind that the constants did not see."""
    seen = (
        row.get("framework", "") in _FITTED_FRAMEWORKS,
        row["hw"] in _FITTED_HW,
        "ib=" not in row.get("extra", "") or _adapters(row) is not None,
    )
    return seen.count(False)


def _contradiction(row: Row) -> str:
    tensor, pipeline, context = (number(row, name, 1) for name in ("tp", "pp", "cp"))
    for name, degree, most in (("tp", tensor, "heads"), ("pp", pipeline, "layers")):
        if degree > number(row, most, 1):
            return f"{name} {degree:g} is more than {most} {number(row, most, 1):g}"
    count = number(row, "gpus", 1)
    data = number(row, "dp", count / (tensor * pipeline * context))
    if abs(data * tensor * pipeline * context / count - 1) > 1e-6:
        return f"dp x tp x pp x cp is {data * tensor * pipeline * context:g}, gpus {count:g}"
    if number(row, "mbs", 0) and number(row, "ga", 0):
        made = data * number(row, "mbs", 1) * number(row, "ga", 1)
        # Engines allow a ragged last micro-batch; a tenth is more than any published row has.
        if abs(made / number(row, "gbs", 1) - 1) > _RAGGED:
            return f"dp x mbs x ga is {made:g}, gbs {number(row, 'gbs', 1):g}"
    return ""


def _values(row: Row) -> dict[str, float]:
    hidden, heads = number(row, "hidden", 1), number(row, "heads", 1)
    feed_forward = number(row, "ffn", 4 * hidden) * (3 if number(row, "glu", 0) else 2)
    tensor, pipeline, context = (number(row, name, 1) for name in ("tp", "pp", "cp"))
    data = number(row, "dp", number(row, "gpus", 1) / (tensor * pipeline * context))
    micro_batch = number(row, "mbs", 1)
    matrices = 2 * hidden**2 * (1 + number(row, "kv_heads", heads) / heads) + hidden * feed_forward
    return {
        "layers": number(row, "layers", 1),
        "hidden": hidden,
        "matrices": _beside_experts(row) if is_mixture(row) else matrices,
        **{name: number(row, name, 0) * is_mixture(row) for name in ("experts", "topk", "moe_ffn")},
        "ep": number(row, "ep", 1) if is_mixture(row) else 1.0,
        "expert_nodes": _EXPERT_NODES.get((row.get("framework", ""), row.get("model", "")), 0.0),
        "vocabulary": number(row, "vocab", 50_257),
        "heads": heads,
        "sequence": number(row, "seq", 1),
        "micro_batch": micro_batch,
        "accumulation": number(row, "ga", max(number(row, "gbs", 1) / (data * micro_batch), 1)),
        "data": data,
        "tensor": tensor,
        "pipeline": pipeline,
        "chunks": number(row, "vpp", 1),
        "context": context,
        "fp8": float(row.get("dtype", "").startswith("fp8")),
        "flash": float(number(row, "flash", 0) > 0),
        "zero": number(row, "zero", 0),
        "recompute": _RECOMPUTE.get(row.get("recompute", ""), 0.0),
        "sequence_parallel": float(number(row, "sp", 0) > 0),
        "offloads": float("ckpt_in_cpu" in row.get("extra", "")),
        "gradient_bytes": 4.0 if "grad_fp32=1" in row.get("extra", "") else 2.0,
        **_rates(row),
    }


def _beside_experts(row: Row) -> float:
    """Parameters of a layer that a token passes beside its experts: as the row counts them, or attention and
    router (heads that are wider than hidden / heads, shared experts and dense layers are in the former)."""
    layers, hidden, heads = (number(row, name, 1) for name in ("layers", "hidden", "heads"))
    attention = 2 * hidden**2 * (1 + number(row, "kv_heads", heads) / heads)
    experts = 3 * hidden * number(row, "moe_ffn", 0) * number(row, "topk", 0)
    ends = 2 * hidden * number(row, "vocab", 50_257)
    counted = (number(row, "active_b", 0) * 1e9 - ends) / layers - experts
    return max(counted, attention / 2) if number(row, "active_b", 0) else attention


def _rates(row: Row) -> dict[str, float]:
    device = catalogue()[_NAMES.get(row["hw"], row["hw"].lower())]
    flops, memory = device.peak("fp16"), device.links.memory
    if row["hw"] == "H100-96":
        flops, memory = _SLOWER_H100
    node = number(row, "gpn", device.node.devices)
    network = _GB300_NETWORK if row["hw"] == "GB300" else device.links.network
    newer = float("fp8" in device.peaks)
    return {
        "flops": flops,
        "memory": memory,
        "scale_up": device.links.scale_up,
        "network": _adapters(row) or network,
        # A rack is one domain whatever its nodes hold; else the node that the row has is.
        "domain": max(device.links.domain_devices, node) if device.links.domain_devices > _RACK else node,
        "node": node,
        "newer": newer,
        "tuned": newer * (row.get("framework", "") in _TUNED),
    }


def _adapters(row: Row) -> float | None:
    """Bytes a second of a device's share of the node's adapters, where `extra` has ib=[N x]RATEGb.../node."""
    found = re.search(r"(?:^|;)ib=(?:(\d+)x)?(\d+)Gb\w*/node", row.get("extra", ""))
    if not found:
        return None
    return int(found[1] or 1) * int(found[2]) * 1e9 / 8 / number(row, "gpn", 8)


def _cell(row: Row, name: str, blank: float) -> float:
    """The cell as it stands; `blank` where it is empty or absent, NaN where it is no number."""
    text = (row.get(name) or "").strip()
    try:
        return float(text) if text else blank
    except ValueError:
        return math.nan
