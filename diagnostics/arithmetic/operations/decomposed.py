"""Operations that torch itself writes out of others, which are then done in double words, one by one.

Only those that are named here: a decomposition that rests on a rounded constant, as that of GELU's tanh form may, would
not be exact enough, and has to be looked at before it is listed.
"""

import torch
from torch._decomp import decomposition_table

from diagnostics.arithmetic.extended import OPERATIONS, operation

aten, prims = torch.ops.aten, torch.ops.prims

DECOMPOSED = (
    aten.binary_cross_entropy_with_logits.default, aten.elu.default, aten.elu_backward.default, aten.leaky_relu.default,
    aten.leaky_relu_backward.default, aten.log_sigmoid_forward.default, aten.log_sigmoid_backward.default,
    aten.logsumexp.default, aten.native_layer_norm_backward.default,
    aten.silu.default, aten.silu_backward.default, aten.trace.default,
)  # fmt: skip
# What the decompositions are written in where they are not written in aten.
PRIMITIVES = {
    prims.add.default: aten.add.Tensor, prims.sub.default: aten.sub.Tensor, prims.mul.default: aten.mul.Tensor,
    prims.div.default: aten.div.Tensor, prims.neg.default: aten.neg.default, prims.exp.default: aten.exp.default,
    prims.log.default: aten.log.default, prims.sqrt.default: aten.sqrt.default, prims.tanh.default: aten.tanh.default,
}  # fmt: skip

for one in DECOMPOSED:
    operation(one)(decomposition_table[one])
for primitive, same in PRIMITIVES.items():
    operation(primitive)(OPERATIONS[same])
