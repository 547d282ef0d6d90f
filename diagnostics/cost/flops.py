"""Floating-point operations of a call, by the formulas of `torch.utils.flop_counter`.

Counted are products of matrices, convolutions and attention, at two operations a multiplication with its addition,
those of backward passes included. Not counted are element-wise operations, sums, norms, products of a matrix with a
vector and of two vectors: for a network they are the smaller part, for a problem without matrix products they are all.
An extended number counts as one number, and not as the several operations that it takes.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

Shape = Sequence[int]


def flops(call: Callable[[], object]) -> int:
    """The operations that the call takes."""
    with _Counter() as counter:
        call()
    return counter.total


class _Counter(TorchDispatchMode):
    """The library's own counter without its record by module, in half the time."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, operation: OpOverload, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        results = operation(*args, **kwargs)
        packet = operation.overloadpacket
        if packet is torch.ops.aten.convolution_backward:
            self.total += _convolution_backward(*args, **kwargs)
        elif packet in flop_registry:
            self.total += flop_registry[packet](*args, **kwargs, out_val=results)
        return results


def _convolution_backward(
    grad_output: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias_sizes: object,
    stride: object,
    padding: object,
    dilation: object,
    transposed: bool,
    output_padding: object,
    groups: int,
    output_mask: Sequence[bool],
) -> int:
    """As many operations as the forward pass for each gradient that is wanted, the input's and the weight's.

    In place of the library's formula (as of torch 2.13), which for the weight's gradient multiplies every group's
    inputs with every group's outputs: with one group a task it would count that part once for every pair of tasks.
    """
    points = (x if transposed else grad_output).shape[2:]
    forward = 2 * len(x) * prod(points) * prod(weight.shape)
    return forward * sum(output_mask[:2])
