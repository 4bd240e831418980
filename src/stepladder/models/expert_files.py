"""Stacks of experts in; Qwen3-MoE's tensors of single experts and its config keys out, and back; no torch."""

import re
from collections.abc import Mapping
from typing import Any

from stepladder.records import Experts, Shape

_ONE = re.compile(r"(.*\.mlp\.experts\.)(\d+)\.(gate_proj|up_proj|down_proj)\.weight")
_STACK = re.compile(r"(.*\.mlp\.experts\.)(gate_proj|up_proj|down_proj)")


def split_experts(tensors: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each stack (C, rows, columns) as C tensors `experts.I.NAME.weight`."""
    out: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        found = _STACK.fullmatch(name)
        if found is None:
            out[name] = tensor
            continue
        count, *sizes = tensor["shape"]
        length = len(tensor["data"]) // count
        for place in range(count):
            data = tensor["data"][place * length : (place + 1) * length]
            out[f"{found[1]}{place}.{found[2]}.weight"] = {**tensor, "shape": sizes, "data": data}
    return out


def join_experts(tensors: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The stacks again; a stack with a gap or of unequal parts is left in parts, which then have no place."""
    parts: dict[str, dict[int, str]] = {}
    for name in tensors:
        if found := _ONE.fullmatch(name):
            parts.setdefault(found[1] + found[3], {})[int(found[2])] = name
    out = dict(tensors)
    for stack, names in parts.items():
        ordered = [tensors[names[place]] for place in sorted(names)]
        alike = {(tuple(part["shape"]), part["dtype"]) for part in ordered}
        if sorted(names) == list(range(len(names))) and len(alike) == 1:
            data = b"".join(bytes(part["data"]) for part in ordered)
            out[stack] = {**ordered[0], "shape": [len(ordered), *ordered[0]["shape"]], "data": data}
            for name in names.values():
                del out[name]
    return out


def expert_shapes(shape: Shape, at: str) -> dict[str, tuple[int, ...]]:
    """Parameters of the mixture of the block `at`."""
    count, inner = shape.experts.count, shape.experts.ffn_width
    return {
        at + "mlp.gate.weight": (count, shape.width),
        at + "mlp.experts.gate_proj": (count, inner, shape.width),
        at + "mlp.experts.up_proj": (count, inner, shape.width),
        at + "mlp.experts.down_proj": (count, shape.width, inner),
    }


def mixture_config(shape: Shape) -> dict[str, Any]:
    """What config.json of Qwen3MoeForCausalLM says beside that of Qwen3ForCausalLM; {} for a dense shape."""
    experts = shape.experts
    if not experts.count:
        return {}
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "num_experts": experts.count,
        "num_experts_per_tok": experts.active,
        "moe_intermediate_size": experts.ffn_width,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "router_aux_loss_coef": experts.balance,
        "output_router_logits": False,
    }


def experts_from_config(config: Mapping[str, Any]) -> Experts:
    """The experts of a config.json; none unless it is one of Qwen3-MoE."""
    if config.get("model_type") != "qwen3_moe":
        return Experts()
    return Experts(
        count=int(config.get("num_experts", config.get("num_local_experts", 0))),
        active=int(config["num_experts_per_tok"]),
        ffn_width=int(config["moe_intermediate_size"]),
        balance=float(config.get("router_aux_loss_coef", 0.001)),
    )


def foreign_mixture(config: Mapping[str, Any]) -> dict[str, bool]:
    """Keys of a Qwen3-MoE config, and whether they ask for what our blocks do not compute."""
    if config.get("model_type") != "qwen3_moe":
        return {}
    return {
        "norm_topk_prob": not config.get("norm_topk_prob", False),
        "decoder_sparse_step": config.get("decoder_sparse_step", 1) != 1,
        "mlp_only_layers": bool(config.get("mlp_only_layers")),
    }
