"""Tensors in host memory in; one safetensors file out, written without a copy of them (torch).

safetensors' own `save_file` copies every tensor into Python bytes first and holds the interpreter's lock
meanwhile: beside a training thread that is memory and time.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """The format: 8 bytes of header length, a JSON header padded to 8 bytes, the tensors' bytes in its order.

    Source: github.com/huggingface/safetensors, README, "Format". The tensors are contiguous.
    """
    header, at = {}, 0
    for name, tensor in tensors.items():
        end = at + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, end],
        }
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb", buffering=0) as file:
        _write_all(file.write, len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            if tensor.numel():
                _write_all(file.write, tensor.reshape(-1).view(torch.uint8).numpy().data)


def _write_all(write: Callable[[memoryview], int], content: bytes | memoryview) -> None:
    left = memoryview(content)
    while left:  # the kernel takes at most 2 GiB at a time, and less from a nearly full disk
        left = left[write(left) :]
