"""A model in; the same with the matrices of its blocks multiplied in float8 while it learns, out (torchao).

Weights stay as they are, under the same names: checkpoints and exports do not know of it. Passes without a
gradient multiply plainly, so that held-out text is scored as the saved model scores it. Head and embedding
are not touched, as in torchao's own example (torchao/float8/README.md leaves the last matrix out).
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepladder.errors import TrainError
from stepladder.plan.layout import FLOAT8_MULTIPLE

# NVIDIA's units for float8 products came with Ada (8.9) and Hopper (9.0).
_LEAST_CAPABILITY = (8, 9)


def convert_blocks(model: nn.Module, device: torch.device) -> int:
    """Swap the linear modules of `model.layers` whose sides divide by 16; how many there were.

    Tensors are scaled as a whole, at each product anew. A CPU rounds to float8 and multiplies in the
    precision that it has.

    Raises:
        TrainError: torchao is missing, the GPU has no float8, or no matrix has such sides.
    """
    check_device(device)
    blocks = model.get_submodule("layers")
    with _quiet(device):
        try:
            from torchao.float8 import Float8LinearConfig, convert_to_float8_training
        except ImportError as error:
            raise TrainError(
                "float8 needs torchao",
                got=str(error),
                next_command='pip install "stepladder[float8]", or set float8 = false in the layout',
            ) from error
    config = Float8LinearConfig(emulate=device.type == "cpu")
    convert_to_float8_training(blocks, config=config, module_filter_fn=lambda module, _: fits(module))
    found = 0
    for module in blocks.modules():
        if type(module).__name__ == "Float8Linear":
            module.forward = _while_learning(module.forward, module)
            found += 1
    if not found:
        raise TrainError(
            f"float8 multiplies matrices whose sides are multiples of {FLOAT8_MULTIPLE}",
            got="no such matrix in the blocks",
            next_command="set float8 = false in the layout",
        )
    return found


def check_device(device: torch.device) -> None:
    """Raises:
    TrainError: a GPU without units for float8.
    """
    if device.type != "cuda":
        return
    capability = torch.cuda.get_device_capability(device)
    if capability < _LEAST_CAPABILITY:
        raise TrainError(
            "this GPU has no float8 products",
            got=f"{torch.cuda.get_device_name(device)}, compute capability {capability[0]}.{capability[1]}",
            allowed="8.9 or later (Ada, Hopper, Blackwell)",
            next_command="set float8 = false in [override] and plan again",
        )


def fits(module: nn.Module) -> bool:
    """Whether a product with this module's matrix can be in float8."""
    if not isinstance(module, nn.Linear):
        return False
    return not (module.in_features % FLOAT8_MULTIPLE or module.out_features % FLOAT8_MULTIPLE)


def _while_learning(rounded: Callable[[Tensor], Tensor], module: nn.Module) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return rounded(x)
        assert isinstance(module, nn.Linear)
        return F.linear(x, module.weight, module.bias)

    return forward


@contextmanager
def _quiet(device: torch.device) -> Iterator[None]:
    """Without what no user can mend: torchao's CUDA kernels on a CPU, its use of an older way of torch's."""
    names = ["torch.utils._pytree", *(["torchao"] if device.type == "cpu" else [])]
    levels = {logger: logger.level for logger in map(logging.getLogger, names)}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
