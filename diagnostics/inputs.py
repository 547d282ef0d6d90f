"""How a problem's inputs can be changed: the affine map `x' = (x - shift) M`, and what the weights do about it.

A model whose weights can undo the map, `x' w' = x w`, computes the same function in the new coordinates; there a
rescaling is a linear change of variables, and nothing but the inner loop's path can tell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diagnostics.rows import Data

if TYPE_CHECKING:  # problems state their inputs
    from diagnostics.problem import Problem


@dataclass(frozen=True)
class Inputs:
    """What a problem states about its inputs of d features, so that `rescale` can change them.

    `moment(data) -> (B, d, d)` is the second moment of the support inputs about `centre(data) -> (B, d)`, or about zero
    where there is no centre; a model without an intercept has none, because it could not undo the shift. `change(data,
    shift (B, d), M (B, d, d)) -> data` replaces the inputs x of support and query by `(x - shift) M`. `absorb(w, shift,
    M) -> w'` gives the weights that compute on the new inputs what w did on the old; it is affine in w, and None where
    there are none. `alike` says that one feature stands for many (pixels), so that there is nothing to whiten.

    What a change of units needs is stated where *all* weights are linear coefficients of the inputs:
    `with_strength(strength)` is the same problem with another proximal strength, and the losses are homogeneous of
    degree 2 in the weights together with the data called `targets`, if it names any.
    """

    moment: Callable[[Data], Tensor]
    change: Callable[[Data, Tensor, Tensor], Data]
    absorb: Callable[[Tensor, Tensor, Tensor], Tensor | None]
    centre: Callable[[Data], Tensor] | None = None
    alike: bool = False
    with_strength: Callable[[float], Problem] | None = None
    targets: tuple[str, ...] = ()


def linear_inputs(with_strength: Callable[[float], Problem], targets: tuple[str, ...] = ()) -> Inputs:
    """The inputs of a linear model `x'w` without intercept, which are `support_x` and `query_x (B, n, d)`."""
    return Inputs(
        moment=lambda data: second_moment(data["support_x"]),
        change=change_x,
        absorb=lambda w, shift, by: torch.linalg.solve(by, w),
        with_strength=with_strength,
        targets=targets,
    )


def change_x(data: Data, shift: Tensor, by: Tensor) -> Data:
    """The data with `(x - shift) M` for the rows of `support_x` and `query_x (B, n, d)`."""
    return {**data, **{key: (data[key] - shift.unsqueeze(1)) @ by for key in ("support_x", "query_x")}}


def second_moment(x: Tensor) -> Tensor:
    """`X'X/n (B, d, d)` of the rows of `x (B, n, d)`."""
    return x.mT @ x / x.shape[1]
